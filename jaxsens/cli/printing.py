"""What the command prints: tables for people and JSON for programs on stdout, all else on stderr."""

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

__all__ = ["print_json", "print_lines", "print_note", "print_table"]

# Where no terminal is, nothing is wrapped: a row stays a line.
_UNBOUNDED = 100_000


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a row a line, or wrapped to the terminal's width; the first column stays whole."""
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for i, column in enumerate(columns):
        longest = max(map(len, column.split()), default=0)
        table.add_column(column, no_wrap=i == 0, overflow="fold", min_width=longest)
    for row in rows:
        table.add_row(*map(Text, row))
    _print(table)


def print_lines(lines: Sequence[str]) -> None:
    """Lines of text, wrapped between words on a terminal."""
    for line in lines:
        _print(Text(line))


def print_note(text: str) -> None:
    """A remark on stderr."""
    print(f"note: {text}", file=sys.stderr, flush=True)


def print_json(document: Mapping[str, Any]) -> None:
    """One JSON document. A NaN in it is an error of this program."""
    print(json.dumps(document, indent=2, allow_nan=False))


def _print(content: Table | Text) -> None:
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else _UNBOUNDED
    # Printed by `print`, since rich would end the program where a pipe is closed.
    text = StringIO()
    Console(file=text, width=width, color_system=None, highlight=False).print(content)
    print("\n".join(line.rstrip() for line in text.getvalue().splitlines()))
