"""Coefficients against SciPy and by hand; intervals against their promise."""

import math

import numpy as np
import pytest
import scipy.stats

from jaxsens import stats
from jaxsens.stats import (
    StatsError,
    correlation,
    expected_calibration_error,
    fit_temperature,
    granulated_kendall,
    kendall,
    pearson,
    spearman,
    worst_environment,
)
from jaxsens.stats import correlations as internals

REFERENCES = {
    "pearson": scipy.stats.pearsonr,
    "spearman": scipy.stats.spearmanr,
    "kendall": scipy.stats.kendalltau,
}


@pytest.mark.parametrize("kind", REFERENCES)
@pytest.mark.parametrize("tied", [False, True])
def test_values_agree_with_scipy(kind, tied):
    rng = np.random.default_rng(3)
    x = rng.standard_normal(23)
    y = 0.6 * x + rng.standard_normal(23)
    if tied:
        x, y = np.round(x), np.round(2 * y)
    found = correlation(x, y, kind=kind, num_bootstrap=100)
    assert found.value == pytest.approx(REFERENCES[kind](x, y).statistic, abs=1e-14)
    assert found.low < found.value < found.high
    assert found.num_points == 23


def test_closed_forms():
    # Deviations (-1.5, -.5, .5, 1.5) and (-1.5, .5, -.5, 1.5): 4 / 5. One discordant pair of 6: 4 / 6.
    x, y = [1, 2, 3, 4], [1, 3, 2, 4]
    assert pearson(x, y).value == pytest.approx(0.8, abs=1e-15)
    assert spearman(x, np.exp(y)).value == pytest.approx(0.8, abs=1e-15)
    assert kendall(x, y).value == pytest.approx(4 / 6, abs=1e-15)
    # One tie in y: C = 2, D = 0, sqrt(3 * 2).
    assert kendall([1, 2, 3], [1, 1, 2]).value == pytest.approx(2 / math.sqrt(6), abs=1e-15)


@pytest.mark.parametrize("kind", REFERENCES)
def test_resamples_are_those_of_a_loop(kind):
    rng = np.random.default_rng(5)
    x, y = rng.standard_normal(9), np.round(rng.standard_normal(9), 1)
    counts = rng.multinomial(9, np.full(9, 1 / 9), size=40)
    fast = internals.COEFFICIENTS[kind](x, y, counts.astype(float))
    slow = [REFERENCES[kind](np.repeat(x, c), np.repeat(y, c)).statistic for c in counts]
    np.testing.assert_allclose(fast, slow, atol=1e-13)


@pytest.mark.parametrize("kind", REFERENCES)
def test_invariances(kind):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 15))
    base = correlation(x, y, kind=kind)
    np.testing.assert_allclose(correlation(y, x, kind=kind), base, atol=1e-12)
    np.testing.assert_allclose(correlation(3 * x - 7, 1e-150 * y, kind=kind), base, atol=1e-12)
    assert correlation(x, -y, kind=kind).value == pytest.approx(-base.value, abs=1e-14)


def test_interval_agrees_with_scipys_bca():
    rng = np.random.default_rng(8)
    x = rng.standard_normal(30)
    y = x + 0.5 * rng.standard_normal(30)

    def coefficient(a, b):
        return np.corrcoef(a, b)[0, 1]

    reference = scipy.stats.bootstrap(
        (x, y), coefficient, paired=True, vectorized=False, n_resamples=4000, rng=np.random.default_rng(1)
    ).confidence_interval
    found = pearson(x, y, num_bootstrap=20_000)
    # Monte-Carlo error of a 2.5 % quantile from 4000 resamples.
    assert found.low == pytest.approx(reference.low, abs=0.012)
    assert found.high == pytest.approx(reference.high, abs=0.006)


def test_interval_covers_as_often_as_it_says():
    rng, rho, runs = np.random.default_rng(1), 0.8, 500
    hits = 0
    for run in range(runs):
        z = rng.standard_normal((2, 60))
        found = pearson(z[0], rho * z[0] + math.sqrt(1 - rho**2) * z[1], num_bootstrap=400, seed=run)
        hits += found.low <= rho <= found.high
    # 95 % less the shortfall of any bootstrap at 60 points, about 1 %; one standard error is 0.010.
    assert 0.91 <= hits / runs <= 0.98


@pytest.mark.parametrize("kind", REFERENCES)
def test_clusters_of_one_point_each_change_nothing(kind):
    x, y = np.random.default_rng(2).standard_normal((2, 12))
    plain = correlation(x, y, kind=kind)
    for labels in (np.arange(12), [f"net {number:02d}" for number in range(12)]):
        assert correlation(x, y, kind=kind, clusters=labels) == plain


@pytest.mark.parametrize("kind", REFERENCES)
def test_repeated_points_in_clusters_have_the_interval_of_the_points(kind):
    """Four copies of each of 25 points: as points of their own they would halve the interval."""
    rng = np.random.default_rng(7)
    x = rng.standard_normal(25)
    y = x + rng.standard_normal(25)
    # Copies in any order, under names in any order.
    order, names = rng.permutation(100), rng.permutation(25)
    clusters = np.tile(names, 4)[order]
    once = correlation(x, y, kind=kind)
    copies = [np.tile(values, 4)[order] for values in (x, y)]
    whole = correlation(*copies, kind=kind, clusters=clusters)
    naive = correlation(*copies, kind=kind)
    if kind != "kendall":  # whose pairs of copies are ties
        assert whole.value == pytest.approx(once.value, abs=1e-12)
    assert (whole.num_points, naive.num_points) == (100, 100)
    width = once.high - once.low
    assert whole.high - whole.low == pytest.approx(width, rel=0.1)
    assert whole.low == pytest.approx(once.low, abs=0.1 * width)
    assert naive.high - naive.low < 0.65 * width


def test_cluster_resamples_are_those_of_a_loop():
    """Whole clusters are drawn: the interval's ends, in the simple case where BCa corrects nothing."""
    rng = np.random.default_rng(3)
    clusters = np.repeat(np.arange(20), rng.integers(1, 5, 20))
    x = rng.standard_normal(20)[clusters] + 0.1 * rng.standard_normal(len(clusters))
    y = x + rng.standard_normal(20)[clusters]
    found = pearson(x, y, clusters=clusters, num_bootstrap=4000)
    assert found.value == pearson(x, y).value
    members = [np.flatnonzero(clusters == label) for label in range(20)]
    resampled = []
    for _ in range(4000):
        drawn = np.concatenate([members[label] for label in rng.integers(0, 20, 20)])
        resampled.append(np.corrcoef(x[drawn], y[drawn])[0, 1])
    low, high = np.quantile(resampled, [0.025, 0.975])
    # BCa moves the ends: by less than a third of the width here.
    assert [found.low, found.high] == pytest.approx([low, high], abs=0.3 * (high - low))
    assert found.high - found.low == pytest.approx(high - low, rel=0.3)


@pytest.mark.parametrize(
    ("clusters", "message"),
    [
        ([0, 0, 1, 1], "got 2 clusters; expected 3 or more"),
        ([0, 1, 2], r"got clusters of shape \(3,\)"),
        ([0.0, 1.0, 2.0, 3.0], "type float64; expected"),
    ],
)
def test_bad_clusters_are_refused(clusters, message):
    with pytest.raises(StatsError, match=message):
        pearson([1, 2, 3, 4], [1, 3, 2, 4], clusters=clusters)


def test_intervals_are_repeatable_and_nested():
    x, y = np.random.default_rng(2).standard_normal((2, 12))
    assert pearson(x, y, seed=4) == pearson(x, y, seed=4)
    assert pearson(x, y, seed=4) != pearson(x, y, seed=5)
    wide, narrow = pearson(x, y, confidence=0.99), pearson(x, y, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_degenerate_resamples_are_dropped_and_counted():
    # Three points: all three draws alike with probability 3 / 27.
    found = pearson([0, 1, 2], [0, 1, 3], num_bootstrap=9000)
    assert found.num_resamples == pytest.approx(9000 * 24 / 27, rel=0.02)
    # One point alone differs: drawn in 1 - (3/4)^4 of the resamples, and never alone in (1/4)^4.
    lone = pearson([0, 0, 0, 1], [0, 0, 0, 1], num_bootstrap=9000)
    assert lone.num_resamples == pytest.approx(9000 * (1 - 0.75**4 - 0.25**4), rel=0.03)
    assert (lone.value, lone.low, lone.high) == pytest.approx((1, 1, 1), abs=1e-12)


def test_points_on_a_line_have_a_point_for_an_interval():
    found = pearson(np.arange(6), 2 * np.arange(6) + 1)
    assert (found.value, found.low, found.high) == pytest.approx((1, 1, 1), abs=1e-12)


@pytest.mark.parametrize("kind", REFERENCES)
def test_one_far_point_gives_an_ordered_interval(kind):
    x, y = np.random.default_rng(6).standard_normal((2, 60))
    found = correlation(np.append(x, 1e6), np.append(y, 1e6), kind=kind)
    assert -1 <= found.low <= found.high <= 1


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        ([1, 2], [1, 2], {}, "got 2 points; expected 3 or more"),
        ([1, 2, 3], [1, 2], {}, r"got shapes \(3,\) and \(2,\)"),
        ([1, 1, 1], [1, 2, 3], {}, "got a constant column"),
        ([1, 2, math.nan], [1, 2, 3], {}, "got a NaN or infinity"),
        (
            [1, 2, 3],
            [1, 2, 4],
            {"kind": "rank"},
            "got kind='rank'; expected one of pearson, spearman, kendall",
        ),
        ([1, 2, 3], [1, 2, 4], {"num_bootstrap": 10}, "got num_bootstrap=10"),
        ([1, 2, 3], [1, 2, 4], {"confidence": 95.0}, "got confidence=95.0"),
    ],
)
def test_bad_points_are_refused(x, y, options, message):
    with pytest.raises(StatsError, match=message):
        correlation(x, y, **options)


DEPTH = [1, 1, 1, 2, 2, 2]
WIDTH = ["s", "m", "l", "s", "m", "l"]
MEASURE = [1, 2, 3, 4, 5, 6]
GAP = [10, 30, 20, 15, 25, 35]


def test_granulated_coefficient_by_hand():
    # Depth moves: s 10<15: 1; m 30>25: -1; l 20<35: 1; mean 1/3.
    # Width moves: depth 1, pairs (10,30) +, (10,20) +, (30,20) -: 1/3; depth 2, all +: 1; mean 2/3.
    found = granulated_kendall(MEASURE, GAP, {"depth": DEPTH, "width": WIDTH})
    assert found.per_hyperparameter == pytest.approx({"depth": 1 / 3, "width": 2 / 3}, abs=1e-15)
    assert found.value == pytest.approx(0.5, abs=1e-15)


def test_worst_environment_by_hand():
    found = worst_environment(MEASURE, GAP, {"depth": DEPTH, "width": WIDTH})
    assert (found.value, found.hyperparameter, found.fixed, found.num_points) == (
        -1,
        "depth",
        {"width": "m"},
        2,
    )


def test_granulated_coefficient_sees_through_one_that_follows_depth_only():
    rng = np.random.default_rng(0)
    depth, width = (grid.ravel() for grid in np.meshgrid(np.arange(8), np.arange(5)))
    gap = 10 * depth + width
    measure = 10 * depth + rng.permuted(np.tile(np.arange(5), (8, 1)), axis=1).T.ravel()
    found = granulated_kendall(measure, gap, {"depth": depth, "width": width})
    assert kendall(measure, gap).value > 0.85
    assert found.per_hyperparameter["depth"] == 1
    assert abs(found.per_hyperparameter["width"]) < 0.4


def test_seeds_of_one_setting_are_not_compared_with_each_other():
    found = granulated_kendall([1, 1.5, 2, 2.5], [4, 3, 6, 5], {"depth": [1, 1, 2, 2]})
    assert found.value == 1


def test_granulated_refusals():
    with pytest.raises(StatsError, match="got no two points that differ in 'width' alone"):
        granulated_kendall(MEASURE, GAP, {"depth": DEPTH, "width": [1] * 6})
    with pytest.raises(StatsError, match="got 2 values of 'depth'; expected 6"):
        granulated_kendall(MEASURE, GAP, {"depth": [1, 2]})
    with pytest.raises(StatsError, match="got no hyper-parameters"):
        worst_environment(MEASURE, GAP, {})


def test_temperature_of_two_classes_in_closed_form():
    # Logits (a, 0), a share p of labels 0: sigmoid(a / T) = p.
    a, labels = 3.0, np.array([0] * 7 + [1] * 3)
    expected = a / math.log(0.7 / 0.3)
    assert fit_temperature(np.tile([a, 0.0], (10, 1)), labels) == pytest.approx(expected, rel=1e-10)


def test_temperature_is_the_minimum_scales_and_ignores_shifts():
    rng = np.random.default_rng(4)
    logits = 4 * rng.standard_normal((200, 5))
    labels = np.array([rng.choice(5, p=p) for p in scipy.special.softmax(logits / 2.5, axis=1)])
    best = fit_temperature(logits, labels)

    def loss(t):
        return -np.mean(scipy.special.log_softmax(logits / t, axis=1)[np.arange(200), labels])

    assert loss(best) < min(loss(best * 1.01), loss(best / 1.01))
    assert best == pytest.approx(2.5, rel=0.2)
    for scale in (1e-8, 1e8):
        assert fit_temperature(scale * logits, labels) == pytest.approx(scale * best, rel=1e-8)
    assert fit_temperature(logits + rng.standard_normal((200, 1)), labels) == pytest.approx(best, rel=1e-10)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], "got logits that are largest at every label"),
        ([[1.0, 0.0], [0.0, 1.0]], [1, 0], "got logits no larger at the labels"),
        ([[1.0, 0.0]], [2], "got other labels; expected whole numbers from 0 to 1"),
        ([[1.0, 0.0]], [0.0], "got other labels"),
        ([1.0, 0.0], [0], r"got logits \(2,\) and labels \(1,\)"),
        ([[1.0, math.inf]], [0], "got a NaN or infinity in logits"),
    ],
)
def test_temperature_refusals(logits, labels, message):
    with pytest.raises(StatsError, match=message):
        fit_temperature(logits, labels)


def test_calibration_error_by_hand():
    # Bin (0.5, 0.6]: confidence 0.6 twice, one right. Bin (0.9, 1]: confidence 1 once, right.
    probabilities = [[0.6, 0.4], [0.6, 0.4], [0.0, 1.0]]
    found = expected_calibration_error(probabilities, [0, 1, 1], num_bins=10)
    assert found == pytest.approx((2 * abs(0.5 - 0.6) + 0) / 3, abs=1e-15)
    with pytest.raises(StatsError, match="got rows that are no probabilities"):
        expected_calibration_error([[2.0, -1.0]], [0])
    with pytest.raises(StatsError, match="got num_bins=0"):
        expected_calibration_error(probabilities, [0, 1, 1], num_bins=0)


def test_mean_interval_is_students():
    """Its half width over 10 values against SciPy's t-test; it covers the mean as often as it says."""
    rng = np.random.default_rng(0)
    values = rng.normal(3, 2, 10)
    found = stats.mean_interval(values)
    wanted = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high], wanted, rtol=1e-10)
    assert found.num_values == 10
    intervals = [stats.mean_interval(draw) for draw in rng.normal(0, 1, (2000, 3))]
    covered = np.mean([i.low < 0 < i.high for i in intervals])
    assert 0.93 < covered < 0.97
    single = stats.mean_interval([4.0])
    assert single.value == 4
    assert np.isnan(single.low)
    assert stats.mean_interval([1.0, np.inf]).value == np.inf


def test_moments_of_a_histogram_are_those_of_its_values():
    values, counts = np.array([1, 2, 4, 9]), np.array([3, 5, 0, 2])
    repeated = np.repeat(values, counts)
    found = stats.histogram_moments(values, counts)
    wanted = (repeated.mean(), repeated.std(), scipy.stats.skew(repeated), scipy.stats.kurtosis(repeated))
    np.testing.assert_allclose(found, wanted, rtol=1e-12)


def test_moments_of_a_binomial_distribution():
    """Skewness (1 - 2p) / sqrt(npq), excess kurtosis (1 - 6pq) / npq."""
    n, p = 100, 0.2
    found = stats.histogram_moments(np.arange(n + 1), scipy.stats.binom(n, p).pmf(np.arange(n + 1)))
    spread = n * p * (1 - p)
    wanted = (n * p, spread**0.5, (1 - 2 * p) / spread**0.5, (1 - 6 * p * (1 - p)) / spread)
    np.testing.assert_allclose(found, wanted, rtol=1e-8)


def test_refusals_of_means_and_moments():
    with pytest.raises(stats.StatsError, match="one number or more, no NaN"):
        stats.mean_interval([])
    with pytest.raises(stats.StatsError, match="no NaN"):
        stats.mean_interval([1.0, np.nan])
    with pytest.raises(stats.StatsError, match="confidence=2"):
        stats.mean_interval([1.0], confidence=2.0)
    with pytest.raises(stats.StatsError, match="shapes"):
        stats.histogram_moments([1, 2], [1])
    with pytest.raises(stats.StatsError, match="fewer than two different values"):
        stats.histogram_moments([1, 2], [3, 0])


def test_moves_alone_is_its_definition():
    """Two points that differ in each hyper-parameter and in nothing else."""
    assert stats.moves_alone({"a": [1, 2, 1], "b": ["x", "x", "y"]})
    assert not stats.moves_alone({"a": [1, 2], "b": ["x", "y"]})
    assert not stats.moves_alone({"a": [1, 2, 2], "b": ["x", "x", "x"]})
    assert not stats.moves_alone({"a": [1, 1], "b": ["x", "x"]})
    assert not stats.moves_alone({})
