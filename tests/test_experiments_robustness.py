"""Every experiment of paper E runs at its quick preset, and says what it runs."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pytest

from jaxsens import cli
from jaxsens.sweep import run as run_module
from jaxsens.table import read_manifest, read_table

ROOT = Path(__file__).parents[1]
NAMES = tuple(f"robustness/{name}" for name in ("survey", "factors", "near_data", "per_point", "slices"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def script(name):
    """The module of a script; other papers have scripts of the same names."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, store, out, capsys, *words):
    """The table that a script's quick preset writes, and the rows of its numbers."""
    experiment = script(name).EXPERIMENT
    code = cli.main(experiment, ["--store", str(store), "--out", str(out), *words])
    assert code == 0, capsys.readouterr().err
    stem = name.split("/")[-1]
    with (out / f"{stem}-summary.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert (out / f"{stem}-summary.md").read_text().count("\n") == len(rows) + 2
    return read_table(out), rows


def whole(name, table, out):
    """Every cell of the quick preset is there, trained, and drawn."""
    cells = script(name).EXPERIMENT.cells("quick")
    assert table.cells() == tuple(cell.name for cell in cells)
    assert not table.diverged().any()
    assert read_manifest(out)["missing_cells"] == []
    assert len(list(out.glob("*.png"))) == len(list(out.glob("*.pdf"))) > 0


@pytest.mark.slow
def test_a_part_of_the_survey_is_drawn_and_compared(store, tmp_path, capsys, monkeypatch):
    """One shape and optimiser: 12 networks in two programs, and pairs of them without training anew."""
    words = ("--cells", "fc-1x16-*momentum*")
    table, rows = run("robustness/survey", store, tmp_path / "survey", capsys, *words)
    assert len(table) == 12
    (every,) = [r for r in rows if r["networks"] == "all networks" and r["measure"].endswith("softmax")]
    assert int(every["trained"]) == 12
    assert int(every["100% accurate"]) == (table.column("train_accuracy") == 1).sum()
    assert set(table.column("activation")) == {"relu", "relu6", "hard_tanh", "hard_sigmoid"}
    monkeypatch.setattr(run_module, "run_cell", None)  # a call would fail
    _, rows = run("robustness/factors", store, tmp_path / "factors", capsys, *words)
    labels = {row["factor"]: int(row["pairs"]) for row in rows if row["networks"] == "all"}
    assert labels["random labels, against true"] == 4
    assert labels["ReLU, against HardTanh"] == 2


@pytest.mark.slow
def test_the_survey_and_its_comparisons(store, tmp_path, capsys, monkeypatch):
    table, rows = run("robustness/survey", store, tmp_path / "survey", capsys)
    whole("robustness/survey", table, tmp_path / "survey")
    fitted = table.column("train_accuracy") == 1
    assert fitted.sum() > 30
    taus = [float(row["tau"]) for row in rows if row["tau"]]
    assert len(taus) > 10
    assert all(-1 <= tau <= 1 for tau in taus)
    monkeypatch.setattr(run_module, "run_cell", None)
    table, rows = run("robustness/factors", store, tmp_path / "factors", capsys)
    whole("robustness/factors", table, tmp_path / "factors")
    known = [row for row in rows if row["low"]]
    assert len(known) > 10
    assert all(float(r["low"]) <= float(r["difference"]) <= float(r["high"]) for r in known)
    # Random labels leave a gap of about 90 points, whatever else is true.
    (gap,) = [
        row
        for row in rows
        if row["networks"] == "all"
        and row["measure"].startswith("gap")
        and row["factor"].startswith("random")
    ]
    assert float(gap["low"]) > 30


@pytest.mark.slow
def test_near_the_data(store, tmp_path, capsys):
    table, rows = run("robustness/near_data", store, tmp_path, capsys)
    whole("robustness/near_data", table, tmp_path)
    for stage in ("before", "after"):
        share = table.column(f"softmax_share_different_{stage}")
        assert ((share >= 0) & (share <= 1)).all()
        # A sampled count is at most the exact one; an ellipse is longer than one of its chords.
        assert (table.column(f"transitions_different_{stage}") > 0).all()
        assert (table.column(f"crossings_different_{stage}") > 0).all()
    (row,) = [
        r
        for r in rows
        if r["norm"] == "softmax"
        and r["stage"] == "trained"
        and r["contrast"] == "shuffled pixels, against data"
        and r["networks"] == "digits, ReLU"
    ]
    some = table.where(activation="relu", label_noise=0.0, train_accuracy=1.0)
    ratios = some.column("softmax_near_shuffled_after") / some.column("softmax_near_different_after")
    np.testing.assert_allclose(float(row["decades"]), np.log10(ratios).mean(), rtol=1e-6)


@pytest.mark.slow
def test_points(store, tmp_path, capsys):
    table, rows = run("robustness/per_point", store, tmp_path, capsys)
    whole("robustness/per_point", table, tmp_path)
    scores = {row["score"] for row in rows if row["points"] == "all points"}
    assert len(scores) == 6
    assert all(0 <= float(row["AUROC"]) <= 1 for row in rows)
    doubt = table.column("auroc_doubt")
    assert (doubt > 0.5).all()


@pytest.mark.slow
def test_slices(store, tmp_path, capsys):
    table, rows = run("robustness/slices", store, tmp_path, capsys)
    whole("robustness/slices", table, tmp_path)
    for row in rows:
        assert 1 < int(row["seen by pixels"]) <= int(row["regions"])


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_grid_and_its_header_counts_it(name):
    experiment = script(name).EXPERIMENT
    assert tuple(experiment.presets) == ("quick", "cpu", "paper")
    for preset in experiment.presets:
        cells = experiment.cells(preset)
        names = [cell.name for cell in cells]
        assert len(set(names)) == len(names)
        (line,) = [line for line in experiment.description.splitlines() if line.startswith(f"| {preset} |")]
        told = int(line.split("|")[3].split(",")[0])
        assert told == len(names), (preset, line, len(names))
        assert {cell.seeds for cell in cells} == {int(line.split("|")[4])}, (preset, line)


def test_headers_give_their_commands():
    for name in NAMES:
        text = " ".join(script(name).EXPERIMENT.description.replace("\\", " ").split())
        assert f"python experiments/{name}.py # quick" in text
        assert f"python experiments/{name}.py --preset cpu --data-dir DIR --out figures/{name}" in text
        assert "abstract" in text
