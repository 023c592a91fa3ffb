"""Path norms against enumerated paths, unrolled convolutions and float64 logarithms of huge numbers."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxsens.checks import InputError
from jaxsens.metrics.path_norms import log_path_norm
from jaxsens.models import ModelConfig, build, vgg
from jaxsens.models.layers import AveragePool, Conv, Flatten, MaxPool, Residual

relu = jax.nn.relu


def draw(seed, *shape):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def perceptron(params, x):
    weights, biases = params
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        x = relu(x @ w + b)
    return x @ weights[-1] + biases[-1]


def perceptron_params(widths, seed=0, scale=1.0):
    pairs = list(itertools.pairwise(widths))
    weights = [jnp.asarray(scale * draw(seed, *pair)) for pair in pairs]
    return weights, [jnp.asarray(draw(seed + 1, pair[1])) for pair in pairs]


def slow_path_norm(weights, p, form="plotted"):
    """log of the sum over all paths, one by one, of the product of their edges."""
    widths = [weights[0].shape[0], *(w.shape[1] for w in weights)]
    factors = [1.0] * len(weights)
    if form == "capacity":
        factors = [2.0 if p == 1 else 4.0 * width for width in widths[1:]]
    total = 0.0
    for path in itertools.product(*map(range, widths)):
        edges = zip(weights, factors, itertools.pairwise(path), strict=True)
        total += math.prod(factor * abs(float(w[edge])) ** p for w, factor, edge in edges)
    return math.log(total) * (2 if p == 1 else 1)


def log_sum(vector, p):
    """What log_path_norm makes of the outputs of the pass, to compare with."""
    return np.log(np.sum(vector)) * (2 if p == 1 else 1)


KINDS = list(itertools.product((1, 2), ("plotted", "capacity")))


def every_kind(f, shape, kinds=KINDS):
    """p = 1, plotted and capacity, then p = 2, in one program."""
    return jax.jit(lambda params: [log_path_norm(f, params, shape, p=p, form=form) for p, form in kinds])


@pytest.mark.parametrize("widths", [(3, 2), (1, 1, 1), (2, 3, 3, 2), (2, 1, 4, 1, 3)])
def test_perceptrons_equal_all_their_paths(widths, x64):
    params = perceptron_params(widths)
    expected = [slow_path_norm(params[0], p, form) for p, form in KINDS]
    np.testing.assert_allclose(every_kind(perceptron, widths[:1])(params), expected, rtol=1e-12)


def test_capacity_factors_of_a_chain(x64):
    """4^d, and prod h_i where p = 2 (section 2.2)."""
    one, one_capacity, two, two_capacity = every_kind(perceptron, (3,))(perceptron_params((3, 5, 4, 2)))
    np.testing.assert_allclose(one_capacity - one, 3 * math.log(4), rtol=1e-12)
    np.testing.assert_allclose(two_capacity - two, 3 * math.log(4) + math.log(5 * 4 * 2), rtol=1e-12)


def test_the_l2_capacity_follows_from_the_l1_capacity_times_the_inputs(x64):
    """Cauchy and Schwarz over h_0 prod h_i paths, reached by equal weights; D prints prod h_i alone."""
    weights, biases = perceptron_params((6, 5, 4, 2))
    measure = every_kind(perceptron, (6,))
    _, one, _, two = measure((weights, biases))
    assert one <= two + math.log(6)
    _, one, _, two = measure(([w * 0 + 1 for w in weights], biases))
    np.testing.assert_allclose(one, two + math.log(6), rtol=1e-12)


def test_shortcuts_add_their_paths(x64):
    """f = relu(x A) B + x S - relu(x A): three kinds of paths, of two, one and one layers."""
    a, b, s = draw(0, 3, 4), draw(1, 4, 4), draw(2, 3, 4)

    def f(params, x):
        a, b, s = params
        h = relu(x @ a + 1)
        return h @ b + x @ s - h

    expected = []
    for p, form in KINDS:
        edges = [abs(w) ** p for w in (a, b, s)]
        factor = 1 if form == "plotted" else (2 if p == 1 else 16)
        total = 0.0
        for i, j in itertools.product(range(3), range(4)):
            total += factor * edges[2][i, j] + factor * edges[0][i, j]
            total += sum(factor**2 * edges[0][i, k] * edges[1][k, j] for k in range(4))
        expected.append(log_sum(total, p))
    np.testing.assert_allclose(every_kind(f, (3,))([a, b, s]), expected, rtol=1e-12)


def convolve(x, kernel, strides, padding):
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def slow_convolution(x, kernel, strides, pads):
    """By its definition, in loops."""
    x = np.pad(x, (*pads, (0, 0)))
    kh, kw = kernel.shape[:2]
    rows = range(0, x.shape[0] - kh + 1, strides[0])
    columns = range(0, x.shape[1] - kw + 1, strides[1])
    return np.array([[np.tensordot(x[i : i + kh, j : j + kw], kernel, 3) for j in columns] for i in rows])


def unrolled(function, shape):
    """The matrix (inputs, outputs) of a linear map of arrays."""
    size = math.prod(shape)
    return np.stack([function(e.reshape(shape)).ravel() for e in np.eye(size)])


def image_network(params, x):
    h = relu(convolve(x[None], params["first"], (1, 1), "SAME") + params["bias"])
    h = lax.reduce_window(h, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID") / 4
    h = relu(convolve(h, params["second"], (2, 2), "VALID") - params["shift"])
    return h.ravel() @ params["head"]


IMAGE_PARAMS = {
    "first": draw(0, 3, 3, 2, 3),
    "bias": draw(1, 3),
    "second": draw(2, 2, 2, 3, 4),
    "shift": draw(3, 4),
    "head": draw(4, 4, 2),
}


def test_convolutions_and_pools_equal_their_matrices(x64):
    """Strides, borders and average pools: the same network as a chain of dense layers."""
    network = IMAGE_PARAMS
    matrices = [
        unrolled(lambda x: slow_convolution(x, network["first"], (1, 1), ((1, 1), (1, 1))), (6, 4, 2)),
        unrolled(lambda x: x.reshape(3, 2, 2, 2, 3).mean((1, 3)), (6, 4, 3)),
        unrolled(lambda x: slow_convolution(x, network["second"], (2, 2), ((0, 0), (0, 0))), (3, 2, 3)),
        network["head"],
    ]
    expected = []
    for p, form in KINDS:
        vector = np.ones(6 * 4 * 2)
        for matrix in matrices:
            vector = vector @ np.abs(matrix) ** p
        # A pool is no layer.
        factor = 3 * math.log(4) + (math.log(3 * 4 * 2) if p == 2 else 0)
        expected.append(log_sum(vector, p) + (factor if form == "capacity" else 0))
    np.testing.assert_allclose(every_kind(image_network, (6, 4, 2))(network), expected, rtol=1e-12)


def test_max_pools_take_the_largest(x64):
    """As a reduction of a reshape and as a window; entries are -inf outside the image, not 0."""
    kernel, head = draw(0, 1, 1, 1, 2), draw(1, 8, 2)

    def windows(params, x):
        h = relu(convolve(x[None], params[0], (1, 1), "SAME"))
        h = lax.reduce_window(h, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
        return h.ravel() @ params[1]

    def reshaped(params, x):
        h = relu(convolve(x[None], params[0], (1, 1), "SAME"))
        return h.reshape(2, 2, 2, 2, 2).max((1, 3)).ravel() @ params[1]

    expected = log_sum(np.tile(kernel.ravel() ** 2, 4) @ head**2, 2)
    for f in (windows, reshaped):
        np.testing.assert_allclose(log_path_norm(f, [kernel, head], (4, 4, 1)), expected, rtol=1e-12)


def test_batch_normalisation_is_its_folded_form(x64):
    """Evaluation mode: subtracted means and shifts are biases, the scale is part of the weight."""
    rng = np.random.default_rng(5)
    kernel, head = draw(0, 3, 3, 2, 4), draw(1, 36, 3)
    mean, scale, shift = rng.normal(size=(3, 4))
    variance = rng.uniform(0.1, 2, 4)

    def normalised(params, x):
        h = convolve(x[None], params["kernel"], (1, 1), "VALID")
        h = (h - mean) * (lax.rsqrt(variance + 1e-5) * params["scale"]) + params["shift"]
        return relu(h).ravel() @ params["head"]

    def folded(params, x):
        h = convolve(x[None], params["kernel"], (1, 1), "VALID") + params["bias"]
        return relu(h).ravel() @ params["head"]

    factor = scale / np.sqrt(variance + 1e-5)
    with_norm = {"kernel": kernel, "scale": scale, "shift": shift, "head": head}
    without = {"kernel": kernel * factor, "bias": shift - mean * factor, "head": head}
    x = draw(7, 5, 5, 2)
    np.testing.assert_allclose(normalised(with_norm, x), folded(without, x), rtol=1e-10)
    kinds = [KINDS[0], KINDS[3]]
    measured = every_kind(normalised, (5, 5, 2), kinds)(with_norm)
    np.testing.assert_allclose(measured, every_kind(folded, (5, 5, 2), kinds)(without), rtol=1e-12)


SMALL = ModelConfig(
    "small",
    "small",
    1,
    (
        Conv(4, 3, 1, 1, batch_norm=True),
        Residual((Conv(6, 3, 2, 1), Conv(6, 3, 1, 1, activate=False)), (Conv(6, 1, 2, 0, activate=False),)),
        MaxPool(2),
        AveragePool(2),
        Flatten(),
    ),
    3,
)


def test_the_l1_norm_bounds_the_function():
    """sum_k |f(x)_k| <= norm^(1/2) max |x| with biases 0, through shortcuts, BN and both pools."""
    network = build(SMALL, input_shape=(8, 8, 3), num_outputs=3)
    params, state = network.init(jax.random.key(0))
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * ("bias" not in jax.tree_util.keystr(path)), params
    )
    f = jax.jit(network.function(state))
    norm = log_path_norm(network.function(state), params, (8, 8, 3), p=1)
    for x in (jnp.ones((8, 8, 3)), *jnp.asarray(draw(0, 5, 8, 8, 3), jnp.float32)):
        assert jnp.sum(jnp.abs(f(params, x))) < jnp.exp(norm / 2) * jnp.max(jnp.abs(x))
    # Where all weights are positive nothing cancels, and the bound is reached.
    reached = jnp.sum(f(jax.tree.map(jnp.abs, params), jnp.ones((8, 8, 3))))
    np.testing.assert_allclose(jnp.log(reached), norm / 2, rtol=1e-5)


def mlp_of(activation):
    def f(p, x):
        return activation(activation(x @ p[0] + p[1]) @ p[2] + p[3]) @ p[4]

    return f


MLP = [draw(0, 6, 5), draw(1, 5), draw(2, 5, 4), draw(3, 4), draw(4, 4, 3)]


def cast_mask(h):
    return h * h.astype(bool)


# Each is the identity on non-negative values.
ACTIVATIONS = {
    "leaky": jax.nn.leaky_relu,
    "absolute": jnp.abs,
    "where": lambda h: jnp.where(h > 0, h, 0.0),
    "where not": lambda h: jnp.where(~(h > 0) | (h < 0), 0.0, h),
    "mask": lambda h: h * (h > 0),
    "cast": cast_mask,
    "maximum": lambda h: jnp.maximum(0, h),
    "slope": lambda h: jnp.maximum(h, 0.1 * h),
    "negated": lambda h: -h,
    "checkpointed": jax.checkpoint(relu),
    "compiled": jax.jit(relu),
    "narrow": lambda h: relu(h.astype(jnp.bfloat16)).astype(h.dtype),
    "two masks": lambda h: jnp.where((h > 0) & (h == h), h, 0.0),
    "chosen slope": lambda h: h * jnp.where(h >= 0, 1.0, 0.1),
    "mask of an outer axis": lambda h: jnp.where((h > 0)[None], h[None], 0.0)[0],
    "a step beside": lambda h: relu(h) + (h > 0),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_with_kinks_at_zero_are_read(name, x64):
    expected = slow_path_norm([MLP[0], MLP[2]], 2)
    (measured,) = every_kind(lambda p, x: ACTIVATIONS[name](x @ p[0] + p[1]) @ p[2], (6,), KINDS[2:3])(MLP)
    np.testing.assert_allclose(measured, expected, rtol=1e-12)


def depthwise(p, x):
    h = lax.conv_general_dilated(
        x[None], p[0], (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=3
    )
    return relu(h).sum((0, 1, 2)) @ p[1]


# Each of 4 positions has every edge of its channel.
DEPTHWISE = 4 * (draw(0, 2, 2, 1, 3) ** 2).sum((0, 1, 2))

# Model, parameters, shape of x, the sum over paths of w^2 by hand, and that with the capacity's factors.
W, V = draw(0, 6, 4), draw(1, 4, 3)
Q, R = W**2, V**2
SHAPES = {
    "concatenation, slice and pad": (
        lambda p, x: (
            jnp.pad(jnp.concatenate([x[:3] @ p[0][:3], jnp.ones(2)])[:3], (0, 1), constant_values=7.0) @ p[1]
        ),
        [W, V],
        (6,),
        (np.ones(3) @ Q[:3, :3] @ R[:3]).sum(),
        16 * 12,
    ),
    "gather": (
        lambda p, x: (x[jnp.array([5, 5, 0, 1, 2, 3])] @ p[0]) @ p[1],
        [W, V],
        (6,),
        (np.ones(6) @ Q @ R).sum(),
        16 * 12,
    ),
    "split and difference": (
        lambda p, x: (lambda a, b: (a - b) @ p[0][:3])(*jnp.split(x, 2)),
        [W],
        (6,),
        (2 * np.ones(3) @ Q[:3]).sum(),
        4 * 4,
    ),
    "weights on the left": (
        lambda p, x: p[1].T @ relu(p[0].T @ x),
        [W, V],
        (6,),
        (np.ones(6) @ Q @ R).sum(),
        16 * 12,
    ),
    "division by a parameter": (
        lambda p, x: relu(x / p[0][:, 0]) @ p[0],
        [W],
        (6,),
        ((1 / Q[:, 0]) @ Q).sum(),
        4 * 4,
    ),
    "depthwise": (depthwise, [draw(0, 2, 2, 1, 3), V[:3]], (3, 3, 3), (DEPTHWISE @ R[:3]).sum(), 16 * 9),
    "channels first": (
        lambda p, x: lax.conv(x[None], p[0], (1, 1), "VALID").ravel(),
        [draw(3, 4, 2, 3, 3)],
        (2, 3, 3),
        (draw(3, 4, 2, 3, 3) ** 2).sum(),
        4 * 4,
    ),
    "maxout": (
        lambda p, x: jnp.maximum(x @ p[0], x @ p[1]),
        [W, W[::-1] * 2],
        (6,),
        np.maximum(Q.sum(0), 4 * Q.sum(0)).sum(),
        4 * 4,
    ),
    "a constant matrix is no layer": (
        lambda p, x: (x @ p[0]) @ jnp.full((4, 2), 0.5),
        [W],
        (6,),
        (Q.sum(0) @ np.full((4, 2), 0.25)).sum(),
        4 * 4,
    ),
    "normalised inputs": (
        lambda p, x: ((x - 0.3) / 0.5) @ p[0],
        [W],
        (6,),
        4 * Q.sum(),
        4 * 4,
    ),
    "running sums": (
        lambda p, x: jnp.cumsum(x @ p[0])[-1:],
        [W],
        (6,),
        Q.sum(),
        4 * 4,
    ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_operation_adds_up_its_paths(name, x64):
    f, params, shape, expected, factor = SHAPES[name]
    measured = every_kind(f, shape, KINDS[2:])(params)
    np.testing.assert_allclose(measured, np.log([expected, expected * factor]), rtol=1e-12)


def test_leaves_that_are_no_arrays_are_constants(x64):
    params = {"w": W, "scale": 2.0, "steps": np.arange(3), "none": None}
    measured = log_path_norm(lambda p, x: p["scale"] * (x @ p["w"]), params, (6,))
    np.testing.assert_allclose(measured, np.log(4 * Q.sum()), rtol=1e-12)


measure_perceptron = every_kind(perceptron, (3,))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31 - 1), c=st.sampled_from([1e-3, 0.5, 7.0]))
def test_invariances(seed, c):
    """Node-wise rescaling and biases leave the norm; c on all weights shifts it by 2 d log c."""
    with jax.enable_x64(True):
        weights, biases = perceptron_params((3, 4, 5, 2), seed % 1000)
        value = np.array(measure_perceptron((weights, biases)))
        rng = np.random.default_rng(seed)
        first, second = np.exp(3 * rng.normal(size=4)), np.exp(3 * rng.normal(size=5))
        rescaled = [weights[0] * first, weights[1] / first[:, None] * second, weights[2] / second[:, None]]
        moved = [biases[0] * first, biases[1] * second, biases[2]]
        x = jnp.asarray(rng.normal(size=3))
        np.testing.assert_allclose(
            perceptron((rescaled, moved), x), perceptron((weights, biases), x), rtol=1e-9, atol=1e-9
        )
        np.testing.assert_allclose(measure_perceptron((rescaled, moved)), value, rtol=1e-10, atol=1e-10)
        scaled = measure_perceptron(([c * w for w in weights], biases))
        np.testing.assert_allclose(scaled, value + 6 * math.log(c), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_a_deep_wide_perceptron_is_finite_in_float32(p):
    """10 hidden layers of 1000 units, standard normal weights: the square of the l1 sum is above 10^60."""
    rng = np.random.default_rng(0)
    square = rng.standard_normal((1000, 1000), np.float32)
    weights = [square[:784], *[square] * 9, square[:, :10]]
    vector, log_scale = np.ones(784), 0.0
    for w in weights:
        vector = vector @ np.abs(w.astype(np.float64)) ** p
        log_scale += np.log(vector.max())
        vector /= vector.max()
    expected = (np.log(vector.sum()) + log_scale) * (2 if p == 1 else 1)
    shared = {"first": square[:784], "square": square, "last": square[:, :10]}

    def f(params, x):
        h = relu(x @ params["first"])
        for _ in range(9):
            h = relu(h @ params["square"])
        return h @ params["last"]

    measured = log_path_norm(f, shared, (784,), p=p)
    assert measured.dtype == jnp.float32
    np.testing.assert_allclose(measured, expected, rtol=1e-5)
    assert p == 2 or expected > 60 * math.log(10)


@pytest.mark.slow
def test_vgg19_of_twice_the_width_is_finite():
    """He's weights at 32 x 32: the square of the l1 sum leaves float32."""
    network = build(vgg(19, 2.0, batch_norm=False), input_shape=(32, 32, 3), num_outputs=10)
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    pool = np.random.default_rng(0).standard_normal(2**16, np.float32)

    def fill(leaf):
        if leaf.ndim == 1:
            return jnp.ones(leaf.shape, leaf.dtype)
        std = math.sqrt(2 / math.prod(leaf.shape[:-1]))
        return jnp.asarray(np.resize(pool, leaf.shape) * np.float32(std))

    params = jax.tree.map(fill, params)
    f = network.function(jax.tree.map(fill, state))
    both = jax.jit(lambda params: [log_path_norm(f, params, (32, 32, 3), p=p) for p in (1, 2)])
    one, two = both(params)
    assert jnp.isfinite(one)
    assert jnp.isfinite(two)
    assert one > math.log(3.4e38)
    # With k paths (sum |w|)^2 is between sum w^2 and k times it.
    assert one > two


def test_scales_of_branches_may_be_far_apart():
    """f = x + 3 layers of weight c: sums, maxima and concatenations of numbers 10^180 apart."""

    def chain(c, x):
        return relu(c * relu(c * relu(c * x)))

    cases = [
        lambda c, x: x + chain(c, x),
        lambda c, x: jnp.maximum(x, chain(c, x)),
        lambda c, x: jnp.concatenate([chain(c, x), x]),
        lambda c, x: chain(c, x) - 0 * chain(1 / c, x),
        lambda c, x: jnp.concatenate([chain(1 / c, 0 * x), chain(c, x)])[:1] + chain(c, x),
    ]
    measure = jax.jit(lambda c: [log_path_norm(f, c, (1,)) for f in cases])
    for c in (1e-30, 1e30):
        branch = 6 * math.log(c)
        either = max(0, branch)
        measured = measure(jnp.float32(c))
        np.testing.assert_allclose(measured, [either] * 3 + [branch] * 2, rtol=1e-5, atol=1e-5)


def test_networks_without_paths():
    params = perceptron_params((3, 4, 2))
    cut = ([params[0][0] * 0, params[0][1]], params[1])
    for p in (1, 2):
        assert log_path_norm(perceptron, cut, (3,), p=p) == -jnp.inf
        assert log_path_norm(lambda w, x: w[0][0], params[0], (3,), p=p) == -jnp.inf
    assert log_path_norm(perceptron, cut, (3,), log_margin=-math.inf) == jnp.inf


def test_margins_divide():
    params = perceptron_params((3, 4, 2))
    value = log_path_norm(perceptron, params, (3,))
    over = log_path_norm(perceptron, params, (3,), log_margin=math.log(0.25))
    assert float(over - value) == pytest.approx(-2 * math.log(0.25), rel=1e-5)
    assert log_path_norm(perceptron, params, (3,), log_margin=-math.inf) == jnp.inf


@pytest.mark.parametrize("p", [1, 2])
def test_derivatives(p, x64):
    """sum_w dlog/dw w = 2 d, node by node as well, and finite differences; biases have none."""
    weights, biases = perceptron_params((3, 4, 5, 2))

    @jax.jit
    def measure(params):
        return log_path_norm(perceptron, params, (3,), p=p)

    by_weights, by_biases = jax.grad(measure)((weights, biases))
    assert all(not np.any(b) for b in by_biases)
    for layer, (w, g) in enumerate(zip(weights, by_weights, strict=True)):
        np.testing.assert_allclose(np.sum(np.asarray(w * g)), 2, rtol=1e-10)
        moved = [weights.copy(), weights.copy()]
        for sign, one in zip((1, -1), moved, strict=True):
            one[layer] = w.at[0, 1].add(sign * 1e-6)
        up, down = (measure((one, biases)) for one in moved)
        np.testing.assert_allclose(g[0, 1], (up - down) / 2e-6, rtol=1e-6)


def test_members_equal_a_loop(x64):
    members = [perceptron_params((3, 4, 2), seed) for seed in range(3)]
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *members)
    for p, form in ((1, "capacity"), (2, "plotted")):

        def measure(params, p=p, form=form):
            return log_path_norm(perceptron, params, (3,), p=p, form=form)

        together = jax.jit(jax.vmap(measure))(stacked)
        np.testing.assert_allclose(together, [measure(member) for member in members], rtol=1e-12)


@jax.custom_jvp
def surrogate(h):
    """A ReLU with a smooth derivative."""
    return relu(h)


surrogate.defjvps(lambda t, y, h: t * jax.nn.sigmoid(h))

UNREADABLE = {
    "tanh": (mlp_of(jnp.tanh), "'tanh'"),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p[0]), "'exp'|'stop_gradient'|'reduce_max'"),
    "clipped": (mlp_of(jax.nn.relu6), "'min'"),
    "hard tanh": (mlp_of(jax.nn.hard_tanh), "comparison"),
    "learned kink": (lambda p, x: jnp.maximum(x @ p[0], p[1]), "maximum with a constant"),
    "kink above 0": (lambda p, x: jnp.maximum(x @ p[0], 0.5), "maximum with a constant"),
    "attention": (lambda p, x: (x @ p[0])[:4] * (x @ p[0])[1:] @ p[2][:4], "two operands"),
    "ratio": (lambda p, x: (x @ p[0]) / jnp.sum(x), "two operands"),
    "square": (lambda p, x: (x @ p[0]) ** 2, "'integer_pow'|'square'"),
    "sorted": (lambda p, x: jnp.sort(x @ p[0]), "'sort'"),
    "loop": (lambda p, x: lax.fori_loop(0, 3, lambda i, h: h * 2, x @ p[0]), "'while'|'scan'"),
    "branch": (lambda p, x: lax.cond(x[0] > 0, lambda h: h, lambda h: -h, x @ p[0]), "'cond'"),
    "argmax": (lambda p, x: x @ p[0] * jnp.argmax(x), "'argmax'"),
    "rounded": (lambda p, x: (x @ p[0]).astype(int) * p[1], "cast"),
    "complex": (lambda p, x: jnp.real(x * (1 + 2j))[:3], "complex|cast"),
    "two arguments": (lambda p, x: jnp.logaddexp(x @ p[0], p[1]), "operation|maximum"),
    "minimum": (lambda p, x: jnp.minimum(x @ p[0], p[1]), "'min'"),
    "steps alone": (lambda p, x: (x > 0) * p[0][:, 0], "steps alone"),
    "surrogate square": (lambda p, x: surrogate(x @ p[0]) * surrogate(x @ p[0]), "two operands"),
    "index": (lambda p, x: p[0][jnp.argmax(x)] * x[0], "'argmax'"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_other_networks_are_refused_with_the_reason(name, plain):
    f, message = UNREADABLE[name]
    params = [jnp.asarray(leaf, jnp.float32) for leaf in MLP]
    with pytest.raises(InputError, match=message) as caught:
        log_path_norm(f, params, (6,))
    assert "a ReLU network" in str(caught.value)


def test_bad_input_is_refused(plain):
    params = [jnp.asarray(leaf, jnp.float32) for leaf in MLP]
    f = mlp_of(relu)
    for shape in (6, (6.0,), (0,), "6", (True,)):
        with pytest.raises(InputError, match="input_shape="):
            log_path_norm(f, params, shape)
    for options, message in (
        ({"p": 3}, "p=3"),
        ({"form": "printed"}, "form='printed'"),
        ({"log_margin": math.nan}, "margin_percentile"),
        ({"log_margin": jnp.ones(3)}, "log_margin of shape"),
    ):
        with pytest.raises(InputError, match=message):
            log_path_norm(f, params, (6,), **options)
    with pytest.raises(InputError, match="NaN or infinity in params"):
        log_path_norm(f, [params[0] * jnp.nan, *params[1:]], (6,))
    with pytest.raises(InputError, match="without a floating array"):
        log_path_norm(lambda p, x: x, (), (6,))
    with pytest.raises(InputError, match="shape \\(K,\\)"):
        log_path_norm(lambda p, x: (x @ p[0]).sum(), params, (6,))
