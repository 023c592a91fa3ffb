"""Examples in parts that fit in memory."""

from collections.abc import Iterator

import numpy as np

__all__ = ["FORWARD_EXAMPLES", "REVERSE_PASSES", "chunks"]

# Examples, and reverse passes, per compiled call: small enough to stay in memory for the largest network.
# Each chunk of examples has a noise key of its own, so the first number decides the noise.
FORWARD_EXAMPLES = 500
REVERSE_PASSES = 1000


def chunks(xs: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Parts of one length (one compilation), the last one shorter where it must be (a second)."""
    return (xs[start : start + size] for start in range(0, len(xs), size))
