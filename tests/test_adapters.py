"""Every adapter gives the library's own outputs in evaluation mode, and leaves the caller's model alone."""

import functools
import subprocess
import sys
from typing import NamedTuple

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from jaxsens.adapters import (
    Adapted,
    from_equinox,
    from_function,
    from_haiku,
    from_linen,
    from_nnx,
)
from jaxsens.checks import InputError
from jaxsens.metrics import input_jacobian_norm, output_sensitivity, tangent_method, tangent_sensitivity

SHAPE, CHANNELS, OUTPUTS = (4, 4, 2), 3, 4


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


XS = normal(0, 6, *SHAPE)


class Case(NamedTuple):
    """An adapted model, the library's own call on a batch, what must stay as it was, and examples."""

    adapted: Adapted
    own: object
    caller: object
    xs: jax.Array = XS


class NNXModel(nnx.Module):
    """With everything that evaluation mode is about, a counter, and whole numbers."""

    def __init__(self, *, rngs):
        self.conv = nnx.Conv(SHAPE[-1], CHANNELS, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(CHANNELS, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4 * 4 * CHANNELS, OUTPUTS, rngs=rngs)
        self.calls = nnx.Variable(jnp.array(0))
        self.version = nnx.Variable(1)

    def __call__(self, xs, *, train=None):
        self.calls[...] += 1
        known = train is not None
        ys = self.norm(self.conv(xs), **({"use_running_average": not train} if known else {}))
        ys = self.dropout(jnp.tanh(ys), **({"deterministic": not train} if known else {}))
        return self.dense(ys.reshape(len(ys), -1))


@functools.cache
def trained_nnx_model():
    model = NNXModel(rngs=nnx.Rngs(0))
    nnx.jit(lambda model: model(5 * XS + 9))(model)  # Moves the running averages.
    return model


def nnx_model():
    return nnx.clone(trained_nnx_model())


def nnx_case():
    model = nnx_model()
    evaluating = nnx.clone(model)
    evaluating.eval()
    # A clone, since the counter moves, which it may not across traces.
    return Case(from_nnx(model), lambda xs: nnx.clone(evaluating)(xs), lambda: nnx.state(model))


class LinenModel(linen.Module):
    """The same in Linen."""

    @linen.compact
    def __call__(self, xs, train=True):
        ys = linen.BatchNorm(use_running_average=not train)(linen.Conv(CHANNELS, (3, 3))(xs))
        ys = linen.Dropout(0.5, deterministic=not train)(jnp.tanh(ys))
        return linen.Dense(OUTPUTS)(ys.reshape(len(ys), -1))

    def features(self, xs):
        return xs.mean(axis=(1, 2))


@functools.cache
def linen_model():
    module = LinenModel()
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    variables = jax.jit(module.init)(keys, XS)
    step = functools.partial(module.apply, mutable=["batch_stats"], rngs={"dropout": keys["dropout"]})
    return module, variables | jax.jit(step)(variables, 2 * XS + 1)[1]


def linen_case():
    module, variables = linen_model()
    adapted = from_linen(module, variables, arguments={"train": False})
    return Case(adapted, lambda xs: module.apply(variables, xs, train=False), lambda: variables)


class EquinoxModel(eqx.Module):
    """The same in Equinox, which has channels first and one example, with a key for its dropout."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    dropout: eqx.nn.Dropout
    dense: eqx.nn.Linear
    table: jax.Array

    def __init__(self, key, mode="batch"):
        keys = jax.random.split(key)
        self.conv = eqx.nn.Conv2d(SHAPE[-1], CHANNELS, 3, padding=1, key=keys[0])
        self.norm = eqx.nn.BatchNorm(CHANNELS, "batch", mode=mode)
        self.dropout = eqx.nn.Dropout(0.5)
        self.dense = eqx.nn.Linear(4 * 4 * CHANNELS, OUTPUTS, key=keys[1])
        self.table = jnp.arange(3)

    def __call__(self, x, state, key):
        first, _ = jax.random.split(key)
        y, state = self.norm(self.conv(x), state)
        return self.dense(self.dropout(jnp.tanh(y), key=first).ravel()), state


@functools.cache
def equinox_model(mode="batch"):
    model, state = eqx.nn.make_with_state(EquinoxModel)(jax.random.key(0), mode=mode)
    keys, xs = jax.random.split(jax.random.key(1), 6), jnp.moveaxis(XS, -1, 1)
    step = jax.vmap(model, axis_name="batch", in_axes=(0, None, 0), out_axes=(0, None))
    return model, jax.jit(step)(2 * xs + 1, state, keys)[1]


def equinox_case(mode):
    model, state = equinox_model(mode)
    evaluating = eqx.nn.inference_mode(model)
    batched = jax.vmap(evaluating, in_axes=(0, None, None), out_axes=(0, None))
    return Case(
        from_equinox(model, state=state),
        lambda xs: batched(xs, state, jax.random.key(7))[0],
        lambda: (eqx.filter(model, eqx.is_array), state),
        jnp.moveaxis(XS, -1, 1),
    )


def haiku_function(xs, is_training=True):
    """The same in Haiku."""
    ys = hk.BatchNorm(create_scale=True, create_offset=True, decay_rate=0.9)(
        hk.Conv2D(CHANNELS, 3)(xs), is_training
    )
    ys = jnp.tanh(ys)
    if is_training:
        ys = hk.dropout(hk.next_rng_key(), 0.5, ys)
    return hk.Linear(OUTPUTS)(hk.Flatten()(ys))


@functools.cache
def haiku_model():
    transformed = hk.transform_with_state(haiku_function)
    params, state = jax.jit(transformed.init)(jax.random.key(0), XS)
    _, state = jax.jit(transformed.apply)(params, state, jax.random.key(1), 2 * XS + 1)
    return transformed, params, state


def haiku_case(change=lambda transformed: transformed):
    transformed, params, state = haiku_model()
    adapted = from_haiku(change(transformed), params, state=state, arguments={"is_training": False})
    return Case(
        adapted,
        lambda xs: transformed.apply(params, state, None, xs, is_training=False)[0],
        lambda: (params, state),
    )


def function_case():
    params = {"w": np.asarray(normal(1, 32, OUTPUTS)) / 7, "b": normal(2, OUTPUTS)}

    def logits(params, xs):
        return jnp.tanh(xs.reshape(len(xs), -1)) @ params["w"] + params["b"]

    adapted = from_function(logits, params, batched=True)
    return Case(adapted, lambda xs: logits(params, xs), lambda: params)


CASES = {
    "nnx": nnx_case,
    "linen": linen_case,
    "equinox": lambda: equinox_case("batch"),
    "equinox-ema": lambda: equinox_case("ema"),
    "haiku": haiku_case,
    "haiku-without-rng": lambda: haiku_case(hk.without_apply_rng),
    "function": function_case,
}


@functools.cache
def case_of(name):
    """Built once, in single precision, whatever the test's own."""
    with jax.enable_x64(False):
        return CASES[name]()


def leaves(tree):
    """The arrays as NumPy's own copies; random keys as their numbers."""

    def numbers(leaf):
        is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.array(jax.random.key_data(leaf) if is_key else leaf)

    return [numbers(leaf) for leaf in jax.tree.leaves(tree)]


def assert_close(actual, desired, rtol=1e-6):
    scale = np.abs(desired).max()
    np.testing.assert_allclose(np.asarray(actual) / scale, np.asarray(desired) / scale, rtol=0, atol=rtol)


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_the_librarys_own_and_its_objects_stay(name):
    case = case_of(name)
    before = leaves(case.caller())
    f, params = case.adapted

    @jax.jit
    def outputs(params, xs):
        return case.own(xs), jnp.stack([f(params, x) for x in xs[:2]]), jax.vmap(f, (None, 0))(params, xs)

    own, one_by_one, mapped = outputs(params, case.xs)
    assert own.shape == (6, OUTPUTS)
    assert_close(one_by_one, own[:2])
    assert_close(mapped, own)
    assert all(jnp.issubdtype(leaf.dtype, jnp.inexact) for leaf in jax.tree.leaves(params))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(params))
    for old, new in zip(before, leaves(case.caller()), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("name", ["nnx", "equinox"])
def test_second_derivatives_are_central_differences(name, x64):
    """d/dx of the gradients, along one direction, in float64."""
    case = case_of(name)
    f, params = case.adapted
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    x, v = case.xs[0].astype(jnp.float64), normal(3, *case.xs.shape[1:]).astype(jnp.float64)

    @jax.jit
    def gradient(x):
        return jax.grad(lambda params: jnp.sum(jnp.sin(f(params, x))))(params)

    exact = jax.jit(jax.jacfwd(lambda t: gradient(x + t * v)))(0.0)
    up, down = (gradient(x + t * v) for t in (1e-5, -1e-5))
    for a, u, d in zip(*map(jax.tree.leaves, (exact, up, down)), strict=True):
        np.testing.assert_allclose(a, (u - d) / 2e-5, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    "name", ["nnx", "equinox", *(pytest.param(name, marks=pytest.mark.slow) for name in ("linen", "haiku"))]
)
def test_measures_run_on_it(name):
    """S is that of the library's own call, and tangent sensitivity that of the definition."""
    case = case_of(name)
    xs, key = case.xs[:3], jax.random.key(0)
    f, params = case.adapted

    @jax.jit
    def both(params, xs):
        measured = output_sensitivity(f, params, xs, key=key)
        return measured, output_sensitivity(lambda params, x: case.own(x[None])[0], {}, xs, key=key)

    np.testing.assert_allclose(*both(params, xs), rtol=1e-4)

    def dense(x):
        rows = jax.jacfwd(jax.grad(lambda params, x: jnp.sum(f(params, x))), argnums=1)(params, x)
        return sum(jnp.sum(row**2) for row in jax.tree.leaves(rows))

    norms = jax.jit(lambda params, xs: tangent_sensitivity(f, params, xs))(params, xs)
    np.testing.assert_allclose(norms, jax.jit(jax.vmap(dense))(xs), rtol=1e-4)


def test_a_piecewise_linear_network_is_still_read_as_one():
    """The wrapping hides nothing from the structured path."""
    model = nnx.Sequential(
        nnx.Linear(6, 5, rngs=nnx.Rngs(0)), jax.nn.relu, nnx.Linear(5, 3, rngs=nnx.Rngs(1))
    )
    assert tangent_method(*from_nnx(model), jnp.ones(6)).method == "structured"
    assert tangent_method(*from_nnx(model, batched=False), jnp.ones(6)).method == "structured"


def test_stacked_parameters_are_an_ensemble():
    f, params = case_of("nnx").adapted
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), params)
    norms = jax.jit(jax.vmap(lambda params: input_jacobian_norm(f, params, XS[:2])))(stacked)
    np.testing.assert_allclose(
        norms[1], jax.jit(input_jacobian_norm, static_argnums=0)(f, params, XS[:2]), rtol=1e-5
    )


class TestNNX:
    """Flags, later training, and training mode by the back door."""

    def test_the_callers_flags_stay_and_its_later_training_has_no_effect(self):
        model = nnx_model()
        f, params = from_nnx(model)
        before = jax.jit(f)(params, XS[0])
        assert not model.norm.use_running_average
        assert not model.dropout.deterministic
        calls = int(model.calls[...])
        model(normal(0, 8, *SHAPE))
        model.dense.bias[...] += 1
        np.testing.assert_array_equal(jax.jit(f)(params, XS[0]), before)
        assert int(model.calls[...]) == calls + 1

    def test_statistics_of_numpy_as_a_checkpoint_has_them(self):
        model = nnx_model()
        nnx.update(model, jax.tree.map(np.asarray, nnx.state(model, (nnx.Param, nnx.BatchStat))))
        f, params = from_nnx(model)
        np.testing.assert_allclose(jax.jit(f)(params, XS[0]), case_of("nnx").own(XS[:1])[0], rtol=1e-5)

    def test_arguments_reach_the_call(self):
        model = nnx_model()
        f, params = from_nnx(model, arguments={"train": False})
        np.testing.assert_allclose(jax.jit(f)(params, XS[0]), case_of("nnx").own(XS[:1])[0], rtol=1e-5)

    @pytest.mark.parametrize("transform", [lambda f: f, jax.jit])
    def test_training_mode_is_refused(self, transform):
        """A flag at the call goes before eval(): batch statistics of one example are finite, and wrong."""
        f, params = from_nnx(nnx_model(), arguments={"train": True})
        with pytest.raises(InputError, match=r"changes the state.*norm.*evaluation mode.*arguments"):
            transform(f)(params, XS[0])

    def test_dropout_alone_is_refused_too(self):
        class Noisy(nnx.Module):
            def __init__(self, *, rngs):
                self.dense = nnx.Linear(3, 2, rngs=rngs)
                self.dropout = nnx.Dropout(0.5, rngs=rngs)

            def __call__(self, xs):
                return self.dropout(self.dense(xs), deterministic=False)

        f, params = from_nnx(Noisy(rngs=nnx.Rngs(0)))
        with pytest.raises(InputError, match=r"changes the state.*count.*without dropout"):
            jax.eval_shape(f, params, jnp.ones(3))

    def test_only_floating_parameters(self):
        class Quantised(nnx.Module):
            def __init__(self):
                self.kernel = nnx.Param(jnp.ones((3, 2), jnp.int8))

        with pytest.raises(InputError, match=r"kernel.*int8; expected floating arrays"):
            from_nnx(Quantised())

    def test_other_modules_are_refused(self, plain):
        with pytest.raises(InputError, match="got a model of type LinenModel; expected a flax"):
            from_nnx(LinenModel())


class TestLinen:
    """Collections, methods and training mode."""

    def test_variables_are_the_collections(self, plain):
        module, variables = linen_model()
        with pytest.raises(InputError, match=r"variables with \['Conv_0'.*'params' among them"):
            from_linen(module, {"Conv_0": variables["params"]["Conv_0"], "Dense_0": {}})
        with pytest.raises(InputError, match=r"type NNXModel; expected a flax.linen.Module"):
            from_linen(nnx_model(), variables)

    @pytest.mark.parametrize("variables", ["all", "params alone"])
    def test_training_mode_is_refused(self, variables):
        module, given = linen_model()
        f, params = from_linen(module, given)
        with pytest.raises(InputError, match=r"training mode.*arguments=\{'train': False\}"):
            jax.eval_shape(f, params, XS[0])

    def test_dropout_alone_is_refused_too(self):
        module = linen.Sequential([linen.Dense(2), linen.Dropout(0.5, deterministic=False)])
        variables = module.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, jnp.ones((1, 3)))
        f, params = from_linen(module, variables)
        with pytest.raises(InputError, match="training mode"):
            jax.eval_shape(f, params, jnp.ones(3))

    def test_another_method(self):
        module, variables = linen_model()
        f, params = from_linen(module, variables, method="features")
        np.testing.assert_allclose(f(params, XS[0]), XS[0].mean(axis=(0, 1)), rtol=1e-6)

    def test_numpy_arrays_are_copied(self):
        module, variables = linen_model()
        loaded = jax.tree.map(np.array, variables)
        _, params = from_linen(module, loaded, arguments={"train": False})
        loaded["params"]["Dense_0"]["kernel"][:] = 0
        for taken, own in zip(jax.tree.leaves(params), jax.tree.leaves(variables["params"]), strict=True):
            np.testing.assert_array_equal(taken, own)


class TestEquinox:
    """Partition, state, and keys."""

    def test_flags_and_state_stay_and_whole_numbers_are_no_parameters(self):
        model, state = equinox_model()
        f, params = from_equinox(model, state=state)
        jax.eval_shape(f, params, jnp.moveaxis(XS[0], -1, 0))
        assert not model.dropout.inference
        assert not model.norm.inference
        state.get(model.norm.batch_counter)  # Still usable.
        assert params.table is None
        assert len(jax.tree.leaves(params)) == 6

    def test_what_a_state_starts_from_is_no_parameter(self):
        built = EquinoxModel(jax.random.key(0))
        state, params = eqx.nn.State(built), from_equinox(built, state=eqx.nn.State(built)).params
        assert len(jax.tree.leaves(params)) == 6
        assert isinstance(state, eqx.nn.State)

    def test_a_batched_model_and_arguments(self):
        def call(model, xs, scale):
            return scale * jax.vmap(model)(xs)

        class Batched(eqx.Module):
            inner: eqx.nn.MLP

            def __call__(self, xs, *, scale):
                return call(self.inner, xs, scale)

        mlp = eqx.nn.MLP(3, 2, 4, 1, key=jax.random.key(0))
        f, params = from_equinox(Batched(mlp), batched=True, arguments={"scale": 2.0})
        np.testing.assert_allclose(f(params, jnp.ones(3)), 2 * mlp(jnp.ones(3)), rtol=1e-6)

    def test_an_output_that_depends_on_the_key_is_refused(self):
        class Noisy(eqx.Module):
            dense: eqx.nn.Linear

            def __call__(self, x, key=None):
                return self.dense(x + jax.random.normal(key, x.shape))

        model = Noisy(eqx.nn.Linear(3, 2, key=jax.random.key(0)))
        f, params = from_equinox(model)
        for call in (f, jax.grad(lambda params, x: f(params, x).sum())):
            with pytest.raises(InputError, match="depends on its key"):
                jax.eval_shape(call, params, jnp.ones(3))
        f, params = from_equinox(model, arguments={"key": jax.random.key(3)})
        np.testing.assert_allclose(f(params, jnp.ones(3)), model(jnp.ones(3), jax.random.key(3)), rtol=1e-6)

    def test_a_state_that_moves_is_refused(self):
        class Moving(eqx.Module):
            dense: eqx.nn.Linear
            mean: eqx.nn.StateIndex

            def __init__(self, key):
                self.dense, self.mean = eqx.nn.Linear(3, 2, key=key), eqx.nn.StateIndex(jnp.zeros(3))

            def __call__(self, x, state):
                return self.dense(x), state.set(self.mean, state.get(self.mean) + x)

        model, state = eqx.nn.make_with_state(Moving)(jax.random.key(0))
        f, params = from_equinox(model, state=state)
        with pytest.raises(InputError, match=r"changes the state.*evaluation mode"):
            jax.eval_shape(f, params, jnp.ones(3))
        state.get(model.mean)

    def test_states_and_models_go_together(self):
        model, state = equinox_model()
        with pytest.raises(InputError, match="stateful model with state of type NoneType"):
            from_equinox(model)
        with pytest.raises(InputError, match="stateless model with state of type State"):
            from_equinox(eqx.nn.Linear(3, 2, key=jax.random.key(0)), state=state)
        with pytest.raises(InputError, match="params without an array"):
            from_equinox(jnp.tanh)


class TestHaiku:
    """Transformed functions with and without state, key and training."""

    def test_without_state(self):
        transformed = hk.transform(lambda xs: hk.nets.MLP([4, 3])(xs))
        params = jax.jit(transformed.init)(jax.random.key(0), jnp.ones((2, 5)))
        own = jax.jit(transformed.apply)(params, None, jnp.ones((1, 5)))[0]
        for given in (transformed, hk.without_apply_rng(transformed)):
            f, _ = from_haiku(given, params)
            np.testing.assert_allclose(jax.jit(f)(params, jnp.ones(5)), own, rtol=1e-6)

    def test_training_mode_is_refused(self):
        def training(xs):
            return hk.Linear(2)(hk.BatchNorm(True, True, 0.9)(xs, is_training=True))

        transformed = hk.transform_with_state(training)
        params, state = jax.jit(transformed.init)(jax.random.key(0), jnp.ones((2, 5)))
        f, _ = from_haiku(transformed, params, state=state)
        with pytest.raises(InputError, match=r"changes the state.*is_training"):
            jax.eval_shape(f, params, jnp.ones(5))

    def test_a_random_key_is_refused(self):
        transformed, params, state = haiku_model()
        f, _ = from_haiku(transformed, params, state=state)
        with pytest.raises(ValueError, match="PRNGKey"):
            jax.eval_shape(f, params, XS[0])

    def test_state_and_function_go_together(self):
        transformed, params, state = haiku_model()
        with pytest.raises(InputError, match="TransformedWithState with state of type NoneType"):
            from_haiku(transformed, params)
        with pytest.raises(InputError, match="Transformed with state of type"):
            from_haiku(hk.transform(lambda xs: xs), params, state=state)
        with pytest.raises(InputError, match="transformed function of type function"):
            from_haiku(haiku_function, params)


class TestEveryAdapter:
    """What `from_function` shows for all of them."""

    @pytest.mark.parametrize(
        ("f", "batched", "message"),
        [
            (lambda p, x: p @ x, False, r"shape \(\) for one example of shape \(3,\); expected shape \(K,\)"),
            (lambda p, x: x[None] * p, False, r"shape \(1, 3\) for one example.*batched=True"),
            (lambda p, x: x[:0] * p[:0], False, r"shape \(0,\) for one example"),
            (lambda p, xs: xs[0] * p, True, r"shape \(3,\) for a batch of shape \(1, 3\).*batched=False"),
            (lambda p, xs: jnp.concatenate([xs, xs]) * p, True, r"shape \(2, 3\) for a batch"),
            (lambda p, x: (x * p, x), False, "output of type tuple"),
            (lambda p, x: jnp.argmax(x * p, keepdims=True), False, "dtype int32; expected one array of real"),
            (lambda p, x: x * p + 1j, False, "dtype complex64; expected one array of real"),
        ],
    )
    def test_outputs_of_another_form_are_refused(self, f, batched, message):
        adapted = from_function(f, jnp.ones(3), batched=batched)
        for call in (adapted.f, jax.jit(adapted.f)):
            with pytest.raises(InputError, match=message):
                call(adapted.params, jnp.ones(3))

    @pytest.mark.parametrize(
        "leaf", [np.arange(3), jnp.ones(3, bool), 3, True, "relu", jax.random.key(0), None]
    )
    def test_leaves_that_cannot_be_differentiated_are_refused(self, leaf):
        message = "params without an array" if leaf is None else r"params\['a'\] of type"
        with pytest.raises(InputError, match=message):
            from_function(lambda params, x: x, {"a": leaf})

    def test_numbers_of_every_floating_kind_are_taken(self):
        given = {"a": np.ones(2), "b": np.float32(1), "c": 1.0, "d": jnp.ones(2, jnp.bfloat16)}
        f, params = from_function(lambda p, x: x * p["c"], given)
        assert [leaf.dtype for leaf in jax.tree.leaves(params)] == [*[jnp.float32] * 3, jnp.bfloat16]
        # A number of Python does not widen a narrow input, before or after.
        assert f(params, jnp.ones(2, jnp.bfloat16)).dtype == jnp.bfloat16

    @pytest.mark.parametrize("name", ["equinox", "haiku"])
    def test_a_missing_library_is_named(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        call = {"equinox": lambda: from_equinox(jnp.tanh), "haiku": lambda: from_haiku(None, {})}[name]
        with pytest.raises(InputError, match=rf"without {name}.*pip install 'jaxsens\[adapters\]'"):
            call()

    def test_importing_the_adapters_imports_no_optional_library(self):
        optional = "{'equinox', 'haiku', 'safetensors', 'torch'}"
        command = f"import sys, jaxsens.adapters; assert not {optional} & set(sys.modules)"
        subprocess.run([sys.executable, "-c", command], check=True)
