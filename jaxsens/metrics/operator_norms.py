"""The norm of a convolution as the linear map between images that it is, with its borders and strides.

D's code measures a convolution by its kernel as a matrix W of shape (kh kw in, out), which is smaller than
the map A from images to images. With strides s, A x is W^T applied to the patches of x, and each pixel is in
at most N = ceil(kh / s_h) ceil(kw / s_w) patches, so

    |A|_2 <= sqrt(N) |W|_2,    and |W|_2 <= |A|_2 where one patch lies inside the image, off the padding.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxsens.checks import check_at_least, check_finite, check_key, check_positive, refuse
from jaxsens.metrics._batching import check_floating
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.types import PRNGKey

__all__ = ["OperatorNorm", "conv_operator_norm"]

# XLA on a CPU is fast at convolutions of this layout alone, without dilation.
_LAYOUT = ("NHWC", "HWIO", "NHWC")


class OperatorNorm(NamedTuple):
    """s = |A v| of the unit vector v that was found, |A^T A v - s^2 v| / s^2, and how many steps it took."""

    value: Float[Array, ""]
    residual: Float[Array, ""]
    iterations: Int[Array, ""]


def conv_operator_norm(
    kernel: Float[Array, "kh kw in out"],
    input_shape: tuple[int, int, int],
    *,
    strides: tuple[int, int] = (1, 1),
    padding: str | Sequence[tuple[int, int]] = "SAME",
    tol: float = 1e-4,
    max_iters: int = 1000,
    key: PRNGKey | None = None,
) -> OperatorNorm:
    """|A|_2, the largest singular value of the convolution A as a map (H, W, in) -> (H', W', out).

    Found from a random start as the largest eigenvalue of A^T A by steps of power iteration that also look
    along the residual and the last step (locally optimal conjugate gradients): neighbouring singular values
    of a convolution lie so close that plain power iteration takes 5 to 20 times as many.

    Args:
        kernel: (kh, kw, in, out), float32 or float64.
        input_shape: (H, W, in), the shape of one example.
        strides: of the rows and columns.
        padding: "SAME" or "VALID" as in JAX, or zeros ((top, bottom), (left, right)).
        tol: the residual to stop at. float32 does not reach below about 1e-6.
        max_iters: steps after which it stops in any case; look at `residual`.
        key: of the start; None takes a fixed one.

    Returns:
        An `OperatorNorm`. `value` is never above |A|_2 but by rounding, and some singular value s of A has
        |s^2 - value^2| <= residual value^2; that it is the largest one is not proven, but holds for almost
        every start if enough steps are taken. A zero kernel gives 0 with residual 0. The derivative of
        `value` with respect to the kernel is exact where the largest singular value is one alone; there is
        none of the others.

    Raises:
        InputError: for another rank or dtype, a NaN or infinity, shapes that do not fit, an unknown padding,
            strides or `max_iters` below 1, a `tol` that is not positive, or a bad key.

    Cost: one convolution and one transposed one per step. Members of an ensemble are faster in turn, by
    `jax.lax.map`, than under `vmap`, which makes grouped convolutions.
    """
    pads = _check_geometry(kernel, input_shape, strides, padding)
    check_positive("tol", tol)
    check_at_least("max_iters", max_iters, 1)
    strides, shape = (int(strides[0]), int(strides[1])), tuple(map(int, input_shape))
    if key is None:
        # NumPy's, since compiling JAX's generator takes as long as compiling all else.
        start = jnp.asarray(np.random.default_rng(0).standard_normal(shape), kernel.dtype)
    else:
        check_key(key)
        start = jax.random.normal(key, shape, kernel.dtype)
    return _largest(kernel, start, jnp.asarray(tol, kernel.dtype), max_iters, strides, pads)


@functools.partial(jax.jit, static_argnums=(4, 5))
def _largest(
    kernel: Array,
    start: Array,
    tol: Array,
    max_iters: Array | int,
    strides: tuple[int, int],
    pads: tuple[tuple[int, int], ...],
) -> OperatorNorm:
    # The norm of a kernel of at most 1 has a square within range.
    scale = jax.lax.stop_gradient(jnp.max(jnp.abs(kernel)))
    scaled = kernel / jnp.where(scale == 0, 1, scale)
    steady = jax.lax.stop_gradient(scaled)

    def square(x: Array) -> Array:
        y = _convolution(x, steady, strides, pads)
        return _transposed(y, steady, strides, pads, start.shape)

    v, iterations = largest_eigenvector(square, start, tol, max_iters)
    # By the derivative of |A v| at a steady v: that of a singular value is u^T dA v.
    value = frobenius_norm(_convolution(v, scaled, strides, pads))
    s = jax.lax.stop_gradient(value)
    residual = frobenius_norm(square(v) - s**2 * v) / jnp.where(s == 0, 1, s**2)
    return OperatorNorm(scale * value, residual, iterations)


class _Step(NamedTuple):
    """Orthonormal directions x and p, their images under M, and the residual of x."""

    x: Array
    p: Array
    image_x: Array
    image_p: Array
    residual: Array
    iterations: Array


def largest_eigenvector(
    square: Callable[[Array], Array], start: Array, tol: Array, max_iters: Array | int
) -> tuple[Array, Array]:
    """A unit vector near the largest eigenvalue of a symmetric map M >= 0, and the number of steps.

    Each step takes the best vector in the span of x, the residual M x - lambda x and the last step p. Only
    the residual's image is computed anew.
    """

    def residual_of(x: Array, image: Array) -> tuple[Array, Array]:
        eigenvalue = _dot(x, image)
        difference = image - eigenvalue * x
        return difference, _norm(difference) / jnp.where(eigenvalue == 0, 1, eigenvalue)

    def step(state: _Step) -> _Step:
        x, p, image_x, image_p, *_ = state
        w, _ = residual_of(x, image_x)
        # Twice: once leaves the rounding of what was large.
        for _ in range(2):
            w = _unit(w - _dot(x, w) * x - _dot(p, w) * p)
        basis, images = jnp.stack([x, w, p]), jnp.stack([image_x, square(w), image_p])
        flat, flat_images = basis.reshape(3, -1), images.reshape(3, -1)
        projected = jnp.matmul(flat, flat_images.T, precision=jax.lax.Precision.HIGHEST)
        best = jnp.linalg.eigh((projected + projected.T) / 2)[1][:, -1]
        # p takes what x gains, less its part along the new x, so that both stay orthonormal.
        gain = best.at[0].set(0)
        gain = _unit(gain - _dot(gain, best) * best)
        new = jnp.stack([best, gain])
        x, p = jnp.tensordot(new, basis, 1, precision=jax.lax.Precision.HIGHEST)
        image_x, image_p = jnp.tensordot(new, images, 1, precision=jax.lax.Precision.HIGHEST)
        length = _norm(x)
        x, image_x = x / length, image_x / length
        return _Step(x, p, image_x, image_p, residual_of(x, image_x)[1], state.iterations + 1)

    x = _unit(start)
    image, zeros = square(x), jnp.zeros_like(x)
    first = _Step(x, zeros, image, zeros, residual_of(x, image)[1], jnp.zeros((), jnp.int32))
    last = jax.lax.while_loop(
        lambda state: (state.residual > tol) & (state.iterations < max_iters), step, first
    )
    return last.x, last.iterations


def _dot(a: Array, b: Array) -> Array:
    return jnp.sum(a * b)


def _norm(a: Array) -> Array:
    return jnp.sqrt(_dot(a, a))


def _unit(a: Array) -> Array:
    """a / |a|, and 0 for 0."""
    length = _norm(a)
    return a / jnp.where(length == 0, 1, length)


def _convolution(x: Array, kernel: Array, strides: Sequence[int], pads: Sequence[Any]) -> Array:
    return jax.lax.conv_general_dilated(
        x[None],
        kernel,
        strides,
        pads,
        dimension_numbers=_LAYOUT,
        precision=jax.lax.Precision.HIGHEST,
    )[0]


def _transposed(
    y: Array, kernel: Array, strides: Sequence[int], pads: Sequence[Any], shape: Sequence[int]
) -> Array:
    """A^T y, as a convolution of y with the turned kernel: zeros between its entries undo the strides.

    Written out since XLA on a CPU is 50 to 200 times slower at JAX's own inside a loop.
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    edges = []
    for size, k, stride, (low, _), n in zip(
        y.shape[:2], kernel.shape[:2], strides, pads, shape[:2], strict=True
    ):
        before = k - 1 - low
        # What is left of n + k - 1 entries, of which a convolution without padding makes n.
        edges.append((before, n + k - 1 - before - (stride * (size - 1) + 1), stride - 1))
    spread = jax.lax.pad(y, jnp.zeros((), y.dtype), (*edges, (0, 0, 0)))
    return _convolution(spread, turned, (1, 1), ((0, 0), (0, 0)))


def _check_geometry(kernel: Any, input_shape: Any, strides: Any, padding: Any) -> tuple[tuple[int, int], ...]:
    """The padding in numbers; refuses what is no convolution of such images."""
    if getattr(kernel, "ndim", None) != 4 or kernel.size == 0:
        raise refuse(
            f"kernel of shape {np.shape(kernel)}",
            "a non-empty (kh, kw, in, out)",
            "transpose it; of a matrix take the largest singular value",
        )
    check_floating("kernel", kernel)
    check_finite("kernel", kernel)
    for name, sizes, count in (("input_shape", input_shape, 3), ("strides", strides, 2)):
        if not isinstance(sizes, tuple | list) or len(sizes) != count:
            raise refuse(f"{name}={sizes!r}", f"{count} whole numbers", "pass (H, W, in) and (1, 1)")
        for size in sizes:
            check_at_least(f"entry of {name}", size, 1)
    if input_shape[2] != kernel.shape[2]:
        raise refuse(
            f"input_shape={tuple(input_shape)} for a kernel of shape {kernel.shape}",
            f"{kernel.shape[2]} channels",
            "pass (H, W, in) of the images before this layer, kernels as (kh, kw, in, out)",
        )
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise refuse(f"padding={padding!r}", "'SAME', 'VALID' or pairs", "choose one of them")
        padding = jax.lax.padtype_to_pads(input_shape[:2], kernel.shape[:2], strides, padding)
    pads = tuple(map(tuple, padding)) if all(isinstance(pair, tuple | list) for pair in padding) else ()
    sides = [side for pair in pads for side in pair]
    if [*map(len, pads)] != [2, 2] or not all(isinstance(n, int | np.integer) and n >= 0 for n in sides):
        raise refuse(
            f"padding={padding!r}", "((top, bottom), (left, right)), none below 0", "pass 'SAME' or 'VALID'"
        )
    if any(n + sum(pad) < k for n, pad, k in zip(input_shape[:2], pads, kernel.shape[:2], strict=True)):
        raise refuse(
            f"a kernel of shape {kernel.shape} on images {tuple(input_shape)} with padding {pads}",
            "a kernel no larger than the padded image",
            "pad more, or pass the shape of this layer's input",
        )
    return pads
