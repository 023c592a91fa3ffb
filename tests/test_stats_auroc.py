"""Areas under the ROC curve by hand, against slow references, and their intervals against their promise."""

import math
import time

import numpy as np
import pytest
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from jaxsens.stats import StatsError, auroc, quantile_strata, stratified_auroc


def slow(scores, positives):
    """Value and standard error over all pairs, as the definition has them."""
    scores, positives = np.asarray(scores, dtype=float), np.asarray(positives, dtype=bool)
    won = (np.sign(scores[positives][:, None] - scores[~positives][None, :]) + 1) / 2
    v, w = won.mean(axis=1), won.mean(axis=0)
    return won.mean(), math.sqrt(v.var(ddof=1) / len(v) + w.var(ddof=1) / len(w))


def sample(rng, m, n, *, shift=1.0, tied=False):
    scores = np.concatenate([rng.standard_normal(m) + shift, rng.standard_normal(n)])
    order = rng.permutation(m + n)
    return (np.round(scores, 0) if tied else scores)[order], (np.arange(m + n) < m)[order]


def test_closed_forms():
    # Positives 3 and 1, negatives 2 and 0: of four pairs 1 < 2 alone is lost. Shares of the positives 1 and
    # 1/2, of the negatives 1/2 and 1: variances 1/8 each, over 2 each.
    found = auroc([3, 1, 2, 0], [True, True, False, False])
    assert found.value == 0.75
    assert found.stderr == pytest.approx(math.sqrt(1 / 8), abs=1e-15)
    assert (found.num_positive, found.num_negative) == (2, 2)
    half = 1.959963984540054 * found.stderr / (0.75 * 0.25)
    assert math.log(found.low / (1 - found.low)) == pytest.approx(math.log(3) - half, abs=1e-12)
    assert math.log(found.high / (1 - found.high)) == pytest.approx(math.log(3) + half, abs=1e-12)
    # A tie counts half.
    assert auroc([1, 1, 0], [1, 0, 0]).value == 0.75


def test_a_score_that_says_nothing_is_a_half():
    assert auroc(np.full(10, 3.0), np.arange(10) < 4)[:4] == pytest.approx((0.5, 0.5, 0.5, 0), abs=1e-15)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("m", "n"), [(2, 2), (7, 30), (60, 41)])
def test_it_agrees_with_all_pairs_and_with_scikit_learn(m, n, tied):
    scores, positives = sample(np.random.default_rng(m), m, n, shift=0.4, tied=tied)
    found = auroc(scores, positives)
    np.testing.assert_allclose((found.value, found.stderr), slow(scores, positives), rtol=1e-12)
    assert found.value == pytest.approx(roc_auc_score(positives, scores), abs=1e-14)
    assert 0 < found.low < found.value <= found.high <= 1


def test_invariances():
    scores, positives = sample(np.random.default_rng(1), 30, 50, tied=True)
    base = auroc(scores, positives)
    np.testing.assert_allclose(auroc(np.exp(3 * scores) - 5, positives), base, rtol=1e-12)
    for flipped in (auroc(-scores, positives), auroc(scores, ~positives)):
        assert flipped.value == pytest.approx(1 - base.value, abs=1e-15)
        assert flipped.stderr == pytest.approx(base.stderr, rel=1e-12)
        assert (flipped.low, flipped.high) == pytest.approx((1 - base.high, 1 - base.low), rel=1e-12)
    wide, narrow = auroc(scores, positives, confidence=0.99), auroc(scores, positives, confidence=0.5)
    assert wide.low < narrow.low < narrow.high < wide.high


def test_separated_kinds_have_the_interval_of_disjoint_pairs():
    found = auroc([5, 6, 7, 1, 2], [1, 1, 1, 0, 0])
    assert (found.value, found.high, found.stderr) == (1, 1, 0)
    assert found.low == pytest.approx(math.sqrt(0.025), abs=1e-15)
    assert auroc([1, 2, 5], [1, 1, 0])[:3] == pytest.approx((0, 0, 1 - 0.025), abs=1e-15)


def test_a_lone_positive_has_the_greatest_variance():
    found = auroc([2, 1, 3, 0, 1], [1, 0, 0, 0, 0])
    # Of the negatives three lie below: A = 3/4, shares 1, 0, 1, 1 of variance 1/4, over 4.
    assert found.value == 0.75
    assert found.stderr == pytest.approx(math.sqrt(0.75 * 0.25 + 1 / 16), abs=1e-15)


def test_the_interval_covers_as_often_as_it_says():
    """Normal scores of both kinds: A = Phi(shift / sqrt 2). Within three standard errors of 95 %."""
    rng, shift, runs = np.random.default_rng(0), 1.0, 300
    found = [auroc(*sample(rng, 40, 60, shift=shift)) for _ in range(runs)]
    hits = np.mean([one.low <= ndtr(shift / math.sqrt(2)) <= one.high for one in found])
    assert abs(hits - 0.95) < 3 * math.sqrt(0.95 * 0.05 / runs)
    spread = np.std([one.value for one in found])
    assert np.mean([one.stderr for one in found]) == pytest.approx(spread, rel=0.1)


def test_many_scores_take_little_time():
    scores, positives = sample(np.random.default_rng(2), 30_000, 70_000)
    start = time.perf_counter()
    found = stratified_auroc(scores, positives, quantile_strata(scores, 20_000))
    assert time.perf_counter() - start < 5
    assert found.num_strata > 5_000
    assert auroc(scores, positives).value == pytest.approx(ndtr(1 / math.sqrt(2)), abs=0.006)


def test_one_stratum_is_none():
    scores, positives = sample(np.random.default_rng(3), 9, 14, tied=True)
    assert stratified_auroc(scores, positives, ["all"] * 23)[:-1] == auroc(scores, positives)


@pytest.mark.parametrize("tied", [False, True])
def test_strata_are_weighted_by_their_pairs(tied):
    rng = np.random.default_rng(4)
    scores, positives = sample(rng, 60, 90, tied=tied)
    strata = rng.integers(5, size=150)
    parts = [auroc(scores[strata == s], positives[strata == s]) for s in range(5)]
    weights = np.array([part.num_positive * part.num_negative for part in parts], dtype=float)
    weights /= weights.sum()
    found = stratified_auroc(scores, positives, strata)
    assert found.value == pytest.approx(weights @ [part.value for part in parts], abs=1e-14)
    errors = weights * [part.stderr for part in parts]
    assert found.stderr == pytest.approx(np.sqrt(np.sum(errors**2)), rel=1e-12)
    assert (found.num_strata, found.num_positive, found.num_negative) == (5, 60, 90)
    # Names do not matter, nor do strata of one kind.
    names = np.array(["e", "d", "c", "b", "a"], dtype=object)[strata]
    longer = stratified_auroc([*scores, 9.0, 9.5], [*positives, True, True], [*names, "lone", "lone"])
    assert longer == pytest.approx(found, rel=1e-12)


def test_a_score_that_only_follows_the_strata_is_a_half():
    """Strata made of one score leave of it, and of what follows it, nothing but chance."""
    rng = np.random.default_rng(5)
    norm = rng.standard_normal(4000)
    positives = norm + rng.standard_normal(4000) > 0
    strata = quantile_strata(norm, 100)
    assert auroc(norm, positives).value > 0.8
    followed = stratified_auroc(np.exp(norm) + 0.0, positives, strata)
    assert followed.value == pytest.approx(0.5, abs=0.06)
    own = stratified_auroc(rng.standard_normal(4000) + positives, positives, strata)
    assert own.value == pytest.approx(ndtr(1 / math.sqrt(2)), abs=0.03)


def test_the_interval_within_small_strata_covers_as_often_as_it_says():
    """Six examples a stratum, so lone ones occur; their variance is too great, so more than 95 % may be."""
    rng, runs, hits = np.random.default_rng(6), 300, 0
    strata = np.repeat(np.arange(25), 6)
    for _ in range(runs):
        positives = rng.random(150) < 0.4
        scores = rng.standard_normal(150) + positives + 5 * strata
        found = stratified_auroc(scores, positives, strata)
        hits += found.low <= ndtr(1 / math.sqrt(2)) <= found.high
    assert 0.95 - 3 * math.sqrt(0.95 * 0.05 / runs) < hits / runs < 0.995


def test_separated_strata_count_the_disjoint_pairs_of_all():
    found = stratified_auroc([1, 0, 9, 8, 7, 6], [1, 0, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1])
    assert found[:2] == pytest.approx((1, 0.025 ** (1 / 3)), abs=1e-15)


def test_bins_have_equal_counts_and_keep_ties():
    rng = np.random.default_rng(7)
    labels = quantile_strata(rng.standard_normal(103), 10)
    assert set(np.bincount(labels)) == {10, 11}
    np.testing.assert_array_equal(quantile_strata([3, 1, 2, 4], 2), [1, 0, 0, 1])
    np.testing.assert_array_equal(quantile_strata([1, 1, 1, 4], 2), [0, 0, 0, 1])
    # The tie is over the middle: all of it in the lower bin.
    np.testing.assert_array_equal(quantile_strata([0, 1, 1, 4], 2), [0, 0, 0, 1])
    np.testing.assert_array_equal(quantile_strata([5, 5, 5], 3), [0, 0, 0])
    assert labels.dtype.kind == "i"


@pytest.mark.parametrize(
    ("scores", "positives", "options", "message"),
    [
        ([1, 2], [1], {}, r"got scores \(2,\) and positives \(1,\)"),
        ([[1, 2]], [[1, 0]], {}, r"got scores \(1, 2\)"),
        ([1, math.nan, math.inf], [1, 0, 0], {}, "got 2 scores that are NaN or infinite"),
        ([1, 2], [1, 2], {}, "got other positives; expected bool, or 0 and 1"),
        ([1, 2], ["yes", "no"], {}, "got other positives"),
        ([1, 2], [1, 1], {}, "got 2 positives among 2 examples"),
        ([1, 2], [0, 0], {}, "got 0 positives among 2 examples"),
        ([], [], {}, "got 0 positives among 0 examples"),
        ([1, 2], [1, 0], {"confidence": 95.0}, "got confidence=95.0"),
    ],
)
def test_refusals(scores, positives, options, message):
    with pytest.raises(StatsError, match=message):
        auroc(scores, positives, **options)
    with pytest.raises(StatsError, match=message):
        stratified_auroc(scores, positives, np.zeros(np.shape(scores), dtype=int), **options)


@pytest.mark.parametrize(
    ("strata", "message"),
    [
        ([0, 1, 2], "got 3 strata of one kind each"),
        ([0, 0], r"got strata of shape \(2,\)"),
        ([0.5, 0.5, 1.5], "expected .* whole numbers or text"),
        (["a", None, "a"], "got strata of shape .* type object"),
    ],
)
def test_refusals_of_strata(strata, message):
    with pytest.raises(StatsError, match=message):
        stratified_auroc([1, 2, 3], [1, 0, 1], strata)


def test_refusals_of_bins():
    with pytest.raises(StatsError, match="1 of them NaN or infinite"):
        quantile_strata([1, math.nan], 2)
    for num in (0, 3):
        with pytest.raises(StatsError, match=f"got num={num} bins of 2 values"):
            quantile_strata([1, 2], num)
