"""What `run.py` starts: one group in a process of its own, or one way of one row alone for its memory.

    python benchmarks/child.py GROUP RECORD [--smoke]
    python benchmarks/child.py GROUP RECORD [--smoke] --peak ROW WAY

Writes the record, JSON, to the file RECORD.
"""

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import peak_bytes, provenance, resident_bytes, start_of_peak
from report import line_of
from timing import Row, measure


def measure_group(group: str, *, smoke: bool) -> dict[str, Any]:
    """Where it ran, and the records of all rows of a group."""
    where, rows = provenance(), []
    for row in rows_of(group, smoke):
        record = measure(row)
        peaks = [name for name, way in row.ways.items() if way.peak]
        if smoke:
            peaks = [] if rows else peaks[:1]
        for name in peaks:
            record["ways"][name]["peak_bytes"] = peak_in_process(group, row.name, name, smoke=smoke)
        rows.append(record)
        print(*line_of(record), sep="\n", flush=True)
    return {"provenance": where, "smoke": smoke, "rows": finish(group, rows)}


def rows_of(group: str, smoke: bool) -> list[Row]:
    """The rows that a group's module defines."""
    return list(importlib.import_module(group).rows(smoke))


def finish(group: str, rows: list[dict]) -> list[dict]:
    """What a group adds to its records when all are there."""
    return getattr(importlib.import_module(group), "finish", lambda rows: rows)(rows)


def peak_in_process(group: str, row: str, way: str, *, smoke: bool) -> int | None:
    """What `peak_of` finds in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "peak.json"
        words = [group, str(record), "--peak", row, way, *(["--smoke"] if smoke else [])]
        subprocess.run([sys.executable, __file__, *words], check=True)
        return json.loads(record.read_text())


def peak_of(row: Row, way: str) -> int | None:
    """Bytes by which a process grows, at most, while it prepares a way, compilation included, and runs it."""
    data = row.data()
    before = resident_bytes()
    if before is None or not start_of_peak():
        return None
    row.ways[way].prepare(data).run()
    return max(peak_bytes() - before, 0)


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("group")
    parser.add_argument("record", type=Path)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--peak", nargs=2, metavar=("ROW", "WAY"))
    options = parser.parse_args()
    if options.peak:
        name, way = options.peak
        (row,) = (row for row in rows_of(options.group, options.smoke) if row.name == name)
        record = peak_of(row, way)
    else:
        record = measure_group(options.group, smoke=options.smoke)
    options.record.write_text(json.dumps(record))


if __name__ == "__main__":
    main()
