"""Runs the benchmarks, each group of rows in a process of its own, and writes what comes out.

    python benchmarks/run.py                    # all groups, about 25 minutes on 2 cores
    python benchmarks/run.py tangent growth     # these alone; the others' figures stay
    python benchmarks/run.py --smoke            # tiny sizes, to see that all runs; nothing is kept
    python benchmarks/run.py --table            # only writes docs/benchmarks.md from results.json

Figures go into `benchmarks/results.json` after each group, with the versions and the machine it ran on, and
from there into `docs/benchmarks.md`. Nothing else should run on the machine. PyTorch's rows need the extra
`bench`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from groups import GROUPS
from report import updated

from jaxsens.table import write_atomically

FOLDER = Path(__file__).resolve().parent
RESULTS, PAGE = FOLDER / "results.json", FOLDER.parent / "docs" / "benchmarks.md"


def main(argv: Sequence[str] | None = None) -> int:
    """Reads the command line; gives the exit code, 1 where a group failed."""
    parser = _options()
    options = parser.parse_args(argv)
    unknown = [group for group in options.groups if group not in GROUPS]
    if unknown:
        parser.error(f"group {unknown[0]!r}; expected some of {', '.join(GROUPS)}, or none for all")
    if options.table:
        write_page()
        return 0
    results = options.results or (None if options.smoke else RESULTS)
    failed = []
    for group in options.groups or GROUPS:
        began = time.monotonic()
        print(f"--- {GROUPS[group]} ({group})", flush=True)
        record = run_group(group, smoke=options.smoke)
        if record is None:
            failed.append(group)
            continue
        print(f"--- {group}: {time.monotonic() - began:.0f} s", flush=True)
        if results is not None:
            keep(results, group, record)
        if results == RESULTS:
            write_page()
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run_group(group: str, *, smoke: bool) -> dict[str, Any] | None:
    """The record of a group, measured in a process of its own; None where that failed."""
    # What a cache of compiled programs held would be missing from the times of compilation.
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    if smoke:
        # Times do not count, and threads that wait for each other on a busy machine take seconds a call.
        environment["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.json"
        words = [group, str(record), *(["--smoke"] if smoke else [])]
        ended = subprocess.run([sys.executable, str(FOLDER / "child.py"), *words], env=environment)
        return json.loads(record.read_text()) if ended.returncode == 0 else None


def keep(path: Path, group: str, record: dict[str, Any]) -> None:
    """Writes a group's record in place of the one before, and leaves the others."""
    results = read(path) | {group: record}
    ordered = {name: results[name] for name in GROUPS if name in results}
    write_atomically(path, (json.dumps(ordered, indent=1) + "\n").encode())


def read(path: Path = RESULTS) -> dict[str, Any]:
    """All groups that were measured."""
    return json.loads(path.read_text()) if path.exists() else {}


def write_page() -> None:
    """The generated part of docs/benchmarks.md."""
    PAGE.write_text(updated(PAGE.read_text(), read()))


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=", ".join(GROUPS))
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, a check that all runs")
    parser.add_argument("--results", type=Path, metavar="FILE", help="another file than results.json")
    parser.add_argument("--table", action="store_true", help="only write the page from results.json")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
