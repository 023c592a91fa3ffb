"""A histogram of whole numbers as one text, so that a row of a table can hold it."""

from collections import Counter

import numpy as np
from numpy.typing import ArrayLike

from jaxsens.table.rows import refuse

__all__ = ["counts_to_text", "text_to_counts"]


def counts_to_text(values: ArrayLike) -> str:
    """How often each whole number occurs, in rising order: [3, 5, 3] is "3:2 5:1"."""
    counted = Counter(np.asarray(values).tolist())
    return " ".join(f"{value}:{counted[value]}" for value in sorted(counted))


def text_to_counts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The distinct numbers and how often each occurs, shape (distinct,) both.

    Raises:
        TableError: a text that `counts_to_text` does not write.
    """
    try:
        pairs = [tuple(map(int, pair.split(":", 1))) for pair in text.split()]
        values, counts = (np.array(column) for column in zip(*pairs, strict=True))
    except ValueError as error:
        raise refuse(f"{text[:40]!r}", "a histogram such as '3:2 5:1'", "name a column of counts") from error
    return values, counts
