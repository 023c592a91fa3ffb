"""|d(dF/dw)/dx|_F^2 of one weight w, from tangents of its operand and cotangents of its result.

At a site y = op(h, w) that is linear in h, dF/dw is bilinear in h and B = dF/dy. Where B does not vary with
x, its derivative in the direction of a tangent t of h is `outer(t, B)`. For matrix products and convolutions
the squared norms of all tangents are summed without a tangent of the size of w.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax
from jaxtyping import Float

from jaxsens.checks import refuse
from jaxsens.metrics._trace import Site

__all__ = ["Sizes", "outer", "product_norm", "product_sizes", "right_factor", "varying_product_norm"]

_HIGHEST = lax.Precision.HIGHEST


class Sizes(NamedTuple):
    """dF/dw[b, q, o] is a sum over p of h[b, p, q] B[b, p, o]: the numbers of b and of p."""

    batch: int
    positions: int


def outer(site: Site, operands: list[Array], cotangent: Array) -> list[Array]:
    """dF/dw for each weight of the site at these operands and this dF/dy: one reverse pass through it."""

    def result(*weights: Array) -> Array:
        filled = dict(enumerate(operands)) | dict(zip(site.weights, weights, strict=True))
        return site.operation(*(filled[place] for place in range(len(operands))))[0]

    _, transposed = jax.vjp(result, *(operands[place] for place in site.weights))
    return list(transposed(cotangent))


def product_sizes(site: Site, shapes: dict[int, Any]) -> Sizes | None:
    """The sizes of a product of real numbers whose norm is known here, else None."""
    involved = [shapes[v] for v in (*site.operation.inputs, *site.operation.outputs)]
    real = all(jnp.issubdtype(shape.dtype, jnp.floating) for shape in involved)
    if len(site.varying) != 1 or not real or not all(math.prod(shape.shape) for shape in involved):
        return None
    operation, (place,) = site.operation, site.varying
    varying, result = (shapes[v].shape for v in (operation.inputs[place], operation.outputs[0]))
    if operation.name == "dot_general":
        contracting, batch = _dimensions(site)
        free = [n for d, n in enumerate(varying) if d not in (*contracting, *batch)]
        return Sizes(math.prod(varying[d] for d in batch), math.prod(free))
    if operation.name == "conv_general_dilated" and place == 0 and operation.params["batch_group_count"] == 1:
        channels = result[operation.params["dimension_numbers"].out_spec[1]]
        return Sizes(operation.params["feature_group_count"], math.prod(result) // channels)
    return None


def product_norm(
    site: Site, tangents: Float[Array, "T *h"], cotangents: Float[Array, "C *y"], shapes: dict[int, Any]
) -> Float[Array, ""]:
    """The sum over tangents t and cotangents B of |outer(t, B)|_F^2, at a site with `product_sizes`."""
    if site.operation.name == "dot_general":
        return _matrix_norm(site, tangents, cotangents)
    weight = shapes[site.operation.inputs[site.weights[0]]]
    return _convolution_norm(site.operation.params, tangents, cotangents, weight.shape)


def varying_product_norm(
    site: Site,
    operand: Float[Array, "*h"],
    cotangents: Float[Array, "C *y"],
    tangents: Float[Array, "T *h"],
    cotangent_tangents: Float[Array, "T C *y"],
) -> Float[Array, ""]:
    """The sum over tangents of |d(h B^T)|_F^2 at a matrix product of one position, where B varies too.

    With g = h.dh / |h|^2, the terms that do not cancel of

        |dB|^2 |h|^2 + 2 (dB.B)(h.dh) + |B|^2 |dh|^2 = |dB + g B|^2 |h|^2 + |B|^2 |dh - g h|^2,

    or the same with h and B in each other's place where h is 0.
    """
    h = _operand(site, operand)[:, 0]
    dh = jax.vmap(lambda t: _operand(site, t)[:, 0])(tangents)[:, None]
    result = jax.vmap(lambda c: _result(site, c, _free(site, operand))[:, 0])
    b, db = result(cotangents), jax.vmap(result)(cotangent_tangents)

    def around(h: Array, dh: Array, b: Array, db: Array) -> Array:
        square = jnp.sum(h**2, -1, keepdims=True)
        share = jnp.sum(h * dh, -1, keepdims=True) / jnp.where(square > 0, square, 1)
        along, across = jnp.sum((db + share * b) ** 2, -1), jnp.sum((dh - share * h) ** 2, -1)
        return along * square[..., 0] + jnp.sum(b**2, -1) * across

    return jnp.sum(jnp.where(jnp.any(h != 0, -1), around(h, dh, b, db), around(b, db, h, dh)))


def _dimensions(site: Site) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The contracting and the batch dimensions of the varying operand of a matrix product."""
    contracting, batch = site.operation.params["dimension_numbers"]
    (place,) = site.varying
    return contracting[place], batch[place]


def _operand(site: Site, h: Array) -> Float[Array, "b p q"]:
    """An operand of a matrix product as (batch, position, contracted)."""
    contracting, batch = _dimensions(site)
    free = [d for d in range(h.ndim) if d not in (*contracting, *batch)]
    sizes = [math.prod(h.shape[d] for d in dims) for dims in (batch, free, contracting)]
    return h.transpose(*batch, *free, *contracting).reshape(sizes)


def _result(site: Site, y: Array, free: int) -> Float[Array, "b p o"]:
    """A result of a matrix product as (batch, position, output); `free` dimensions are the operand's own.

    JAX orders them as batch, those of the left operand, those of the right one.
    """
    _, batch = _dimensions(site)
    leading, left = len(batch), site.varying == (0,)
    middle = leading + free if left else y.ndim - free
    mine, others = range(leading, middle), range(middle, y.ndim)
    mine, others = (mine, others) if left else (others, mine)
    sizes = [math.prod(y.shape[d] for d in dims) for dims in (range(leading), mine, others)]
    return y.transpose(*range(leading), *mine, *others).reshape(sizes)


def _free(site: Site, h: Array) -> int:
    """How many dimensions of an operand a matrix product leaves."""
    contracting, batch = _dimensions(site)
    return h.ndim - len(contracting) - len(batch)


def _matrix_norm(site: Site, tangents: Array, cotangents: Array) -> Array:
    t = jax.vmap(lambda t: _operand(site, t))(tangents)
    b = jax.vmap(lambda c: _result(site, c, _free(site, tangents[0])), out_axes=-1)(cotangents)
    b = b.reshape(*b.shape[:2], -1)
    if b.shape[1] == 1:
        return jnp.sum(jnp.sum(t**2, (0, 2, 3)) * jnp.sum(b**2, (1, 2)))
    fewer = jax.vmap(_fewer_columns)(b)
    return jnp.sum(jnp.einsum("tbpq,bpo->tbqo", t, fewer, precision=_HIGHEST) ** 2)


def _convolution_norm(
    params: dict[str, Any], tangents: Array, cotangents: Array, weight_shape: tuple[int, ...]
) -> Array:
    """dF/dw[offset, i, o] is a sum of h[p + offset, i] B[p, o] over images and positions p.

    That is a convolution of each channel of a tangent with B as its kernel; images become channels, and
    strides and dilations of the kernel change places.
    """
    lhs, rhs, out = params["dimension_numbers"]
    groups, space = params["feature_group_count"], range(2, tangents.ndim - 1)
    images = tangents.shape[1 + lhs[0]]
    # (T, *space, group, channel, image) to (T x channel, *space, group x image): groups stay groups.
    t = tangents.transpose(0, *(lhs[d] + 1 for d in (*space, 1, 0)))
    t = jnp.moveaxis(t.reshape(*t.shape[:-2], groups, -1, images), -2, 1)
    t = t.reshape(-1, *t.shape[2:-2], groups * images)
    # (*space, image, group, output) to (*space, image, group x output), outputs of all C together.
    b = cotangents.transpose(*(out[d] + 1 for d in (*space, 0, 1)), 0)
    positions = b.shape[:-2]
    b = b.reshape(math.prod(positions), groups, -1)
    b = jax.vmap(_fewer_columns, in_axes=1, out_axes=1)(b)
    spatial = "xyz"[: len(space)]
    result = lax.conv_general_dilated(
        t,
        b.reshape(*positions, -1),
        params["rhs_dilation"],
        params["padding"],
        lhs_dilation=params["lhs_dilation"],
        rhs_dilation=params["window_strides"],
        dimension_numbers=(f"N{spatial}C", f"{spatial}IO", f"N{spatial}C"),
        feature_group_count=groups,
        precision=_HIGHEST,
    )
    # A stride that leaves a border gives offsets that the kernel has not.
    kept = tuple(slice(weight_shape[d]) for d in rhs[2:])
    return jnp.sum(result[:, *kept] ** 2)


def _fewer_columns(b: Float[Array, "P O"]) -> Float[Array, "P o"]:
    """At most P columns with the same b b^T, so that |a^T b|_F is |a^T of them|_F for every a."""
    return b if b.shape[1] <= b.shape[0] else right_factor(b.T).T


@jax.custom_jvp
def right_factor(a: Float[Array, "n m"]) -> Float[Array, "k m"]:
    """R of a = Q R: k = min(n, m) rows with R^T R = a^T a.

    Its derivative is Q^T da, which is not that of R but makes that of R^T R exact for an a of any rank. A
    second derivative would be wrong, and is refused.
    """
    return jnp.linalg.qr(a, mode="r")


@right_factor.defjvp
def _right_factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    q, r = jnp.linalg.qr(primals[0])
    return r, jnp.matmul(_once(q).T, tangents[0], precision=_HIGHEST)


@jax.custom_jvp
def _once(q: Array) -> Array:
    """q, with a refusal in place of a derivative."""
    return q


@_once.defjvp
def _once_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    del primals, tangents
    raise refuse(
        "a second derivative of a tangent sensitivity by closed form or structure",
        "one derivative at most",
        "take the norm with method='streamed'",
    )
