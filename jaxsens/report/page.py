"""The page: what a results folder holds, in one file that asks the network for nothing."""

import base64
import gzip
import hashlib
import importlib.resources
import itertools
import json
import mimetypes
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxsens.plotting import equation_9_line, equation_14_line
from jaxsens.plotting.scatter import NUM_COLOURS
from jaxsens.plotting.style import COLOURS, GREY, INK, MARKERS
from jaxsens.report.columns import check_rows, describe_columns, encode_values, in_words, with_gaps
from jaxsens.report.run import facts_of_run, missing_cells, setting_names
from jaxsens.table import Table, TableError, read_manifest, read_table, write_atomically

__all__ = ["write_report"]

# Matplotlib's markers as Plotly calls them.
_SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
    "<": "triangle-left",
    ">": "triangle-right",
}
_SCRIPTS = ("data.js", "plot.js", "table.js", "networks.js", "page.js")
_PICTURES = (".png", ".svg", ".jpg", ".jpeg")
_LINES = {
    ("sensitivity_after", "test_loss", "equation (9)"): equation_9_line,
    ("sensitivity_after", "logit_variance", "equation (14)"): equation_14_line,
}
# Axes to begin with where the folder's figures name none, the best known first.
_USUAL_AXES = (
    ("sensitivity_after", "test_loss"),
    ("jacobian_norm_after_softmax", "error_gap"),
    ("jacobian_norm_after_softmax", "test_loss"),
    ("tangent_sensitivity_test", "loss_gap"),
    ("linearized_sensitivity_after", "test_loss"),
)
_MOST_PAIRS = 6
_FIRST_COLUMNS = ("family", "train_loss", "train_accuracy", "test_loss", "test_accuracy")
_NUM_FIRST_COLUMNS = 9


def write_report(source: str | Path, out: str | Path | None = None) -> Path:
    """Writes a results folder as one HTML page, whole or not at all; gives its path.

    The page needs a browser of 2023 or later, and no network: plots, numbers and pictures are inside it, and
    its content security policy forbids it to load anything. It holds the rows of the table once, the
    manifest, the folder's pictures, and the numbers that its figures wrote as CSV. The same folder gives the
    same bytes.

    Args:
        source: a folder with `table.parquet` or `table.csv`, and a `manifest.json` if there is one.
        out: the file to write, or a folder for `report.html`; by default that of the table.

    Raises:
        TableError: no folder or no table, a damaged table or manifest, a seed twice in a cell, or Plotly and
            Jinja are not installed.
        OSError: the page cannot be written.

    Cost: about a second; the file has 2 MB more than what it shows, for Plotly.
    """
    folder = Path(source)
    if not folder.is_dir():
        raise TableError(f"got no folder {folder}; expected a results folder; name that of a table")
    plotly, template = _libraries()
    table = read_table(folder)
    check_rows(table)
    manifest = read_manifest(folder) if (folder / "manifest.json").exists() else {}
    numbers = [_numbers_of_figure(path) for path in sorted(folder.glob("*.csv")) if path.stem != "table"]
    facts = facts_of_run(manifest) if manifest else []
    pictures = [_picture(path) for path in _pictures(folder)]
    entries, left_out = describe_columns(with_gaps(table), setting_names(manifest))
    script = "\n".join(_asset(name) for name in _SCRIPTS)
    page = template.render(
        title=str(manifest.get("experiment") or folder.resolve().name),
        lede=_lede(table, manifest),
        problems=_problems(table, manifest),
        facts=[(term, [*same]) for term, same in itertools.groupby(facts, lambda fact: fact.term)],
        parts=(
            ("part-plot", "Plot", len(table) > 0),
            ("part-figures", "Figures", bool(pictures)),
            ("part-networks", "Networks", len(table) > 0),
            ("part-numbers", "Numbers", bool(numbers)),
            ("part-run", "What was run", bool(manifest)),
        ),
        has_rows=len(table) > 0,
        pictures=pictures,
        numbers=numbers,
        left_out=left_out,
        colours={"ink": INK, "grey": GREY, "accent": COLOURS[0], "accent_dark": COLOURS[5]},
        style=_asset("style.css"),
        script=script,
        script_hashes=[_content_hash(script), _content_hash(plotly)],
        payloads={
            "plotly": _packed(plotly),
            "data": _packed(_payload(table, entries, numbers)),
            "manifest": _packed((folder / "manifest.json").read_text(encoding="utf-8") if manifest else "{}"),
        },
    )
    path = Path(out) if out is not None else folder
    # A text of a file may hold half a character, which UTF-8 cannot.
    return write_atomically(path / "report.html" if path.is_dir() else path, page.encode(errors="replace"))


def _payload(table: Table, entries: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[str, Any]]) -> str:
    """All that the scripts draw, as JSON."""
    axes = [entry["name"] for entry in entries if "values" in entry and entry["kind"] != "id"]
    pairs = _pairs(axes, [pair for one in numbers for pair in one["pairs"]])
    payload = {
        "columns": entries,
        "pairs": pairs,
        "first": _first_columns([entry["name"] for entry in entries], pairs),
        "lines": _lines(table, {column["name"] for one in numbers for column in one["entries"]}),
        "tables": [one["entries"] for one in numbers],
        "colours": COLOURS[:NUM_COLOURS],
        "symbols": [_SYMBOLS[marker] for marker in MARKERS],
    }
    return json.dumps(payload, separators=(",", ":"), allow_nan=False)


def _pairs(axes: Sequence[str], of_figures: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Axes to offer first: those of the folder's figures, else the usual ones, else the first two columns."""
    for candidates in (of_figures, _USUAL_AXES):
        known = [pair for pair in dict.fromkeys(candidates) if set(pair) <= set(axes)]
        if known:
            return known[:_MOST_PAIRS]
    return [(axes[0], axes[min(1, len(axes) - 1)])] if axes else []


def _first_columns(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The columns that the table shows before anybody chooses."""
    wanted = [*_FIRST_COLUMNS[:1], *(name for pair in pairs[:1] for name in pair), *_FIRST_COLUMNS[1:]]
    wanted += [name for pair in pairs[1:] for name in pair]
    return [name for name in dict.fromkeys(wanted) if name in names][:_NUM_FIRST_COLUMNS]


def _lines(table: Table, of_figures: Collection[str]) -> list[dict[str, Any]]:
    """The theory curves that a figure's summary has and that hold for the whole table, over its x."""
    found = []
    for (x, y, label), line_of in _LINES.items():
        if f"y / {label}" not in of_figures or not {x, y} <= set(table.columns):
            continue
        values = table.column(x)
        values = values[np.isfinite(values) & (values > 0)]
        try:
            lines = line_of(table) if len(values) else ()
        except (TableError, ValueError):  # rows of several noises or input scales, or without these columns
            continue
        for line in lines:
            xs = np.geomspace(values.min() / 2, values.max() * 2, 80)
            ys = line.function(xs)
            found.append({"x": x, "y": y, "label": label, "xs": xs.tolist(), "ys": ys.tolist()})
    return found


def _numbers_of_figure(path: Path) -> dict[str, Any]:
    """A CSV beside the table: its columns, and the pairs of axes that a figure's summary names."""
    try:
        table = read_table(path)
    except TableError as error:
        return {"name": path.name, "problem": str(error), "entries": [], "pairs": []}
    entries = [
        {"name": name, "label": name, **encode_values(table.arrow[name].to_pylist())}
        for name in table.columns
    ]
    pairs = [(row.get("x"), row.get("y")) for row in table.rows()]
    named = [pair for pair in pairs if all(isinstance(name, str) for name in pair)]
    return {"name": path.name, "problem": "", "entries": entries, "pairs": named}


def _lede(table: Table, manifest: Mapping[str, Any]) -> str:
    """The first sentence: how many networks of how many seeds, on what."""
    if not len(table):
        return "No finished network yet."
    cells = len(table.cells()) if "cell" in table.columns else len(table)
    said = [f"{cells:,} network{'s' if cells > 1 else ''}"]
    if {"cell", "seed"} <= set(table.columns):
        seeds: dict[Any, set] = {}
        for row in table.rows():
            seeds.setdefault(row["cell"], set()).add(row["seed"])
        counts = sorted({len(of_cell) for of_cell in seeds.values()})
        many = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
        said.append(f"{many} seed{'s' if counts[-1] > 1 else ''} each")
    sentence = ", ".join(said)
    if "dataset" in table.columns:
        names = [name for name in dict.fromkeys(table.arrow["dataset"].to_pylist()) if name]
        sentence += f", on {' and '.join(map(str, names))}" if names else ""
    return sentence + ("." if manifest else ". There is no manifest, so what was run is not known.")


def _problems(table: Table, manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Cells that are not in the table, and members whose training diverged, by name."""
    missing = missing_cells(manifest)
    diverged = [row for row, gone in zip(table.rows(), table.diverged(), strict=True) if gone]
    seeds = [(str(row.get("cell")), row.get("seed")) for row in diverged if row.get("snapshot") is None]
    names = [cell if seed is None else f"{cell}, seed {seed}" for cell, seed in seeds]
    told = (
        ("not finished when the table was written, so not in it", missing),
        ("diverged in training, so in no mean and no point", names),
    )
    return [{"text": f"{len(names):,} {text}", "names": names} for text, names in told if names]


def _pictures(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix.lower() in _PICTURES and path.is_file()]
    return sorted(found, key=lambda path: (path.stem, path.suffix))


def _picture(path: Path) -> dict[str, str]:
    kind = mimetypes.guess_type(path.name)[0]
    data = base64.b64encode(path.read_bytes()).decode()
    return {"name": path.name, "alt": f"Figure {in_words(path.stem)}", "uri": f"data:{kind};base64,{data}"}


def _packed(text: str) -> str:
    """Compressed, in letters that mean nothing to HTML; without a date, so that equal texts stay equal."""
    return base64.b64encode(gzip.compress(text.encode(errors="replace"), mtime=0)).decode()


def _content_hash(script: str) -> str:
    """A script as the content security policy names it: no other script runs."""
    return "sha256-" + base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(name: str) -> str:
    file = importlib.resources.files("jaxsens.report") / "assets" / name
    return file.read_text(encoding="utf-8")


def _libraries() -> tuple[str, Any]:
    """Plotly's script and the page's template. The page is all that needs these packages."""
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise TableError(
            f"got no package {error.name}; expected Plotly and Jinja, which write reports;"
            " pip install 'jaxsens[report]'"
        ) from error
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return get_plotlyjs(), environment.from_string(_asset("page.html"))
