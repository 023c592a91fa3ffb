"""E's comparisons: which networks are compared, and what a pair is."""

import numpy as np
import pytest

from jaxsens import stats
from jaxsens.plotting import (
    correlation_interval,
    fitted_networks,
    matched,
    mean_curve,
    paired_interval,
    settings_of,
    value_interval,
)
from jaxsens.table import Table, TableError, numbers_to_text


def row(**changes):
    return {
        "cell": "a",
        "seed": 0,
        "hidden_layers": 2,
        "width": 50,
        "activation": "relu",
        "optimizer": "adam",
        "batch_size": 100,
        "augment": None,
        "label_noise": 0.0,
        "train_accuracy": 1.0,
        "test_accuracy": 0.75,
        "diverged": False,
    } | changes


def test_only_networks_that_fit_their_training_set_are_compared():
    table = Table.from_rows(
        [
            row(),
            row(train_accuracy=0.999),
            row(diverged=True),
            row(label_noise=1.0, batch_size=None),
            row(augment="shift"),
        ]
    )
    rows = fitted_networks(table)
    assert [found["kind"] for found in rows] == ["true", "random", "augmented"]
    assert [found["way"] for found in rows] == ["adam-100", "adam-full", "adam-100"]
    assert {found["shape"] for found in rows} == {"2x50"}
    assert [found["gap"] for found in rows] == [0.25] * 3


def test_pairs_are_equal_in_what_they_are_matched_by():
    rows = [
        settings_of(row(width=width, activation=activation, test_accuracy=accuracy))
        for width, activation, accuracy in (
            (50, "relu", 0.9),
            (50, "hard_tanh", 0.8),
            (100, "relu", 0.7),
            (200, "hard_tanh", 0.6),
        )
    ]
    pairs = matched(rows, {"activation": "hard_tanh"}, {"activation": "relu"}, by=("shape", "way"))
    assert [(a["test_accuracy"], b["test_accuracy"]) for a, b in pairs] == [(0.8, 0.9)]
    assert matched(rows, {"activation": "relu6"}, {"activation": "relu"}, by=("shape",)) == []
    with pytest.raises(TableError, match=r"got two networks with .*relu.* and .*way.*; expected one"):
        matched(rows, {"activation": "relu"}, {"activation": "hard_tanh"}, by=("way",))


def test_differences_are_of_the_second_network_less_the_first():
    pairs = [
        (row(width=width, value=1.0), row(width=width, value=value))
        for width, value in ((1, 2.0), (1, 3.0), (2, 4.0), (3, 5.0))
    ]
    pairs.append((row(width=4, value=None), row(width=4, value=1.0)))
    found = paired_interval(pairs, lambda r: r["value"], "label", clusters=("width",))
    wanted = stats.paired_difference([1.0] * 4, [2.0, 3.0, 4.0, 5.0], clusters=["1", "1", "2", "3"])
    assert found == ("label", wanted.mean, wanted.low, wanted.high, 4)
    assert paired_interval(pairs[:3], lambda r: r["value"], "", clusters=("width",)) is None
    assert paired_interval([], lambda r: r["value"], "", clusters=("width",)) is None


def test_ranks_are_over_whole_settings():
    random = np.random.default_rng(0)
    rows = [
        row(width=width, x=float(width) + random.normal(), y=float(width))
        for width in range(1, 9)
        for _ in "ab"
    ]
    rows.append(row(width=9, x=None, y=1.0))
    found = correlation_interval(rows, "x", "y", "label", clusters=("width",))
    wanted = stats.kendall(
        [r["x"] for r in rows[:-1]],
        [r["y"] for r in rows[:-1]],
        clusters=[str(r["width"]) for r in rows[:-1]],
    )
    assert found == ("label", wanted.value, wanted.low, wanted.high, 16)
    assert correlation_interval(rows[:4], "x", "y", "", clusters=("width",)) is None
    assert correlation_interval(rows, "width", "width", "", clusters=("seed",)) is None
    constant = [r | {"y": 1.0} for r in rows]
    assert correlation_interval(constant, "x", "y", "", clusters=("width",)) is None


def test_values_and_curves_are_of_the_networks_that_have_them():
    rows = [
        row(v=1.0, c=numbers_to_text([1.0, 2.0])),
        row(v=3.0, c=numbers_to_text([3.0, 8.0])),
        row(v=None, c=None),
    ]
    found = value_interval(rows, lambda r: r["v"], "label")
    wanted = stats.mean_interval([1.0, 3.0])
    assert found == ("label", 2.0, wanted.low, wanted.high, 2)
    assert value_interval(rows[2:], lambda r: r["v"], "") is None
    mean, low, high = mean_curve(rows, "c")
    np.testing.assert_array_equal([mean, low, high], [[2, 5], [1, 2], [3, 8]])
    assert mean_curve(rows[2:], "c") is None
