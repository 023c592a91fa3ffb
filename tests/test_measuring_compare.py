"""compare: which models the data can tell apart, at the level that is stated, and how that is said."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import jaxsens
from jaxsens.checks import InputError
from jaxsens.measuring import Untrained, compare, measure
from jaxsens.measuring.contrasts import all_pairs, possible_ranks, sample_of
from jaxsens.measuring.quantities import Quantity, mean_of

KEY = jax.random.key(11)
RNG = np.random.default_rng(5)
XS = RNG.normal(size=(200, 6)).astype(np.float32)
YS = np.arange(200) % 3


def network(params, x):
    return jax.nn.relu(x @ params[0]) @ params[1]


def weights(seed, width=8):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, width), (width, 3))]


PARAMS = weights(0)
STEEPER = [1.2 * PARAMS[0], PARAMS[1]]
# The inputs' entries are independent and alike: shuffled, they are another sample of one population.
SHUFFLED = [PARAMS[0][jnp.array([3, 1, 5, 0, 2, 4])], PARAMS[1]]
MODELS = {
    "steeper": (network, STEEPER),
    "plain": (network, PARAMS),
    "again": (network, PARAMS),
    "shuffled": (network, SHUFFLED),
    "dead": (network, [0 * PARAMS[0], PARAMS[1]]),
}


@pytest.fixture(scope="module")
def ranked():
    return compare(MODELS, XS, YS, key=KEY, by="jacobian_norm", also=["accuracy", "output_sensitivity"])


def test_one_other_measure_may_be_named_alone():
    first, second = (
        compare(MODELS, XS, key=KEY, by="jacobian_norm", also=also) for also in ("flip_rate", ["flip_rate"])
    )
    assert first.to_dict()["models"] == second.to_dict()["models"]


def test_a_steeper_network_is_ranked_behind_and_ties_are_said(ranked):
    assert [row.name for row in ranked][-2:] == ["steeper", "dead"]
    steeper = ranked["steeper"]
    assert (steeper.best_rank, steeper.worst_rank, steeper.tied_with) == (4, 4, ())
    assert set(ranked["plain"].tied_with) == {"again", "shuffled"}
    assert (ranked["plain"].best_rank, ranked["plain"].worst_rank) == (1, 3)
    assert "the data cannot tell which" in ranked.conclusions[0]
    assert "'plain' and 'again' have one value." in ranked.conclusions
    assert any(
        "cannot tell 'shuffled' from" in line or "from 'shuffled'" in line for line in ranked.conclusions
    )
    pair = {frozenset([p.first, p.second]): p for p in ranked.pairs}[frozenset(["plain", "steeper"])]
    # |df/dx| is homogeneous in the first layer of a network without biases.
    np.testing.assert_allclose(pair.contrast, 1.2, rtol=1e-5)
    np.testing.assert_allclose([pair.low, pair.high], 1.2, rtol=1e-5)
    assert pair.told_apart


def test_a_network_that_does_not_respond_is_not_ranked(ranked):
    dead = ranked["dead"]
    assert (dead.value, dead.best_rank, dead.tied_with) == (0, None, ())
    assert "do not respond" in dead.reason
    assert not any("dead" in (pair.first, pair.second) for pair in ranked.pairs)


def test_values_are_those_of_measure(ranked):
    names = ["jacobian_norm", "accuracy", "output_sensitivity"]
    alone = measure(*MODELS["steeper"], XS, YS, key=KEY, measures=names)
    row = ranked["steeper"]
    np.testing.assert_allclose([row.value, row.stderr], [alone[names[0]].value, alone[names[0]].stderr])
    for name in names[1:]:
        np.testing.assert_allclose(row.also[name], (alone[name].value, alone[name].stderr))


def test_results_print_and_convert(ranked):
    text = str(ranked)
    for name in MODELS:
        assert name in text
    assert "1 to 3" in text
    assert "+-" in text
    assert "95% confidence" in text
    assert "hardly trained" in text
    kept = json.loads(ranked.to_json())
    assert kept == ranked.to_dict()
    assert kept["models"][-1]["best_rank"] is None
    assert len(kept["pairs"]) == 6
    assert len(ranked) == len(MODELS)
    assert ranked._repr_html_().count("<tr>") >= len(MODELS)
    with pytest.raises(KeyError, match="expected one of"):
        ranked["nobody"]


def test_results_become_a_data_frame(ranked):
    pytest.importorskip("pandas")
    frame = ranked.to_pandas().set_index("name")
    assert frame["accuracy"]["plain"] == ranked["plain"].also["accuracy"][0]
    assert frame["worst_rank"]["steeper"] == 4


def test_larger_is_better_where_it_is():
    def f(params, x):
        return x[:3] * params

    ys = XS[:, :3].argmax(axis=1)
    models = {"wrong": (f, jnp.array([-1.0, 1, 1])), "right": (f, jnp.ones(3))}
    found = compare(models, XS, ys, key=KEY, by="accuracy")
    assert [row.name for row in found] == ["right", "wrong"]
    assert found.conclusions == ("'right' has the greatest accuracy.",)
    assert found.pairs[0].contrast < 0


def test_models_of_one_f_share_their_programs():
    traced = []

    def counted(params, x):
        traced.append(1)
        return network(params, x)

    def traces(count):
        traced.clear()
        compare({str(i): (counted, weights(i)) for i in range(count)}, XS, key=KEY, by="flip_rate")
        return len(traced)

    # Each model is opened twice, for its shapes; three more models trace nothing else.
    assert traces(5) - traces(2) == 3 * 2


def init(scale, width=8):
    def draw(key):
        keys = jax.random.split(key)
        shapes = ((6, width), (width, 3))
        return [scale * jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]

    return draw


def test_architectures_are_compared_over_seeds():
    models = {"small": Untrained(network, init(1.0)), "alike": Untrained(network, init(1.0))}
    models["large"] = Untrained(network, init(3.0))
    found = compare(models, XS, key=KEY, num_seeds=6)
    assert found.by.name == "output_sensitivity"
    assert found["large"].best_rank == 3
    assert found["small"].tied_with == ("alike",)
    assert found["small"].value != found["alike"].value
    assert {row.num_seeds for row in found} == {6}
    assert "Before training" in found.notes[-1]
    assert "6 seeds each" in str(found)


def test_an_architecture_of_one_network_is_that_network():
    models = {"a": Untrained(network, lambda key: PARAMS), "b": Untrained(network, lambda key: STEEPER)}
    found = compare(models, XS, key=KEY, num_seeds=2, by="jacobian_norm")
    trained = compare({name: MODELS[name] for name in ("plain", "steeper")}, XS, key=KEY, by="jacobian_norm")
    for one, other in (("a", "plain"), ("b", "steeper")):
        np.testing.assert_allclose(found[one].value, trained[other].value, rtol=1e-6)
        np.testing.assert_allclose(found[one].stderr, trained[other].stderr, rtol=1e-3)
    np.testing.assert_allclose(found.pairs[0].low, trained.pairs[0].low, rtol=1e-5)


REFUSED = {
    "one model": ({"models": {"a": MODELS["plain"]}}, "2 or more models"),
    "a list": ({"models": [MODELS["plain"]] * 2}, "2 or more models"),
    "parameters alone": ({"models": {"a": PARAMS, "b": PARAMS}}, "\\(f, params\\), or Untrained"),
    "trained and untrained": (
        {"models": {"a": MODELS["plain"], "b": Untrained(network, init(1.0))}},
        "trained networks among architectures",
    ),
    "other numbers of outputs": (
        {"models": {"a": MODELS["plain"], "b": (network, [PARAMS[0], PARAMS[1][:, :2]])}},
        "a with 3, b with 2",
    ),
    "a measure without a direction": ({"by": "confidence"}, "by='confidence'"),
    "an unknown measure": ({"by": "sharpness"}, "by='sharpness'"),
    "an unknown other measure": ({"also": ["sharpness"]}, "measures='sharpness'"),
    "labels that are missing": ({"by": "accuracy"}, "without ys"),
    "a bad confidence": ({"confidence": 95.0}, "confidence=95"),
    "one seed": ({"num_seeds": 1}, "num_seeds=1"),
    "an old key": ({"key": jax.random.PRNGKey(0)}, "one typed key"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(plain, case):
    changes, words = REFUSED[case]
    given = {"models": {name: MODELS[name] for name in ("plain", "steeper")}, "key": KEY} | changes
    with pytest.raises(InputError, match=words):
        compare(given.pop("models"), XS, **given)


def test_regressions_are_ranked_by_the_jacobian_of_the_outputs():
    models = {name: MODELS[name] for name in ("plain", "steeper")}
    assert compare(models, XS, key=KEY, loss="mse").by.name == "jacobian_norm"


def test_it_is_a_name_of_the_package():
    assert jaxsens.compare is compare
    assert jaxsens.Untrained is Untrained


# The statistics, against SciPy and by simulation.


def seeds(values):
    return sample_of([Quantity(float(v)) for v in values], ratio=False)


def test_one_pair_of_trained_networks_is_a_paired_t_test():
    a, b = RNG.normal(size=(2, 40)) + np.array([[0.0], [0.4]])
    samples = [sample_of([mean_of(values)], ratio=False) for values in (a, b)]
    pair = all_pairs(samples, confidence=0.9, ratio=False)[0, 1]
    own = stats.ttest_rel(b, a)
    np.testing.assert_allclose(pair.p_value, own.pvalue)
    np.testing.assert_allclose([pair.low, pair.high], own.confidence_interval(0.9))


def test_one_pair_of_architectures_is_a_welch_t_test():
    a, b = RNG.normal(size=5), 3 * RNG.normal(size=7) + 1
    pair = all_pairs([seeds(a), seeds(b)], confidence=0.95, ratio=False)[0, 1]
    own = stats.ttest_ind(b, a, equal_var=False)
    np.testing.assert_allclose(pair.p_value, own.pvalue)
    np.testing.assert_allclose([pair.low, pair.high], own.confidence_interval(0.95))


def samples_of(values, *, ratio):
    return [sample_of([mean_of(v)], ratio=ratio) for v in values]


def test_intervals_of_several_pairs_are_those_of_bonferroni():
    values = RNG.normal(size=(4, 30))
    found = all_pairs(samples_of(values, ratio=False), confidence=0.95, ratio=False)
    own = stats.ttest_rel(values[3], values[1])
    pair = found[1, 3]
    np.testing.assert_allclose([pair.low, pair.high], own.confidence_interval(1 - 0.05 / 6))
    np.testing.assert_allclose(pair.p_value, min(1, 6 * own.pvalue))


def test_the_ends_of_a_ratio_are_where_the_paired_t_test_stops_to_reject():
    a, b = np.exp(RNG.normal(size=(2, 400)))
    pair = all_pairs(samples_of((a, b), ratio=True), confidence=0.95, ratio=True)[0, 1]
    np.testing.assert_allclose(pair.value, b.mean() / a.mean())
    for end in (pair.low, pair.high):
        np.testing.assert_allclose(stats.ttest_rel(b, end * a).pvalue, 0.05, rtol=1e-6)
    np.testing.assert_allclose(pair.p_value, stats.ttest_rel(b, a).pvalue)


def test_a_ratio_to_what_may_be_zero_has_no_upper_end():
    few = np.zeros(50)
    few[0] = 1.0
    many = 1 + RNG.uniform(size=50)
    pair = all_pairs(samples_of((few, many), ratio=True), confidence=0.95, ratio=True)[0, 1]
    assert pair.high == np.inf
    np.testing.assert_allclose(stats.ttest_rel(many, pair.low * few).pvalue, 0.05, rtol=1e-6)
    other = all_pairs(samples_of((many, few), ratio=True), confidence=0.95, ratio=True)[0, 1]
    np.testing.assert_allclose([other.low, other.high], [0, 1 / pair.low])
    both = all_pairs(samples_of((few, few[::-1]), ratio=True), confidence=0.95, ratio=True)[0, 1]
    assert (both.low, both.high, both.told_apart) == (0, np.inf, False)


def test_ratios_of_architectures_are_those_of_geometric_means():
    a, b = np.exp(RNG.normal(size=(2, 6)))
    samples = [sample_of([Quantity(float(v)) for v in values], ratio=True) for values in (a, b)]
    pair = all_pairs(samples, confidence=0.95, ratio=True)[0, 1]
    own = stats.ttest_ind(np.log(b), np.log(a), equal_var=False).confidence_interval(0.95)
    np.testing.assert_allclose([pair.low, pair.high], np.exp(own))
    np.testing.assert_allclose(samples[0].mean, stats.gmean(a))


def test_the_logarithm_of_a_mean_has_the_error_of_the_jackknife():
    values = np.exp(RNG.normal(size=(2, 60)))
    sample = sample_of([mean_of(v) for v in values], ratio=True)._replace(sources=())
    logs = [np.mean([np.log(np.delete(v, i).mean()) for v in values]) for i in range(60)]
    own = (59 / 60 * np.sum((np.array(logs) - np.mean(logs)) ** 2)) ** 0.5
    np.testing.assert_allclose(sample.stderr / sample.mean, own)


def test_exact_numbers_differ_if_they_differ():
    for ratio in (False, True):
        exact = [sample_of([Quantity(v)], ratio=ratio) for v in (1.0, 1.0, 1.5)]
        found = all_pairs(exact, confidence=0.95, ratio=ratio)
        assert [pair.told_apart for pair in found.values()] == [False, True, True]
    unknown = sample_of([Quantity(1.0, variance=np.nan)], ratio=False)
    assert not all_pairs([unknown] * 2, confidence=0.95, ratio=False)[0, 1].told_apart


def test_ranks_are_those_that_the_pairs_leave_open():
    # 0 and 1 are open, and so are 2 and 3; each of the first two is told from each of the others.
    measured = [Quantity(v, None, 0.01, 1000) for v in (0.0, 0.3, 1.2, 1.4)]
    found = all_pairs([sample_of([q], ratio=False) for q in measured], confidence=0.9, ratio=False)
    assert possible_ranks(found, 4, larger_is_better=False) == [(1, 2), (1, 2), (3, 4), (3, 4)]
    assert possible_ranks(found, 4, larger_is_better=True) == [(3, 4), (3, 4), (1, 2), (1, 2)]


def share_of_wrong(draw, count, *, ratio, truth=lambda i, j: 1.0):
    """How often any interval of all pairs misses the truth."""
    wrong = 0
    for _ in range(count):
        found = all_pairs(draw(), confidence=0.95, ratio=ratio)
        wrong += any(not pair.low <= truth(i, j) <= pair.high for (i, j), pair in found.items())
    return wrong / count


@pytest.mark.parametrize(("num_models", "count", "low"), [(2, 1000, 0.02), (4, 500, 0.0)])
def test_equal_networks_are_told_apart_at_most_at_the_level(num_models, count, low):
    """Jacobian norms with a long tail, one factor of which all networks share; 100 examples."""
    rng = np.random.default_rng(num_models)

    def draw():
        return samples_of(np.exp(rng.normal(size=100) + rng.normal(size=(num_models, 100))), ratio=True)

    assert low <= share_of_wrong(draw, count, ratio=True) <= 0.065


def test_equal_architectures_are_told_apart_at_the_level():
    """Five seeds of each of two, and 100 examples that matter more to one architecture than to the other."""
    rng = np.random.default_rng(1)

    def draw():
        examples = 0.3 * rng.normal(size=100)
        return [
            sample_of(
                [mean_of(v) for v in rng.normal(size=(5, 1)) / 5 + slope * examples + noise], ratio=False
            )
            for slope, noise in zip((1.0, 1.5), 0.1 * rng.normal(size=(2, 5, 100)), strict=True)
        ]

    assert 0.02 <= share_of_wrong(draw, 1000, ratio=False, truth=lambda i, j: 0.0) <= 0.065


@pytest.mark.slow
@pytest.mark.parametrize("num_examples", [50, 500])
def test_intervals_of_ratios_hold_together(num_examples):
    """S by noise at examples of different slopes, four networks of which each has 1.5 times the S before."""
    rng = np.random.default_rng(2)
    gains = 1.5 ** np.arange(4)[:, None]

    def draw():
        slopes = np.exp(0.5 * rng.normal(size=num_examples))
        return samples_of(gains * (slopes * rng.normal(size=(4, num_examples))) ** 2, ratio=True)

    wrong = share_of_wrong(draw, 3000, ratio=True, truth=lambda i, j: 1.5 ** (j - i))
    assert wrong <= 0.06
