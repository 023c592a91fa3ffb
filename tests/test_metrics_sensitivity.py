"""Output sensitivity against closed forms, loops in float64, and its own error bars."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics import (
    linearized_output_sensitivity,
    mlp_sensitivity_at_init,
    output_noise,
    output_sensitivity,
    sensitivity_of_noise,
)

AVERAGES = ["mean", "per_output", "centred"]
sampled = jax.jit(output_sensitivity, static_argnames=("f", "num_draws", "average", "batch_size"))
linearized = jax.jit(linearized_output_sensitivity, static_argnames=("f", "average", "batch_size"))
reduced = jax.jit(sensitivity_of_noise, static_argnames="average")


def mlp(params, x):
    *hidden, (w, b) = params
    h = x.ravel()
    for v, c in hidden:
        h = jax.nn.relu(v @ h + c)
    return w @ h + b


def normal(seed, *shape, dtype=np.float32):
    """Drawn by NumPy: compiling jax.random.normal for each shape takes longer than these tests."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def init(seed, sizes, *, members=(), dtype=np.float32):
    """Standard normal weights and biases."""
    return [
        (normal([seed, i, 0], *members, o, d, dtype=dtype), normal([seed, i, 1], *members, o, dtype=dtype))
        for i, (d, o) in enumerate(itertools.pairwise(sizes))
    ]


def linear(params, x):
    return params["w"] @ x.ravel() + params["b"]


def linear_params(num_outputs, dim):
    return {"w": normal(0, num_outputs, dim), "b": jnp.arange(float(num_outputs))}


def closed_form(w, noise_std, average):
    """S of f = W x + b, by hand."""
    k = w.shape[0]
    return {
        "mean": noise_std**2 / k**2 * np.sum(w.sum(0) ** 2),
        "per_output": noise_std**2 / k * np.sum(w**2),
        "centred": noise_std**2 / k * np.sum((w - w.mean(0)) ** 2),
    }[average]


def slow_sensitivity(noise, average):
    """Value and standard error of the noise's sensitivity, one number at a time in float64."""
    noise = np.asarray(noise, np.float64)
    draws, n, k = noise.shape
    channels = {
        "mean": [noise.mean(2)],
        "per_output": [noise[:, :, c] for c in range(k)],
        "centred": [noise[:, :, c] - noise.mean(2) for c in range(k)],
    }[average]
    value = np.mean([np.var(e) for e in channels])
    clusters = [[(d, i) for d in range(draws)] for i in range(n)]
    if n == 1:
        clusters = [[(d, 0)] for d in range(draws)]
    psi = [
        np.mean([(e[d, i] - e.mean()) ** 2 for e in channels for d, i in cluster]) - value
        for cluster in clusters
    ]
    return value, np.sqrt(np.sum(np.square(psi)) / (len(psi) * (len(psi) - 1)))


# 1. Closed forms.


@pytest.mark.parametrize("average", AVERAGES)
def test_linear_network_has_its_closed_form(key, average):
    params = linear_params(4, 6)
    xs = normal(1, 40, 6)
    expected = closed_form(np.asarray(params["w"], np.float64), 0.3, average)
    np.testing.assert_allclose(
        linearized(linear, params, xs, noise_std=0.3, average=average), expected, rtol=1e-5
    )
    value, stderr = sampled(linear, params, xs, key=key, noise_std=0.3, num_draws=200, average=average)
    assert abs(value - expected) < 4 * stderr
    assert stderr < 0.05 * expected


@pytest.mark.parametrize("average", AVERAGES)
def test_relu_network_inside_one_region_is_its_linear_map(key, average):
    w1 = jnp.array([[1.0, 2.0], [-1.0, 0.5], [3.0, -1.0]])
    b1 = jnp.array([10.0, -10.0, 10.0])  # Units 0 and 2 stay on, unit 1 off, for |x| < 2.
    w2 = normal(1, 3, 3)
    xs = jnp.array([[1.0, 1.0], [-0.5, 0.2], [0.0, 1.5]])
    jacobian = np.asarray(w2, np.float64)[:, [0, 2]] @ np.asarray(w1, np.float64)[[0, 2]]
    value = linearized(mlp, [(w1, b1), (w2, jnp.zeros(3))], xs, noise_std=0.1, average=average)
    np.testing.assert_allclose(value, closed_form(jacobian, 0.1, average), rtol=1e-5)


# 2. Slow references.


@pytest.mark.parametrize("average", AVERAGES)
@pytest.mark.parametrize("shape", [(1, 5, 3), (4, 7, 2), (6, 1, 3), (3, 2, 1)])
def test_sensitivity_of_noise_equals_the_loops(average, shape, x64):
    noise = np.random.default_rng(0).normal(1.0, 2.0, shape)
    value, stderr = reduced(jnp.asarray(noise), average=average)
    expected_value, expected_stderr = slow_sensitivity(noise, average)
    np.testing.assert_allclose(value, expected_value, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(stderr, expected_stderr, rtol=1e-12, atol=1e-15)


def test_output_noise_equals_the_loops(key, x64):
    params = init(0, (12, 5, 3), dtype=np.float64)
    xs = normal(1, 4, 2, 2, 3, dtype=np.float64)
    noise = output_noise(mlp, params, xs, key=key, noise_std=0.2, num_draws=3)
    assert noise.dtype == jnp.float64
    for d in range(3):
        for i in range(4):
            one_key = jax.random.fold_in(jax.random.fold_in(key, d), i)
            eps = 0.2 * jax.random.normal(one_key, (2, 2, 3), jnp.float64)
            np.testing.assert_allclose(
                noise[d, i], mlp(params, xs[i] + eps) - mlp(params, xs[i]), rtol=1e-11, atol=1e-13
            )


@pytest.mark.parametrize("average", AVERAGES)
def test_linearized_equals_finite_differences(key, average, x64):
    params = init(0, (4, 6, 3), dtype=np.float64)

    def smooth(p, x):
        return jnp.tanh(mlp(p, x)) + 5.0

    xs = normal(1, 5, 2, 2, dtype=np.float64)
    step, f = 1e-6, jax.jit(smooth)
    expected = []
    for x in np.asarray(xs):
        columns = []
        for d in range(4):
            e = np.zeros(4)
            e[d] = step
            e = e.reshape(2, 2)
            columns.append((f(params, x + e) - f(params, x - e)) / (2 * step))
        expected.append(closed_form(np.stack(columns, 1), 0.1, average))
    value = linearized(smooth, params, xs, noise_std=0.1, average=average)
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-7)


def test_linearized_mean_costs_one_reverse_pass(key):
    params = init(0, (30, 40, 25))
    xs = jnp.ones((4, 30))

    def flops(average):
        measure = functools.partial(linearized_output_sensitivity, mlp, average=average)
        return jax.jit(measure).lower(params, xs).compile().cost_analysis()["flops"]

    assert flops("mean") < flops("per_output") / 5


# 3. Members, chunks, dtypes.


@pytest.mark.parametrize("batch_size", [3])
def test_vmap_over_members_equals_a_loop(key, batch_size):
    stacked = init(0, (3, 5, 2), members=(4,))
    xs = normal(1, 7, 3)

    def measures(params):
        noise = output_noise(mlp, params, xs, key=key, num_draws=2, batch_size=batch_size)
        linearized = functools.partial(linearized_output_sensitivity, mlp, params, xs, batch_size=batch_size)
        return [(*sensitivity_of_noise(noise, average=a), linearized(average=a)) for a in AVERAGES]

    one = jax.jit(measures)
    fast = jax.jit(jax.vmap(measures))(stacked)
    slow = [one(jax.tree.map(lambda leaf, m=m: leaf[m], stacked)) for m in range(4)]
    np.testing.assert_allclose(jnp.moveaxis(jnp.array(fast), -1, 0), jnp.array(slow), rtol=2e-4)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_chunks_change_nothing(key, batch_size):
    params, xs = init(0, (3, 5, 2)), normal(1, 7, 3)

    @functools.partial(jax.jit, static_argnums=1)
    def measures(xs, batch_size):
        noise = output_noise(mlp, params, xs, key=key, num_draws=2, batch_size=batch_size)
        return noise, linearized_output_sensitivity(mlp, params, xs, average="centred", batch_size=batch_size)

    (noise, linearized), (whole_noise, whole_linearized) = measures(xs, batch_size), measures(xs, None)
    np.testing.assert_allclose(noise, whole_noise, rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(linearized, whole_linearized, rtol=1e-6)


def test_noise_depends_on_draw_and_index_alone(key):
    params = linear_params(2, 3)
    xs = normal(1, 7, 3)
    noise = output_noise(linear, params, xs, key=key, num_draws=3)
    fewer = output_noise(linear, params, xs[:4], key=key, num_draws=2)
    np.testing.assert_allclose(fewer, noise[:2, :4], rtol=1e-4, atol=1e-6)
    assert len(np.unique(np.asarray(noise[:, :, 0]).round(5))) == 21


def test_a_narrow_model_is_measured_in_the_inputs_dtype(key):
    params = linear_params(4, 6)
    xs = normal(1, 8, 6)

    def narrow(p, x):
        return linear(jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), x.astype(jnp.bfloat16))

    for average in AVERAGES:
        wide = linearized_output_sensitivity(linear, params, xs, average=average)
        value = linearized_output_sensitivity(narrow, params, xs, average=average)
        assert value.dtype == jnp.float32
        np.testing.assert_allclose(value, wide, rtol=0.03)


def test_numbers_do_not_widen_the_dtype(key, x64):
    params = init(0, (3, 5, 2))
    xs = jnp.ones((4, 3), jnp.float32)
    assert output_noise(mlp, params, xs, key=key, noise_std=np.float64(0.1)).dtype == jnp.float32
    assert linearized_output_sensitivity(mlp, params, xs, noise_std=np.float64(0.1)).dtype == jnp.float32


def test_parameters_may_hold_leaves_that_are_no_arrays(key):
    params = {"w": jnp.eye(2), "activation": jax.nn.relu}
    xs = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    value = linearized_output_sensitivity(
        lambda p, x: p["activation"](p["w"] @ x), params, xs, noise_std=1.0, average="per_output"
    )
    np.testing.assert_allclose(value, 1.0, rtol=1e-6)
    assert jnp.isfinite(
        output_sensitivity(lambda p, x: p["activation"](p["w"] @ x), params, xs, key=key).value
    )


# 4. Refusals.


def constant(value):
    return lambda params, x: value


GOOD = {"f": linear, "params": {"w": jnp.ones((2, 3)), "b": jnp.zeros(2)}, "xs": jnp.ones((4, 3))}
SHARED_REFUSALS = [
    ({"xs": jnp.ones(())}, "xs of rank 0"),
    ({"xs": jnp.ones((0, 3))}, "0 examples in xs"),
    ({"xs": jnp.ones((4, 0))}, "examples with entries"),
    ({"xs": jnp.ones((4, 3), jnp.int32)}, "xs of dtype int32"),
    ({"xs": jnp.ones((4, 3), jnp.bfloat16)}, "xs of dtype bfloat16"),
    ({"xs": jnp.full((4, 3), jnp.nan)}, "NaN or infinity in xs"),
    ({"params": {"w": jnp.full((2, 3), jnp.nan), "b": jnp.zeros(2)}}, r"NaN or infinity in params\['w'\]"),
    ({"f": constant(jnp.ones(()))}, r"of shape \(\)"),
    ({"f": constant(jnp.ones((2, 2)))}, r"of shape \(2, 2\)"),
    ({"noise_std": 0.0}, "noise_std=0.0"),
    ({"noise_std": -1.0}, "noise_std=-1.0"),
    ({"noise_std": float("nan")}, "noise_std=nan"),
    ({"noise_std": jnp.ones(3)}, r"noise_std of shape \(3,\)"),
    ({"average": "median"}, "average='median'"),
    ({"batch_size": 0}, "batch_size=0"),
    ({"batch_size": 2.0}, "batch_size=2.0"),
]
SAMPLED_REFUSALS = [
    ({"num_draws": 0}, "num_draws=0"),
    ({"key": jnp.zeros(2, jnp.uint32)}, "typed key"),
    ({"key": jax.random.split(jax.random.key(0))}, r"shape \(2,\)"),
    ({"noise_std": 1e-8}, "100 roundings"),
    ({"xs": jnp.ones((1, 3))}, "1 draw at 1 example"),
]


@pytest.mark.parametrize(("change", "message"), SHARED_REFUSALS)
def test_linearized_refuses(plain, change, message):
    with pytest.raises(InputError, match=message):
        linearized_output_sensitivity(**(GOOD | change))


@pytest.mark.parametrize(("change", "message"), SHARED_REFUSALS + SAMPLED_REFUSALS)
def test_sampled_refuses(plain, key, change, message):
    with pytest.raises(InputError, match=message):
        output_sensitivity(**(GOOD | {"key": key} | change))


@pytest.mark.parametrize(
    ("noise", "message"),
    [
        (jnp.ones((4, 3)), r"shape \(draws, n, K\)"),
        (jnp.ones((2, 0, 3)), r"shape \(draws, n, K\)"),
        (jnp.ones((2, 3, 0)), r"shape \(draws, n, K\)"),
        (jnp.ones((1, 1, 3)), "at least 2 draws"),
        (jnp.full((2, 3, 1), jnp.inf), "NaN or infinity in output_noise"),
        (jnp.ones((2, 3, 1), jnp.float16), "output_noise of dtype float16"),
    ],
)
def test_reduction_refuses(plain, noise, message):
    with pytest.raises(InputError, match=message):
        sensitivity_of_noise(noise)


def test_shapes_are_refused_under_jit_and_nan_stays_nan(plain, key):
    with pytest.raises(InputError, match="0 examples"):
        jax.jit(lambda xs: output_sensitivity(linear, GOOD["params"], xs, key=key))(jnp.ones((0, 3)))
    broken = {"w": jnp.full((2, 3), jnp.nan), "b": jnp.zeros(2)}
    value, stderr = jax.jit(lambda p: output_sensitivity(linear, p, GOOD["xs"], key=key))(broken)
    assert jnp.isnan(value)
    assert jnp.isnan(stderr)


# 5. Invariances.


@pytest.mark.parametrize("measure", [sampled, linearized])
def test_a_shift_of_all_logits_changes_the_mean_alone(key, measure, x64):
    options = {"key": key, "num_draws": 2} if measure is sampled else {}
    params = init(0, (3, 5, 4), dtype=np.float64)
    xs = normal(1, 6, 3, dtype=np.float64)

    def shifted(p, x):
        return mlp(p, x) + 3 * jnp.sum(x) ** 2

    def values(f, average):
        return measure(f, params, xs, average=average, **options)

    np.testing.assert_allclose(values(shifted, "centred"), values(mlp, "centred"), rtol=1e-9)
    changed = np.asarray(values(shifted, "mean")) / np.asarray(values(mlp, "mean"))
    assert np.all(np.abs(changed - 1) > 0.1)


def test_input_and_output_scale_divides_by_its_square(key, x64):
    """A section 6.2 prints alpha^4; for a homogeneous network it is alpha^2."""
    params = [(w, 0 * b) for w, b in init(0, (3, 5, 4), dtype=np.float64)]
    xs = normal(1, 50, 3, dtype=np.float64)
    alpha = 3.0

    def rescaled(p, x):
        return mlp(p, x) / alpha

    before = linearized(mlp, params, xs)
    after = linearized(rescaled, params, alpha * xs)
    np.testing.assert_allclose(after, before / alpha**2, rtol=1e-12)
    small = {"key": key, "noise_std": 1e-6}
    before = sampled(mlp, params, xs, **small).value
    after = sampled(rescaled, params, alpha * xs, **small).value
    np.testing.assert_allclose(after, before / alpha**2, rtol=1e-5)


def test_mean_is_zero_after_a_softmax(key, x64):
    params = init(0, (3, 5, 4), dtype=np.float64)
    xs = normal(1, 20, 3, dtype=np.float64)

    def probabilities(p, x):
        return jax.nn.softmax(mlp(p, x))

    assert sampled(probabilities, params, xs, key=key).value < 1e-30
    assert linearized(probabilities, params, xs) < 1e-30
    assert sampled(probabilities, params, xs, key=key, average="per_output").value > 1e-6


@pytest.mark.parametrize("average", AVERAGES)
def test_rescaling_nodes_changes_nothing(key, average, x64):
    (w1, b1), (w2, b2) = init(0, (3, 5, 4), dtype=np.float64)
    scale = jnp.array([0.1, 2.0, 30.0, 1.0, 5.0])
    rescaled = [(w1 * scale[:, None], b1 * scale), (w2 / scale, b2)]
    xs = normal(1, 20, 3, dtype=np.float64)
    for measure in (functools.partial(sampled, key=key), linearized):
        before = measure(mlp, [(w1, b1), (w2, b2)], xs, average=average)
        np.testing.assert_allclose(measure(mlp, rescaled, xs, average=average), before, rtol=1e-9)


@settings(deadline=None, max_examples=15)
@given(st.sampled_from([(1, 2, 5), (4, 6, 1), (3, 5, 4)]), st.floats(-10, 10), st.integers(0, 2**31 - 1))
def test_averages_share_one_law(shape, shift, seed):
    """per_output = mean + centred, and a constant added to the noise changes no variance."""
    with jax.enable_x64(True):
        noise = jnp.asarray(np.random.default_rng(seed).normal(size=shape))
        mean, per_output, centred = (reduced(noise, average=a).value for a in AVERAGES)
        np.testing.assert_allclose(per_output, mean + centred, rtol=1e-10)
        for average in AVERAGES:
            np.testing.assert_allclose(
                reduced(noise + shift, average=average),
                reduced(noise, average=average),
                rtol=1e-9,
                atol=1e-12,
            )


# 6. The estimator.


def square_and_linear(c, x):
    return jnp.stack([jnp.sum(x**2), c @ x])


def test_error_bars_are_honest(key):
    """f = (|x|^2, c.x), x ~ N(0, t^2 I): Var[2 x.e + |e|^2] = 4 s^2 t^2 D + 2 s^4 D, Var[c.e] = s^2 |c|^2."""
    c, t, s, dim, n, draws = jnp.array([1.0, -2.0, 0.5]), 1.5, 0.4, 3, 400, 6
    first, second = 4 * s**2 * t**2 * dim + 2 * s**4 * dim, s**2 * float(c @ c)
    truth = {
        "mean": (first + second) / 4,
        "per_output": (first + second) / 2,
        "centred": (first + second) / 4,
    }

    @jax.jit
    @jax.vmap
    def estimate(one_key):
        data_key, noise_key = jax.random.split(one_key)
        xs = t * jax.random.normal(data_key, (n, dim))
        noise = output_noise(square_and_linear, c, xs, key=noise_key, noise_std=s, num_draws=draws)
        # Draws taken for examples of their own: the error bar without clusters, a negative control.
        unclustered = noise.reshape(1, draws * n, 2)
        return {
            a: (sensitivity_of_noise(noise, average=a), sensitivity_of_noise(unclustered, average=a).stderr)
            for a in AVERAGES
        }

    for average, ((value, stderr), unclustered) in estimate(jax.random.split(key, 500)).items():
        deviation = np.asarray(value - truth[average])
        z = deviation / stderr
        assert abs(z.mean()) < 0.25, average
        assert 0.88 < z.std() < 1.14, average
        assert (deviation / unclustered).std() > 1.15, average


def test_error_bar_of_a_single_example_is_honest(key):
    """At one x the truth is that of this x: 4 s^2 |x|^2 + 2 s^4 D."""
    c, s, x = jnp.array([1.0, -2.0, 0.5]), 0.4, jnp.array([[1.0, 2.0, -1.0]])

    @jax.jit
    @jax.vmap
    def estimate(one_key):
        return output_sensitivity(
            lambda p, x: square_and_linear(p, x)[:1], c, x, key=one_key, noise_std=s, num_draws=500
        )

    value, stderr = estimate(jax.random.split(key, 400))
    z = np.asarray((value - (4 * s**2 * 6 + 2 * s**4 * 3)) / stderr)
    assert abs(z.mean()) < 0.25
    assert 0.86 < z.std() < 1.16


@pytest.mark.parametrize("average", AVERAGES)
def test_small_noise_meets_the_linearized_value(key, average, x64):
    params = init(0, (4, 8, 3), dtype=np.float64)

    def smooth(p, x):
        return jnp.sin(mlp(p, x))

    xs = normal(1, 100, 4, dtype=np.float64)
    leading = linearized(smooth, params, xs, noise_std=1.0, average=average)

    def scaled(noise_std):
        value, stderr = sampled(
            smooth, params, xs, key=key, noise_std=noise_std, num_draws=30, average=average
        )
        return value / noise_std**2, stderr / noise_std**2

    coarse, medium, (fine, stderr) = scaled(1e-1)[0], scaled(1e-3)[0], scaled(1e-5)
    assert abs(fine - leading) < 4 * stderr
    assert abs(medium - fine) < 0.15 * abs(coarse - fine)


@pytest.mark.parametrize("widths", [pytest.param((12, 20), marks=pytest.mark.slow), (9, 16, 12)])
def test_standard_normal_networks_have_eq_10_on_average(key, widths):
    dim, num_outputs, noise_std = 6, 4, 1e-3
    xs = normal(1, 40, dim)

    @jax.jit
    @jax.vmap
    def measure(params, one_key):
        sampled = output_sensitivity(mlp, params, xs, key=one_key, noise_std=noise_std, num_draws=2).value
        return sampled, linearized_output_sensitivity(mlp, params, xs, noise_std=noise_std)

    expected = mlp_sensitivity_at_init(dim, num_outputs, widths, noise_std)
    params = init(3, (dim, *widths, num_outputs), members=(600,))
    for values in measure(params, jax.random.split(key, 600)):
        error = values.std() / np.sqrt(values.size)
        assert error < 0.1 * expected
        assert abs(values.mean() - expected) < 4 * error
        assert abs(values.mean() - expected / 2) > 4 * error


# Derivatives.


def test_derivatives_stay_finite(key):
    xs = jnp.ones((5, 3))

    def dead(w, x):
        return jax.nn.relu(w @ x - 100.0)

    for measure in (
        lambda w: output_sensitivity(dead, w, xs, key=key).value,
        lambda w: output_sensitivity(dead, w, xs, key=key).stderr,
        lambda w: linearized_output_sensitivity(dead, w, xs),
    ):
        np.testing.assert_array_equal(jax.jit(jax.grad(measure))(jnp.ones((2, 3))), 0.0)


def test_filling_a_ragged_chunk_brings_no_nan(key):
    """x / |x| has no value at 0, so chunks must not be filled up with zeros."""
    xs = normal(1, 5, 3) + 2.0

    def direction(w, x):
        return w @ (x / jnp.sqrt(jnp.sum(x**2)))

    def value(w, batch_size):
        return output_sensitivity(direction, w, xs, key=key, batch_size=batch_size).value

    w = normal(0, 2, 3)
    gradient = jax.jit(jax.grad(value), static_argnums=1)
    np.testing.assert_allclose(gradient(w, 2), gradient(w, None), rtol=1e-3, atol=1e-6)
