"""docs/measuring.md says what the registry says, and its numbers are those of the published tables."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import kendalltau

from jaxsens.measuring import MEASURES
from jaxsens.measuring.documentation import limits_table, measures_table

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "measuring.md").read_text()
# The measures' names in the experiments' tables.
GRID = {
    "softmax_jacobian_norm": "Jacobian norm after softmax",
    "jacobian_norm": "Jacobian norm",
    "output_sensitivity": "output sensitivity S",
    "linearized_output_sensitivity": "S, small-noise limit",
    "tangent_sensitivity": "tangent sensitivity, all outputs",
    "log_path_norm": "l2-path norm",
    "fisher_rao_norm": "Fisher-Rao norm",
    "expected_sharpness": "expected sharpness, alpha 0.01",
}
SURVEY = {
    "softmax_jacobian_norm": "Jacobian norm of the softmax",
    "jacobian_norm": "Jacobian norm of the logits",
    "linearized_output_sensitivity": "S, small-noise limit",
}


def read(*path):
    with (ROOT / "figures" / Path(*path)).open(newline="") as file:
        return list(csv.DictReader(file))


def number(row, name):
    return float(row[name]) if row[name] else math.nan


def test_the_tables_are_those_of_the_registry():
    """Where this fails, print them anew: python -m jaxsens.measuring.documentation."""
    assert measures_table() in PAGE
    assert limits_table() in PAGE


def test_the_registry_has_the_coefficients_of_the_experiments():
    grid = {row["measure"]: row for row in read("compare", "compare-summary.csv") if row["gap"] == "error"}
    survey = {
        row["measure"]: row
        for row in read("robustness", "survey", "survey-summary.csv")
        if row["networks"] == "all networks"
    }
    for name, spec in MEASURES.items():
        if name == "margin_percentile":
            assert spec.tau_error_gap == round(-number(grid["1 / margin"], "tau"), 2)
            continue
        expected = round(number(grid[GRID[name]], "tau"), 2) if name in GRID else None
        assert spec.tau_error_gap == expected, name
        expected = round(number(survey[SURVEY[name]], "tau"), 2) if name in SURVEY else None
        assert spec.tau_accuracy_gap == expected, name


def test_measures_stand_in_the_order_in_which_they_ranked():
    unlabelled = [spec for spec in MEASURES.values() if not spec.needs_labels]
    taus = [spec.tau_error_gap for spec in unlabelled if spec.tau_error_gap is not None]
    assert taus == sorted(taus, reverse=True)
    assert [spec.tau_error_gap is None for spec in unlabelled] == sorted(
        spec.tau_error_gap is None for spec in unlabelled
    )
    labelled = [spec.needs_labels for spec in MEASURES.values()]
    assert labelled == sorted(labelled)


@pytest.fixture(scope="module")
def cells():
    """Means over the seeds of each of the 96 networks."""
    columns = ["jacobian_norm_after_softmax", "sensitivity_before", "sensitivity_after"]
    columns += ["train_accuracy", "test_accuracy"]
    rows = [row for row in read("compare", "table.csv") if row["diverged"].lower() != "true"]
    found = {}
    for cell in {row["cell"] for row in rows}:
        members = [row for row in rows if row["cell"] == cell]
        found[cell] = {name: np.mean([number(row, name) for row in members]) for name in columns}
        found[cell]["gap"] = found[cell]["train_accuracy"] - found[cell]["test_accuracy"]
        found[cell]["error"] = 1 - found[cell]["test_accuracy"]
    return found


def tau_within_trainings(cells, measure, target):
    """The mean over groups of networks that were trained in one way, the last part of a cell's name."""
    ways = {}
    for cell, row in cells.items():
        ways.setdefault("-".join(cell.split("-")[2:]), []).append(row)
    assert len(ways) == 12
    assert {len(rows) for rows in ways.values()} == {8}
    return np.mean(
        [kendalltau([r[measure] for r in rows], [r[target] for r in rows])[0] for rows in ways.values()]
    )


def test_what_the_page_says_of_checkpoints_and_architectures(cells):
    text = " ".join(PAGE.split())
    norms, errors = (
        [row[name] for row in cells.values()] for name in ("jacobian_norm_after_softmax", "error")
    )
    within = {
        (measure, target): f"{tau_within_trainings(cells, measure, target):.2f}"
        for measure in ("jacobian_norm_after_softmax", "sensitivity_before", "sensitivity_after")
        for target in ("gap", "error")
    }
    assert f"With the test error itself it is {kendalltau(norms, errors)[0]:.2f} over the 96" in text
    after = [within["jacobian_norm_after_softmax", target] for target in ("gap", "error")]
    assert "are {} with the gap and {} with the error".format(*after) in text
    before = [within["sensitivity_before", target] for target in ("gap", "error")]
    assert "mean tau over the 12 groups {} with the gap, {} with the test error".format(*before) in text
    assert f"the same S has a mean tau of {within['sensitivity_after', 'gap']} with the gap" in text
    quartiles = [f"{q:.2f}" for q in np.quantile(norms, [0.25, 0.5, 0.75])]
    assert "are {}, {} and {}".format(*quartiles) in text


def test_what_the_page_says_of_networks_on_mnist():
    rows = [row for row in read("robustness", "survey", "table.csv") if row["train_accuracy"] == "1.0"]
    of_noise = [[row for row in rows if number(row, "label_noise") == noise] for noise in (0, 1)]
    medians = [np.median([number(row, "jacobian_norm_after_softmax") for row in some]) for some in of_noise]
    text = " ".join(PAGE.split())
    assert "medians of {:.2f} with true labels and {:.2f} with random ones".format(*medians) in text
