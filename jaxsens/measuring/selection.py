"""Which measures are meant."""

from collections.abc import Sequence

from jaxsens.checks import check_choice, refuse
from jaxsens.measuring.registry import MEASURES
from jaxsens.measuring.specs import CLASSIFIERS, MeasureSpec

__all__ = ["SETS", "select"]

SETS = ("label_free", "all")
"""What `measures` may be besides names."""


def select(measures: str | Sequence[str], *, loss: str, labelled: bool) -> tuple[MeasureSpec, ...]:
    """The measures that are meant, in the registry's order.

    "label_free" and "all" leave out what is of classifiers alone where the loss is another. A name that
    cannot be measured is refused.
    """
    usable = [s for s in MEASURES.values() if s.applies_to != CLASSIFIERS or loss == "cross_entropy"]
    if measures == "all" and not labelled:
        raise refuse("measures='all' without ys", "the labels of xs", "pass ys=..., or measures='label_free'")
    if isinstance(measures, str) and measures in SETS:
        return tuple(spec for spec in usable if measures == "all" or not spec.needs_labels)
    names = [measures] if isinstance(measures, str) else list(measures)
    if not names:
        raise refuse("no measures", "a name or more", "pass measures='label_free'")
    for name in names:
        check_choice("measures", name, MEASURES if len(names) > 1 else (*SETS, *MEASURES))
        if MEASURES[name] not in usable:
            raise refuse(f"{name!r} with loss={loss!r}", "a measure of any f", "leave it out")
        if MEASURES[name].needs_labels and not labelled:
            raise refuse(f"{name!r} without ys", "the labels of xs", "pass ys=..., or leave it out")
    return tuple(spec for spec in usable if spec.name in names)
