"""The command `jaxsens`: its words to a subcommand's options, that to an exit code. Help imports no JAX."""

import contextlib
import io
import os
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import MappingProxyType

import tyro

import jaxsens
from jaxsens.cli.options import Compare, Datasets, Doctor, Measure, Report, Reproduce

__all__ = ["main"]

DESCRIPTION = "What a network's sensitivity tells about how well it generalises."
Options = Measure | Compare | Report | Reproduce | Datasets | Doctor

_MODULES: Mapping[type, str] = MappingProxyType(
    {
        Measure: "measure",
        Compare: "compare",
        Report: "report",
        Reproduce: "reproduce",
        Datasets: "datasets",
        Doctor: "doctor",
    }
)
# Errors that say in one line what was given and is not usable, where they are raised.
_REFUSALS = (
    ("jaxsens.checks", "InputError"),
    ("jaxsens.table", "TableError"),
    ("jaxsens.stats", "StatsError"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command; gives the exit code.

    0: done. 1: a check failed, or no number came out. 2: what was given is not usable, said in one line that
    begins with "error:". 130: stopped by Ctrl-C.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = _run(words)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader has what it wanted. Python would complain at its end about what it cannot write.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if not (said := _refusal(error)):
            raise
        print(f"error: {said}", file=sys.stderr)
        return 2
    return code


def _run(words: list[str]) -> int:
    if words == ["--version"]:
        print(f"jaxsens {jaxsens.__version__}")
        return 0
    try:
        options = _parse(words or ["--help"])
        return import_module(f"jaxsens.cli.{_MODULES[type(options)]}").run(options)
    except SystemExit as ended:
        # Of help and of parsers; what they have printed is not flushed yet.
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)


def _parse(words: list[str]) -> Options:
    """The options of the subcommand; exits with 0 after help, with 2 after an error in one line."""
    if words[0] == "reproduce" and len(words) > 1 and not words[1].startswith("-"):
        return Reproduce(name=words[1], options=tuple(words[2:]))  # --help too is the experiment's
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            return tyro.cli(
                Options,
                prog="jaxsens",
                description=DESCRIPTION,
                args=words,
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.DisallowNone),
            )
    except SystemExit as ended:
        if ended.code:
            print(f"error: {_in_one_line(said.getvalue())}; see jaxsens --help", file=sys.stderr)
        raise


def _in_one_line(box: str) -> str:
    """What tyro says in a box, without the frame, the options' own help, and where to find more."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", box)
    sections = [""]
    for line in plain.splitlines()[1:-1]:
        text = line.strip("│|")
        if set(text.strip()) <= {"─", "-"} and text.strip():
            sections.append("")
        elif not text.startswith(" " * 8):
            sections[-1] += f" {text.strip()}"
    others = ("For full helptext", "Argument helptext")
    kept = [" ".join(text.split()).rstrip(".") for text in sections if not text.strip().startswith(others)]
    return "; ".join(text for text in kept if text)


def _refusal(error: Exception) -> str:
    """What to say of an error that is the given input's; "" of one that is this program's."""
    for module, name in _REFUSALS:
        if module in sys.modules and isinstance(error, getattr(sys.modules[module], name)):
            return str(error)
    if isinstance(error, OSError) and error.errno is not None:
        return f"{error.filename or 'a file'}: {os.strerror(error.errno)}"
    return ""
