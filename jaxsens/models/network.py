"""From a `ModelConfig` to Flax NNX modules, and over the bridge to pure functions."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array, lax
from jaxtyping import Float

from jaxsens.checks import check_at_least, check_choice, check_key, refuse
from jaxsens.models import layers as spec
from jaxsens.models.convolution import measured_convolution, training_convolution
from jaxsens.models.initialisers import INITIALISERS, Draws
from jaxsens.models.zoo import ModelConfig
from jaxsens.types import PiecewiseLinear

__all__ = ["ACTIVATIONS", "Network", "bridge", "build"]

# Written with jax.nn.relu or `where`, so that each derivative at a kink is 0 or 1, not 1/2.
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "relu": jax.nn.relu,
    "relu6": lambda x: jnp.where(x > 6, 6, jax.nn.relu(x)),
    "hard_tanh": lambda x: jnp.where(jnp.abs(x) > 1, jnp.sign(x), x),
    "hard_sigmoid": lambda x: jnp.where(jnp.abs(x) > 3, (jnp.sign(x) + 1) / 2, x / 6 + 0.5),
    "tanh": jnp.tanh,
}


def piecewise_linear(numbers: PiecewiseLinear) -> Callable[[Array], Array]:
    """The activation of these numbers, which may be traced: `ACTIVATIONS` to rounding, and in derivatives."""

    def activation(x: Array) -> Array:
        y = numbers.slope * x + numbers.shift
        # In this order a NaN is on no flat piece: it stays one, and a diverging network is seen to diverge.
        return jnp.where(y <= numbers.low, numbers.low, jnp.where(y > numbers.high, numbers.high, y))

    return activation


class Call(NamedTuple):
    """How the layers are called: in training or not, with what randomness, another activation than built."""

    train: bool
    rngs: Any
    """`nnx.Rngs` in training."""
    activation: Callable[[Array], Array] | None = None


class Network(NamedTuple):
    """A model as pure functions. `params` are trained; `state`, the BN statistics, is carried along.

    init(key) -> (params, state)
    apply(params, state, xs, *, key) -> (ys, state): a batch, in training mode; the key draws the dropout. A
    `build`'s network also takes `activation`, four numbers `PiecewiseLinear`, in place of its own.
    predict(params, state, xs) -> ys: a batch, in evaluation mode, differentiable any number of times.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    predict: Callable[..., Any]

    def function(self, state: Any) -> Callable[[Any, Array], Array]:
        """`f(params, x) -> (K,)` of one example in evaluation mode: what the measures take."""
        return lambda params, x: self.predict(params, state, x[None])[0]


def build(config: ModelConfig, *, input_shape: tuple[int, ...], num_outputs: int) -> Network:
    """The network of a configuration, for examples of `input_shape` (H, W, C) or (D,).

    On a CPU training uses `training_convolution` and evaluation `measured_convolution`; elsewhere both use
    XLA's own.
    """
    check_at_least("num_outputs", num_outputs, 1)
    check_choice("init", config.init, INITIALISERS)
    check_choice("activation", config.activation, ACTIVATIONS)
    if not input_shape or min(input_shape) < 1:
        raise refuse(f"input_shape={input_shape}", "(H, W, C) or (D,), none of them 0", "pass xs.shape[1:]")
    initialiser = INITIALISERS[config.init]

    def classifier(convolution: Callable, draws: Draws) -> nnx.Module:
        return Classifier(config, input_shape, num_outputs, convolution, draws, rngs=nnx.Rngs(0))

    counter = Draws(initialiser)
    jax.eval_shape(lambda: nnx.split(classifier(lax.conv_general_dilated, counter))[1])

    def make(convolution: Callable) -> Callable[[nnx.Rngs], nnx.Module]:
        return lambda rngs: classifier(
            convolution, Draws(initialiser, initialiser.draw(rngs.params(), (counter.count,)))
        )

    if jax.default_backend() != "cpu":
        return bridge(make(lax.conv_general_dilated))
    return bridge(make(training_convolution), evaluation=make(measured_convolution))


def bridge(
    make: Callable[[nnx.Rngs], nnx.Module], *, evaluation: Callable[[nnx.Rngs], nnx.Module] | None = None
) -> Network:
    """Pure functions from a maker of NNX modules that are called `module(xs, train=..., rngs=...)`.

    `evaluation` may make the module in another form for `predict`, with the same parameters.
    """

    def skeleton(maker: Callable) -> nnx.GraphDef:
        return nnx.split(nnx.eval_shape(lambda: maker(nnx.Rngs(0))), nnx.Param, ...)[0]

    training_graph, evaluation_graph = skeleton(make), skeleton(evaluation or make)

    def init(key: Array) -> tuple[Any, Any]:
        check_key(key)
        _, params, state = nnx.split(make(nnx.Rngs(key)), nnx.Param, ...)
        return params, state

    def apply(
        params: Any, state: Any, xs: Array, *, key: Array, activation: PiecewiseLinear | None = None
    ) -> tuple[Array, Any]:
        module = nnx.merge(training_graph, params, state, copy=True)
        other = {} if activation is None else {"activation": activation}
        ys = module(xs, train=True, rngs=nnx.Rngs(dropout=key), **other)
        return ys, nnx.split(module, nnx.Param, ...)[2]

    def predict(params: Any, state: Any, xs: Array) -> Array:
        return nnx.merge(evaluation_graph, params, state, copy=True)(xs, train=False, rngs=None)

    return Network(init, apply, predict)


class Classifier(nnx.Module):
    """The layers of a configuration, then the last affine layer."""

    def __init__(self, config, input_shape, num_outputs, convolution, draws, *, rngs: nnx.Rngs):
        parts = Parts(ACTIVATIONS[config.activation], draws, convolution, rngs)
        features = spec.output_shape((*config.layers, spec.Flatten()), input_shape)[0]
        self.body = Stack(config.layers, input_shape, parts)
        self.head = _linear(features, num_outputs, parts)

    def __call__(
        self,
        xs: Float[Array, "n *shape"],
        *,
        train: bool,
        rngs: nnx.Rngs | None,
        activation: PiecewiseLinear | None = None,
    ):
        other = None if activation is None else piecewise_linear(activation)
        hidden = self.body(xs, Call(train, rngs, other))
        return self.head(hidden.reshape(hidden.shape[0], -1))


class Parts(NamedTuple):
    """What the modules of one network are made with."""

    activation: Callable[[Array], Array]
    draws: Draws
    convolution: Callable[..., Array]
    rngs: nnx.Rngs


class Stack(nnx.Module):
    """Layers in a row."""

    def __init__(self, layers: tuple[spec.Layer, ...], shape: tuple[int, ...], parts: Parts):
        self.layers = nnx.List()
        for layer in layers:
            self.layers.append(_MODULES[type(layer)](layer, shape, parts))
            shape = layer.output_shape(shape)

    def __call__(self, xs, call: Call):
        for layer in self.layers:
            xs = layer(xs, call)
        return xs


class Affine(nnx.Module):
    """A convolution or a dense layer, with its batch normalisation and activation."""

    def __init__(self, layer: spec.Conv | spec.Dense, shape: tuple[int, ...], parts: Parts):
        if isinstance(layer, spec.Conv):
            fan_in = layer.kernel**2 * shape[-1]
            self.linear = nnx.Conv(
                shape[-1],
                layer.channels,
                (layer.kernel, layer.kernel),
                strides=layer.stride,
                padding=layer.padding,
                use_bias=layer.use_bias,
                kernel_init=parts.draws.kernel,
                bias_init=parts.draws.bias(fan_in),
                conv_general_dilated=parts.convolution,
                rngs=parts.rngs,
            )
        else:
            self.linear = _linear(shape[0], layer.units, parts)
        features = layer.output_shape(shape)[-1]
        self.norm = (
            nnx.BatchNorm(
                features,
                momentum=0.9,
                epsilon=spec.BATCH_NORM_EPSILON,
                use_fast_variance=False,
                rngs=parts.rngs,
            )
            if layer.batch_norm
            else None
        )
        self.activation = parts.activation if layer.activate else None

    def __call__(self, xs, call: Call):
        ys = self.linear(xs)
        if self.norm is not None:
            ys = self.norm(ys, use_running_average=not call.train)
        return ys if self.activation is None else (call.activation or self.activation)(ys)


class Pool(nnx.Module):
    """Max or average pooling over windows that do not overlap.

    Written as a reduction of a reshape: on a CPU 7 times faster to differentiate than a window reduction. The
    derivative of a maximum that several entries share is shared by them.
    """

    def __init__(self, layer: spec.MaxPool | spec.AveragePool, shape: tuple[int, ...], parts: Parts):
        is_max = isinstance(layer, spec.MaxPool)
        self.reduce = jnp.max if is_max else jnp.mean
        self.window = (layer.size, layer.size) if is_max else layer.window(shape)
        self.size = layer.output_shape(shape)[:2]

    def __call__(self, xs, call: Call):
        (rows, columns), (height, width) = self.window, self.size
        xs = xs[:, : height * rows, : width * columns]
        return self.reduce(xs.reshape(-1, height, rows, width, columns, xs.shape[-1]), axis=(2, 4))


class WindowPool(nnx.Module):
    """Max pooling over windows that overlap; the derivative goes to the first of several equal entries."""

    def __init__(self, layer: spec.OverlappingMaxPool, shape: tuple[int, ...], parts: Parts):
        self.layer = layer

    def __call__(self, xs, call: Call):
        size, stride, padding = self.layer.size, self.layer.stride, self.layer.padding
        pads: Any = [(padding, padding)] * 2
        return nnx.max_pool(xs, (size, size), strides=(stride, stride), padding=pads)


class Flatten(nnx.Module):
    """One vector per example."""

    def __init__(self, layer: spec.Flatten, shape: tuple[int, ...], parts: Parts):
        del layer, shape, parts

    def __call__(self, xs, call: Call):
        return xs.reshape(xs.shape[0], -1)


class Dropout(nnx.Module):
    """Dropout whose randomness comes with the call, so that the module holds no key."""

    def __init__(self, layer: spec.Dropout, shape: tuple[int, ...], parts: Parts):
        self.rate = layer.rate

    def __call__(self, xs, call: Call):
        if not call.train:
            return xs
        kept = jax.random.bernoulli(call.rngs.dropout(), 1 - self.rate, xs.shape)
        return jnp.where(kept, xs / (1 - self.rate), 0)


class Residual(nnx.Module):
    """The activation of a branch plus its shortcut."""

    def __init__(self, layer: spec.Residual, shape: tuple[int, ...], parts: Parts):
        layer.output_shape(shape)  # refuses shapes that cannot be added
        self.branch = Stack(layer.branch, shape, parts)
        self.shortcut = Stack(layer.shortcut, shape, parts)
        self.activation = parts.activation

    def __call__(self, xs, call: Call):
        return (call.activation or self.activation)(self.branch(xs, call) + self.shortcut(xs, call))


_MODULES = {
    spec.Conv: Affine,
    spec.Dense: Affine,
    spec.MaxPool: Pool,
    spec.OverlappingMaxPool: WindowPool,
    spec.AveragePool: Pool,
    spec.Flatten: Flatten,
    spec.Dropout: Dropout,
    spec.Residual: Residual,
}


def _linear(features: int, units: int, parts: Parts) -> nnx.Linear:
    draws = parts.draws
    return nnx.Linear(
        features, units, kernel_init=draws.kernel, bias_init=draws.bias(features), rngs=parts.rngs
    )
