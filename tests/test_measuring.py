"""measure: each number is that of the metrics' own call, shared passes run once, refusals and printing."""

import json
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxsens.metrics as m
from jaxsens.checks import InputError
from jaxsens.measuring import MEASURES, measure
from jaxsens.measuring.rendering import with_error
from jaxsens.measuring.selection import select

KEY = jax.random.key(3)
NOISE_KEY, SHARPNESS_KEY = jax.random.split(KEY)
CHEAP = ["softmax_jacobian_norm", "jacobian_norm", "output_sensitivity", "linearized_output_sensitivity"]
CHEAP += ["fisher_rao_norm", "predicted_loss", "flip_rate", "confidence", "entropy", "accuracy", "loss"]
CHEAP += ["mean_margin"]


def network(params, x):
    hidden, output = params
    return jax.nn.relu(x @ hidden) @ output


def linear(params, x):
    return x.ravel() @ params


def normal(seed, *shape, scale=1.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def make(num=40, dim=6, width=8, num_outputs=3):
    params = [jnp.asarray(normal(i, a, b)) for i, (a, b) in enumerate([(dim, width), (width, num_outputs)])]
    return params, normal(7, num, dim), np.arange(num) % num_outputs


PARAMS, XS, YS = make()


@pytest.fixture(scope="module")
def everything():
    return measure(
        network, PARAMS, XS, YS, key=KEY, measures="all", noise_std=0.3, num_draws=2, num_perturbations=20
    )


@pytest.fixture(scope="module")
def own_calls():
    """What a user gets from the metrics one by one: values of n examples, or a value with its error."""
    xs, ys = jnp.asarray(XS), jnp.asarray(YS)
    noise = jax.jit(partial(m.output_noise, network, noise_std=0.3, num_draws=2))(PARAMS, xs, key=NOISE_KEY)
    logits = np.asarray(XS @ PARAMS[0]).clip(0) @ np.asarray(PARAMS[1])
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    weights = np.concatenate([np.ravel(w) for w in PARAMS])
    s = m.sensitivity_of_noise(noise)
    square = jnp.mean(xs**2)

    def loss(params, key):
        chosen = jax.random.randint(key, (len(xs),), 0, len(xs))
        log_p = jax.nn.log_softmax(jax.vmap(partial(network, params))(xs[chosen]))
        return -jnp.mean(log_p[jnp.arange(len(xs)), ys[chosen]])

    return {
        "softmax_jacobian_norm": m.jacobian_norms(network, PARAMS, xs).after_softmax,
        "jacobian_norm": m.input_jacobian_norm(network, PARAMS, xs),
        "output_sensitivity": s,
        "tangent_sensitivity": m.tangent_sensitivity(network, PARAMS, xs, outputs="all"),
        "log_path_norm": m.log_path_norm(network, PARAMS, (6,)),
        "fisher_rao_norm": jax.vmap(m.fisher_rao_norm)(jnp.asarray(logits)[:, None]),
        "predicted_loss": m.predicted_loss(s.value, square, noise_std=0.3, num_outputs=3),
        "flip_rate": np.mean((logits + noise).argmax(-1) != logits.argmax(-1), axis=0),
        "confidence": p.max(axis=1),
        "entropy": -np.sum(p * np.log(p), axis=1),
        "log_parameter_norm": np.log(np.linalg.norm(weights)),
        "perturbation_kl": m.kl_divergence(PARAMS, alpha=0.01),
        "accuracy": logits.argmax(axis=1) == YS,
        "loss": -np.log(p)[np.arange(40), YS],
        "mean_margin": m.margin(network, PARAMS, xs, ys),
        "margin_percentile": m.margin_percentile(network, PARAMS, xs, ys).value,
        "expected_sharpness": m.expected_sharpness(
            loss, PARAMS, key=SHARPNESS_KEY, alpha=0.01, num_perturbations=20
        ),
    }


def test_each_number_is_that_of_the_metrics_own_call(everything, own_calls):
    assert set(own_calls) == set(MEASURES) - {"linearized_output_sensitivity"}
    for name, own in own_calls.items():
        row = everything[name]
        if isinstance(own, tuple):
            value, stderr = own
        elif np.ndim(own):
            own = np.asarray(own, np.float64)
            value, stderr = own.mean(), own.std(ddof=1) / len(own) ** 0.5
        else:
            value, stderr = own, row.stderr
        np.testing.assert_allclose(row.value, value, rtol=2e-5, atol=1e-7, err_msg=name)
        if stderr is not None:
            np.testing.assert_allclose(row.stderr, stderr, rtol=2e-4, err_msg=name)
        assert (row.stderr is None) == (MEASURES[name].error == "none")


def test_the_limit_of_s_comes_with_the_jacobian_or_alone(everything):
    whole = m.linearized_output_sensitivity(network, PARAMS, jnp.asarray(XS), noise_std=0.3)
    alone = measure(
        network, PARAMS, XS, key=KEY, measures=["linearized_output_sensitivity", "entropy"], noise_std=0.3
    )
    for result in (everything, alone):
        np.testing.assert_allclose(result["linearized_output_sensitivity"].value, whole, rtol=1e-5)
    assert [found.name for found in alone.passes] == ["gradient"]
    assert [found.name for found in everything.passes] == [
        "jacobian",
        "noise",
        "tangent",
        "path",
        "sharpness",
    ]


def test_error_bars_by_the_jackknife():
    """Of S and of what is made of it: leaving out one example at a time."""
    found = measure(network, PARAMS, XS, key=KEY, measures=["output_sensitivity", "predicted_loss"])
    noise = np.asarray(
        jax.jit(partial(m.output_noise, network))(PARAMS, jnp.asarray(XS), key=NOISE_KEY), np.float64
    )[0]
    without = [np.delete(np.arange(40), i) for i in range(40)]
    s = np.array([noise[kept].mean(axis=1).var() for kept in without])
    losses = (s * np.array([np.mean(XS[kept].astype(np.float64) ** 2) for kept in without])) ** 0.5
    losses *= (2 / 3 / 2) ** 0.5 / 0.1
    for name, values in (("output_sensitivity", s), ("predicted_loss", losses)):
        jackknife = (39 / 40 * np.sum((values - values.mean()) ** 2)) ** 0.5
        np.testing.assert_allclose(found[name].stderr, jackknife, rtol=0.1)


def test_the_percentile_of_margins_has_the_error_of_a_normal_quantile():
    xs = np.stack([np.random.default_rng(0).normal(size=4000), np.zeros(4000)], axis=1).astype(np.float32)
    row = measure(lambda _, x: x, (), xs, np.zeros(4000, int), key=KEY, measures="margin_percentile")[
        "margin_percentile"
    ]
    np.testing.assert_allclose(row.value, -1.645, atol=4 * row.stderr)
    np.testing.assert_allclose(row.stderr, (0.05 * 0.95 / 4000) ** 0.5 / 0.10314, rtol=0.25)
    few = measure(lambda _, x: x, (), xs[:50], np.zeros(50, int), key=KEY, measures="margin_percentile")
    assert np.isfinite(few["margin_percentile"].value)
    assert np.isnan(few["margin_percentile"].stderr)
    assert "too few" in few["margin_percentile"].reason


def test_chunks_do_not_change_the_numbers(everything):
    parts = measure(
        network, PARAMS, XS, YS, key=KEY, measures=CHEAP, noise_std=0.3, num_draws=2, chunk_size=7
    )
    for row in parts:
        np.testing.assert_allclose(row.value, everything[row.name].value, rtol=1e-4)
        np.testing.assert_allclose(row.stderr, everything[row.name].stderr, rtol=1e-4)


def test_each_example_is_evaluated_once_and_once_more_for_each_draw():
    calls = []

    def counted(params, x):
        jax.debug.callback(lambda _: calls.append(1), x[0])
        return network(params, x)

    measure(counted, PARAMS, XS, YS, key=KEY, measures=CHEAP, num_draws=3, chunk_size=10)
    jax.effects_barrier()
    assert len(calls) == 40 * (1 + 3)


def test_scaling_the_logits_scales_what_docs_say(everything):
    names = ["jacobian_norm", "output_sensitivity", "accuracy", "flip_rate", "mean_margin"]
    scaled = measure(
        network,
        [PARAMS[0], 4 * PARAMS[1]],
        XS,
        YS,
        key=KEY,
        measures=names,
        noise_std=0.3,
        num_draws=2,
    )
    for name, factor in zip(names, (4, 16, 1, 1, 4), strict=True):
        np.testing.assert_allclose(scaled[name].value, factor * everything[name].value, rtol=1e-4)


def test_narrow_parameters_are_taken_as_float32():
    narrow = [w.astype(jnp.bfloat16) for w in PARAMS]
    names = ["jacobian_norm", "output_sensitivity", "perturbation_kl"]

    def in_its_own_precision(params, x):
        return network(params, x.astype(params[0].dtype))

    of_narrow = measure(in_its_own_precision, narrow, XS, key=KEY, measures=names)
    as_wide = measure(network, [w.astype(jnp.float32) for w in narrow], XS, key=KEY, measures=names)
    for row in of_narrow:
        np.testing.assert_allclose(row.value, as_wide[row.name].value, rtol=1e-5)
    assert "bfloat16" in of_narrow.notes[0]
    assert as_wide.notes == ()


def test_float64_agrees_with_float32(x64, everything):
    wide = measure(
        network,
        [np.asarray(w, np.float64) for w in PARAMS],
        XS.astype(np.float64),
        YS,
        key=KEY,
        measures=["softmax_jacobian_norm", "linearized_output_sensitivity", "loss"],
        noise_std=0.3,
    )
    for row in wide:
        np.testing.assert_allclose(row.value, everything[row.name].value, rtol=1e-5)
        assert row.value != everything[row.name].value


def test_regression_has_no_measure_of_classifiers():
    classifying = {"softmax_jacobian_norm", "fisher_rao_norm", "predicted_loss", "flip_rate", "confidence"}
    classifying |= {"entropy", "accuracy", "mean_margin", "margin_percentile"}
    of_any_f = {spec.name for spec in select("all", loss="mse", labelled=True)}
    assert of_any_f == set(MEASURES) - classifying
    targets = normal(9, 40, 3)
    found = measure(network, PARAMS, XS, targets, key=KEY, measures=["loss"], loss="mse")
    outputs = np.asarray(XS @ PARAMS[0]).clip(0) @ np.asarray(PARAMS[1])
    np.testing.assert_allclose(found["loss"].value, np.mean(np.sum((outputs - targets) ** 2, 1)), rtol=1e-5)


def test_outputs_that_overflow_make_no_number():
    huge = [PARAMS[0], PARAMS[1] * 1e38]
    found = measure(
        network, huge, XS, YS, key=KEY, measures=["accuracy", "jacobian_norm", "log_parameter_norm"]
    )
    assert np.isnan(found["accuracy"].value)
    assert "logits are NaN or infinite" in found["accuracy"].reason
    assert found["log_parameter_norm"].value > 87
    kept = json.loads(found.to_json())["measures"]
    assert [row["value"] for row in kept if row["name"] == "accuracy"] == [None]
    assert "none" in str(found)


def test_what_a_network_does_not_allow_is_said_or_refused():
    def smooth(params, x):
        return jnp.tanh(x @ params[0]) @ params[1]

    found = measure(smooth, PARAMS, XS, key=KEY, tangent_examples=2)
    assert np.isnan(found["log_path_norm"].value)
    assert "tanh" in found["log_path_norm"].reason
    with pytest.raises(InputError, match="a ReLU network"):
        measure(smooth, PARAMS, XS, key=KEY, measures=["log_path_norm"])


def test_tangent_sensitivity_of_large_inputs_is_only_taken_when_told():
    xs, weights = normal(1, 3, 6000), jnp.asarray(normal(2, 6000, 2))
    with pytest.raises(InputError, match="tangent_examples=2 or more"):
        measure(linear, weights, xs, key=KEY, measures="tangent_sensitivity")
    told = measure(linear, weights, xs, key=KEY, measures="tangent_sensitivity", tangent_examples=2)
    np.testing.assert_allclose(told["tangent_sensitivity"].value, 2 * 6000, rtol=1e-5)
    assert told["tangent_sensitivity"].num_examples == 2


def test_a_constant_network_is_called_one():
    dead = measure(linear, jnp.zeros((6, 3)), XS, key=KEY, measures=["jacobian_norm", "output_sensitivity"])
    assert [row.value for row in dead] == [0, 0]
    assert "do not change" in dead.notes[-1]


REFUSED = {
    "all without labels": ({"measures": "all"}, "measures='all' without ys"),
    "a labelled measure without labels": ({"measures": ["accuracy"]}, "'accuracy' without ys"),
    "an unknown measure": ({"measures": ["acuracy", "loss"]}, "measures='acuracy'"),
    "an unknown set": ({"measures": "everything"}, "one of label_free, all"),
    "no measures": ({"measures": []}, "no measures"),
    "a classifier's measure of a regression": (
        {"measures": ["confidence"], "loss": "mse"},
        "'confidence' with loss='mse'",
    ),
    "an unknown loss": ({"loss": "hinge"}, "loss='hinge'"),
    "no noise": ({"noise_std": 0.0}, "noise_std"),
    "noise below rounding": ({"noise_std": 1e-9}, "100 roundings"),
    "no draws": ({"num_draws": 0}, "num_draws=0"),
    "empty chunks": ({"chunk_size": 0}, "chunk_size=0"),
    "one tangent example": ({"tangent_examples": 1}, "tangent_examples=1"),
    "odd perturbations": ({"num_perturbations": 25}, "a multiple of 10"),
    "an old key": ({"key": jax.random.PRNGKey(0)}, "one typed key"),
    "labels of another number": ({"ys": YS[:-1]}, "ys of shape"),
    "labels out of range": ({"ys": YS + 1}, "labels from 0 to 2"),
    "labels that are no integers": ({"ys": YS / 2}, "integer class labels"),
    "one-hot labels": ({"ys": np.eye(3)[YS]}, "a class label each"),
    "targets of another shape": ({"ys": normal(0, 40), "loss": "mse"}, "shape \\(n, 3\\)"),
    "one example": ({"xs": XS[:1]}, "at least 2"),
    "whole-number examples": ({"xs": np.ones((4, 6), int)}, "float32 or float64"),
    "half precision": ({"xs": XS.astype(np.float16)}, "float32 or float64"),
    "NaN in an example": ({"xs": np.where(np.arange(6) == 2, np.nan, XS)}, "NaN or infinity in xs"),
    "NaN in a parameter": ({"params": [PARAMS[0], PARAMS[1] * jnp.nan]}, "NaN or infinity in params"),
    "one output": ({"params": [PARAMS[0], PARAMS[1][:, :1]]}, "at least 2 outputs"),
    "outputs that are no vector": ({"f": lambda p, x: network(p, x)[None]}, "shape \\(K,\\)"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals(plain, case):
    changes, words = REFUSED[case]
    given = {"f": network, "params": PARAMS, "xs": XS, "ys": None, "key": KEY} | changes
    with pytest.raises(InputError, match=words):
        measure(given.pop("f"), given.pop("params"), given.pop("xs"), given.pop("ys"), **given)


def test_it_refuses_to_be_traced(plain):
    with pytest.raises(InputError, match="traced array in xs"):
        jax.jit(lambda xs: measure(network, PARAMS, xs, key=KEY)["entropy"].value)(XS)
    with pytest.raises(InputError, match="traced array in params"):
        jax.jit(lambda params: measure(network, params, XS, key=KEY)["entropy"].value)(PARAMS)


def test_results_print_index_and_convert(everything):
    text = str(everything)
    assert repr(everything) == text
    for row in everything:
        assert row.name in text
        assert everything[row.name] is row
        assert str(row).startswith(row.name)
    assert "+-" in text
    assert "40 examples, 3 outputs, 72 parameters" in text
    assert [row.name for row in everything] == list(MEASURES)
    assert len(everything) == len(MEASURES)
    with pytest.raises(KeyError, match="expected one of softmax_jacobian_norm"):
        everything["sharpness"]
    kept = json.loads(everything.to_json())
    assert kept == everything.to_dict()
    assert kept["measures"][0]["value"] == everything["softmax_jacobian_norm"].value
    assert kept["settings"]["noise_std"] == 0.3
    assert everything._repr_html_().count("<tr>") >= len(MEASURES)


def test_results_become_a_data_frame(everything):
    pytest.importorskip("pandas")
    frame = everything.to_pandas()
    assert list(frame["name"]) == list(MEASURES)
    assert frame.set_index("name")["value"]["loss"] == everything["loss"].value


def test_without_pandas_its_absence_is_explained(everything, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="pip install pandas"):
        everything.to_pandas()


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.123456, 0.0056, "0.1235 +- 0.0056"),
        (1622.3, 20.1, "1622 +- 20"),
        (-2.5, 0.31, "-2.50 +- 0.31"),
        (3.14159, None, "3.142"),
        (2.0, 0.0, "2 +- 0"),
        (1.5, np.nan, "1.5 +- ?"),
        (np.nan, None, "none"),
        (1.23456e-9, 4.5e-11, "1.235e-09 +- 4.5e-11"),
        (3.2e12, 1.1e11, "3.20e+12 +- 1.1e+11"),
        (2.3017966, 7.8e-6, "2.3017966 +- 0.0000078"),
        (0.5, 30.0, "0 +- 30"),
        (0.0, 1e-8, "0.0e+00 +- 1.0e-08"),
    ],
)
def test_two_digits_of_the_error(value, stderr, text):
    assert with_error(value, stderr) == text


def test_the_names_of_the_package_are_lazy():
    command = (
        "import sys, jaxsens; assert {'measure', 'compare', 'Untrained'} <= set(dir(jaxsens)); "
        "assert not {'jax', 'numpy', 'jaxsens.measuring'} & set(sys.modules); "
        "from jaxsens import measure, compare; assert 'jaxsens.measuring' in sys.modules; "
        "assert callable(measure) and callable(compare); "
        "assert not hasattr(jaxsens, 'measures')"
    )
    subprocess.run([sys.executable, "-c", command], check=True)
