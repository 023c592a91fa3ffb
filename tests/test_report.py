"""A report holds the table's numbers, nothing of a file runs in it, and it asks the network for nothing."""

import base64
import gzip
import hashlib
import json
import math
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.report import write_report
from jaxsens.report.columns import describe_columns, in_words, with_gaps
from jaxsens.report.run import facts_of_run, missing_cells, setting_names
from jaxsens.table import Table, TableError, numbers_to_text, read_table, write_manifest, write_table

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror=window.hacked=1>&amp;\"'"
PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


def rows():
    """Two families of two cells of three seeds, with all that a number can be."""
    for cell in range(4):
        for seed in range(3):
            loss = math.exp(cell + 0.1 * seed)
            yield {
                "cell": f"net-{cell}",
                "family": f"F{cell % 2}",
                "num_train": 1000,
                "seed": seed,
                "train_loss": 1e-17 + 0.1 * loss,
                "train_accuracy": 1.0,
                "test_loss": [loss, math.nan, math.inf, -math.inf][cell if seed == 1 else 0],
                "test_accuracy": 0.1 + 0.2 * cell + 0.01 * seed,
                "sensitivity_after": None if (cell, seed) == (2, 2) else loss**2 / 3,
                "sensitivity_after_stderr": 0.01 * loss,
                "sensitivity_seconds": 0.5,
                "diverged": (cell, seed) == (3, 0),
                "curve": numbers_to_text([0.1, cell]),
                "weight_decay": 0.1,
                "never_measured": None,
            }


MANIFEST = {
    "experiment": "fig1",
    "cells": {
        f"net-{cell}": {
            "class": "Cell",
            "fields": {
                "name": f"net-{cell}",
                "data": {"class": "DataConfig", "fields": {"num_train": 1000}},
                "model": {"class": "ModelConfig", "fields": {"family": f"F{cell % 2}", "layers": [1, 2]}},
                "train": {
                    "class": "TrainConfig",
                    "fields": {
                        "learning_rate": 0.001 * (cell + 1),
                        "weight_decay": 0.1,
                        "stop": {"class": "Stop", "fields": {"loss": {"float": "inf"}}},
                        "batch_size": None if cell else 32,
                    },
                },
            },
        }
        for cell in range(4)
    },
    "missing_cells": ["net-4", "net-5"],
    "data": [{"dataset": "digits", "train_examples": 1000, "test_examples": 297, "sha256": "a" * 64}],
    "environments": [
        {
            "commit": "b" * 40,
            "dirty": True,
            "device": "cpu",
            "num_devices": 2,
            "packages": {"jax": "0.12.0"},
            "platform": "Linux x86_64",
            "python": "3.12.1",
            "time": "2026-01-02T03:04:05+00:00",
        }
    ],
    "command": ["python", "experiments/fig1.py", "--seeds", "3"],
}


@pytest.fixture
def folder(tmp_path):
    write_table(Table.from_rows(rows()), tmp_path)
    write_manifest(tmp_path, MANIFEST)
    (tmp_path / "fig1.png").write_bytes(PIXEL)
    (tmp_path / "fig1-summary.csv").write_text('"panel","x","y"\n"(a)","train_loss","test_loss"\n')
    return tmp_path


class Page(HTMLParser):
    """Tags with their attributes, texts, and what the script elements hold."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self.scripts, self.inside = [], [], [], None
        self.source = Path(path).read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        self.inside = (tag, dict(attributes))
        self.tags.append(self.inside)

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        if self.inside and self.inside[0] == "script":
            self.scripts.append((self.inside[1], data))
        else:
            self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())

    def payload(self, name):
        (packed,) = [data for attributes, data in self.scripts if attributes.get("id") == f"packed-{name}"]
        return gzip.decompress(base64.b64decode(packed)).decode()


def decoded(entry):
    special = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    if "values" in entry:
        return [special.get(value, value) if isinstance(value, str) else value for value in entry["values"]]
    return [None if code < 0 else entry["texts"][code] for code in entry["codes"]]


def same(mine, theirs):
    if isinstance(mine, float) and isinstance(theirs, float):
        return mine == theirs or (math.isnan(mine) and math.isnan(theirs))
    return mine == theirs


def test_the_data_are_the_tables_numbers(folder):
    page = Page(write_report(folder))
    entries = {entry["name"]: entry for entry in json.loads(page.payload("data"))["columns"]}
    table = read_table(folder)
    left_out = {"num_train", "curve", "weight_decay", "never_measured"}
    assert set(entries) == set(table.columns) - left_out | {"loss_gap", "error_gap"}
    for name in set(table.columns) - left_out:
        wanted = [
            str(value).lower() if isinstance(value, bool) else value
            for value in table.arrow[name].to_pylist()
        ]
        found = decoded(entries[name])
        assert len(found) == len(wanted) == 12
        assert all(map(same, found, wanted)), name
    gaps = table.column("test_loss") - table.column("train_loss")
    assert all(map(same, decoded(entries["loss_gap"]), gaps.tolist()))
    errors = table.column("train_accuracy") - table.column("test_accuracy")
    assert decoded(entries["error_gap"]) == errors.tolist()


def test_every_column_that_is_not_shown_is_named_with_the_reason(folder):
    text = Page(write_report(folder)).text
    for line in (
        "num_train: 1000 in all rows",
        "curve: a curve, counts or a picture",
        "weight_decay: 0.1 in all rows",
        "never_measured: no value",
    ):
        assert line in text


def test_columns_have_kinds_and_labels_of_their_own():
    table = Table.from_rows([row | {"mse_loss": 0.1 * row["seed"], "activation": "relu6"} for row in rows()])
    entries, _ = describe_columns(with_gaps(table), {"sensitivity_after"})
    kinds = {entry["name"]: entry["kind"] for entry in entries}
    assert kinds["cell"] == kinds["seed"] == kinds["diverged"] == "id"
    assert kinds["family"] == kinds["sensitivity_after"] == "setting"
    assert kinds["test_loss"] == kinds["error_gap"] == "measure"
    assert kinds["sensitivity_after_stderr"] == "error"
    assert kinds["sensitivity_seconds"] == "time"
    labels = [entry["label"] for entry in entries]
    assert len(set(labels)) == len(labels)
    assert {"test loss", "mse loss", "sensitivity after training"} <= set(labels)


def test_names_that_look_like_numbers_are_shown():
    entries, left_out = describe_columns(
        Table.from_rows(
            {"cell": f"3:{cell}", "family": f"64 {cell}", "counts": "3:2 5:1", "curve": "0.5 nan"}
            for cell in (1, 2)
        ),
        (),
    )
    assert [entry["texts"] for entry in entries] == [["3:1", "3:2"], ["64 1", "64 2"]]
    assert [line.partition(":")[0] for line in left_out] == ["counts", "curve"]


def test_labels_have_no_mathematics():
    assert in_words("sensitivity_after") == "sensitivity after training"
    assert in_words("predicted_sensitivity_before") == "S predicted by equation (10)"
    assert in_words("log_path1_plotted") == "log path1 plotted"


def test_the_page_asks_the_network_for_nothing(folder):
    page = Page(write_report(folder))
    for tag, attributes in page.tags:
        assert tag not in {"link", "iframe", "object", "embed", "base", "audio", "video", "source"}
        for name in ("src", "href", "srcset", "action", "poster", "data", "background", "formaction"):
            assert (attributes.get(name) or "#").startswith(("#", "data:image/png;base64,")), (tag, name)
        assert not [name for name in attributes if name.startswith("on")]
    style = page.source.partition("<style>")[2].partition("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    # Our own scripts and Plotly's, by their hashes; no other script can run.
    own = [data for attributes, data in page.scripts if "type" not in attributes]
    assert len(own) == 1
    for script in (own[0], page.payload("plotly")):
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    assert "unsafe" not in policy.partition("script-src")[2]


def test_nothing_of_a_file_becomes_html(tmp_path):
    write_table(
        Table.from_rows(
            {"cell": HOSTILE, "family": HOSTILE, "seed": seed, "test_loss": 1.5, "diverged": seed == 0}
            for seed in (0, 1)
        ),
        tmp_path,
    )
    told = {"experiment": HOSTILE, "missing_cells": [HOSTILE], "command": HOSTILE}
    write_manifest(tmp_path, told | {"data": [{"sha256": HOSTILE}]})
    (tmp_path / "numbers.csv").write_text('"</script><script>window.hacked=1</script>"\n1\n')
    (tmp_path / "<img src=x onerror=hacked>.png").write_bytes(PIXEL)
    page = Page(write_report(tmp_path))
    assert "window.hacked=1</script>" not in page.source
    assert "<img src=x" not in page.source
    assert len([attributes for attributes, _ in page.scripts if "type" not in attributes]) == 1
    assert [tag for tag, _ in page.tags].count("img") == 1
    # It is there all the same, as text.
    assert page.text.count("window.hacked=1") >= 4
    assert json.loads(page.payload("data"))["columns"][0]["texts"] == [HOSTILE]


def test_the_page_says_what_was_run_and_what_is_missing(folder):
    page = Page(write_report(folder))
    assert page.text.startswith("fig1 – jaxsens report")
    for text in (
        "4 networks, 3 seeds each.",
        "2 not finished when the table was written, so not in it net-4 net-5",
        "1 diverged in training, so in no mean and no point net-3, seed 0",
        "digits, 1,000 training and 297 test examples, fingerprint aaaaaaaaaaaa",
        "learning rate 0.001, 0.002, 0.003, 0.004",
        "batch size 32, not set",
        "cpu, 2 devices, Linux x86_64, Python 3.12.1",
        "jax 0.12.0",
        "bbbbbbbbbbbb, with uncommitted changes",
        "2026-01-02T03:04:05+00:00",
        "python experiments/fig1.py --seeds 3",
    ):
        assert text in page.text, text
    assert json.loads(page.payload("manifest")) == MANIFEST
    (image,) = [attributes for tag, attributes in page.tags if tag == "img"]
    assert base64.b64decode(image["src"].partition(",")[2]) == PIXEL


def test_the_first_axes_are_those_of_the_folders_figures(folder):
    assert json.loads(Page(write_report(folder)).payload("data"))["pairs"] == [["train_loss", "test_loss"]]
    (folder / "fig1-summary.csv").unlink()
    assert json.loads(Page(write_report(folder)).payload("data"))["pairs"][0] == [
        "sensitivity_after",
        "test_loss",
    ]


def test_equation_9_is_drawn_where_the_figure_has_it_and_it_holds(folder):
    known = {"num_outputs": 10, "input_second_moment": 0.5, "noise_std": 0.1}
    write_table(Table.from_rows(row | known for row in rows()), folder)
    assert json.loads(Page(write_report(folder)).payload("data"))["lines"] == []
    (folder / "fig1-summary.csv").write_text('"panel","y / equation (9)"\n"(a)",1.5\n')
    (line,) = json.loads(Page(write_report(folder)).payload("data"))["lines"]
    assert (line["x"], line["y"], line["label"]) == ("sensitivity_after", "test_loss", "equation (9)")
    for s, loss in zip(line["xs"], line["ys"], strict=True):
        assert loss == pytest.approx(math.sqrt(0.5 * 0.9 * s * 0.5 / 0.1**2), rel=1e-12)
    write_table(Table.from_rows(row | known | {"noise_std": 0.1 + row["seed"]} for row in rows()), folder)
    assert json.loads(Page(write_report(folder)).payload("data"))["lines"] == []


def test_the_same_folder_gives_the_same_bytes_wherever_it_is_written(folder, tmp_path_factory):
    first = write_report(folder)
    assert first == folder / "report.html"
    elsewhere = tmp_path_factory.mktemp("out")
    assert write_report(folder, elsewhere) == elsewhere / "report.html"
    assert write_report(str(folder), elsewhere / "new" / "a.html") == elsewhere / "new" / "a.html"
    pages = {path.read_bytes() for path in (first, elsewhere / "report.html", elsewhere / "new" / "a.html")}
    assert len(pages) == 1


def test_a_folder_without_a_manifest_or_of_csv_alone_has_a_report(folder):
    (folder / "manifest.json").unlink()
    (folder / "table.parquet").unlink()
    text = Page(write_report(folder)).text
    assert "4 networks, 3 seeds each. There is no manifest, so what was run is not known." in text


def test_an_unfinished_run_has_a_report(tmp_path):
    write_table(Table.from_rows([]), tmp_path)
    write_manifest(tmp_path, {"missing_cells": ["a", "b"]})
    text = Page(write_report(tmp_path)).text
    assert "No finished network yet." in text
    assert "2 not finished when the table was written, so not in it a b" in text


@pytest.mark.parametrize(
    "table",
    [
        [{"x": 1.0}, {"x": math.nan}],
        [{"cell": "a", "test_loss": None}],
        [{"cell": "a", "seed": None, "test_loss": 1.0}, {"cell": "a", "seed": None, "test_loss": 2.0}],
        [{"cell": "a", "seed": 0, "snapshot": epoch, "test_loss": 1.0} for epoch in (None, 0, 1)],
    ],
)
def test_tables_of_few_columns_have_a_report(tmp_path, table):
    write_table(Table.from_rows(table), tmp_path)
    assert "network" in Page(write_report(tmp_path)).text


def test_a_damaged_summary_is_told_in_its_place(folder):
    (folder / "broken.csv").write_bytes(b'"a","b"\n1\n')
    assert "broken.csv, cut short or damaged" in Page(write_report(folder)).text


def test_what_cannot_be_reported_is_refused_in_one_line(folder, tmp_path_factory, monkeypatch):
    def refused(source, match):
        with pytest.raises(TableError, match=match) as error:
            write_report(source)
        assert "\n" not in str(error.value)

    empty = tmp_path_factory.mktemp("empty")
    refused(empty, r"got no file .*table\.parquet; expected a written table; run the experiment first")
    refused(empty / "none", r"got no folder .*none; expected a results folder")
    parquet = (folder / "table.parquet").read_bytes()
    (folder / "table.parquet").write_bytes(parquet[: len(parquet) // 2])
    refused(folder, r"table\.parquet, cut short or damaged .* delete it and run again")
    (folder / "table.parquet").unlink()
    (folder / "table.csv").write_bytes(b'"cell","test_loss"\n"a",1\n"b"\n')
    refused(folder, r"table\.csv, cut short or damaged")
    write_table(Table.from_rows([*rows(), *rows()]), folder)
    refused(folder, r"got seed 0 twice in cell 'net-0'; expected one row per cell and seed")
    write_table(Table.from_rows(rows()), folder)
    (folder / "manifest.json").write_text("{")
    refused(folder, r"manifest\.json, damaged")
    (folder / "manifest.json").write_text("[]")
    refused(folder, r"manifest\.json holding a list; expected an object")
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    refused(folder, r"expected Plotly and Jinja, which write reports; pip install 'jaxsens\[report\]'")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["fields", "cells", "data", "dataset", "time", "packages", "a"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["cells", "data", "environments", "missing_cells", "command", "experiment"]), JSON
    )
)
def test_no_shape_of_a_manifest_is_an_error(manifest):
    assert all(isinstance(fact.text, str) for fact in facts_of_run(manifest))
    assert all(isinstance(name, str) for name in [*missing_cells(manifest), *setting_names(manifest)])


def test_a_report_needs_no_jax(folder):
    command = (
        "import sys; from jaxsens.report import write_report; write_report(sys.argv[1]);"
        "assert not {'jax', 'jaxlib', 'flax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", command, folder], check=True)
