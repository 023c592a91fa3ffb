"""Hyper-parameters as arrays, so that networks which differ in them train as one program."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float, Int

from jaxsens.checks import check_choice
from jaxsens.types import PIECEWISE_LINEAR, PiecewiseLinear

__all__ = ["UPDATE_RULES", "HyperParameters", "UpdateRule", "first_order", "hyper_parameters"]


class UpdateRule(NamedTuple):
    """A first-order optimiser as numbers. With gradient g and update count t,

        m <- momentum m + gain g,  v <- decay v + fresh g^2,    fresh = 1 - decay,

    both divided by 1 - momentum^t and 1 - decay^t if `corrected`; the step is -learning_rate m, or
    -learning_rate m / (sqrt(v + inside) + outside) if `adaptive`.
    """

    momentum: float | Array = 0.0
    gain: float | Array = 1.0
    decay: float | Array = 0.0
    # Of its own: in float32, 1 - 0.999 is off by 1e-5.
    fresh: float | Array = 1.0
    inside: float | Array = 0.0
    outside: float | Array = 0.0
    corrected: bool | Array = False
    adaptive: bool | Array = False


UPDATE_RULES: Mapping[str, UpdateRule] = MappingProxyType(
    {
        "sgd": UpdateRule(),
        "momentum": UpdateRule(momentum=0.9),
        "adam": UpdateRule(0.9, 0.1, 0.999, 0.001, outside=1e-8, corrected=True, adaptive=True),
        "rmsprop": UpdateRule(decay=0.99, fresh=0.01, inside=1e-8, adaptive=True),
    }
)
"""`config.OPTIMIZERS` without L-BFGS, whose program is another."""


class HyperParameters(NamedTuple):
    """What may differ between networks of one program; scalars, or arrays (members,) of many networks.

    `labels` is the row of the label sets (sets, n) that the network learns.
    """

    rule: UpdateRule
    learning_rate: Float[Array, "*members"]
    weight_decay: Float[Array, "*members"]
    activation: PiecewiseLinear
    labels: Int[Array, "*members"]


def hyper_parameters(
    *, optimizer: str, learning_rate: float, weight_decay: float, activation: str, labels: int
) -> HyperParameters:
    """Those of one network. L-BFGS has a program of its own and gets the rule of SGD, which it ignores."""
    check_choice("optimizer", optimizer, (*UPDATE_RULES, "lbfgs"))
    check_choice("activation", activation, PIECEWISE_LINEAR)
    rule = UPDATE_RULES.get(optimizer, UpdateRule())
    numbers: Any = (
        rule,
        float(learning_rate),
        float(weight_decay),
        PIECEWISE_LINEAR[activation],
        int(labels),
    )
    return jax.tree.map(
        lambda value: jnp.asarray(value, jnp.result_type(type(value))), HyperParameters(*numbers)
    )


class _Moments(NamedTuple):
    num_steps: Int[Array, ""]
    first: Any
    second: Any


def first_order(hyper: HyperParameters) -> optax.GradientTransformation:
    """The optimiser of one network, its hyper-parameters traced or not; weight_decay * w joins g first."""
    rule = hyper.rule

    def init(params: Any) -> _Moments:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return _Moments(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, _Moments]:
        gradient = jax.tree.map(lambda g, w: g + hyper.weight_decay * w, gradient, params)
        count = state.num_steps + 1
        first = jax.tree.map(lambda m, g: rule.momentum * m + rule.gain * g, state.first, gradient)
        second = jax.tree.map(lambda v, g: rule.decay * v + rule.fresh * g**2, state.second, gradient)
        first_scale = jnp.where(rule.corrected, 1 - rule.momentum**count, 1.0)
        second_scale = jnp.where(rule.corrected, 1 - rule.decay**count, 1.0)

        def step(m: Array, v: Array) -> Array:
            deviation = jnp.sqrt(v / second_scale + rule.inside) + rule.outside
            # Unselected branches are computed too: 1 keeps them finite.
            scale = jnp.where(rule.adaptive, deviation, 1.0)
            return -hyper.learning_rate * (m / first_scale) / scale

        return jax.tree.map(step, first, second), _Moments(count, first, second)

    function: Any = update  # optax's annotations know positions, not names
    return optax.GradientTransformation(init, function)
