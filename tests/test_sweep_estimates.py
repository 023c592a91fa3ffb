"""C's estimators over the snapshots of a table: hand-made rows with known answers."""

import math

import numpy as np
import pytest

from jaxsens.sweep import ESTIMATORS, loss_estimates
from jaxsens.table import Table

LN2 = math.log(2)


def row(snapshot, **changes):
    """One state: measures on the test set are twice those on the training set unless told otherwise."""
    return {
        "cell": "net",
        "family": "FC",
        "seed": 0,
        "snapshot": snapshot,
        "max_epochs": 3,
        "diverged": False,
        "train_loss": 1.0,
        "test_loss": 1.5,
        "train_accuracy": 0.4,
        "test_accuracy": 0.3,
        "log_layerwise_norm": 4.0,
        "log_tangent_norm_bound": 20.0,
        "log_spectral_product": 2.0,
        "log_psi_star_test": 5.0 + LN2,
        "log_psi_star_train": 5.0,
        "log_active_path_bound_as_printed": 30.0 + LN2,
        "log_empirical_soft_test": -40.0,
        "log_empirical_soft_train": -50.0,
        "tangent_sensitivity_test": 6.0,
        "tangent_sensitivity_train": 3.0,
        "jacobian_norm_test": 4.0,
        "jacobian_norm_train": 2.0,
        "fisher_rao_norm_test": 10.0,
        "fisher_rao_norm_train": 5.0,
    } | changes


def ratios(rows):
    """Estimator -> ratio at each epoch, None where there is no estimate; both quantities must share it."""
    table = loss_estimates(Table.from_rows(rows))
    found = {}
    for name in ESTIMATORS:
        mine = table.where(estimator=name).rows()
        assert [r["epoch"] for r in mine] == sorted(r["epoch"] for r in mine)
        found[name] = [r["loss_estimate"] and r["loss_estimate"] / r["train_loss"] for r in mine]
        for r, ratio in zip(mine, found[name], strict=True):
            if ratio is None:
                assert r["accuracy_estimate"] is r["loss_error"] is r["accuracy_error"] is None
            else:
                np.testing.assert_allclose(r["accuracy_estimate"], ratio * r["train_accuracy"])
                np.testing.assert_allclose(r["loss_error"], abs(r["loss_estimate"] - r["test_loss"]))
                np.testing.assert_allclose(
                    r["accuracy_error"], abs(r["accuracy_estimate"] - r["test_accuracy"])
                )
    return found


def test_ratios_by_hand():
    """The end counts as the epoch limit, and rows may come in any order."""
    rows = [
        row(None, train_loss=0.5, log_layerwise_norm=4.0 + LN2, log_tangent_norm_bound=25.0),
        row(2, log_spectral_product=1.0),
    ]
    found = ratios(rows)
    same = {"active_count": 2, "empirical": 2, "jacobian": 2, "fisher_rao": 2, "training": 1}
    same |= {
        "active_count_log": (30 + LN2) / 30,
        "empirical_soft": math.exp(10),
        "empirical_soft_log": 40 / 50,
    }
    for name, ratio in same.items():
        np.testing.assert_allclose(found[name], [ratio, ratio], rtol=1e-12)
    # The inverse of the growth since the epoch before; the first has none.
    sequential = {
        "layerwise_norm": 0.5,
        "layerwise_log_norm": 20 / 25,
        "layerwise_log_product": 4 / (4 + LN2),
        "spectral": math.exp(1 - 2),
    }
    for name, ratio in sequential.items():
        assert found[name][0] is None
        np.testing.assert_allclose(found[name][1], ratio, rtol=1e-12)
    assert set(same) | set(sequential) == set(ESTIMATORS)


def test_members_do_not_see_each_other():
    """The row before is that of the same seed and cell."""
    rows = [
        row(1),
        row(1, seed=1, log_layerwise_norm=9.0),
        row(2, seed=1, log_layerwise_norm=9.0 - LN2),
        row(2),
    ]
    table = loss_estimates(Table.from_rows(rows), names=("layerwise_norm",))
    found = {(r["seed"], r["epoch"]): r["loss_estimate"] for r in table.rows()}
    assert found == {(0, 1): None, (0, 2): 1.0, (1, 1): None, (1, 2): pytest.approx(2.0)}


@pytest.mark.parametrize("lost", [None, math.inf, 0.0])
def test_no_ratio_of_what_is_missing_infinite_or_zero(lost):
    found = ratios([row(1), row(2, jacobian_norm_train=lost), row(None)])
    np.testing.assert_allclose([found["jacobian"][0], found["jacobian"][2]], 2)
    assert found["jacobian"][1] is None
    np.testing.assert_allclose(found["fisher_rao"], 2)


def test_a_lost_state_is_no_state_before():
    found = ratios([row(1), row(2, log_layerwise_norm=-math.inf), row(None)])
    assert found["layerwise_norm"] == [None, None, None]
    np.testing.assert_allclose(found["spectral"][1:], 1)


def test_diverged_rows_are_left_out():
    table = loss_estimates(Table.from_rows([row(1), row(2, diverged=True, train_loss=None), row(None)]))
    assert sorted(set(table.column("epoch"))) == [1, 3]


def test_ratios_beyond_float32_are_numbers():
    rows = [row(1, log_empirical_soft_test=100.0, log_empirical_soft_train=-100.0)]
    np.testing.assert_allclose(ratios(rows)["empirical_soft"], [math.exp(200)], rtol=1e-10)
