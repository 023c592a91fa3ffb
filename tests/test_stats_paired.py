"""Paired differences by hand, and their intervals against their promise where pairs share a cluster."""

import math

import numpy as np
import pytest

from jaxsens.stats import StatsError, paired, paired_difference


def test_closed_forms():
    found = paired_difference([1, 2, 3, 4], [2, 2, 5, 3])
    assert found.mean == 0.5
    # Two greater, one tie, one less.
    assert found.share_positive == 2.5 / 4
    assert (found.num_pairs, found.num_clusters) == (4, 4)
    same = paired_difference([1, 2, 3], [3, 4, 5])
    assert same[:6] == (2, 2, 2, 1, 1, 1)


def test_resamples_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    a, b, clusters = rng.standard_normal(20), rng.standard_normal(20), rng.integers(6, size=20)
    found = paired_difference(a, b, clusters=clusters, num_bootstrap=150, seed=3)
    draws = np.random.default_rng(3).integers(6, size=(150, 6))
    means, shares = [], []
    for draw in draws:
        rows = np.concatenate([np.flatnonzero(clusters == cluster) for cluster in draw])
        means.append(np.mean((b - a)[rows]))
        shares.append(np.mean((b > a)[rows]))
    np.testing.assert_allclose((found.low, found.high), np.quantile(means, [0.025, 0.975]), atol=1e-13)
    np.testing.assert_allclose(
        (found.share_low, found.share_high), np.quantile(shares, [0.025, 0.975]), atol=1e-13
    )


def test_drawing_in_parts_changes_nothing(monkeypatch):
    a, b = np.random.default_rng(1).standard_normal((2, 30))
    whole = paired_difference(a, b)
    monkeypatch.setattr(paired, "DRAWN_AT_ONCE", 1000)
    assert paired_difference(a, b) == whole


def test_invariances():
    rng = np.random.default_rng(2)
    a, b, clusters = rng.standard_normal(24), rng.standard_normal(24), np.repeat(np.arange(8), 3)
    base = paired_difference(a, b, clusters=clusters)
    swapped = paired_difference(b, a, clusters=clusters)
    assert swapped[:3] == pytest.approx((-base.mean, -base.high, -base.low), abs=1e-12)
    assert swapped[3:6] == pytest.approx(
        (1 - base.share_positive, 1 - base.share_high, 1 - base.share_low), abs=1e-12
    )
    scaled = paired_difference(8 * a, 8 * b, clusters=clusters)
    assert scaled[:6] == pytest.approx((*(8 * v for v in base[:3]), *base[3:6]), abs=1e-12)
    names = np.array([f"network {c}" for c in clusters], dtype=object)
    assert paired_difference(a, b, clusters=names) == base
    assert paired_difference(a, b, clusters=np.arange(24)) == paired_difference(a, b)


def test_intervals_are_repeatable_and_nested():
    a, b = np.random.default_rng(3).standard_normal((2, 12))
    assert paired_difference(a, b, seed=4) == paired_difference(a, b, seed=4)
    assert paired_difference(a, b, seed=4) != paired_difference(a, b, seed=5)
    wide, narrow = (paired_difference(a, b, confidence=confidence) for confidence in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high
    assert wide.share_low <= narrow.share_low <= narrow.share_high <= wide.share_high


def test_clusters_cover_as_often_as_they_say_and_single_pairs_do_not():
    """Differences of mean 0.3, half of whose variance is that of their cluster: 30 clusters of 8 pairs."""
    rng, mean, runs = np.random.default_rng(5), 0.3, 300
    clusters = np.repeat(np.arange(30), 8)
    hits = {"clusters": 0, "single pairs": 0, "share": 0}
    share = (1 + math.erf(mean / math.sqrt(2) / math.sqrt(2))) / 2
    for run in range(runs):
        b = mean + rng.standard_normal(30)[clusters] + rng.standard_normal(240)
        whole = paired_difference(np.zeros(240), b, clusters=clusters, num_bootstrap=400, seed=run)
        single = paired_difference(np.zeros(240), b, num_bootstrap=400, seed=run)
        hits["clusters"] += whole.low <= mean <= whole.high
        hits["single pairs"] += single.low <= mean <= single.high
        hits["share"] += whole.share_low <= share <= whole.share_high
    # 95 % less the shortfall of percentiles at 30 clusters, about 2 %; one standard error is 0.013.
    assert 0.89 < hits["clusters"] / runs < 0.98
    assert 0.89 < hits["share"] / runs < 0.98
    assert hits["single pairs"] / runs < 0.8


@pytest.mark.parametrize(
    ("a", "b", "options", "message"),
    [
        ([1, 2], [1, 2], {}, "got 2 pairs; expected 3 or more"),
        ([1, 2, 3], [1, 2], {}, r"got shapes \(3,\) and \(2,\)"),
        ([[1, 2, 3]], [[1, 2, 3]], {}, r"got shapes \(1, 3\)"),
        ([1, 2, math.nan], [1, 2, 3], {}, "got a NaN or infinity"),
        ([1, 2, 3], [1, 2, math.inf], {}, "got a NaN or infinity"),
        ([1, 2, 3], [1, 2, 4], {"clusters": [0, 0, 1]}, "got 2 clusters; expected 3 or more"),
        ([1, 2, 3], [1, 2, 4], {"clusters": [0, 1]}, r"got clusters of shape \(2,\)"),
        ([1, 2, 3], [1, 2, 4], {"num_bootstrap": 10}, "got num_bootstrap=10"),
        ([1, 2, 3], [1, 2, 4], {"confidence": 95.0}, "got confidence=95.0"),
    ],
)
def test_refusals(a, b, options, message):
    with pytest.raises(StatsError, match=message):
        paired_difference(a, b, **options)
