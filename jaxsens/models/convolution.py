"""2-D convolutions that are fast on a CPU: one for training, one for measures.

XLA's CPU backend has a fast convolution for one layout: NHWC inputs, HWIO kernels, no dilation, no groups.
Automatic differentiation leaves that layout: inside `scan`, `map` or `while_loop` it is 50-200 times slower,
and `vmap` over kernels makes a grouped convolution, 10 times slower. Here, with stride s and o the output's
position,

    y[o]     = sum_k x[s o + k] w[k]         a convolution in the fast layout
    dx[i]    = sum_{k = i mod s} dy[(i - k) / s] w[k]^T      one such convolution for each i mod s
    dw[k]    = sum_o x[s o + k]^T dy[o]      a matrix product for each k

and under `vmap` over kernels the members take turns inside each of the three. There is a reverse mode, once;
there is no forward mode and no second derivative: measures use `measured_convolution`, which has all.

XLA's convolution is also slow at few pixels, as in the last layers of a VGG: there both take a product.
"""

import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.custom_batching import custom_vmap

from jaxsens.checks import refuse

__all__ = ["measured_convolution", "training_convolution"]

Pair = tuple[int, int]
Pads = tuple[Pair, Pair]

_LAYOUT = ("NHWC", "HWIO", "NHWC")
# Up to this many output pixels a product with the patches beats the convolution: 15 against 83 GFLOP/s at
# 2 x 2 pixels of 128 channels, 2 against 200 of 512, and the other way round from 4 x 4 on.
_FEW_PIXELS = 4
# Up to this many input channels the kernel's gradient is faster as one convolution, x^T * dy^T, in which the
# batch plays the channels: 43 against 31 GFLOP/s at 16 channels, 41 against 57 at 32.
_FEW_CHANNELS = 16
# Up to this many, as in the first layer, as a product for each row of the kernel: 70 against 13 GFLOP/s at 3.
_COLOURS = 4


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
    others = (lhs_dilation, rhs_dilation, feature_group_count, precision, out_sharding)
    strides, pads = _geometry(inputs, kernel, window_strides, padding, *others)
    return _convolution(strides, pads, inputs.shape[1:3], kernel.shape[:2])(inputs, kernel)


def measured_convolution(
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
    """The same with derivatives of every kind and order: `lax`'s own, or at few pixels a matrix product."""
    others = (lhs_dilation, rhs_dilation, feature_group_count, precision, out_sharding)
    strides, pads = _geometry(inputs, kernel, window_strides, padding, *others)
    return _forward(inputs, kernel, strides=strides, pads=pads)


def _geometry(
    inputs: Array,
    kernel: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[Pair],
    lhs_dilation: Sequence[int] | None,
    rhs_dilation: Sequence[int] | None,
    feature_group_count: int,
    precision: object,
    out_sharding: object,
) -> tuple[Pair, Pads]:
    """Strides and padding in numbers, of a convolution that is one of these two."""
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
    low_high = tuple((int(low), int(high)) for low, high in padding)
    return strides, (low_high[0], low_high[1])


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
    if min(min(pad) for pad in pads) < 0:
        # On a CPU jaxlib 0.10.1 gets convolutions with negative padding wrong: crop first.
        x = _pad(x, [(min(low, 0), min(high, 0)) for low, high in pads])
        (top, bottom), (left, right) = pads
        pads = (max(top, 0), max(bottom, 0)), (max(left, 0), max(right, 0))
    height, width = (
        (n + low + high - k) // stride + 1
        for n, k, stride, (low, high) in zip(x.shape[1:3], w.shape[:2], strides, pads, strict=True)
    )
    if height * width > _FEW_PIXELS:
        return lax.conv_general_dilated(x, w, strides, pads, dimension_numbers=_LAYOUT)
    windows = jnp.concatenate(_windows(x, strides, pads, w.shape[:2], (height, width)), axis=-1)
    # The kernel as it is, not reshaped: `tangent_sensitivity` knows products with parameters.
    contracted = (((3, 4, 5), (0, 1, 2)), ((), ()))
    return lax.dot_general(windows.reshape(*windows.shape[:3], *w.shape[:3]), w, contracted)


def _input_gradient(dy: Array, w: Array, *, strides: Pair, pads: Pads, input_size: Pair) -> Array:
    turned = w.swapaxes(2, 3)
    rows, columns = (
        [_taps(phase, *sizes) for phase in range(sizes[0])]
        for sizes in zip(strides, pads, w.shape[:2], input_size, dy.shape[1:3], strict=True)
    )
    # Inputs of one phase, i = stride * q + phase, see the same taps: an unstrided convolution of dy.
    phases = [[_phase(dy, turned, row_taps, column_taps) for column_taps in columns] for row_taps in rows]
    dx = jnp.stack([jnp.stack(row, axis=3) for row in phases], axis=2)
    batch, height, _, width, _, channels = dx.shape
    dx = dx.reshape(batch, height * strides[0], width * strides[1], channels)
    return dx[:, : input_size[0], : input_size[1]]


def _taps(phase: int, stride: int, pad: Pair, kernel: int, size: int, output: int) -> tuple[list[int], Pair]:
    """The taps, last first, that reach the inputs of a phase, and the padding of dy that brings all out."""
    first = (phase + pad[0]) % stride
    count = len(range(first, kernel, stride))
    taps = [first + stride * j for j in reversed(range(count))]
    low = count - 1 - (phase + pad[0] - first) // stride
    return taps, (low, -(-size // stride) - output - low + count - 1)


def _phase(dy: Array, turned: Array, row_taps: tuple, column_taps: tuple) -> Array:
    (rows, row_pad), (columns, column_pad) = row_taps, column_taps
    if not (rows and columns):
        # The stride steps over these inputs.
        size = (
            n + sum(pad) - len(taps) + 1
            for n, (taps, pad) in zip(dy.shape[1:3], (row_taps, column_taps), strict=True)
        )
        return jnp.zeros((dy.shape[0], *size, turned.shape[3]), dy.dtype)
    kernel = turned[np.array(rows)][:, np.array(columns)]
    return _forward(dy, kernel, strides=(1, 1), pads=(row_pad, column_pad))


def _kernel_gradient(x: Array, dy: Array, *, strides: Pair, pads: Pads, kernel_size: Pair) -> Array:
    if x.shape[-1] <= _COLOURS:
        return _kernel_gradient_by_rows(x, dy, strides, pads, kernel_size)
    if strides == (1, 1) and kernel_size != (1, 1) and x.shape[-1] <= _FEW_CHANNELS:
        turned = _forward(x.transpose(3, 1, 2, 0), dy.transpose(1, 2, 0, 3), strides=(1, 1), pads=pads)
        return turned.transpose(1, 2, 0, 3)
    windows = _windows(x, strides, pads, kernel_size, dy.shape[1:3])
    flat = dy.reshape(-1, dy.shape[-1])
    taps = jnp.stack([window.reshape(-1, x.shape[-1]).T @ flat for window in windows])
    return taps.reshape(*kernel_size, x.shape[-1], dy.shape[-1])


def _kernel_gradient_by_rows(x: Array, dy: Array, strides: Pair, pads: Pads, kernel_size: Pair) -> Array:
    x = _pad(x, pads)
    rows, columns = (stride * (n - 1) + 1 for stride, n in zip(strides, dy.shape[1:3], strict=True))
    # What a row of the kernel meets, side by side.
    wide = [x[:, :, j : j + columns : strides[1]] for j in range(kernel_size[1])]
    met = jnp.concatenate(wide, axis=-1)
    flat = dy.reshape(-1, dy.shape[-1])
    taps = [
        met[:, i : i + rows : strides[0]].reshape(-1, met.shape[-1]).T @ flat for i in range(kernel_size[0])
    ]
    return jnp.stack(taps).reshape(*kernel_size, x.shape[-1], dy.shape[-1])


def _windows(
    x: Array, strides: Pair, pads: Pads, kernel: Sequence[int], output: Sequence[int]
) -> list[Array]:
    """For each tap of the kernel, what it meets at each output position: arrays of shape (n, *output, C)."""
    x = _pad(x, pads)
    rows, columns = (stride * (n - 1) + 1 for stride, n in zip(strides, output, strict=True))
    return [
        x[:, i : i + rows : strides[0], j : j + columns : strides[1]]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _pad(x: Array, pads: Sequence[Pair]) -> Array:
    """Zeros around the images, or, where a pad is negative, less of them."""
    return lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*pad, 0) for pad in pads), (0, 0, 0)))
