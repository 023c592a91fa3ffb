"""A 2-D convolution whose gradient stays fast on a CPU inside loops and under `vmap`. For training only.

XLA's CPU backend has a fast convolution for one layout: NHWC inputs, HWIO kernels, no dilation, no groups.
Automatic differentiation leaves that layout: inside `scan`, `map` or `while_loop` it is 50-200 times slower,
and `vmap` over kernels makes a grouped convolution, 10 times slower. Here the forward pass and both
gradients are each one convolution in the fast layout,

    y  = x * w                            (strided)
    dx = stretch(dy) * flip(w)^T          (stretch: zeros between entries; ^T: input and output channels)
    dw = x^T * stretch(dy)^T              (^T: the batch plays the channels)

(where few pixels come out, a product with the matrix of patches is 10 times faster still), and under `vmap`
over kernels the members take turns inside each of the three. There is a reverse mode, once;
there is no forward mode and no second derivative: measures use `jax.lax.conv_general_dilated`.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxsens.checks import refuse

__all__ = ["training_convolution"]

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Up to this many output pixels the patches, as a matrix, beat the convolution: measured, 13 against
# 137 GFLOP/s at 2 x 2 pixels of 128 channels, and the other way round from 4 x 4 on.
_FEW_PIXELS = 4


def training_convolution(
    inputs: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: object = None,
    feature_group_count: int = 1,
    precision: object = None,
    out_sharding: object = None,
) -> Array:
    """`jax.lax.conv_general_dilated` for NHWC inputs and HWIO kernels, in the form `nnx.Conv` takes.

    Equal to `lax`'s to rounding, and so are both first derivatives, for any kernel size, stride and padding.
    Dilation, groups, another precision or another rank are refused.
    """
    plain = (
        inputs.ndim == kernel.ndim == 4
        and all(d == 1 for d in (*(lhs_dilation or ()), *(rhs_dilation or ())))
        and feature_group_count == 1
        and precision is None
        and out_sharding is None
    )
    if not plain:
        raise refuse(
            f"inputs {inputs.shape}, kernel {kernel.shape}, dilations {lhs_dilation} and {rhs_dilation}, "
            f"{feature_group_count} groups, precision {precision}",
            "an ungrouped, undilated 2-D convolution of NHWC inputs",
            "build this layer with jax.lax.conv_general_dilated",
        )
    strides = (int(window_strides[0]), int(window_strides[1]))
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(inputs.shape[1:3], kernel.shape[:2], strides, padding)
    pads = tuple((int(low), int(high)) for low, high in padding)
    return _convolution(strides, pads, inputs.shape[1:3], kernel.shape[:2])(inputs, kernel)


@functools.cache
def _convolution(strides: Pair, pads: Pads, input_size: Pair, kernel_size: Pair) -> Callable:
    """The convolution of one geometry, with its reverse mode and its batching rule."""
    forward = _members_in_turn(functools.partial(_forward, strides=strides, pads=pads))
    input_gradient = _members_in_turn(
        functools.partial(_input_gradient, strides=strides, pads=pads, input_size=input_size)
    )
    kernel_gradient = _members_in_turn(
        functools.partial(_kernel_gradient, strides=strides, pads=pads, kernel_size=kernel_size)
    )

    @jax.custom_vjp
    def convolution(x: Array, w: Array) -> Array:
        return forward(x, w)

    def forward_rule(x, w):
        return forward(x, w), (x, w)

    def backward_rule(residuals, dy):
        x, w = residuals
        return input_gradient(dy, w), kernel_gradient(x, dy)

    convolution.defvjp(forward_rule, backward_rule)
    return convolution


def _members_in_turn(function: Callable[[Array, Array], Array]) -> Callable[[Array, Array], Array]:
    """The function of two arrays; under `vmap`, a loop over members in place of a grouped convolution."""
    wrapped = custom_vmap(function)

    @wrapped.def_vmap
    def rule(axis_size, in_batched, a, b):
        a, b = (
            v if batched else jnp.broadcast_to(v, (axis_size, *v.shape))
            for v, batched in zip((a, b), in_batched, strict=True)
        )
        return lax.map(lambda pair: wrapped(*pair), (a, b)), True

    return wrapped


def _forward(x: Array, w: Array, *, strides: Pair, pads: Pads) -> Array:
    height, width = (
        (n + low + high - k) // stride + 1
        for n, k, stride, (low, high) in zip(x.shape[1:3], w.shape[:2], strides, pads, strict=True)
    )
    if height * width > _FEW_PIXELS:
        return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=_LAYOUT)
    x = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
    rows, columns = (stride * jnp.arange(n) for stride, n in zip(strides, (height, width), strict=True))
    patches = [x[:, rows + i][:, :, columns + j] for i in range(w.shape[0]) for j in range(w.shape[1])]
    return jnp.tensordot(jnp.concatenate(patches, axis=-1), w.reshape(-1, w.shape[-1]), axes=1)


def _input_gradient(dy: Array, w: Array, *, strides: Pair, pads: Pads, input_size: Pair) -> Array:
    # Tap k of output o reads input o*s + k - low, so input i gets dy at o*s = i - k + low.
    stretched = _stretch(dy, strides)
    turned = jnp.flip(w, (0, 1)).swapaxes(2, 3)
    around = tuple(
        (k - 1 - low, n + low - s)
        for k, (low, _), n, s in zip(w.shape[:2], pads, input_size, stretched.shape[1:3], strict=True)
    )
    return _forward(stretched, turned, strides=(1, 1), pads=around)


def _kernel_gradient(x: Array, dy: Array, *, strides: Pair, pads: Pads, kernel_size: Pair) -> Array:
    stretched = _stretch(dy, strides)
    # Rows of x that no window reached are cut off by a negative high pad.
    around = tuple(
        (low, k + s - 1 - n - low)
        for k, (low, _), n, s in zip(kernel_size, pads, x.shape[1:3], stretched.shape[1:3], strict=True)
    )
    turned = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0), stretched.transpose(1, 2, 0, 3), (1, 1), around, dimension_numbers=_LAYOUT
    )
    return turned.transpose(1, 2, 0, 3)


def _stretch(dy: Array, strides: Pair) -> Array:
    """Zeros between the entries, so that a strided convolution's gradient is an unstrided one."""
    if strides == (1, 1):
        return dy
    zero = jnp.zeros((), dy.dtype)
    return lax.pad(dy, zero, ((0, 0, 0), (0, 0, strides[0] - 1), (0, 0, strides[1] - 1), (0, 0, 0)))
