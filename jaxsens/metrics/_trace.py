"""A model as the flat list of operations that JAX traces, and how each value depends on the input.

Only where a parameter meets something that depends on the input can its gradient vary with the input. `trace`
finds these places, the sites, in any function: it knows primitives, no model class. Effects, such as prints,
are left out.
"""

import enum
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax import core as jax_core
from jax.extend import core

__all__ = [
    "JAXPRS",
    "LINEAR",
    "PRODUCTS",
    "Kind",
    "Operation",
    "Reading",
    "Site",
    "Trace",
    "Untraceable",
    "evaluate",
    "read",
    "trace",
]

JAXPRS = (core.Jaxpr, core.ClosedJaxpr)  # pyright: ignore[reportPrivateImportUsage]
"""Programs among the parameters of an operation."""


class Kind(enum.IntEnum):
    """How a value depends on the input: not at all, by steps alone, piecewise linearly, or otherwise."""

    CONSTANT = 0
    STEP = 1
    LINEAR = 2
    SMOOTH = 3


# Primitives by name: those whose derivative is 0; linear in all floating operands together; piecewise linear;
# linear in each of two operands; and calls, which are read through.
STEPS = frozenset(
    [
        "sign",
        "floor",
        "ceil",
        "round",
        "eq",
        "ne",
        "lt",
        "le",
        "gt",
        "ge",
        "is_finite",
        "argmax",
        "argmin",
        "stop_gradient",
    ]
)
LINEAR = frozenset(
    [
        "add",
        "sub",
        "add_any",
        "neg",
        "reshape",
        "transpose",
        "broadcast_in_dim",
        "squeeze",
        "slice",
        "pad",
        "concatenate",
        "stack",
        "split",
        "reduce_sum",
        "rev",
        "convert_element_type",
        "copy",
        "copy_p",
        "cumsum",
        "reduce_window_sum",
        "gather",
        "dynamic_slice",
        "dynamic_update_slice",
        "optimization_barrier",
        "device_put",
        "reduce_precision",
        "real",
        "imag",
        "conj",
        "complex",
    ]
)
PIECEWISE_LINEAR = frozenset(
    [
        "max",
        "min",
        "reduce_max",
        "reduce_min",
        "select_n",
        "clamp",
        "abs",
        "sort",
        "reduce_window_max",
        "reduce_window_min",
        "cummax",
        "cummin",
    ]
)
PRODUCTS = frozenset(["mul", "div", "dot_general", "conv_general_dilated"])
CALLS = frozenset(
    ["pjit", "jit", "closed_call", "core_call", "core_closed_call", "remat", "remat2", "checkpoint"]
)
REARRANGEMENTS = frozenset(["reshape", "transpose", "squeeze", "rev", "copy", "copy_p"])


class Untraceable(ValueError):
    """A model with an operation that cannot be read this way."""


class Operation(NamedTuple):
    """One primitive, its operands and its results as numbers of variables."""

    primitive: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: dict[str, Any]

    @property
    def name(self) -> str:
        """The primitive's name."""
        return self.primitive.name

    def is_rearrangement(self, shapes: dict[int, Any]) -> bool:
        """Whether the result has the operand's entries, each once: norms stay."""
        if not self.inputs:
            return False
        ends = [shapes[v] for v in (self.inputs[0], self.outputs[0])]
        real = all(jnp.issubdtype(shape.dtype, jnp.floating) for shape in ends)
        same_size = math.prod(ends[0].shape) == math.prod(ends[1].shape)
        return (
            self.name in REARRANGEMENTS
            or (self.name == "broadcast_in_dim" and same_size)
            or (self.name == "convert_element_type" and real)
        )

    def __call__(self, *values: Array) -> list[Array]:
        """The results for these operands."""
        bound = self.primitive.get_bind_params(self.params)
        # Older versions of JAX hand nested functions over apart.
        functions, params = bound if isinstance(bound, tuple) else ((), bound)
        results = self.primitive.bind(*functions, *values, **params)
        return list(results) if self.primitive.multiple_results else [results]


class Site(NamedTuple):
    """An operation whose operands at the places `weights` come from parameters and the others from the input.

    `leaves` are those parameters; `leaf` is the one whose entries the only weight has, each once, if no other
    site needs it, else None.
    """

    operation: Operation
    weights: tuple[int, ...]
    leaves: frozenset[int]
    leaf: int | None

    @property
    def varying(self) -> tuple[int, ...]:
        """The places of the other operands."""
        return tuple(i for i in range(len(self.operation.inputs)) if i not in self.weights)


class Trace(NamedTuple):
    """What `trace` found; variables are numbers."""

    constants: dict[int, Any]
    parameters: tuple[int, ...]
    example: int
    output: int
    fixed: tuple[Operation, ...]
    """Operations that do not depend on the input."""
    active: tuple[Operation, ...]
    """Those that do, in order."""
    kinds: dict[int, Kind]
    shapes: dict[int, jax.ShapeDtypeStruct]
    sites: tuple[Site, ...]
    """Where gradients with respect to parameters vary with the input, in order."""
    rearranged: frozenset[int]
    """Variables that have the input's entries, each once."""
    piecewise_linear: bool
    """Whether each site is linear in what varies, and its cotangent constant within a region."""


def trace(model: Callable[[list[Array], Array], Array], parameters: Sequence[Any], x: Any) -> Trace:
    """Reads `model(parameters, x)`, floating arrays or their shapes. Raises Untraceable."""
    return _classify(read(jax.make_jaxpr(model)(list(parameters), x)))


class Reading(NamedTuple):
    """A traced function without nested calls; variables are numbers."""

    arguments: tuple[int, ...]
    results: tuple[int, ...]
    operations: tuple[Operation, ...]
    constants: dict[int, Any]
    shapes: dict[int, jax.ShapeDtypeStruct]

    def needed_for(self, variables: Sequence[int]) -> list[Operation]:
        """The operations that these variables depend on, in order."""
        wanted, kept = set(variables), []
        for operation in reversed(self.operations):
            if wanted & set(operation.outputs):
                wanted |= set(operation.inputs)
                kept.append(operation)
        return kept[::-1]

    def is_real(self, variable: int) -> bool:
        """Whether a value is no complex number: the modulus of one has more than kinks."""
        return not jnp.issubdtype(self.shapes[variable].dtype, jnp.complexfloating)

    def is_floating(self, variable: int) -> bool:
        """Whether a value has a derivative."""
        return jnp.issubdtype(self.shapes[variable].dtype, jnp.inexact)


def read(closed: Any) -> Reading:
    """A jaxpr with its constants, flattened. Raises Untraceable."""
    jaxpr, consts = _opened(closed)
    reader = _Reader()
    arguments = [reader.new(v.aval) for v in jaxpr.invars]
    results = reader.inline(jaxpr, consts, arguments)
    return Reading(
        tuple(arguments), tuple(results), tuple(reader.operations), reader.constants, reader.shapes
    )


def evaluate(
    operations: Sequence[Operation], values: dict[int, Any], *, added: dict[int, Array] | None = None
) -> dict[int, Any]:
    """`values` and all results by variable; `added[v]`, a place to differentiate, is added to result v."""
    values, added = dict(values), added or {}
    for operation in operations:
        results = operation(*(values[v] for v in operation.inputs))
        for variable, result in zip(operation.outputs, results, strict=True):
            values[variable] = result + added[variable] if variable in added else result
    return values


class _Reader:
    """Flattens nested calls into one list of operations on numbered variables."""

    def __init__(self):
        self.operations: list[Operation] = []
        self.constants: dict[int, Any] = {}
        self.shapes: dict[int, jax.ShapeDtypeStruct] = {}

    def new(self, aval: Any) -> int:
        if not isinstance(aval, jax_core.ShapedArray):
            # What is written to a reference is no operand of what reads it.
            raise Untraceable(f"the operation on a mutable reference, {aval}")
        number = len(self.shapes)
        self.shapes[number] = jax.ShapeDtypeStruct(aval.shape, aval.dtype)
        return number

    def constant(self, aval: Any, value: Any) -> int:
        number = self.new(aval)
        self.constants[number] = value
        return number

    def inline(self, jaxpr: Any, consts: Sequence[Any], arguments: Sequence[int]) -> list[int]:
        """Appends the operations of a jaxpr; gives the variables of its results."""
        known = dict(zip(jaxpr.invars, arguments, strict=True))
        known |= {v: self.constant(v.aval, c) for v, c in zip(jaxpr.constvars, consts, strict=True)}

        def read(atom: Any) -> int:
            if isinstance(atom, core.Literal):
                aval: Any = atom.aval
                return self.constant(aval, jnp.asarray(atom.val, aval.dtype))
            return known[atom]

        for equation in jaxpr.eqns:
            inputs = tuple(map(read, equation.invars))
            if equation.primitive.name in CALLS:
                inner = equation.params.get("jaxpr", equation.params.get("call_jaxpr"))
                outputs = self.inline(*_opened(inner), inputs)
            else:
                outputs = [self.new(variable.aval) for variable in equation.outvars]
                self.operations.append(Operation(equation.primitive, inputs, tuple(outputs), equation.params))
            known |= zip(equation.outvars, outputs, strict=True)
        return [read(atom) for atom in jaxpr.outvars]


def _classify(reading: Reading) -> Trace:
    *parameters, example = reading.arguments
    kinds = dict.fromkeys((*reading.constants, *parameters), Kind.CONSTANT) | {example: Kind.LINEAR}
    # The parameters that a value depends on, as far as it does not depend on the input but by steps.
    behind = dict.fromkeys((*reading.constants, example), frozenset())
    behind |= {v: frozenset([leaf]) for leaf, v in enumerate(parameters)}
    origins: dict[int, int | None] = {v: leaf for leaf, v in enumerate(parameters)}
    rearranged = {example}
    fixed, active, sites, piecewise_linear = [], [], [], True

    for operation in reading.needed_for([reading.results[0]]):
        found = _kinds(reading, operation, kinds)
        steady = frozenset().union(*(behind[v] for v in operation.inputs if kinds[v] <= Kind.STEP))
        for variable, kind in zip(operation.outputs, found, strict=True):
            kinds[variable] = kind
            differentiable = reading.is_floating(variable) and operation.name not in STEPS
            behind[variable] = steady if differentiable else frozenset()
        of_inputs = [kinds[v] for v in operation.inputs]
        if max(of_inputs, default=Kind.CONSTANT) is Kind.CONSTANT:
            fixed.append(operation)
            if operation.is_rearrangement(reading.shapes):
                origins[operation.outputs[0]] = origins.get(operation.inputs[0])
            continue
        _check_readable(operation)
        active.append(operation)
        if operation.inputs[0] in rearranged and operation.is_rearrangement(reading.shapes):
            rearranged.add(operation.outputs[0])
        weights = tuple(i for i, v in enumerate(operation.inputs) if not of_inputs[i] and behind[v])
        if weights and operation.name not in STEPS:
            needed = frozenset().union(*(behind[operation.inputs[i]] for i in weights))
            leaf = origins.get(operation.inputs[weights[0]]) if len(weights) == 1 else None
            sites.append(Site(operation, weights, needed, leaf))
        # A parameter may work through steps that multiply what varies, or inside a rule: no product shows it.
        by_steps = any(behind[v] for v, k in zip(operation.inputs, of_inputs, strict=True) if k is Kind.STEP)
        hidden = (operation.name in PRODUCTS and by_steps) or (operation.name == "custom_jvp_call" and steady)
        piecewise_linear &= max(found) is not Kind.SMOOTH and not (Kind.LINEAR in of_inputs and hidden)

    if piecewise_linear:
        # What is added to something piecewise linear has a derivative that is constant within a region.
        sites = [
            s for s in sites if s.operation.name in PRODUCTS and kinds[s.operation.outputs[0]] is Kind.LINEAR
        ]
    uses = [leaf for site in sites for leaf in site.leaves]
    return Trace(
        constants=reading.constants,
        parameters=tuple(parameters),
        example=example,
        output=reading.results[0],
        fixed=tuple(fixed),
        active=tuple(active),
        kinds=kinds,
        shapes=reading.shapes,
        sites=tuple(site if uses.count(site.leaf) == 1 else site._replace(leaf=None) for site in sites),
        rearranged=frozenset(rearranged),
        piecewise_linear=piecewise_linear,
    )


def _opened(jaxpr: Any) -> tuple[Any, Sequence[Any]]:
    """A jaxpr and its constants, whether they are joined or not."""
    return getattr(jaxpr, "jaxpr", jaxpr), getattr(jaxpr, "consts", ())


def _kinds(
    reading: Reading, operation: Operation, kinds: dict[int, Kind], *, piecewise: bool = True
) -> list[Kind]:
    """The kinds of an operation's results; `piecewise=False` counts a kink as not linear."""
    name = operation.name
    of_inputs = [kinds[v] for v in operation.inputs]
    top = max(of_inputs, default=Kind.CONSTANT)
    if top is Kind.LINEAR:
        linear = (
            name in LINEAR
            or (name in PIECEWISE_LINEAR and piecewise and all(map(reading.is_real, operation.inputs)))
            or (name == "select_n" and of_inputs[0] is not Kind.LINEAR)
            or (name == "div" and of_inputs[1] is not Kind.LINEAR)
            or (name in PRODUCTS - {"div"} and of_inputs.count(Kind.LINEAR) == 1)
            or (name == "custom_jvp_call" and piecewise and _is_piecewise_linear(reading, operation, kinds))
        )
        top = Kind.LINEAR if linear else Kind.SMOOTH
    if name in STEPS:
        top = min(top, Kind.STEP)
    return [top if reading.is_floating(v) else min(top, Kind.STEP) for v in operation.outputs]


def _is_piecewise_linear(reading: Reading, operation: Operation, kinds: dict[int, Kind]) -> bool:
    """Whether a function that brings its own derivative is piecewise linear by both.

    By the rule it is if its result is linear in the tangents and looks at the operands only to compare them.
    """
    if not all(map(reading.is_floating, operation.inputs)):
        return False
    shapes = [reading.shapes[v] for v in operation.inputs]
    of_inputs = [kinds[v] for v in operation.inputs]
    call = operation.params["call_jaxpr"]
    rule = jax.make_jaxpr(lambda xs, ts: jax.jvp(lambda *xs: operation(*xs), xs, ts)[1])(
        tuple(shapes), tuple(shapes)
    )
    opaque = [k if k is Kind.CONSTANT else Kind.SMOOTH for k in of_inputs]
    tangents = [Kind.LINEAR] * len(shapes)
    return (
        _kind_of(call, of_inputs, piecewise=True) <= Kind.LINEAR
        and _kind_of(rule, [*opaque, *tangents], piecewise=False) <= Kind.LINEAR
    )


def _kind_of(closed: Any, of_arguments: Sequence[Kind], *, piecewise: bool) -> Kind:
    """The kind of a jaxpr's results for arguments of these kinds."""
    reading = read(closed)
    kinds = dict.fromkeys(reading.constants, Kind.CONSTANT)
    kinds |= zip(reading.arguments, of_arguments, strict=True)
    for operation in reading.operations:
        kinds |= zip(operation.outputs, _kinds(reading, operation, kinds, piecewise=piecewise), strict=True)
    return max(kinds[v] for v in reading.results)


def _check_readable(operation: Operation) -> None:
    """Refuses loops, branches and functions with a reverse derivative of their own."""
    nested = any(isinstance(value, JAXPRS) for value in jax.tree.leaves(list(operation.params.values())))
    if operation.name != "custom_jvp_call" and (
        nested or "callback" in operation.name or "custom_" in operation.name
    ):
        raise Untraceable(f"the operation {operation.name!r} on what depends on the input")
