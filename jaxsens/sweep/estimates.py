"""What C's estimators say of the test loss after each epoch, from the rows of one training's snapshots."""

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxsens.metrics import (
    active_count_estimate,
    empirical_estimate,
    fisher_rao_estimate,
    jacobian_estimate,
    layerwise_norm_estimate,
    spectral_estimate,
)
from jaxsens.table import Table

__all__ = ["ESTIMATORS", "Estimator", "loss_estimates"]

Columns: TypeAlias = Mapping[str, np.ndarray]
"""Columns of one member's rows, in the order of its epochs, shape (epochs,)."""


class Estimator(NamedTuple):
    """`ratio * scale` from columns now and one epoch before, and what a legend calls it.

    `needs` are the columns that it reads now; `before` says that it reads them one epoch before as well.
    """

    title: str
    needs: tuple[str, ...]
    estimate: Callable[[Columns, Columns, np.ndarray], Any]
    before: bool = False


def _ratio_of_logs(numerator: np.ndarray, denominator: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full_like(scale, np.nan), where=denominator != 0) * scale


def _active_count_logs(now: Columns, _: Columns, scale: np.ndarray) -> np.ndarray:
    """Eq. 2's logarithm on the test set over that on the training set: they differ in psi* alone."""
    test = now["log_active_path_bound_as_printed"]
    train = test - now["log_psi_star_test"] + now["log_psi_star_train"]
    return _ratio_of_logs(test, train, scale)


_PSI = ("log_psi_star_test", "log_psi_star_train")
_SOFT = ("log_empirical_soft_test", "log_empirical_soft_train")
_JACOBIAN = ("jacobian_norm_test", "jacobian_norm_train")
_FISHER_RAO = ("fisher_rao_norm_test", "fisher_rao_norm_train")
_SENSITIVITY = ("tangent_sensitivity_test", "tangent_sensitivity_train")


def _layerwise(column: str, form: str) -> Callable[[Columns, Columns, np.ndarray], Any]:
    return lambda now, before, scale: layerwise_norm_estimate(before[column], now[column], scale, form=form)


ESTIMATORS: Mapping[str, Estimator] = MappingProxyType(
    {
        "layerwise_norm": Estimator(
            "layer-wise norm (6)",
            ("log_layerwise_norm",),
            _layerwise("log_layerwise_norm", "as_printed"),
            before=True,
        ),
        "layerwise_log_norm": Estimator(
            "layer-wise log-norm (6), logs of (1)",
            ("log_tangent_norm_bound",),
            _layerwise("log_tangent_norm_bound", "log"),
            before=True,
        ),
        "layerwise_log_product": Estimator(
            "layer-wise log-norm (6), logs of the norms alone",
            ("log_layerwise_norm",),
            _layerwise("log_layerwise_norm", "log"),
            before=True,
        ),
        "active_count": Estimator(
            "maximal (7)",
            _PSI,
            lambda now, _, scale: active_count_estimate(now[_PSI[0]], now[_PSI[1]], scale),
        ),
        "active_count_log": Estimator(
            "maximal (7), logs of (2)", (*_PSI, "log_active_path_bound_as_printed"), _active_count_logs
        ),
        "empirical": Estimator(
            "empirical (8), relative frequency",
            _SENSITIVITY,
            lambda now, _, scale: empirical_estimate(
                np.log(now[_SENSITIVITY[0]]), np.log(now[_SENSITIVITY[1]]), scale
            ),
        ),
        "empirical_soft": Estimator(
            "empirical (8), probabilities (5)",
            _SOFT,
            lambda now, _, scale: empirical_estimate(now[_SOFT[0]], now[_SOFT[1]], scale),
        ),
        "empirical_soft_log": Estimator(
            "empirical (8), logs with probabilities (5)",
            _SOFT,
            lambda now, _, scale: _ratio_of_logs(now[_SOFT[0]], now[_SOFT[1]], scale),
        ),
        "jacobian": Estimator(
            "input-output sensitivity (9)",
            _JACOBIAN,
            lambda now, _, scale: jacobian_estimate(now[_JACOBIAN[0]], now[_JACOBIAN[1]], scale),
        ),
        "fisher_rao": Estimator(
            "Fisher-Rao norm (10)",
            _FISHER_RAO,
            lambda now, _, scale: fisher_rao_estimate(now[_FISHER_RAO[0]], now[_FISHER_RAO[1]], scale),
        ),
        "spectral": Estimator(
            "spectral norm (11)",
            ("log_spectral_product",),
            lambda now, before, scale: spectral_estimate(
                before["log_spectral_product"], now["log_spectral_product"], scale
            ),
            before=True,
        ),
        "training": Estimator("no estimator: the training set's", (), lambda now, _, scale: scale),
    }
)
"""C eqs. 6 to 11, as printed and, where the paper or its published code takes logarithms, so; and none."""


def loss_estimates(table: Table, *, names: Sequence[str] = tuple(ESTIMATORS)) -> Table:
    """Estimates of test loss and accuracy after each epoch, beside what they estimate.

    The rows of a member are its snapshots and its end, which is at the epoch limit. Where an estimator reads
    the state before, a member's first row has no estimate; nor has one with a measure that is 0 or not
    finite. Accuracy is the training accuracy times the same ratio, as in the published code: C does not say.
    Diverged rows are left out.

    Returns:
        A row per cell, seed, epoch and estimator, under `cell`, `family`, `seed`, `epoch` and `estimator`:
        the true `train_loss`, `test_loss`, `train_accuracy` and `test_accuracy`; `loss_estimate` and
        `accuracy_estimate`; `loss_error` and `accuracy_error`, their distances from the test set's.
    """
    members: dict[tuple, list[dict]] = {}
    for row in table.rows():
        epoch = row["max_epochs"] if row["snapshot"] is None else row["snapshot"]
        members.setdefault((row["cell"], row["family"], row["seed"]), []).append(row | {"epoch": epoch})
    return Table.from_rows(
        row
        for (cell, family, seed), rows in members.items()
        for row in _member_rows(
            {"cell": cell, "family": family, "seed": seed},
            sorted(rows, key=lambda row: row["epoch"]),
            names,
        )
    )


def _member_rows(labels: dict, rows: Sequence[dict], names: Sequence[str]) -> list[dict]:
    known = [row for row in rows if not row["diverged"]]
    truths = ("train_loss", "test_loss", "train_accuracy", "test_accuracy")
    found = []
    for name in names:
        estimates = {
            kind: estimates_of(ESTIMATORS[name], known, f"train_{kind}") for kind in ("loss", "accuracy")
        }
        for index, row in enumerate(known):
            values = (
                labels | {"epoch": row["epoch"], "estimator": name} | {truth: row[truth] for truth in truths}
            )
            for kind, estimated in estimates.items():
                value = float(estimated[index])
                error = abs(value - row[f"test_{kind}"])
                known_value = not np.isnan(value)
                values[f"{kind}_estimate"] = value if known_value else None
                values[f"{kind}_error"] = error if known_value else None
            found.append(values)
    return found


def estimates_of(estimator: Estimator, rows: Sequence[Mapping], scale: str) -> np.ndarray:
    """The estimates at each of a member's rows, shape (rows,), NaN where there is none; in float64."""
    columns = {name: _column(rows, name) for name in (*estimator.needs, scale)}
    usable = np.all([np.isfinite(column) for column in columns.values()], axis=0)
    for name in estimator.needs:
        if not name.startswith("log_"):
            usable &= columns[name] > 0  # no ratio of measures that are 0
    before = np.maximum(np.arange(len(rows)) - 1, 0)
    if estimator.before:
        usable = usable & usable[before] & (np.arange(len(rows)) > 0)
    found = np.full(len(rows), np.nan)
    if usable.any():
        now = {name: column[usable] for name, column in columns.items()}
        earlier = {name: column[before][usable] for name, column in columns.items()}
        # Ratios that float32 cannot hold are part of the result.
        with jax.enable_x64(True):
            found[usable] = np.asarray(estimator.estimate(now, earlier, now[scale]), np.float64)
    return found


def _column(rows: Sequence[Mapping], name: str) -> np.ndarray:
    return np.array([np.nan if row.get(name) is None else row[name] for row in rows], dtype=np.float64)
