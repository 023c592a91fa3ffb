"""compare: checkpoints of one architecture share their programs, and nothing else does."""

import dataclasses
import functools

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxsens.adapters import from_equinox, from_function, from_haiku, from_linen, from_nnx, from_torch
from jaxsens.adapters.torch_layers import layer_slots
from jaxsens.checks import InputError
from jaxsens.measuring import compare, measure
from jaxsens.models import fully_connected

KEY = jax.random.key(4)
XS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)
BY, ALSO = "jacobian_norm", ["output_sensitivity", "tangent_sensitivity", "log_path_norm"]


@pytest.fixture(scope="module")
def compilations():
    """The names of all programs that are compiled, from now on, or read from where they are kept."""
    found = []

    def listen(name, seconds, **_):
        if name == "/jax/core/compile/backend_compile_duration":
            found.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.unregister_event_duration_listener(listen)


# One network with batch normalisation in every library, of other weights and statistics for each seed, and
# with a number that is static.


class NNXModel(nnx.Module):
    def __init__(self, seed, scale):
        rngs = nnx.Rngs(seed)
        self.hidden, self.norm = nnx.Linear(6, 5, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.output, self.scale = nnx.Linear(5, 3, rngs=rngs), scale
        self.norm.mean[...] += 0.1 * seed
        self.calls = nnx.Variable(jnp.array(seed))

    def __call__(self, xs):
        return self.output(self.dropout(jax.nn.relu(self.norm(self.hidden(xs))))) * self.scale


def nnx_model(seed, scale=1.0):
    return from_nnx(NNXModel(seed, scale))


class LinenModel(linen.Module):
    scale: float

    @linen.compact
    def __call__(self, xs, train, gain=1.0):
        xs = linen.BatchNorm(use_running_average=not train)(linen.Dense(5)(xs))
        return linen.Dense(3)(jax.nn.relu(xs)) * self.scale * gain


def with_statistics(tree, seed):
    return jax.tree.map(lambda leaf: leaf + 0.1 * seed, tree)


def linen_model(seed, scale=1.0, gain=1.0):
    module = LinenModel(scale)
    variables = dict(module.init(jax.random.key(seed), XS, train=False))
    variables["batch_stats"] = with_statistics(variables["batch_stats"], seed)
    return from_linen(module, variables, arguments={"train": False, "gain": gain})


class EquinoxModel(eqx.Module):
    hidden: eqx.nn.Linear
    norm: eqx.nn.BatchNorm
    output: eqx.nn.Linear
    scale: float
    power: float = eqx.field(static=True)

    def __init__(self, key, scale, power):
        keys = jax.random.split(key)
        self.hidden, self.output = eqx.nn.Linear(6, 5, key=keys[0]), eqx.nn.Linear(5, 3, key=keys[1])
        self.norm, self.scale, self.power = eqx.nn.BatchNorm(5, "batch", mode="ema"), scale, power

    def __call__(self, x, state, key):
        x, state = self.norm(self.hidden(x), state)
        return self.output(jax.nn.relu(x)) * self.scale * 2.0**self.power, state


def equinox_model(seed, scale=1.0, power=0.0):
    model, state = eqx.nn.make_with_state(EquinoxModel)(jax.random.key(seed), scale, power)
    moved = jax.tree.map(lambda a: a + 0.1 * (seed + 1) if a.dtype == jnp.float32 else a & False, state)
    return from_equinox(model, state=moved)


def haiku_function(xs, scale, is_training=False):
    norm = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)
    return hk.Linear(3)(jax.nn.relu(norm(hk.Linear(5)(xs), is_training))) * scale


HAIKU = hk.transform_with_state(haiku_function)


def haiku_model(seed, scale=1.0):
    params, state = HAIKU.init(jax.random.key(seed), XS, 1.0, is_training=True)
    state = {name: with_statistics(tree, seed + 1) for name, tree in state.items()}
    return from_haiku(HAIKU, params, state=state, arguments={"scale": scale})


CONFIG = fully_connected(1, 5, batch_norm=True)


def torch_model(seed, config=CONFIG):
    rng, arrays = np.random.default_rng(seed), {}
    for slot in layer_slots(config, (6,), 3):
        name = ".".join(map(str, slot.place))
        arrays |= {f"{name}.{end}": rng.random(size, np.float32) for end, size in slot.shapes.items()}
    return from_torch(arrays, config, input_shape=(6,), num_outputs=3)


def plain(scale, params, xs):
    return jax.nn.relu(xs @ params[0]) @ params[1] * scale


def above(floor, params, xs):
    return jnp.maximum(plain(1.0, params, xs), floor)


def scaled_by_a_parameter(params, x):
    return plain(params[1], params[0], x)


def weights(seed):
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((6, 5), (5, 3))]


def partial_of_a_function(seed):
    """Without an adapter: what is held in a pytree that can be called."""
    return jax.tree_util.Partial(plain, jnp.float32(1 + seed)), weights(seed)


SAME = functools.partial(plain, 1.0)
MODELS = {
    "nnx": nnx_model,
    "linen": linen_model,
    "equinox": equinox_model,
    "haiku": haiku_model,
    "torch": torch_model,
    "function": lambda seed: from_function(SAME, weights(seed)),
    "the same function": lambda seed: (SAME, weights(seed)),
    "a Partial": partial_of_a_function,
}


@pytest.fixture(scope="module")
def warm(compilations):
    """What is not of a network, such as splitting a key, is compiled once and for all."""
    compare({str(seed): (SAME, weights(seed)) for seed in range(2)}, XS, key=KEY, by=BY)


@pytest.mark.parametrize("library", MODELS)
def test_five_checkpoints_compile_what_two_do(library, compilations, warm):
    """The same numbers, whichever of them the programs were made of."""
    models = {str(seed): MODELS[library](seed) for seed in range(5)}
    also = ALSO if library == "nnx" else []

    def compared(*names):
        compilations.clear()
        found = compare({name: models[name] for name in names}, XS, key=KEY, by=BY, also=also)
        return found, len(compilations)

    (of_all, of_five), (of_last, of_two) = compared(*"01234"), compared("4", "3")
    assert of_two == 1 + len(also)
    # Three more models would compile three more at least; operations on constants alone may, once.
    assert of_five < of_two + 3
    assert len({row.value for row in of_all}) == 5
    for name in "34":
        values, own = (
            [row.value, *(v for v, _ in row.also.values())] for row in (of_all[name], of_last[name])
        )
        np.testing.assert_allclose(values, own, rtol=1e-6)


# Two models, and by how much the second is steeper.
OTHERS = {
    "an attribute of an NNX module": (nnx_model(1), nnx_model(1, scale=3.0), 3),
    "a field of a Linen module": (linen_model(1), linen_model(1, scale=3.0), 3),
    "an argument of the call": (linen_model(1), linen_model(1, gain=3.0), 3),
    "a leaf of an Equinox model": (equinox_model(1), equinox_model(1, scale=3.0), 3),
    "a static field of an Equinox model": (equinox_model(1), equinox_model(1, power=3.0), 8),
    "an argument of a Haiku function": (haiku_model(1), haiku_model(1, scale=3.0), 3),
    "the configuration": (
        torch_model(1),
        torch_model(1, dataclasses.replace(CONFIG, activation="hard_sigmoid")),
        None,
    ),
    "what a function closes over": (
        from_function(functools.partial(plain, 1.0), weights(1)),
        from_function(functools.partial(plain, 3.0), weights(1)),
        3,
    ),
    "what a plain function closes over": (
        (functools.partial(plain, 1.0), weights(1)),
        (functools.partial(plain, 3.0), weights(1)),
        3,
    ),
    "a leaf of a Partial": (
        (jax.tree_util.Partial(plain, 1.0), weights(1)),
        (jax.tree_util.Partial(plain, 3.0), weights(1)),
        3,
    ),
    "a leaf of the parameters": (
        (scaled_by_a_parameter, (weights(1), 1.0)),
        (scaled_by_a_parameter, (weights(1), 3.0)),
        3,
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_models_that_differ_in_one_static_number_share_nothing(case):
    """They have the same arrays: with one program for both their numbers would agree."""
    *pair, steeper = OTHERS[case]
    found = compare(dict(zip("ab", pair, strict=True)), XS, key=KEY, by=BY)
    if steeper is None:
        own = [measure(*model, XS, key=KEY, measures=BY)[BY].value for model in pair]
        np.testing.assert_allclose([found["a"].value, found["b"].value], own, rtol=1e-6)
        steeper = own[1] / own[0]
    assert abs(steeper - 1) > 0.5
    np.testing.assert_allclose(found["b"].value / found["a"].value, steeper, rtol=1e-5)


def test_a_path_norm_that_needs_the_signs_of_what_is_held():
    """As an argument of a program they could not be looked at."""
    models = {str(i): (jax.tree_util.Partial(above, jnp.zeros(3)), weights(i)) for i in range(2)}
    found = compare(models, XS, key=KEY, by="log_path_norm")
    for name, (_, params) in models.items():
        own = measure(
            functools.partial(above, np.zeros(3, np.float32)), params, XS, key=KEY, measures="log_path_norm"
        )
        np.testing.assert_allclose(found[name].value, own["log_path_norm"].value, rtol=1e-6)
    below = {
        name: (jax.tree_util.Partial(above, jnp.ones(3)), params) for name, (_, params) in models.items()
    }
    with pytest.raises(InputError, match="a maximum with a constant that is not known to be 0 or less"):
        compare(below, XS, key=KEY, by="log_path_norm")


def test_models_of_other_shapes_or_dtypes_share_nothing():
    rng = np.random.default_rng(0)

    def of_width(width, dtype=np.float32):
        return [jnp.asarray(rng.normal(size=shape), dtype) for shape in ((6, width), (width, 3))]

    models = {"5": (SAME, of_width(5)), "7": (SAME, of_width(7)), "narrow": (SAME, of_width(5, jnp.bfloat16))}
    found = compare(models, XS, key=KEY, by=BY)
    for name, model in models.items():
        own = measure(*model, XS, key=KEY, measures=[BY])
        np.testing.assert_allclose(found[name].value, own[BY].value, rtol=1e-6)


def test_a_function_under_jit_takes_f_as_an_argument():
    """Metrics are compiled once for all checkpoints, where jit is given f, not told to close over it."""
    traced = []

    @jax.jit
    def outputs(f, params, xs):
        traced.append(1)
        return jax.vmap(f, (None, 0))(params, xs)

    models = [nnx_model(seed) for seed in range(3)]
    for f, params in models:
        own = jnp.stack([f(params, x) for x in jnp.asarray(XS[:2])])
        np.testing.assert_allclose(outputs(f, params, XS[:2]), own, rtol=1e-5)
    assert len(traced) == 1
    outputs(*nnx_model(0, scale=3.0), XS[:2])
    assert len(traced) == 2
    assert hash(models[0].f) != hash(models[1].f)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(models[0].f))
