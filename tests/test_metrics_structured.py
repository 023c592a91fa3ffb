"""The structured path reads any model: each kind of operation against the definition, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from jaxsens.checks import InputError
from jaxsens.metrics import tangent_method, tangent_sensitivity
from jaxsens.metrics._site_norms import right_factor
from jaxsens.metrics._structured import make_plan
from jaxsens.metrics._trace import trace
from jaxsens.models import alexnet, build, cnn, fully_connected, resnet, vgg

relu = jax.nn.relu


def draw(seed, *shape):
    return np.random.default_rng(seed).normal(size=shape)


def convolution(h, w, strides=1, padding="SAME", groups=1, dilation=1):
    """NHWC by HWIO."""
    return lax.conv_general_dilated(
        h,
        w,
        (strides, strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def image_model(**options):
    """A convolution with these options between a first one and a last dense layer."""

    def f(p, x):
        h = relu(convolution(x[None], p[0]))
        h = relu(convolution(h, p[1], **options) + p[2])
        return h.ravel()[:40] @ p[3]

    return f


def image_params(groups=1):
    return [draw(0, 3, 3, 2, 4), draw(1, 3, 3, 4 // groups, 6), draw(2, 6), draw(3, 40, 3)]


def mlp(activation):
    def f(p, x):
        return activation(activation(x @ p[0] + p[1]) @ p[2] + p[3]) @ p[4]

    return f


MLP = [draw(0, 6, 5), draw(1, 5), draw(2, 5, 4), draw(3, 4), draw(4, 4, 3)]
MATRICES = [MLP[0], MLP[2], MLP[4]]


@jax.custom_jvp
def straight_through(x):
    return jnp.sign(x)


straight_through.defjvps(lambda t, y, x: t)


@jax.custom_jvp
def surrogate(x):
    return relu(x)


surrogate.defjvps(lambda t, y, x: t * jnp.exp(-(x**2)))


@jax.custom_vjp
def own_reverse(x):
    return relu(x)


own_reverse.defvjp(lambda x: (relu(x), x), lambda x, t: (t * (x > 0),))


def weight_norm(p, x):
    w = [p[2 * i] / jnp.linalg.norm(p[2 * i], axis=0) * jnp.exp(p[2 * i + 1]) for i in (0, 1)]
    return relu(relu(x @ w[0]) @ w[1]) @ p[4]


def tied(p, x):
    return relu(relu(x @ p["w"]) @ p["w"]) @ p["w"].T


def separable_mixer(p, x):
    """Products over the other axis, with the weight on the left, and with a batch axis."""
    h = relu(p[0] @ x.reshape(3, 4))
    h = relu(jnp.einsum("pq,pqo->po", h, p[1]))
    return jnp.einsum("po,ok->k", h, p[2])


def gated_by_steps(p, x):
    """A parameter behind a step that multiplies what varies: its gradient is linear in x within a region."""
    h = x @ p[0]
    return (h * ((h > 0) * p[1])) @ p[2]


def attention(p, x):
    h = x.reshape(3, 2)
    scores = jax.nn.softmax((h @ p[0]) @ (h @ p[1]).T)
    return (scores @ h @ p[2]).sum(0)


def batch_normalised(p, x):
    h = convolution(x[None], p["w"])
    h = (h - 0.3) * (lax.rsqrt(jnp.full(4, 0.7)) * p["scale"]) + p["shift"]
    pooled = lax.reduce_window(relu(h), -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    averaged = lax.reduce_window(pooled, 0.0, lax.add, (1, 2, 2, 1), (1, 1, 1, 1), "VALID")
    return jnp.concatenate([averaged.ravel()[:4], pooled.ravel()[:4]]) @ p["head"]


def hidden_bypass(p, x):
    """x is also read after the first layer: no head."""
    return relu(x @ p[0]) @ p[1][:, :3] + x[:3] * p[1][0, :3]


# Model, parameters, shape of x, and whether it is piecewise linear with short sums.
MODELS = {
    "ReLU": (mlp(relu), MLP, (6,), True),
    "leaky ReLU": (mlp(jax.nn.leaky_relu), MLP, (6,), True),
    "ReLU6": (mlp(lambda x: jax.nn.relu6(x)), MLP, (6,), True),
    "hard tanh": (mlp(jax.nn.hard_tanh), MLP, (6,), True),
    "hard sigmoid": (mlp(jax.nn.hard_sigmoid), MLP, (6,), True),
    "absolute value": (mlp(jnp.abs), MLP, (6,), True),
    "tanh": (mlp(jnp.tanh), MLP, (6,), True),
    "GELU": (mlp(jax.nn.gelu), MLP, (6,), True),
    "SiLU": (mlp(jax.nn.silu), MLP, (6,), True),
    "linear": (mlp(lambda x: x), MLP, (6,), True),
    "learned slopes": (
        lambda p, x: mlp(lambda h: jnp.where(h > 0, h, p[5] * h))(p, x),
        [*MLP, draw(5)],
        (6,),
        True,
    ),
    "learned kinks": (lambda p, x: jnp.maximum(x @ p[0], p[1]) @ p[2], MLP[:3], (6,), True),
    "normalised inputs": (lambda p, x: mlp(relu)(p, (x - 0.1) / 0.3), MLP, (6,), True),
    "narrow, normalised inputs": (
        lambda p, x: mlp(relu)(p, jnp.tile((x - 0.1) / 0.3, 2)),
        [draw(0, 24, 5), *MLP[1:]],
        (12,),
        True,
    ),
    "narrow": (
        lambda p, x: mlp(relu)(p, x.T.ravel()),
        [draw(0, 12, 5), *MLP[1:]],
        (3, 4),
        True,
    ),
    "bypass": (hidden_bypass, [draw(0, 12, 5), draw(1, 5, 5)], (12,), True),
    "convolution": (image_model(), image_params(), (6, 6, 2), True),
    "stride": (image_model(strides=2, padding="VALID"), image_params(), (10, 10, 2), True),
    "ragged stride": (image_model(strides=3, padding="VALID"), image_params(), (10, 9, 2), True),
    "dilation": (image_model(dilation=2), image_params(), (6, 7, 2), True),
    "groups": (image_model(groups=2), image_params(groups=2), (6, 6, 2), True),
    "transposed": (
        lambda p, x: (
            relu(lax.conv_transpose(relu(convolution(x[None], p[0])), p[1], (2, 2), "SAME")).ravel()[:40]
            @ p[3]
        ),
        image_params(),
        (4, 4, 2),
        True,
    ),
    "one dimension": (
        lambda p, x: (
            relu(
                lax.conv_general_dilated(x[None], p[0], (2,), "SAME", dimension_numbers=("NHC", "HIO", "NHC"))
            ).ravel()
            @ p[1]
        ),
        [draw(0, 3, 2, 4), draw(1, 16, 3)],
        (8, 2),
        True,
    ),
    "channels first": (
        lambda p, x: relu(lax.conv(x[None], p[0], (1, 1), "SAME")).ravel()[:20] @ p[1],
        [draw(0, 4, 2, 3, 3), draw(1, 20, 3)],
        (2, 5, 5),
        True,
    ),
    "pools, BN, concatenation": (
        batch_normalised,
        {"w": draw(0, 3, 3, 2, 4), "scale": draw(1, 4), "shift": draw(2, 4), "head": draw(3, 8, 3)},
        (6, 6, 2),
        True,
    ),
    "mixer": (separable_mixer, [draw(0, 5, 3), draw(1, 5, 4, 6), draw(2, 6, 3)], (12,), True),
    "weight normalisation": (
        weight_norm,
        [draw(0, 6, 5), draw(1, 5), draw(2, 5, 4), draw(3, 4), draw(4, 4, 3)],
        (6,),
        None,
    ),
    "tied": (tied, {"w": draw(0, 4, 4)}, (4,), None),
    "used twice": (
        lambda p, x: relu(relu(x @ p[0]) @ p[1]) @ p[1] + p[1][0, 0] * x[:4],
        [draw(0, 6, 4), draw(1, 4, 4)],
        (6,),
        None,
    ),
    "transposed weight": (
        lambda p, x: relu(x @ p[0].T) @ p[1].reshape(5, 3),
        [draw(0, 5, 6), draw(1, 15)],
        (6,),
        True,
    ),
    "division by a parameter": (lambda p, x: relu(x / p[0]) / p[1], [draw(0, 6), draw(1)], (6,), True),
    "steps": (gated_by_steps, [draw(0, 6, 5), draw(1, 5), draw(2, 5, 3)], (6,), True),
    "stopped": (
        lambda p, x: relu(lax.stop_gradient(x @ p[0]) * (x @ p[1])) @ p[2],
        [draw(0, 6, 5), draw(1, 6, 5), draw(2, 5, 3)],
        (6,),
        True,
    ),
    "straight through": (
        lambda p, x: straight_through(x @ p[0]) @ p[1],
        [draw(0, 6, 5), draw(1, 5, 3)],
        (6,),
        True,
    ),
    "surrogate slope": (lambda p, x: surrogate(x @ p[0]) @ p[1], [draw(0, 6, 5), draw(1, 5, 3)], (6,), True),
    "a rule of two arguments": (lambda p, x: jnp.logaddexp(x @ p[0], p[1]) @ p[2], MLP[:3], (6,), True),
    "sorted": (lambda p, x: jnp.sort(x @ p[0]) @ p[1], [draw(0, 6, 5), draw(1, 5, 3)], (6,), True),
    "table lookup": (
        lambda p, x: p[0][jnp.argmax(x)] @ p[1] * x.sum(),
        [draw(0, 6, 5), draw(1, 5, 3)],
        (6,),
        True,
    ),
    "Fourier": (
        lambda p, x: jnp.abs(jnp.fft.rfft(x @ p[0])) @ p[1],
        [draw(0, 6, 5), draw(1, 3, 3)],
        (6,),
        True,
    ),
    "attention": (attention, [draw(0, 2, 4), draw(1, 2, 4), draw(2, 2, 3)], (6,), False),
    "smooth convolution": (
        lambda p, x: jnp.tanh(convolution(x[None], p[0])).ravel()[:20] @ p[1],
        [draw(0, 3, 3, 2, 4), draw(1, 20, 3)],
        (4, 4, 2),
        False,
    ),
    "checkpointed": (lambda p, x: jax.checkpoint(mlp(relu))(p, x), MLP, (6,), True),
    "compiled inside": (lambda p, x: jax.jit(mlp(relu))(p, x), MLP, (6,), True),
    "gated by a cast": (
        lambda p, x: relu((x * x.astype(bool)) @ p[0]) @ p[1],
        [draw(0, 8, 3), draw(1, 3, 2)],
        (8,),
        True,
    ),
    "complex modulus": (
        lambda p, x: jnp.abs((x * (1 + 2j))[:4] @ p[0] + 1j * (x @ p[2])) @ p[1],
        [draw(0, 4, 3), draw(1, 3, 2), draw(2, 6, 3)],
        (6,),
        None,
    ),
    "complex weights": (
        lambda p, x: jnp.real((x.astype(complex) * 1j) @ p[0].astype(complex) * (1 + 1j)) ** 2 @ p[1],
        [draw(0, 6, 3), draw(1, 3, 2)],
        (6,),
        None,
    ),
    "positions": (
        lambda p, x: (relu(x @ p[0]) * jnp.arange(4)) @ p[1],
        [draw(0, 6, 4), draw(1, 4, 2)],
        (6,),
        True,
    ),
    "an empty layer": (
        lambda p, x: relu(x @ p[0]) @ p[1] + x[:2] * p[2],
        [draw(0, 6, 0), draw(1, 0, 2), draw(2)],
        (6,),
        None,
    ),
    "steps as integers": (
        lambda p, x: (
            lax.dot_general(
                (x > 0).astype(jnp.int8), p[0], (((0,), (0,)), ((), ())), preferred_element_type=jnp.float64
            )
            * x[:2]
        ),
        [draw(0, 6, 2)],
        (6,),
        None,
    ),
    "narrow inside": (
        lambda p, x: relu(x.astype(jnp.float32) @ p[0].astype(jnp.float32)).astype(jnp.float64) @ p[1],
        [draw(0, 12, 4), draw(1, 4, 2)],
        (12,),
        True,
    ),
    "logarithm of a square": (
        lambda p, x: jnp.log((x @ p[0]) ** 2) @ p[1],
        [draw(0, 3, 4), draw(1, 4, 2)],
        (3,),
        True,
    ),
    "stacked": (
        lambda p, x: relu(jnp.stack([x @ p[0], relu(x @ p[1])])).ravel() @ p[2],
        [draw(0, 6, 3), draw(1, 6, 3), draw(2, 6, 2)],
        (6,),
        True,
    ),
    "depthwise": (
        image_model(groups=4),
        [draw(0, 3, 3, 2, 4), draw(1, 3, 3, 1, 8), draw(2, 8), draw(3, 40, 3)],
        (4, 4, 2),
        True,
    ),
    "several images": (
        lambda p, x: relu(convolution(relu(convolution(x, p[0])), p[1])).ravel()[:40] @ p[3],
        image_params(),
        (3, 4, 4, 2),
        True,
    ),
    "branches": (
        lambda p, x: lax.cond(x[0] > 0, lambda h: h @ p[0], lambda h: -h @ p[0], x),
        [draw(0, 6, 3)],
        (6,),
        False,
    ),
    "own reverse rule": (mlp(own_reverse), MLP, (6,), False),
    "no input": (lambda p, x: jnp.tanh(p[0]) @ p[1], [draw(0, 5), draw(1, 5, 3)], (6,), True),
    "only steps": (
        lambda p, x: (x > 0) * p[0] + jnp.floor(x @ p[1]),
        [draw(0, 3), draw(1, 3, 3)],
        (3,),
        True,
    ),
}


def definition(f, params, xs):
    """The squared norm of d2f/dtheta dx at each example, of the sum of the outputs and of all of them."""

    def squares(x):
        # (K, *leaf, *shape) for each leaf.
        mixed = jax.tree.leaves(jax.jacfwd(lambda x: jax.jacrev(lambda p: f(p, x).ravel())(params))(x))
        return [
            sum(jnp.sum(leaf**2) for leaf in leaves)
            for leaves in ([leaf.sum(axis=0) for leaf in mixed], mixed)
        ]

    return jax.vmap(squares)(xs)


# Others of the same rule are among the quick ones.
# What others of the same kind cover.
LONGER = {
    *("GELU", "SiLU", "ReLU6", "leaky ReLU", "hard sigmoid", "hard tanh", "absolute value", "tanh"),
    *("depthwise", "dilation", "transposed", "ragged stride", "groups", "channels first", "several images"),
    *("weight normalisation", "narrow, normalised inputs", "complex modulus", "complex weights"),
    *("Fourier", "mixer", "learned kinks", "learned slopes", "steps", "transposed weight"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in LONGER else ()) for name in MODELS]
)
def test_every_operation_is_the_definition(name, x64):
    """Streaming, and the structured path where there is one, equal jacfwd of jacrev."""
    f, params, shape, structured = MODELS[name]
    params = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), jnp.float64), params)
    xs = jnp.asarray(np.random.default_rng(7).normal(size=(2, *shape)))
    chosen = tangent_method(f, params, xs[0])
    if structured is not None:
        assert chosen.method == ("structured" if structured else "streamed"), chosen.reason
    readable = "operation" not in chosen.reason

    @jax.jit
    def measure(params, xs):
        method = "structured" if readable else "auto"
        summed, whole = (
            tangent_sensitivity(f, params, xs, method=method, outputs=outputs) for outputs in ("sum", "all")
        )
        return summed, whole, tangent_sensitivity(f, params, xs, method="streamed"), definition(f, params, xs)

    summed, whole, streamed, expected = measure(params, xs)
    # The definition itself has the digits of what is inside.
    rtol = 1e-5 if name == "narrow inside" else 1e-9
    np.testing.assert_allclose([summed, whole], expected, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(streamed, expected[0], rtol=rtol, atol=1e-12)


def test_squares_do_not_leave_the_range_of_half_precision():
    """Parameters of 1e-4 and 300 in float16: the squares of what they give are beyond it."""
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(2, 8)), jnp.float32)
    for scale in (1e-4, 300.0):
        params = [jnp.asarray(scale * rng.normal(size=s), jnp.float16) for s in ((8, 3), (3, 2))]
        for activation in (relu, jnp.tanh):

            def f(p, x, activation=activation):
                hidden = activation(x.astype(jnp.float16) @ p[0])
                return hidden.astype(jnp.float32) @ p[1].astype(jnp.float32)

            measured = tangent_sensitivity(f, params, xs, method="structured")
            np.testing.assert_allclose(
                measured, tangent_sensitivity(f, params, xs, method="streamed"), rtol=1e-2, atol=1e-12
            )


def test_a_derivative_that_does_not_vary_has_no_negative_square():
    """d/dx of df/dw is 0 for f = log (w x)^2: rounding may not make the sum of squares negative."""
    w, xs = jnp.array([[0.7]]), jnp.array([[-1.3], [0.2], [4.0]])
    measured = tangent_sensitivity(lambda w, x: jnp.log((x @ w) ** 2), w, xs, method="structured")
    assert np.all(np.asarray(measured) >= 0)
    np.testing.assert_allclose(measured, 0, atol=1e-6)


def test_mutable_references_are_not_read():
    """What is written to one is no operand of what reads it."""

    def f(p, x):
        r = jax.new_ref(x * 1.0)
        r[...] = r[...] * p[0]
        return relu(r[...] @ p[1])

    params = [jnp.asarray(draw(i, *shape), jnp.float32) for i, shape in enumerate(((6,), (6, 5)))]
    chosen = tangent_method(f, params, jnp.ones(6))
    assert chosen.method == "streamed"
    assert "reference" in chosen.reason


def test_outputs_must_be_one_floating_array(plain):
    w, xs = jnp.ones((2, 3)), jnp.ones((1, 2))
    for f in (
        lambda w, x: (x @ w, 0),
        lambda w, x: (x @ w).astype(int),
        lambda w, x: (x @ w).astype(complex),
    ):
        with pytest.raises(InputError, match="one array of real floating numbers"):
            tangent_sensitivity(f, w, xs)


def test_leaves_of_modules_that_look_like_arrays_are_constants():
    w, xs = jnp.ones((2, 3)), jnp.ones((1, 2))
    params = {
        "w": w,
        "dtype": np.float32,
        "kind": jnp.float32,
        "shape": jax.ShapeDtypeStruct((2,), jnp.float32),
    }
    measured = tangent_sensitivity(lambda p, x: x @ p["w"], params, xs)
    np.testing.assert_allclose(measured, [6.0])


def random_state(state, seed):
    """Statistics of batch normalisation that are not 0 and 1, means near 0 so that units stay alive."""
    rng = np.random.default_rng(seed)

    def fill(path, leaf):
        name = jax.tree_util.keystr(path)
        value = rng.uniform(0.5, 2, leaf.shape) if "var" in name else rng.normal(size=leaf.shape) / 10
        return jnp.asarray(value, leaf.dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree_util.tree_map_with_path(fill, state)


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (fully_connected(3, 8, batch_norm=True), (4, 4, 1)),
        (cnn(2, 3, batch_norm=True, max_pool=True, init="HN"), (12, 12, 2)),
        pytest.param(alexnet(4, hidden=16), (32, 32, 1), marks=pytest.mark.slow),
        pytest.param(vgg(11, 1 / 32), (32, 32, 1), marks=pytest.mark.slow),
        pytest.param(resnet(18, 1 / 32), (8, 8, 1), marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_networks_of_the_zoo_equal_streamed(config, shape):
    network = build(config, input_shape=shape, num_outputs=4)
    params, state = network.init(jax.random.key(0))
    f = network.function(random_state(state, 1))
    xs = jnp.asarray(np.random.default_rng(2).uniform(size=(1, *shape)), jnp.float32)
    assert tangent_method(f, params, xs[0]) == ("structured", "the model is piecewise linear")
    measured = tangent_sensitivity(f, params, xs)
    assert measured > 0
    np.testing.assert_allclose(measured, tangent_sensitivity(f, params, xs, method="streamed"), rtol=1e-4)


@pytest.mark.parametrize(
    ("config", "side"), [(resnet(18, 1 / 32), 16), (vgg(11, 1 / 32), 32)], ids=["resnet", "few pixels"]
)
def test_no_tangent_has_the_size_of_a_large_weight(config, side):
    """The plan of a real network measures each kernel by its product; BN's scales, small, are left."""
    network = build(config, input_shape=(side, side, 3), num_outputs=10)
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    state = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), state)
    leaves, tree = jax.tree.flatten(params)
    f = network.function(state)
    example = jax.ShapeDtypeStruct((side, side, 3), jnp.float32)
    plan = make_plan(trace(lambda leaves, x: f(jax.tree.unflatten(tree, leaves), x), leaves, example))
    kernels = [i for i, leaf in enumerate(leaves) if leaf.ndim > 1]
    assert sorted(site.leaf for site in plan.products) == kernels
    assert all(leaves[i].ndim == 1 for site in plan.others for i in site.leaves)


def test_a_module_of_another_library_is_read_too(x64):
    """Flax NNX's own layers and pools, called as they are."""

    class Model(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(2, 3, (3, 3), param_dtype=jnp.float64, rngs=rngs)
            self.norm = nnx.BatchNorm(3, param_dtype=jnp.float64, rngs=rngs)
            self.dense = nnx.Linear(12, 3, param_dtype=jnp.float64, rngs=rngs)

        def __call__(self, x):
            h = relu(self.norm(self.conv(x), use_running_average=True))
            return self.dense(nnx.max_pool(h, (2, 2), (2, 2)).reshape(1, -1))

    graph, params, state = nnx.split(Model(nnx.Rngs(0)), nnx.Param, ...)

    def f(p, x):
        return nnx.merge(graph, p, state, copy=True)(x[None])[0]

    xs = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4, 2)))
    assert tangent_method(f, params, xs[0]).method == "structured"
    for outputs in ("sum", "all"):
        np.testing.assert_allclose(
            tangent_sensitivity(f, params, xs, outputs=outputs),
            tangent_sensitivity(f, params, xs, outputs=outputs, method="dense"),
            rtol=1e-9,
        )


@pytest.mark.parametrize("shape", [(7, 3), (3, 7), (4, 4)])
def test_factor_keeps_the_gram_matrix_and_its_derivative(shape, x64):
    a, da = draw(0, *shape), jnp.asarray(draw(1, *shape))
    a[:, 0] = a[:, 1]  # of less than full rank
    a = jnp.asarray(a)
    factor, tangent = jax.jvp(lambda a: (lambda r: r.T @ r)(right_factor(a)), (a,), (da,))
    np.testing.assert_allclose(factor, a.T @ a, atol=1e-12)
    np.testing.assert_allclose(tangent, a.T @ da + da.T @ a, atol=1e-12)
