"""jaxsens: what a network's sensitivity tells about how well it generalises.

`jaxsens.measure` measures a trained network, `jaxsens.compare` ranks several, and `jaxsens.metrics` has every
measure by itself. Importing this module alone imports nothing else; the first use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsens.measuring import Untrained, compare, measure

__all__ = ["Untrained", "compare", "measure"]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("jaxsens.measuring"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
