"""What an experiment writes beside its picture: correlations and ratios to a line, checked by hand."""

import csv
import math

import numpy as np
import pytest

from jaxsens import stats
from jaxsens.plotting import (
    Line,
    Panel,
    Prediction,
    correlation_rows,
    equation_7_line,
    equation_9,
    equation_9_line,
    equation_14_line,
    save_panels,
    save_rows,
)
from jaxsens.table import Table, TableError

S = {"a": (1.0, 4.0), "b": (3.0, 3.0), "c": (8.0, 32.0), "d": (50.0, 3.0)}


def rows(**changes):
    shared = {"family": "f", "noise_std": 0.1, "num_outputs": 10, "input_second_moment": 0.25}
    return [
        shared
        | {"cell": cell, "seed": seed, "scale": float(index), "sensitivity_after": value}
        | {"train_loss": 2.0**-index}
        | {"test_loss": 3 * float(equation_9(np.array([value]), Prediction(10, 0.25, 0.1))[0])}
        | changes
        for index, (cell, values) in enumerate(S.items())
        for seed, value in enumerate(values)
    ]


def test_a_summary_has_the_panel_s_numbers(tmp_path):
    table = Table.from_rows(rows())
    lines = equation_9_line(table)
    save_panels(
        (Panel(table, "all", lines=lines), Panel(table, "few", limits=(1.0, 5.0, 1.0, 500.0))), tmp_path, "x"
    )
    with (tmp_path / "x-summary.csv").open() as stream:
        everything, few = csv.DictReader(stream)
    means = np.array([math.sqrt(a * b) for a, b in S.values()])
    assert everything["panel"] == "all"
    assert everything["cells"] == "4"
    assert few["cells"] == "2"
    assert few["rho"] == ""
    wanted = stats.pearson(np.log(means), np.log(np.sqrt(means)))
    assert float(everything["rho of logs"]) == pytest.approx(wanted.value)
    assert float(everything["rho of logs, low"]) == pytest.approx(wanted.low)
    # Of values it is that of arithmetic means: members that spread move it.
    values = np.array([np.mean(pair) for pair in S.values()])
    roots = np.array([np.mean(np.sqrt(pair)) for pair in S.values()])
    assert float(everything["rho"]) == pytest.approx(stats.pearson(values, roots).value, rel=1e-6)
    assert everything["members"] == "8"
    assert everything["left out"] == "0"
    assert float(everything["train loss, least"]) == 0.125
    assert float(everything["train loss, greatest"]) == 1.0
    assert float(everything["Spearman"]) == pytest.approx(1.0)
    assert few["members"] == "4"
    for name in ("y / equation (9)", "y / equation (9), least", "y / equation (9), greatest"):
        assert float(everything[name]) == pytest.approx(3.0, rel=1e-6)
        assert few[name] == ""
    assert (tmp_path / "x.png").exists()
    assert "| all" in (tmp_path / "x-summary.md").read_text()


def test_lines_are_the_equations_with_the_table_s_numbers():
    table = Table.from_rows(rows())
    at = np.array([2.0, 20.0])
    (nine,), (seven,), (fourteen,) = (f(table) for f in (equation_9_line, equation_7_line, equation_14_line))
    np.testing.assert_allclose(fourteen.function(at), at * 0.25 / 0.01)
    np.testing.assert_allclose(seven.function(at), 0.9 * at * 0.25 / 0.01)
    np.testing.assert_allclose(nine.function(at), np.sqrt(0.45 * at * 0.25 / 0.01))
    assert equation_9_line(table.where(cell="nothing")) == ()
    # Resized copies of the same images differ a little; other inputs a lot.
    mixed = Table.from_rows(rows() + rows(cell="e", seed=9, input_second_moment=0.26)[:1])
    np.testing.assert_allclose(equation_14_line(mixed)[0].function(at), at * (8 * 0.25 + 0.26) / 9 / 0.01)
    for change in ({"noise_std": 0.2}, {"num_outputs": 3}, {"input_second_moment": 1.0}):
        with pytest.raises(TableError, match="one of each for a line"):
            equation_9_line(Table.from_rows(rows() + rows(cell="e", seed=9, **change)[:1]))


def test_too_few_cells_have_no_correlation():
    table = Table.from_rows(rows()).where(cell=("a", "b"))
    row = correlation_rows(table, x="sensitivity_after", y="test_loss")
    assert row["cells"] == 2
    assert row["rho"] is None
    same = Table.from_rows(rows(test_loss=2.0))
    assert correlation_rows(same, x="sensitivity_after", y="test_loss")["rho of logs"] is None


def test_rows_are_written_for_programs_and_for_people(tmp_path):
    save_rows([{"metric": "S", "rho": 1 / 3}, {"metric": "J", "rho": None}], tmp_path, "t")
    with (tmp_path / "t.csv").open() as stream:
        first, second = csv.DictReader(stream)
    assert float(first["rho"]) == 1 / 3
    assert second["rho"] == ""
    text = (tmp_path / "t.md").read_text().splitlines()
    assert text[0].split() == ["|", "metric", "|", "rho", "|"]
    assert "0.333" in text[2]


def test_an_unfinished_panel_has_a_row_without_numbers(tmp_path):
    table = Table.from_rows(rows())
    empty = table.where(cell="nothing")
    line = Line("twice", lambda x: 2 * x)
    save_panels((Panel(table, "a"), Panel(empty, "b", lines=(line,))), tmp_path, "x")
    with (tmp_path / "x-summary.csv").open() as stream:
        _, b = csv.DictReader(stream)
    assert b["cells"] == "0"
    assert b["y / twice"] == ""


def test_members_without_a_place_are_counted():
    changed = [row | ({"sensitivity_after": 0.0} if row["seed"] == 1 else {}) for row in rows()]
    row = correlation_rows(Table.from_rows(changed), x="sensitivity_after", y="test_loss")
    assert (row["cells"], row["members"], row["left out"]) == (4, 4, 4)


def test_linear_panels_may_hold_zeros_and_negative_values(tmp_path):
    table = Table.from_rows([row | {"sensitivity_after": row["sensitivity_after"] - 5} for row in rows()])
    line = Line("zero", lambda x: 0 * x + 1)
    panel = Panel(table, log_x=False, log_y=False, lines=(line,))
    save_panels((panel,), tmp_path, "x")
    with (tmp_path / "x-summary.csv").open() as stream:
        (row,) = csv.DictReader(stream)
    assert row["rho"] != ""
