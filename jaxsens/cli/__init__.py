"""The command `jaxsens`, and what every experiment's command line shares.

`main(experiment)` runs an experiment's command line, `jaxsens.cli.command.main` the command. Importing this
module alone imports nothing else; the first use of a name does.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxsens.cli.experiment import Experiment, main

__all__ = ["Experiment", "main"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("jaxsens.cli.experiment"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
