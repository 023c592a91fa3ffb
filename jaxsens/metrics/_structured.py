"""|d2F/dtheta dx|_F^2 from tangents of activations and cotangents of results, site by site.

F is a cotangent times the outputs of a model at one example. With the operand h_s and the result y_s of each
site s, B_s = dF/dy_s, and its weight w_s, a function of the parameters theta,

    |d2F/dtheta dx|_F^2 = sum_i |sum_s (dw_s/dtheta)^T d/dx_i outer(h_s, B_s)|_F^2.

A parameter that is the weight of one product alone has its part by `product_norm`: no tangent has the size of
a parameter. In a piecewise linear model B_s does not vary with x. There the sum over the D entries of x
becomes one over m < D directions if x is only read through m numbers v = A x + c: what follows is a quadratic
form in A A^T, so the rows of R with R^T R = A A^T do as well as the D columns of A.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float, PyTree

from jaxsens.metrics._batching import map_examples
from jaxsens.metrics._site_norms import (
    outer,
    product_norm,
    product_sizes,
    right_factor,
    varying_product_norm,
)
from jaxsens.metrics._trace import LINEAR, Kind, Site, Trace, Untraceable, evaluate

__all__ = ["Plan", "make_plan", "structured_norms"]

# Floating numbers of a chunk of tangents of one example, and of the examples that share a chunk: as much as
# stays near the cache.
_CHUNK_NUMBERS = 2**21
_TOGETHER_NUMBERS = 2**22
# The most entries of a variable in place of the input, and by how much it must be smaller.
_LARGEST_HEAD = 1024
_HEAD_GAIN = 2


class Plan(NamedTuple):
    """How a traced model is measured."""

    trace: Trace
    products: tuple[Site, ...]
    """Sites whose weight is a parameter used nowhere else, and whose norm needs no tangent of its size."""
    others: tuple[Site, ...]
    head: Site | None
    """The matrix product, first of `products`, through which alone x is read, where it has few results."""

    @property
    def has_convolutions(self) -> bool:
        """Whether there are any among the operations that depend on the input."""
        return any(operation.name == "conv_general_dilated" for operation in self.trace.active)

    @property
    def derivative_size(self) -> int:
        """Numbers of dF/dy of all sites, for one example and cotangent."""
        return sum(math.prod(self.trace.shapes[s.operation.outputs[0]].shape) for s in self.trace.sites)

    @property
    def is_short(self) -> bool:
        """Whether no matrix product or convolution needs tangents of the size of its weight."""
        return not {site.operation.name for site in self.others} & {"dot_general", "conv_general_dilated"}


def make_plan(trace: Trace) -> Plan:
    """The plan for a traced model. Raises Untraceable."""
    products, others = [], []
    for site in trace.sites:
        if len(site.operation.outputs) > 1:
            raise Untraceable(f"the operation {site.operation.name!r} with parameters and several results")
        sizes = None if site.leaf is None else product_sizes(site, trace.shapes)
        # Where B varies too, only a matrix product at one position has a short formula.
        one = sizes is not None and site.operation.name == "dot_general" and sizes.positions == 1
        short = sizes is not None and (trace.piecewise_linear or one)
        (products if short else others).append(site)
    plan = Plan(trace, tuple(products), tuple(others), None)
    return plan._replace(head=_head(plan)) if trace.piecewise_linear else plan


def _head(plan: Plan) -> Site | None:
    trace, sites = plan.trace, plan.trace.sites
    if not sites or sites[0] not in plan.products or sites[0].operation.name != "dot_general":
        return None
    head = sites[0]
    position = trace.active.index(head.operation)
    before, after = trace.active[:position], trace.active[position + 1 :]
    read_before = {trace.example}.union(*(operation.outputs for operation in before))
    read_after = {v for operation in after for v in operation.inputs} | {trace.output}
    size, results = (math.prod(trace.shapes[v].shape) for v in (trace.example, head.operation.outputs[0]))
    fits = results <= min(_LARGEST_HEAD, size // _HEAD_GAIN)
    # Affine: no kinks, and no factor that depends on x by steps, which names alone do not tell.
    affine = all(operation.name in LINEAR | {"mul", "div"} for operation in before) and all(
        trace.kinds[v] is Kind.LINEAR for operation in before for v in operation.outputs
    )
    simple = product_sizes(head, trace.shapes) == (1, 1)
    return head if fits and affine and simple and not read_before & read_after else None


def structured_norms(
    plan: Plan,
    parameters: list[Array],
    xs: Float[Array, "n *shape"],
    cotangents: Float[Array, "C K"],
    *,
    chunk_size: int | None = None,
) -> Float[Array, " n"]:
    """The sum over rows of `cotangents` of |d2F/dtheta dx|_F^2, for each example.

    `chunk_size` tangents are propagated at once. Where there are convolutions, dF/dy of all sites is held for
    all examples.
    """
    trace, head = plan.trace, plan.head
    fixed = evaluate(trace.fixed, trace.constants | dict(zip(trace.parameters, parameters, strict=True)))
    derivatives = _derivatives_at(plan, fixed, cotangents)
    gradients_of_others = _others_at(plan, fixed, parameters)
    products = tuple(site for site in plan.products if site is not head)
    # What the tangents are tangents of, and what is evaluated from there on.
    start = trace.example if head is None else head.operation.outputs[0]
    first = 0 if head is None else trace.active.index(head.operation) + 1
    directions, count = _basis(trace.shapes[start]), math.prod(trace.shapes[start].shape)
    head_square: Any = None
    if head is not None:
        factor, head_square = _head_directions(plan, head, fixed)
        directions, count = _rows(factor, trace.shapes[start]), len(factor)

    def norm(example: tuple[Array, Any]) -> Array:
        x, known = example
        values = fixed | {trace.example: x}
        if head is not None:
            values = evaluate(trace.active[:first], values)

        def varying(v: Array) -> tuple[list[Array], list[Array], list[Array]]:
            """Operands of the products, their derivatives where these vary, and gradients of the others."""
            here = evaluate(trace.active[first:], values | {start: v})
            found = derivatives(v) if known is None else known
            operands = [here[site.operation.inputs[site.varying[0]]] for site in products]
            moving = [found[site.operation.outputs[0]] for site in products] if known is None else []
            return operands, moving, gradients_of_others(here, found)

        (operands, moving, _), tangents_of = jax.linearize(varying, values[start])

        def wide(tree: PyTree) -> PyTree:
            """In the dtype of the examples: squares leave the range of half precision."""
            return jax.tree.map(lambda leaf: leaf.astype(xs.dtype), tree)

        def chunk_norm(indices: Array) -> Array:
            given = directions(indices).astype(trace.shapes[start].dtype)
            tangents, moved, gradients = wide(jax.vmap(tangents_of)(given))
            total = sum((jnp.sum(gradient**2) for gradient in gradients), jnp.zeros((), xs.dtype))
            for index, site in enumerate(products):
                if known is None:
                    operand, gradient = wide((operands[index], moving[index]))
                    total += varying_product_norm(site, operand, gradient, tangents[index], moved[index])
                else:
                    constant = wide(known[site.operation.outputs[0]])
                    total += product_norm(site, tangents[index], constant, trace.shapes)
            return total

        total = _sum_chunks(chunk_norm, count, chunk)
        if head is not None:
            total += head_square * jnp.sum(wide(known[head.operation.outputs[0]]) ** 2)
        return total

    measured = (*products, *plan.others)
    operands = (site.operation.inputs[place] for site in measured for place in site.varying)
    size = sum(math.prod(trace.shapes[v].shape) for v in operands) or 1
    chunk = min(count, chunk_size or max(8, _CHUNK_NUMBERS // size))
    together = max(1, _TOGETHER_NUMBERS // (size * chunk))
    if not trace.piecewise_linear:
        return map_examples(lambda x: norm((x, None)), xs, together)
    if not plan.has_convolutions:
        return map_examples(lambda x: norm((x, derivatives(x))), xs, together)
    # Outside of the loop over examples: XLA on a CPU is slow at derivatives of convolutions inside one.
    return map_examples(norm, (xs, jax.vmap(derivatives)(xs)), together)


def _derivatives_at(
    plan: Plan, fixed: dict[int, Any], cotangents: Float[Array, "C K"]
) -> Callable[[Array], dict[int, Array]]:
    """The function from x to dF/dy of each site, by the variable y, for each cotangent: (C, *y)."""
    trace = plan.trace
    results = {site.operation.outputs[0] for site in trace.sites}

    def derivatives(x: Array) -> dict[int, Array]:
        zeros = {v: jnp.zeros(trace.shapes[v].shape, trace.shapes[v].dtype) for v in results}
        output, transposed = jax.vjp(
            lambda added: evaluate(trace.active, fixed | {trace.example: x}, added=added)[trace.output],
            zeros,
        )
        return jax.vmap(lambda cotangent: transposed(cotangent)[0])(cotangents.astype(output.dtype))

    return derivatives


def _others_at(
    plan: Plan, fixed: dict[int, Any], parameters: list[Array]
) -> Callable[[dict[int, Array], dict[int, Array]], list[Array]]:
    """The function from values and dF/dy to sum_s (dw_s/dtheta)^T outer(h_s, B_s) over the other sites.

    One array (C, *parameter) for each parameter behind these sites.
    """
    trace = plan.trace
    behind = sorted(frozenset().union(*(site.leaves for site in plan.others)))
    if not behind:
        return lambda values, derivatives: []

    def weights_of(leaves: list[Array]) -> list[Array]:
        given = {trace.parameters[i]: leaf for i, leaf in zip(behind, leaves, strict=True)}
        values = evaluate(trace.fixed, fixed | given)
        return [values[site.operation.inputs[place]] for site in plan.others for place in site.weights]

    _, transposed = jax.vjp(weights_of, [parameters[i] for i in behind])

    def gradients(values: dict[int, Array], derivatives: dict[int, Array]) -> list[Array]:
        def gradient(derivatives: dict[int, Array]) -> list[Array]:
            parts = []
            for site in plan.others:
                operands = [values[v] for v in site.operation.inputs]
                parts += outer(site, operands, derivatives[site.operation.outputs[0]])
            return transposed(parts)[0]

        return jax.vmap(gradient)(derivatives)

    return gradients


def _head_directions(plan: Plan, head: Site, fixed: dict[int, Any]) -> tuple[Float[Array, "r m"], Array]:
    """R with R^T R = A A^T of the head's m results A x + c, and |.|_F^2 of its operand's Jacobian."""
    trace = plan.trace
    before = trace.active[: trace.active.index(head.operation) + 1]
    shape = trace.shapes[trace.example]
    operand, result = head.operation.inputs[head.varying[0]], head.operation.outputs[0]

    def at(variable: int) -> Callable[[Array], Array]:
        return lambda x: evaluate(before, fixed | {trace.example: x})[variable].ravel()

    zero, size = jnp.zeros(shape.shape, shape.dtype), math.prod(shape.shape)
    jacobian = jax.jacrev(at(result))(zero).reshape(-1, size)
    if operand in trace.rearranged:
        square = jnp.asarray(size, shape.dtype)
    else:
        _, tangents_of = jax.linearize(at(operand), zero)
        basis = _basis(shape)
        square = _sum_chunks(lambda indices: jnp.sum(jax.vmap(tangents_of)(basis(indices)) ** 2), size, 64)
    return right_factor(jacobian.T), square


def _basis(shape: jax.ShapeDtypeStruct) -> Callable[[Array], Array]:
    """The function from indices to vectors of the standard basis, 0 beyond the last."""
    size = math.prod(shape.shape)
    return lambda indices: jax.nn.one_hot(indices, size, dtype=shape.dtype).reshape(-1, *shape.shape)


def _rows(matrix: Array, shape: jax.ShapeDtypeStruct) -> Callable[[Array], Array]:
    """The function from indices to rows of a matrix, 0 beyond the last."""
    return lambda indices: matrix.at[indices].get(mode="fill", fill_value=0).reshape(-1, *shape.shape)


def _sum_chunks(function: Callable[[Array], Array], count: int, chunk: int) -> Array:
    """The sum of `function(indices)` over chunks of 0 ... count - 1, the last one filled up."""
    chunks = jnp.arange(-(-count // chunk) * chunk).reshape(-1, chunk)
    return function(chunks[0]) if len(chunks) == 1 else jnp.sum(jax.lax.map(function, chunks))
