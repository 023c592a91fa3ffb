"""Path norms of ReLU networks: sums over all input-output paths of products of weights (D section 2.2).

A path takes one edge per layer, and has the product of their weights. The sum over paths of |product|^p is
one forward pass on an input of ones with each weight w replaced by |w|^p and each bias by 0, for the sums of
the layers then add up paths. What the network computes is read off the operations that JAX traces, so any
model of the following is measured as it is, shortcuts, strides and pools included:

    products with constants    edges of weight |c|^p: dense and convolution layers, BN in evaluation mode,
                               the 1/n of an average; parameters or not
    sums, differences          of what depends on the input: all paths of all terms, edges of weight 1;
                               constants that are added, biases, are dropped: they are on no path from x
    max, max-pool              the maximum, in place of the sum over the entries it chooses from
    ReLU and its kin           the identity, as on all non-negative values; kinks must be at 0
    masks by signs             evaluated there: x (x > 0) is a ReLU

Values are kept as a mantissa and the logarithm of one scale for each array, so sums and products do not leave
the range of the dtype. Within one array, or between the cases of a `where`, entries below the largest by a
factor of 1e38 (float32) are lost.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.extend import core
from jaxtyping import Float

from jaxsens.checks import carry_nan, check_choice, is_concrete, refuse
from jaxsens.metrics._batching import bind
from jaxsens.metrics._norms import divisor
from jaxsens.metrics._trace import Kind, Operation, Trace, Untraceable, evaluate, trace
from jaxsens.metrics.norms import FORMS, LogMargin, check_log_margin, per_margin
from jaxsens.types import Function, Params

__all__ = ["log_path_norm"]

_LAYERS = frozenset(["dot_general", "conv_general_dilated"])
# Moves and maxima, which keep the largest entry; and sums and choices, which may not.
_MOVES = frozenset(
    [
        "reshape",
        "transpose",
        "broadcast_in_dim",
        "squeeze",
        "pad",
        "concatenate",
        "rev",
        "reduce_max",
        "reduce_window_max",
        "cummax",
    ]
)
_SUMS = frozenset(
    [
        "slice",
        "split",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "select_n",
        "reduce_sum",
        "reduce_window_sum",
        "cumsum",
    ]
)
_IDENTITIES = frozenset(["neg", "abs", "copy", "copy_p", "device_put", "reduce_precision"])
_COMPARISONS = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
_LOGIC = frozenset(["and", "or", "not", "xor"])


def log_path_norm(
    f: Function,
    params: Params,
    input_shape: tuple[int, ...],
    *,
    p: int = 2,
    form: str = "plotted",
    log_margin: LogMargin = None,
) -> Float[Array, ""]:
    """The log of the l1 or l2 path norm, over the squared margin where that is given (D section 2.2).

        p = 1   log (sum over paths of prod |w|)^2
        p = 2   log sum over paths of prod w^2

    `form="plotted"` is this, as D's figures have it. "capacity" has a factor for each edge of layer i inside
    the sum: 2 on |w| (p = 1) or 4 h_i on w^2 (p = 2), as section 2.2 prints it; h_i is the layer's number of
    outputs, or of output channels. A layer is a matrix product or convolution with parameters. A chain of d
    layers gains d log 4, and for p = 2 sum_i log h_i; with shortcuts each path has its own layers' factors.
    Footnote 2 derives the capacity of p = 2 from that of p = 1. Cauchy and Schwarz over the h_0 prod_i h_i
    paths of a perceptron give it times h_0, the number of inputs, which D drops with the input's norm.

    Node-wise rescaling leaves both norms; scaling all weights of a chain of d layers by c adds 2 d log |c|.
    With biases 0, p = 1 and slopes of 1 at most, sum_k |f(x)_k| <= exp(result / 2) max |x|.

    Args:
        f: `f(params, x) -> (K,)` of one example, in evaluation mode.
        params: its parameters, float32 or float64, which is the dtype that is computed in.
        input_shape: the shape of x.
        p: 1 or 2.
        form: "plotted" or "capacity".
        log_margin: log gamma, as `margin_percentile(...).log_value`; None leaves the margin out. -inf, a
            network that does not separate its data, gives +inf for any weights.

    Returns:
        A scalar, -inf for a network without paths. Differentiable once where it is finite.

    Raises:
        InputError: for an unknown `p` or form, a bad `input_shape` or `log_margin`, a NaN or infinity in
            `params`, no floating parameters, an f whose output is no vector, or one that is read to have
            another operation than those above: tanh, a clipped ReLU, attention, BN in training mode, a loop.

    Cost: one forward pass, and the compilation of a program of its own in each call: wrap it in `jax.jit`
    when it is repeated.
    """
    check_choice("p", p, (1, 2))
    check_choice("form", form, FORMS)
    check_log_margin(log_margin)
    model = _open(f, params, input_shape)
    try:
        network = _read(model.function, model.leaves, model.example)
        run = jax.jit(lambda leaves: _path_sum(network, leaves, p, capacity=form == "capacity"))
        log_sum = run(model.leaves)
    except Untraceable as error:
        raise refuse(
            f"a model with {error}",
            "a ReLU network: products with weights, sums, maxima, and kinks at 0 alone",
            "path norms are of such networks (D section 2.2); pass the model in evaluation mode, or take "
            "log_l2_norm of its weights",
        ) from error
    return per_margin(carry_nan((2 if p == 1 else 1) * log_sum, params), log_margin)


class _Model(NamedTuple):
    """A checked model as a function of its floating parameters and one example."""

    function: Callable[[list[Array], Array], Array]
    leaves: list[Array]
    example: jax.ShapeDtypeStruct


def _open(f: Function, params: Params, input_shape: Any) -> _Model:
    is_shape = isinstance(input_shape, tuple | list) and all(
        isinstance(side, int | np.integer) and not isinstance(side, bool) and side >= 1
        for side in input_shape
    )
    if not is_shape:
        raise refuse(f"input_shape={input_shape!r}", "a tuple of whole numbers >= 1", "pass xs.shape[1:]")
    everything, tree = jax.tree.flatten(params)
    floating = [
        isinstance(leaf, jax.Array | np.ndarray | np.generic) and jnp.issubdtype(leaf.dtype, jnp.floating)
        for leaf in everything
    ]
    leaves = [jnp.asarray(leaf) for leaf, floats in zip(everything, floating, strict=True) if floats]
    if not leaves:
        raise refuse("params without a floating array", "the weights of a network", "pass the weights")
    dtype = jnp.result_type(jnp.float32, *leaves)
    bind(f, params, jnp.ones((1, *input_shape), dtype))

    def function(leaves: list[Array], x: Array) -> Array:
        mine = iter(leaves)
        merged = [next(mine) if floats else leaf for floats, leaf in zip(floating, everything, strict=True)]
        return f(jax.tree.unflatten(tree, merged), x).astype(x.dtype)

    return _Model(function, leaves, jax.ShapeDtypeStruct(tuple(input_shape), dtype))


class _Network(NamedTuple):
    """A traced function with what is known of its constants."""

    trace: Trace
    known: dict[int, np.ndarray]
    """Values of variables that depend neither on the input nor on parameters, where they can be had."""
    weighted: frozenset[int]
    """Variables that depend on parameters and not on the input."""


def _read(
    function: Callable[[list[Array], Array], Array], leaves: list[Array], example: jax.ShapeDtypeStruct
) -> _Network:
    """Reads `function(leaves, example)`. Raises Untraceable."""
    # Literals stay numbers also inside `jit`, where their signs are asked for.
    with jax.ensure_compile_time_eval():
        found = trace(function, leaves, example)
        known = {v: np.asarray(c) for v, c in found.constants.items() if is_concrete(c)}
        for operation in found.fixed:
            if all(v in known for v in operation.inputs):
                results = operation(*(jnp.asarray(known[v]) for v in operation.inputs))
                known |= zip(operation.outputs, map(np.asarray, results), strict=True)
    weighted = set(found.parameters)
    for operation in found.fixed:
        if weighted & set(operation.inputs):
            weighted |= set(operation.outputs)
    return _Network(found, known, frozenset(weighted))


class _Scaled(NamedTuple):
    """exp(log_scale) times a mantissa of about 1 at most; -inf where all is 0. Booleans have scale 0."""

    mantissa: Array
    log_scale: Array


def _scaled(entries: Array, log_scale: Array | float) -> _Scaled:
    """The same number with a mantissa whose largest entry is about 1."""
    largest = jax.lax.stop_gradient(jnp.max(entries, initial=0))
    scale = divisor(largest)
    return _Scaled(entries / scale, jnp.where(largest == 0, -jnp.inf, jnp.log(scale) + log_scale))


def _aligned(values: Sequence[_Scaled]) -> tuple[list[Array], Array]:
    """The mantissas at the largest of the scales, and that scale."""
    if len(values) == 1:
        return [values[0].mantissa], values[0].log_scale
    top = jnp.max(jnp.stack([value.log_scale for value in values]))
    safe = jnp.where(top == -jnp.inf, 0, top)
    return [value.mantissa * jnp.exp(value.log_scale - safe) for value in values], top


def _path_sum(network: _Network, leaves: list[Array], p: int, *, capacity: bool) -> Float[Array, ""]:
    """log of the sum over paths of prod |w|^p, with the factors of the capacity where asked for."""
    example, dtype = network.trace.example, network.trace.shapes[network.trace.example].dtype
    ones = _Scaled(jnp.ones(network.trace.shapes[example].shape, dtype), jnp.zeros((), dtype))
    output = _Walk(network, leaves, ones, p, capacity).output
    if network.trace.kinds[network.trace.output] is Kind.STEP:
        raise Untraceable("outputs that depend on the input by steps alone")
    if output is None:
        return jnp.full((), -jnp.inf, dtype)
    total = jnp.sum(output.mantissa)
    return jnp.where(total == 0, -jnp.inf, jnp.log(jnp.where(total == 0, 1, total)) + output.log_scale)


class _Walk:
    """One forward pass of |w|^p."""

    def __init__(self, network: _Network, leaves: list[Array], start: _Scaled, p: int, capacity: bool):
        found = network.trace
        self.network, self.p, self.capacity = network, p, capacity
        self.dtype, self.shapes = start.mantissa.dtype, found.shapes
        given = found.constants | dict(zip(found.parameters, leaves, strict=True))
        self.fixed = evaluate(found.fixed, {v: jnp.asarray(value) for v, value in given.items()})
        self.values: dict[int, _Scaled] = {found.example: start}
        for operation in found.active:
            self.values |= zip(operation.outputs, self.results(operation), strict=True)
        self.output = self.values.get(found.output)

    def results(self, operation: Operation) -> list[_Scaled]:
        """What the operation makes of non-negative values and the p-th powers of constants."""
        name, inputs = operation.name, operation.inputs
        varying = [self.values[v] for v in inputs if v in self.values]
        if name in ("add", "sub", "add_any"):
            return [self.sum_of(operation, varying)]
        if name in ("mul", "div") or name in _LAYERS:
            return [self.product(operation)]
        if name == "convert_element_type":
            return [self.cast(operation, *varying)]
        if name in _IDENTITIES and len(inputs) == 1:
            return varying
        if name == "max":
            return [self.maximum(operation, varying)]
        if name in _COMPARISONS:
            return [self.comparison(operation, varying)]
        if name in _LOGIC or (name in _MOVES and all(map(self.is_mask, self.values.keys() & set(inputs)))):
            entries = [self.values[v].mantissa if v in self.values else self.fixed[v] for v in inputs]
            return [_Scaled(operation(*entries)[0], jnp.zeros((), self.dtype))]
        if name == "custom_jvp_call":
            return [self.call(operation)]
        if name in _MOVES | _SUMS:
            return self.linear(operation)
        raise _unreadable(operation)

    def sum_of(self, operation: Operation, varying: list[_Scaled]) -> _Scaled:
        shape, kinds = self.shapes[operation.outputs[0]].shape, self.network.trace.kinds
        # What moves by steps beside what moves is a bias in each region.
        moving = [self.values[v] for v in operation.inputs if kinds[v] >= Kind.LINEAR]
        entries, log_scale = _aligned(moving or varying)
        entries = [jnp.broadcast_to(entry, shape) for entry in entries]
        if len(entries) == 1:
            return _Scaled(entries[0], log_scale)
        return _scaled(functools.reduce(jnp.add, entries), log_scale)

    def product(self, operation: Operation) -> _Scaled:
        kinds = [self.network.trace.kinds[v] for v in operation.inputs]
        # A factor that moves by steps chooses among paths, as a mask does.
        if min(kinds) >= Kind.LINEAR or (operation.name == "div" and kinds[1] is not Kind.CONSTANT):
            raise Untraceable(f"the operation {operation.name!r} of two operands that depend on the input")
        operands = [
            self.values[v] if v in self.values else self.edge(v, inverse=operation.name == "div" and i == 1)
            for i, v in enumerate(operation.inputs)
        ]
        mantissas = [operand.mantissa for operand in operands]
        log_scale = sum(operand.log_scale for operand in operands) + self.log_factor(operation)
        if operation.name in _LAYERS:
            options = {"precision": (jax.lax.Precision.HIGHEST,) * 2, "preferred_element_type": None}
            (result,) = operation._replace(params=operation.params | options)(*mantissas)
        else:
            result = jnp.multiply(*mantissas)
        return _scaled(result, log_scale)

    def edge(self, variable: int, *, inverse: bool) -> _Scaled:
        """|c|^p or |1/c|^p of a constant; scaled before the power, which may leave the range."""
        constant = self.real(self.fixed[variable])
        found = _scaled(jnp.abs(1 / constant if inverse else constant), 0.0)
        return _Scaled(found.mantissa**self.p, found.log_scale * self.p)

    def real(self, constant: Array) -> Array:
        """A constant in the dtype of the computation."""
        if jnp.issubdtype(jnp.asarray(constant).dtype, jnp.complexfloating):
            raise Untraceable("complex numbers")
        return jnp.asarray(constant, self.dtype)

    def log_factor(self, operation: Operation) -> float:
        """log 2 or log 4 h_i for a layer in a capacity, else 0."""
        places = [i for i, v in enumerate(operation.inputs) if v in self.network.weighted]
        if not (self.capacity and operation.name in _LAYERS and places):
            return 0.0
        return math.log(2) if self.p == 1 else math.log(4 * _outputs(operation, places[0], self.shapes))

    def cast(self, operation: Operation, value: _Scaled) -> _Scaled:
        """Casts between floats are left out: numbers stay in the dtype of the computation."""
        wanted = self.shapes[operation.outputs[0]].dtype
        if value.mantissa.dtype == bool and jnp.issubdtype(wanted, jnp.floating):
            return _scaled(value.mantissa.astype(self.dtype), 0.0)
        if value.mantissa.dtype != bool and jnp.issubdtype(wanted, jnp.floating):
            return value
        if jnp.issubdtype(wanted, jnp.bool_):
            return _Scaled(value.mantissa != 0, jnp.zeros((), self.dtype))
        raise Untraceable(f"a cast of what depends on the input to {wanted}")

    def maximum(self, operation: Operation, varying: list[_Scaled]) -> _Scaled:
        constants = [v for v in operation.inputs if v not in self.values]
        known = self.network.known
        if not all(v in known and np.all(known[v] <= 0) for v in constants):
            raise Untraceable("a maximum with a constant that is not known to be 0 or less")
        shape = self.shapes[operation.outputs[0]].shape
        entries, log_scale = _aligned(varying)
        entries = [jnp.broadcast_to(entry, shape) for entry in entries]
        return _Scaled(jnp.maximum(*entries) if len(entries) == 2 else entries[0], log_scale)

    def comparison(self, operation: Operation, varying: list[_Scaled]) -> _Scaled:
        constants = [v for v in operation.inputs if v not in self.values]
        known = self.network.known
        if not all(v in known and np.all(known[v] == 0) for v in constants):
            raise Untraceable(f"a comparison, {operation.name!r}, with a constant that is not known to be 0")
        entries = iter(_aligned(varying)[0])
        zero = jnp.zeros((), self.dtype)
        operands = [next(entries) if v in self.values else zero for v in operation.inputs]
        (result,) = operation(*jnp.broadcast_arrays(*operands))
        return _Scaled(result, jnp.zeros((), self.dtype))

    def call(self, operation: Operation) -> _Scaled:
        """A function with a derivative of its own, such as ReLU, by its definition."""
        places = [i for i, v in enumerate(operation.inputs) if v in self.values]
        if len(places) != 1 or len(operation.outputs) != 1:
            raise _unreadable(operation)
        place = places[0]
        function = core.jaxpr_as_fun(operation.params["call_jaxpr"])
        others = [self.fixed[v] for v in operation.inputs if v not in self.values]

        def inner(others: list[Array], x: Array) -> Array:
            return function(*others[:place], x, *others[place:])[0]

        network = _read(inner, others, self.shapes[operation.inputs[place]])
        walk = _Walk(network, others, self.values[operation.inputs[place]], self.p, self.capacity)
        if walk.output is None:
            raise _unreadable(operation)
        return walk.output

    def linear(self, operation: Operation) -> list[_Scaled]:
        """An operation that adds or chooses; constants that stand beside what varies are dropped."""
        moving = {v: self.values[v] for v in operation.inputs if v in self.values and not self.is_mask(v)}
        if not moving and operation.name == "select_n":
            # A slope that is chosen by the input's sign.
            moving = {v: self.edge(v, inverse=False) for v in operation.inputs[1:]}
        if not moving:
            raise _unreadable(operation)
        entries, log_scale = _aligned(list(moving.values()))
        found = dict(zip(moving, entries, strict=True))
        results = operation(*(found[v] if v in found else self.beside(v) for v in operation.inputs))
        # Scaling is most of what there is to compile, so it is done where it changes something.
        make = _Scaled if operation.name in _MOVES else _scaled
        return [make(result, log_scale) for result in results]

    def is_mask(self, variable: int) -> bool:
        """Whether a varying value is boolean."""
        return self.values[variable].mantissa.dtype == bool

    def beside(self, variable: int) -> Array:
        """An index, a mask, or 0 in place of a constant."""
        if variable in self.values:
            return self.values[variable].mantissa
        shape = self.shapes[variable]
        if jnp.issubdtype(shape.dtype, jnp.inexact):
            return jnp.zeros(shape.shape, self.dtype)
        return self.fixed[variable]


def _unreadable(operation: Operation) -> Untraceable:
    return Untraceable(f"the operation {operation.name!r} on what depends on the input")


def _outputs(operation: Operation, place: int, shapes: dict[int, jax.ShapeDtypeStruct]) -> int:
    """h_i: channels of a convolution's result, or the entries of a weight over those that are summed."""
    if operation.name == "conv_general_dilated":
        return shapes[operation.outputs[0]].shape[operation.params["dimension_numbers"].out_spec[1]]
    shape = shapes[operation.inputs[place]].shape
    summed = operation.params["dimension_numbers"][0][place]
    return math.prod(side for axis, side in enumerate(shape) if axis not in summed)
