"""Jacobian norms against closed forms, finite differences, and float64 at saturated softmaxes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxsens.checks import InputError
from jaxsens.metrics import input_jacobian_gram, input_jacobian_norm, input_jvp, jacobian_norms
from jaxsens.metrics._norms import frobenius_norm

norms_of = jax.jit(jacobian_norms, static_argnames=("f", "batch_size"))
PER_EXAMPLE = [input_jacobian_norm, input_jacobian_gram, jacobian_norms]


def network(params, x):
    w1, b1, w2, b2 = params
    return w2 @ jax.nn.relu(w1 @ x.ravel() + b1) + b2


def smooth(params, x):
    w1, b1, w2, b2 = params
    return w2 @ jnp.tanh(w1 @ x.ravel() + b1) + b2


def softmax_of(f):
    return lambda params, x: jax.nn.softmax(f(params, x))


def normal(seed, *shape, dtype=np.float32):
    """Drawn by NumPy: compiling jax.random.normal for each shape takes longer than these tests."""
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def init(*members, dim=6, width=7, num_outputs=4, dtype=np.float32):
    shapes = [(width, dim), (width,), (num_outputs, width), (num_outputs,)]
    return [normal([0, i], *members, *shape, dtype=dtype) for i, shape in enumerate(shapes)]


def affine(params, x):
    return params[0] @ x + params[1]


def slow_jacobian(f, params, x, step=1e-6):
    """Central differences, one input entry at a time."""
    f, columns = jax.jit(f), []
    for d in range(x.size):
        e = np.zeros(x.size)
        e[d] = step
        e = e.reshape(x.shape)
        columns.append(np.asarray(f(params, x + e) - f(params, x - e)) / (2 * step))
    return np.stack(columns, axis=1)


def slow_after_softmax(w, logits):
    """|(diag(p) - p p^T) W|_F in float64, with 1 - p_k formed as a sum of the others."""
    w, logits = np.asarray(w, np.float64), np.asarray(logits, np.float64)
    p = np.exp(logits - logits.max())
    p /= p.sum()
    k = range(len(p))
    rows = [sum(p[i] * p[j] * (w[i] - w[j]) for j in k if j != i) for i in k]
    return np.linalg.norm(rows)


def test_affine_map_has_its_closed_form():
    w = normal(1, 4, 6)
    params, xs = (w, jnp.arange(4.0)), normal(1, 3, 6)
    wide = np.asarray(w, np.float64)
    norm = np.linalg.norm(wide)
    np.testing.assert_allclose(input_jacobian_norm(affine, params, xs), [norm] * 3, rtol=1e-6)
    np.testing.assert_allclose(
        input_jacobian_gram(affine, params, xs), [wide @ wide.T] * 3, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(input_jvp(affine, params, xs[0], xs[1]), w @ xs[1], rtol=1e-5)


def test_relu_network_in_a_known_region():
    w1, b1 = jnp.array([[1.0, 2.0], [3.0, -1.0]]), jnp.array([5.0, -50.0])  # Unit 0 on, unit 1 off.
    w2, b2 = jnp.array([[2.0, 7.0], [-1.0, 7.0]]), jnp.zeros(2)
    expected = np.linalg.norm([[2.0, 4.0], [-1.0, -2.0]])
    xs = jnp.array([[1.0, 1.0], [0.0, -1.0]])
    np.testing.assert_allclose(input_jacobian_norm(network, [w1, b1, w2, b2], xs), [expected] * 2, rtol=1e-6)


@pytest.mark.parametrize("shape", [(6,), (2, 3), (1, 3, 2)])
@pytest.mark.parametrize("f", [network, smooth, softmax_of(smooth)])
def test_finite_differences_agree(f, shape, x64):
    params = init(dtype=np.float64)
    xs = normal(1, 3, *shape, dtype=np.float64)
    jacobians = [slow_jacobian(f, params, np.asarray(x)) for x in xs]
    np.testing.assert_allclose(
        jax.jit(functools.partial(input_jacobian_norm, f))(params, xs),
        [np.linalg.norm(j) for j in jacobians],
        rtol=1e-7,
    )
    np.testing.assert_allclose(
        jax.jit(functools.partial(input_jacobian_gram, f))(params, xs),
        [j @ j.T for j in jacobians],
        rtol=1e-6,
        atol=1e-9,
    )
    v = normal(2, *shape, dtype=np.float64)
    np.testing.assert_allclose(
        input_jvp(f, params, xs[0], v), jacobians[0] @ np.ravel(v), rtol=1e-6, atol=1e-9
    )


def test_scalar_inputs_are_examples_too(x64):
    xs = jnp.array([0.5, 2.0], jnp.float64)
    norms = input_jacobian_norm(lambda p, x: jnp.stack([x**2, 3 * x]), None, xs)
    np.testing.assert_allclose(norms, np.sqrt([1.0 + 9.0, 16.0 + 9.0]), rtol=1e-12)


def test_norms_before_and_after_the_softmax_are_those_of_f_and_softmax_f(x64):
    params = init(dtype=np.float64)
    xs = normal(1, 9, 6, dtype=np.float64)
    norms = norms_of(smooth, params, xs)
    np.testing.assert_allclose(norms.before_softmax, input_jacobian_norm(smooth, params, xs), rtol=1e-12)
    np.testing.assert_allclose(
        norms.after_softmax, input_jacobian_norm(softmax_of(smooth), params, xs), rtol=1e-9
    )
    f = jax.jit(smooth)
    gram = np.asarray(input_jacobian_gram(smooth, params, xs))
    for i, x in enumerate(xs):
        p = np.asarray(jax.nn.softmax(f(params, x)))
        a = np.diag(p) - np.outer(p, p)
        np.testing.assert_allclose(norms.after_softmax[i] ** 2, np.trace(a @ gram[i] @ a.T), rtol=1e-8)


@pytest.mark.parametrize("shift", [0.0, 100.0])
@pytest.mark.parametrize("rest", [1e-3, 1e-6, 1e-12, 1e-25])
def test_confident_predictions_keep_their_digits_in_float32(rest, shift):
    """p = 1 - rest. `shift` adds one large row to all rows of J, which the softmax does not see."""
    num_outputs = 5
    w = normal(1, num_outputs, 8) + shift
    b = jnp.zeros(num_outputs).at[2].set(-float(np.log(rest / (num_outputs - 1))))
    xs = jnp.zeros((1, 8))
    expected = slow_after_softmax(w, b)
    after = norms_of(affine, (w, b), xs).after_softmax
    np.testing.assert_allclose(after, [expected], rtol=2e-5)


def test_differentiating_a_float32_softmax_loses_them():
    """A negative control for the test above: the ways not taken."""
    w = normal(1, 5, 8) + 100.0
    b = jnp.zeros(5).at[2].set(-float(np.log(1e-6 / 4)))
    xs, expected = jnp.zeros((1, 8)), slow_after_softmax(w, b)
    (direct,) = input_jacobian_norm(softmax_of(affine), (w, b), xs)
    assert abs(direct / expected - 1) > 1e-2
    p = jax.nn.softmax(b)
    a = jnp.diag(p) - jnp.outer(p, p)
    (gram,) = input_jacobian_gram(affine, (w, b), xs)
    squared = jnp.trace(a @ gram @ a.T)
    assert squared < 0 or abs(jnp.sqrt(squared) / expected - 1) > 1e-2


@pytest.mark.parametrize("measure", PER_EXAMPLE)
@pytest.mark.parametrize("batch_size", [2])
def test_vmap_over_members_equals_a_loop(measure, batch_size):
    stacked = init(3)
    members = [[leaf[m] for leaf in stacked] for m in range(3)]
    xs = normal(1, 5, 6)

    def one(params):
        return measure(network, params, xs, batch_size=batch_size)

    slow = jax.tree.map(lambda *parts: jnp.stack(parts), *map(jax.jit(one), members))
    fast = jax.jit(jax.vmap(one))(stacked)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), fast, slow)


@pytest.mark.parametrize("measure", PER_EXAMPLE)
@pytest.mark.parametrize("batch_size", [2, 50])
def test_chunks_change_nothing(measure, batch_size):
    params, xs = init(), normal(1, 5, 6)
    jitted = jax.jit(measure, static_argnames=("f", "batch_size"))
    whole = jitted(network, params, xs)
    parts = jitted(network, params, xs, batch_size=batch_size)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), parts, whole)


GOOD = {"f": affine, "params": (jnp.ones((2, 3)), jnp.zeros(2)), "xs": jnp.ones((4, 3))}


@pytest.mark.parametrize("measure", PER_EXAMPLE)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"xs": jnp.ones(())}, "xs of rank 0"),
        ({"xs": jnp.ones((0, 3))}, "0 examples in xs"),
        ({"xs": jnp.ones((4, 3), jnp.int32)}, "xs of dtype int32"),
        ({"xs": jnp.full((4, 3), jnp.inf)}, "NaN or infinity in xs"),
        ({"params": (jnp.full((2, 3), jnp.nan), jnp.zeros(2))}, r"NaN or infinity in params\[0\]"),
        ({"f": lambda p, x: jnp.sum(x)}, r"of shape \(\)"),
        ({"f": lambda p, x: jnp.outer(x, x)}, r"of shape \(3, 3\)"),
        ({"batch_size": -1}, "batch_size=-1"),
    ],
)
def test_refusals(plain, measure, change, message):
    with pytest.raises(InputError, match=message):
        measure(**(GOOD | change))


@pytest.mark.parametrize(
    ("v", "message"), [(jnp.ones(2), r"v of \(2,\)"), (jnp.ones(3, jnp.float16), r"v of \(3,\) float16")]
)
def test_jvp_refusals(plain, v, message):
    with pytest.raises(InputError, match=message):
        input_jvp(affine, GOOD["params"], jnp.ones(3), v)
    with pytest.raises(InputError, match="NaN or infinity in params"):
        input_jvp(affine, (jnp.full((2, 3), jnp.nan), jnp.zeros(2)), jnp.ones(3), jnp.ones(3))


def test_rescaling_nodes_changes_nothing(x64):
    w1, b1, w2, b2 = init(dtype=np.float64)
    scale = jnp.array([0.1, 2.0, 30.0, 1.0, 5.0, 0.5, 7.0])
    xs = normal(1, 5, 6, dtype=np.float64)
    for measure in map(functools.partial(jax.jit, static_argnames="f"), PER_EXAMPLE):
        before = measure(network, [w1, b1, w2, b2], xs)
        after = measure(network, [w1 * scale[:, None], b1 * scale, w2 / scale, b2], xs)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), after, before)


def test_a_shift_of_all_logits_is_seen_before_the_softmax_alone(x64):
    params, xs = init(dtype=np.float64), normal(1, 5, 6, dtype=np.float64)
    before, after = norms_of(smooth, params, xs)
    shifted = norms_of(lambda p, x: smooth(p, x) + jnp.sum(x**2), params, xs)
    np.testing.assert_allclose(shifted.after_softmax, after, rtol=1e-8)
    assert np.all(np.abs(shifted.before_softmax / before - 1) > 1e-3)


def test_a_norm_of_zero_has_a_derivative():
    def total(w):
        norms = jacobian_norms(lambda p, x: jax.nn.relu(p @ x - 9.0), w, jnp.ones((2, 3)))
        return norms.before_softmax.sum() + norms.after_softmax.sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.ones((2, 3)))
    assert value == 0
    np.testing.assert_array_equal(gradient, 0.0)


def test_derivative_of_a_norm_is_the_unit_matrix(x64):
    a = normal(1, 3, 4, dtype=np.float64)
    np.testing.assert_allclose(jax.jit(jax.grad(frobenius_norm))(a), a / np.linalg.norm(a), rtol=1e-12)
    hessian = jax.jit(jax.hessian(frobenius_norm))(a).reshape(12, 12)
    unit = np.ravel(a) / np.linalg.norm(a)
    np.testing.assert_allclose(hessian, (np.eye(12) - np.outer(unit, unit)) / np.linalg.norm(a), atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_infinity_are_not_hidden(bad):
    broken = jnp.ones((2, 3)).at[0, 0].set(bad)
    norms = jax.jit(lambda w: jacobian_norms(lambda p, x: p @ x, w, jnp.ones((1, 3))))(broken)
    assert not jnp.isfinite(norms.before_softmax[0])
    assert not jnp.isfinite(norms.after_softmax[0])


@settings(deadline=None, max_examples=20)
@given(st.integers(-30, 30), st.integers(0, 2**31 - 1))
def test_norm_is_in_range_wherever_its_value_is(power, seed):
    """Squares of such entries leave float32 at both ends."""
    a = np.random.default_rng(seed).normal(size=(3, 4))
    a = np.asarray(a * 10.0**power, np.float32)
    np.testing.assert_allclose(
        jax.jit(frobenius_norm)(jnp.asarray(a)), np.linalg.norm(a.astype(np.float64)), rtol=1e-6
    )
