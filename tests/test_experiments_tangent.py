"""Every experiment of papers B and C runs at its quick preset, on one store, and writes what it promises."""

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
NAMES = ("fig1", "fig2", "fig3", "table1", "exact_vs_bounds")
# Their networks are those of the one before.
TRAIN_NOTHING = ("fig2", "table1")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def script(name):
    """The module of a script; paper A has scripts of the same names."""
    spec = importlib.util.spec_from_file_location(
        f"tangent_{name}", ROOT / "experiments" / "tangent" / f"{name}.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows_of(path):
    with path.open() as stream:
        return list(csv.DictReader(stream))


@pytest.mark.slow  # a part of the grid is drawn below
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
    assert (table.column("tangent_sensitivity_test") > 0).all()
    # The bounds are bounds; as printed, equation 2 need not be one.
    exact = np.log(table.column("tangent_sensitivity_test"))
    for bound in ("log_tangent_norm_bound", "log_active_path_bound", "log_region_bound"):
        assert (table.column(bound) > exact).all(), bound
    assert read_manifest(tmp_path)["missing_cells"] == []
    assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    assert (tmp_path / f"{name}.pdf").exists()
    summary = rows_of(tmp_path / f"{name}-summary.csv")
    assert (tmp_path / f"{name}-summary.md").read_text().count("\n") == len(summary) + 2
    SUMMARIES[name](summary, table, tmp_path)


def check_fig1(summary, table, out):
    assert len(summary) == 2 * len(table.where(snapshot=None))
    for row in summary:
        member = table.where(snapshot=None, cell=row["cell"], seed=int(row["seed"]))
        np.testing.assert_allclose(float(row["mean"]), member.column(f"active_mean_{row['set']}"), rtol=1e-6)
        np.testing.assert_allclose(float(row["std"]), member.column(f"active_std_{row['set']}"), rtol=1e-6)


def check_fig2(summary, table, out):
    for row in summary:
        assert float(row["decades above, corrected"]) > 0
    factors = {row["factor"]: row for row in rows_of(out / "fig2-factors.csv")}
    # w_max^{2(k-1)}: 8 log10(2) decades at k = 5.
    for variant in ("corrected", "as_printed"):
        np.testing.assert_allclose(
            float(factors["largest"][f"decades, {variant}"]), 8 * np.log10(2), rtol=1e-4
        )


def check_fig3(summary, table, out):
    no_estimator = [row for row in summary if row["estimator"].startswith("no estimator")]
    assert len(no_estimator) == len(table.cells())
    assert all(row["loss_estimate"] == row["train_loss"] for row in no_estimator)


def check_table1(summary, table, out):
    rows = rows_of(out / "table1.csv")
    assert len(rows) == 12 * len(table.cells())
    assert {row["epochs"] for row in rows} == {"5"}  # 2 to 6
    for best in summary:
        mine = [float(row["loss, MAE"]) for row in rows if row["network"] == best["network"]]
        assert float(best["loss, its MAE"]) == min(mine)
    (row,) = [r for r in rows if r["network"].endswith("BN") and r["estimator"].startswith("no estimator")]
    bn = table.where(cell=table.cells()[1])
    later = [r for r in bn.rows() if r["snapshot"] is None or r["snapshot"] >= 2]
    wanted = np.mean([abs(r["train_loss"] - r["test_loss"]) for r in later])
    np.testing.assert_allclose(float(row["loss, MAE"]), wanted, rtol=1e-6)


def check_exact_vs_bounds(summary, table, out):
    assert (out / "exact_vs_bounds-training.png").stat().st_size > 10_000
    assert {row["gap"] for row in summary} == {"test minus training loss", "training minus test accuracy"}
    assert all(row["cells"] == "3" for row in summary)
    (jacobian,) = [r for r in summary if r["measure"].startswith("Jacobian") and r["gap"].startswith("test")]
    means = [
        (np.mean(2 * np.log10(rows.column("jacobian_norm_test"))), gap(rows))
        for rows in (table.where(cell=cell) for cell in table.cells()[3:])
    ]
    agree = [np.sign((a[0] - b[0]) * (a[1] - b[1])) for i, a in enumerate(means) for b in means[:i]]
    np.testing.assert_allclose(float(jacobian["tau"]), np.mean(agree), atol=1e-9)
    assert float(jacobian["moving num_train"]) in (-1, 1)


def gap(rows):
    return np.mean(rows.column("test_loss") - rows.column("train_loss"))


SUMMARIES = {
    "fig1": check_fig1,
    "fig2": check_fig2,
    "fig3": check_fig3,
    "table1": check_table1,
    "exact_vs_bounds": check_exact_vs_bounds,
}


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_a_grid_and_its_header_counts_it(name):
    one = script(name).EXPERIMENT
    assert one.name == f"tangent/{name}"
    assert tuple(one.presets) == ("quick", "cpu", "paper")
    for preset in one.presets:
        cells = one.cells(preset)
        assert len({cell.name for cell in cells}) == len(cells)
        (line,) = [line for line in one.description.splitlines() if line.startswith(f"| {preset} |")]
        networks, seeds = line.split("|")[3:5]
        told = [int(number) for number in re.findall(r"\d+", networks.split(", at most")[0])]
        assert sum(told) == len(cells), (preset, networks, len(cells))
        assert {cell.seeds for cell in cells} == {int(seeds)}


@pytest.mark.parametrize("name", NAMES)
def test_headers_give_their_commands(name):
    text = " ".join(script(name).EXPERIMENT.description.replace("\\\n", " ").split())
    command = f"python experiments/tangent/{name}.py"
    assert f"{command} --preset cpu --data-dir DIR --out figures/tangent/{name}" in text
    assert f"{command} --preset paper --data-dir DIR --checkpoint" in text
    if name != "exact_vs_bounds":
        assert "Reproduces:" in text
        assert "Claims:" in text


def test_cpu_presets_share_their_networks():
    """Figures 2 and 3 and Table 1 train nothing that Figures 1 and 3 have not."""
    physics = {name: {cell.physics for cell in script(name).EXPERIMENT.cells("cpu")} for name in NAMES}
    assert physics["fig2"] == physics["fig1"]
    assert physics["table1"] == physics["fig3"]
    assert len(physics["fig1"] & physics["fig3"]) == 1
    assert physics["fig3"] < physics["exact_vs_bounds"]


@pytest.mark.slow
@pytest.mark.parametrize("cells", ["fc-3x16-fu", "fc-3x16-fu-n64"])
def test_a_part_of_the_grid_is_drawn(cells, tmp_path, capsys):
    """A shard has trainings without networks of the grid, or these without those."""
    experiment = script("exact_vs_bounds").EXPERIMENT
    assert cells in [cell.name for cell in experiment.cells("quick")]
    words = ["--store", str(tmp_path / "store"), "--out", str(tmp_path / "out"), "--cells", cells]
    assert cli.main(experiment, words) == 0, capsys.readouterr().err
    assert list((tmp_path / "out").glob("*.png"))
