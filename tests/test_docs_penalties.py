"""The figures of docs/how-to/regularise.md are those of its table, which is what the program gives."""

import csv
import runpy
from pathlib import Path

import jax
import numpy as np
import pytest

HOW_TO = Path(__file__).parents[1] / "docs" / "how-to"
NAMES = {
    "jacobian_norm": "mean square of `input_jacobian_norm`",
    "sensitivity_centred": 'S in its small-noise limit, `"centred"`',
    "sensitivity_mean": 'S in its small-noise limit, `"mean"`',
    "softmax_jacobian_norm": "mean square of the softmax's Jacobian norm",
    "squared_weights": "sum of the squared weights",
}


def read():
    with (HOW_TO / "penalties.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def percent(row, column):
    return f"{100 * float(row[column]):.1f} +- {100 * float(row[f'{column}_stderr']):.1f}"


def test_the_page_has_the_numbers_of_the_table():
    page = (HOW_TO / "regularise.md").read_text()
    best = [row for row in read() if row["best"] == "True"]
    assert len(best) == 2 * (1 + len(NAMES))
    for row in best:
        norm = f"{float(row['jacobian_norm']):.1f}"
        if row["penalty"] == "none":
            assert f"| none: accuracy {percent(row, 'test_accuracy')} | | | {norm} |" in page
        else:
            strength = f"{float(row['strength']):g}"
            assert f"| {NAMES[row['penalty']]} | {strength} | {percent(row, 'gain')} | {norm} |" in page


@pytest.mark.slow
def test_the_table_is_what_the_program_gives():
    """Training amplifies rounding, so other versions of JAX are near and not equal."""
    program = runpy.run_path(str(HOW_TO / "penalties.py"))
    keys = jax.random.split(jax.random.key(0), program["SEEDS"])
    for name, wrong in (("none", 0.25), ("squared_weights", 0.0)):
        (row,) = (
            row
            for row in read()
            if row["penalty"] == name and row["wrong_labels"] == str(wrong) and row["best"] == "True"
        )
        found = program["trainer"](program["PENALTIES"][name][0], wrong)(keys, float(row["strength"]))
        np.testing.assert_allclose(found["test_accuracy"].mean(), float(row["test_accuracy"]), atol=0.004)
        np.testing.assert_allclose(found["jacobian_norm"].mean(), float(row["jacobian_norm"]), rtol=0.02)
