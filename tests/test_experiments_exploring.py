"""Every experiment of paper D, and the comparison of all measures, runs at its quick preset on one store."""

import csv
import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

from jaxsens import cli
from jaxsens.sweep import run as run_module
from jaxsens.table import read_manifest, read_table

ROOT = Path(__file__).parents[1]
NAMES = (*(f"exploring/fig{number}" for number in range(1, 9)), "compare")
# Their networks are those of figures 1 and 5.
TRAIN_NOTHING = ("exploring/fig2", "exploring/fig6", "exploring/fig7", "exploring/fig8")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def script(name):
    """The module of a script; other papers have scripts of the same names."""
    spec = importlib.util.spec_from_file_location(name.replace("/", "_"), ROOT / "experiments" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_quick_presets_write_table_and_picture(name, store, tmp_path, capsys, monkeypatch):
    if name in TRAIN_NOTHING:
        monkeypatch.setattr(run_module, "run_cell", None)  # a call would fail
    experiment = script(name).EXPERIMENT
    code = cli.main(experiment, ["--store", str(store), "--out", str(tmp_path)])
    assert code == 0, capsys.readouterr().err
    table = read_table(tmp_path)
    assert table.cells() == tuple(cell.name for cell in experiment.cells("quick"))
    assert not table.diverged().any()
    assert read_manifest(tmp_path)["missing_cells"] == []
    stem = name.split("/")[-1]
    assert (tmp_path / f"{stem}.png").stat().st_size > 10_000
    assert (tmp_path / f"{stem}.pdf").exists()
    summary = rows_of(tmp_path / f"{stem}-summary.csv")
    assert (tmp_path / f"{stem}-summary.md").read_text().count("\n") == len(summary) + 2
    if name == "compare":
        for row in summary:
            for column in ("tau", "granulated", "worst environment"):
                assert row[column] == "" or -1 <= float(row[column]) <= 1
        assert len({row["measure"] for row in summary}) > 20
    elif stem in ("fig1", "fig2", "fig3", "fig4"):
        # Rising alphas: the KL falls as 1 / alpha^2.
        np.testing.assert_allclose(table.column("kl_at_0.001") / table.column("kl_at_0.01"), 100, rtol=1e-4)
        assert (table.column("log_path1_plotted") >= table.column("log_path2_plotted")).all()
        assert (table.column("log_operator_norm") > -50).all()
    else:
        assert (table.column("mu_after") > 0).all()
        assert (table.column("c3_after") >= table.column("unit_norm_max_after") * 0.99).all()


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_grid_and_its_header_counts_it(name):
    experiment = script(name).EXPERIMENT
    assert tuple(experiment.presets) == ("quick", "cpu", "paper")
    for preset in experiment.presets:
        names = [cell.name for cell in experiment.cells(preset)]
        assert len(set(names)) == len(names)
        (line,) = [line for line in experiment.description.splitlines() if line.startswith(f"| {preset} |")]
        told = re.findall(r"\d+", line.split("|")[3].split(", at most")[0])
        assert sum(map(int, told)) == len(names), (preset, line, len(names))
        seeds = {cell.seeds for cell in experiment.cells(preset)}
        assert seeds == {int(line.split("|")[4])}, (preset, line)


def test_headers_give_their_commands():
    for name in NAMES:
        text = " ".join(script(name).EXPERIMENT.description.replace("\\", " ").split())
        assert f"python experiments/{name}.py # quick" in text
        assert f"python experiments/{name}.py --preset cpu --data-dir DIR --out figures/{name}" in text
        assert ("Reproduces:" in text) != (name == "compare")


@pytest.mark.slow
def test_a_part_of_the_comparison_is_drawn(store, tmp_path, capsys):
    """The CNNs alone: what is of perceptrons is left out, and of two networks nothing is ranked."""
    words = ["--store", str(store), "--out", str(tmp_path), "--cells", "cnn-*"]
    experiment = script("compare").EXPERIMENT
    assert cli.main(experiment, words) == 0, capsys.readouterr().err


def test_measures_of_the_comparison_say_what_they_need():
    compare = script("compare")
    needs_margin = {name for name, measure in compare.MEASURES.items() if "margin" in measure.title}
    for name, measure in compare.MEASURES.items():
        assert measure.labels in ("none", "training")
        if name in needs_margin:
            assert measure.labels == "training"
