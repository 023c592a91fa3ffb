"""Two-dimensional slices of the input space, and the linear regions that a network cuts them into (E).

E is Novak et al., "Sensitivity and Generalization in Neural Networks" (2018). In a plane through three
inputs each linear region is a convex polygon, with one activation code of its own (`activation_codes`).
`region_labels` tells regions apart on a grid of pixels; `slice_regions` finds the polygons exactly.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8, Int32, Integer

from jaxsens.checks import check_at_least, check_choice, check_finite, is_concrete, refuse
from jaxsens.metrics._norms import frobenius_norm
from jaxsens.metrics.activations import check_perceptron
from jaxsens.metrics.trajectories import check_points
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["Plane", "SliceRegions", "plane", "plane_points", "region_labels", "slice_regions"]

# What rounding may do to a preactivation, relative to the sum of the absolute values of its terms: a few
# hundred units in the last place, for sums of up to some thousand terms, one after another in each layer.
_ROUNDING = 2.0**-40


class Plane(NamedTuple):
    """The points origin + s u + t v, with orthonormal u and v, and the (s, t) of the three given points."""

    origin: Float[Array, "*shape"]
    u: Float[Array, "*shape"]
    v: Float[Array, "*shape"]
    coordinates: Float[Array, "3 2"]


class SliceRegions(NamedTuple):
    """The regions of a rectangle of a plane: R convex polygons, counter-clockwise (s, t), and their codes."""

    polygons: tuple[Float[np.ndarray, "_ 2"], ...]
    codes: Int8[np.ndarray, "R N"]


def plane(a: Float[Array, "*shape"], b: Float[Array, "*shape"], c: Float[Array, "*shape"]) -> Plane:
    """The plane through three points, a at (0, 0), b at (|b - a|, 0), and c above.

    Raises InputError for points of different shapes or without entries, a dtype other than float32 or
    float64, a NaN or infinity, or points on a line: c nearer to the line through a and b than sqrt(eps) times
    |c - a|, where rounding would choose v. Under `jit` v is NaN there.
    """
    check_points(a=a, b=b, c=c)
    u, base = normalised(b - a)
    side = c - a
    along = jnp.sum(side * u)
    away = side - along * u
    # Once more: what rounding left of u in a short remainder is large next to it.
    v, height = normalised(away - jnp.sum(away * u) * u)
    least = math.sqrt(float(jnp.finfo(a.dtype).eps)) * frobenius_norm(side)
    spans = (base > 0) & (height > least)
    if is_concrete(height):
        if not spans:
            raise refuse(
                f"points on a line: sides of {float(base):g} and {float(along):g}, height {float(height):g}",
                "three corners of a triangle",
                "choose another third point",
            )
    else:
        v = jnp.where(spans, v, jnp.nan)
    zero = jnp.zeros_like(base)
    coordinates = jnp.stack([jnp.stack(pair) for pair in ((zero, zero), (base, zero), (along, height))])
    return Plane(a, u, v, coordinates)


def plane_points(
    plane: Plane, extent: Sequence[float], *, resolution: int
) -> Float[Array, "resolution resolution *shape"]:
    """The centres of resolution^2 pixels of a rectangle: rows go from the bottom up, columns from the left.

    An array of one number per pixel is drawn in place by matplotlib's imshow(..., origin="lower",
    extent=extent).

    Args:
        plane: of `plane`.
        extent: (left, right, bottom, top), s from left to right and t from bottom to top.
        resolution: pixels along each side.

    Raises:
        InputError: for an extent that is not four finite rising numbers, a resolution below 1, or a plane
            that `plane` would not make: of several shapes, another dtype, with a NaN or infinity.
    """
    left, right, bottom, top = check_extent(extent)
    check_at_least("resolution", resolution, 1)
    check_points(origin=plane.origin, u=plane.u, v=plane.v)
    centres = (np.arange(resolution) + 0.5) / resolution
    trailing = [1] * plane.origin.ndim

    def spread(low: float, high: float, *shape: int) -> Array:
        return jnp.asarray(low + (high - low) * centres, plane.origin.dtype).reshape(*shape, *trailing)

    return plane.origin + spread(left, right, 1, -1) * plane.u + spread(bottom, top, -1, 1) * plane.v


def region_labels(
    codes: Integer[Array, "H W N"] | Integer[np.ndarray, "H W N"],
) -> Int32[np.ndarray, "H W"]:
    """Whole numbers 0, 1, ... that tell apart the codes on a grid, numbered as they come, row by row.

    On a plane one code is one region. This runs on the host, not under `jit`.

    Raises InputError for another rank than 3, an empty axis, or a dtype that is no integer.
    """
    if getattr(codes, "ndim", None) != 3 or codes.size == 0:
        raise refuse(
            f"codes of shape {np.shape(codes)}", "(H, W, N)", "reshape the codes of H W points to a grid"
        )
    if not jnp.issubdtype(codes.dtype, jnp.integer):
        raise refuse(f"codes of dtype {codes.dtype}", "integers", "make them with activation_codes")
    height, width, _ = codes.shape
    rows = np.ascontiguousarray(np.asarray(codes).reshape(height * width, -1))
    # One opaque value per row sorts far faster than np.unique(axis=0), which compares entry by entry.
    opaque = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, first, inverse = np.unique(opaque, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[inverse].reshape(height, width)


def slice_regions(
    weights: Sequence[Float[Array, "_ _"]],
    biases: Sequence[Float[Array, " _"]] | None,
    plane: Plane,
    extent: Sequence[float],
    *,
    activation: str = "relu",
) -> SliceRegions:
    """The linear regions of a perceptron in a rectangle of a plane, exactly, and their activation codes.

    Layer by layer: on a polygon of the layers below, y = slope z + shift is affine in (s, t), so each kink of
    each unit is a line, which splits the polygon where corners lie on both sides of it.

    Args:
        weights: k matrices (in, out), input to output.
        biases: k vectors (out,), or None for a biasless perceptron.
        plane: of `plane`.
        extent: (left, right, bottom, top), in the plane's coordinates.
        activation: a name in `PIECEWISE_LINEAR`.

    Returns:
        Float64 polygons (V, 2), whose areas sum to the rectangle's, and int8 codes, one row per polygon. A
        perceptron without hidden layers has one region, with no code.

    Raises:
        InputError: for shapes that do not chain, a plane of inputs of another size, an extent that is not
            four finite rising numbers, a NaN or infinity, or an unknown activation.

    This runs on the host in NumPy's float64, not under `jit`. A corner within rounding of a line, 2^-40
    of the sum of the absolute terms of y, lies on it. Cost: O(V H) for each of the regions of every layer.
    """
    check_choice("activation", activation, PIECEWISE_LINEAR)
    check_perceptron(weights, biases)
    check_plane(weights, plane)
    left, right, bottom, top = check_extent(extent)
    slope, shift, low, high = map(float, PIECEWISE_LINEAR[activation])
    reach = np.array([1.0, max(abs(left), abs(right)), max(abs(bottom), abs(top))])

    def held(y: np.ndarray, code: np.ndarray) -> np.ndarray:
        """The affine map of the activation's output: rows 1, s, t."""
        flat = np.zeros_like(y)
        flat[0] = np.where(code == 0, low, high)
        return np.where(code == 1, y, flat)

    inputs = np.stack([np.asarray(part, np.float64).ravel() for part in plane[:3]])
    corners = np.array([[left, bottom], [right, bottom], [right, top], [left, top]])
    regions = [(corners, inputs, np.zeros(0, np.int8))]
    for layer, matrix in enumerate(weights[:-1]):
        matrix = slope * np.asarray(matrix, np.float64)
        bias = shift + (0.0 if biases is None else slope * np.asarray(biases[layer], np.float64))
        size, finer = np.abs(matrix), []
        for polygon, hidden, code in regions:
            y = hidden @ matrix
            y[0] += bias
            tolerance = _ROUNDING * (reach @ np.abs(hidden) @ size + np.abs(bias))
            for part in split(polygon, y, (low, high), tolerance):
                own = code_of(part, y, low, high)
                finer.append((part, held(y, own), np.concatenate([code, own])))
        regions = finer
    return SliceRegions(tuple(part for part, _, _ in regions), np.stack([code for _, _, code in regions]))


def split(
    polygon: np.ndarray, y: np.ndarray, kinks: tuple[float, ...], tolerance: np.ndarray
) -> list[np.ndarray]:
    """The parts of a convex polygon, between the lines on which one of the maps y is at one of its kinks.

    A part of more than rounding on both sides of a line is cut there; then all its corners on one side are
    within rounding of the line, so that the same line cuts no part twice.
    """
    lines = np.concatenate(
        [y - np.array([[kink], [0], [0]]) for kink in kinks if math.isfinite(kink)], axis=1
    )
    slack = np.tile(tolerance, lines.shape[1] // len(tolerance))
    parts, waiting = [], [polygon]
    while waiting:
        part = waiting.pop()
        at = evaluate(lines, part)
        cuts = np.flatnonzero((at.min(axis=0) < -slack) & (at.max(axis=0) > slack))
        if not len(cuts):
            parts.append(part)
            continue
        on = at[:, cuts[0]]
        side = np.where(np.abs(on) <= slack[cuts[0]], 0, np.sign(on))
        waiting += [cut(part, on, side, sign) for sign in (1, -1)]
    return parts


def cut(polygon: np.ndarray, on: np.ndarray, side: np.ndarray, sign: int) -> np.ndarray:
    """The part of a polygon on one side of the line where the affine function with values `on` is 0."""
    kept = []
    for i in range(len(polygon)):
        j = (i + 1) % len(polygon)
        if side[i] != -sign:
            kept.append(polygon[i])
        if side[i] * side[j] < 0:
            kept.append((on[j] * polygon[i] - on[i] * polygon[j]) / (on[j] - on[i]))
    return np.array(kept)


def code_of(part: np.ndarray, y: np.ndarray, low: float, high: float) -> np.ndarray:
    """The code of each unit inside a part that no kink splits: that of the corner farthest from the kink."""
    at = evaluate(y, part)
    extremes = np.stack([at.min(axis=0), at.max(axis=0)])

    def farthest(kink: float) -> np.ndarray:
        return np.where(kink - extremes[0] > extremes[1] - kink, extremes[0], extremes[1])

    return (farthest(low) > low).astype(np.int8) + (farthest(high) >= high)


def evaluate(maps: np.ndarray, points: np.ndarray) -> np.ndarray:
    """(V, H) values of H affine maps, columns of (3, H) for 1, s and t, at V points (s, t)."""
    return maps[0] + points @ maps[1:]


def normalised(x: Float[Array, "*shape"]) -> tuple[Float[Array, "*shape"], Float[Array, ""]]:
    """x over its l2 norm, and that norm."""
    norm = frobenius_norm(x)
    # Twice: a norm below the normal numbers has few digits.
    scaled = x / jnp.where(norm == 0, 1, norm)
    length = frobenius_norm(scaled)
    return scaled / jnp.where(length == 0, 1, length), norm


def check_plane(weights: Sequence[Any], plane: Plane) -> None:
    """Refuses a plane that is not finite, or of inputs of another size than the first matrix takes."""
    if plane.origin.size != weights[0].shape[0]:
        raise refuse(
            f"a plane of points of shape {plane.origin.shape} for weights[0] of shape {weights[0].shape}",
            f"{weights[0].shape[0]} entries per point",
            "make the plane from inputs of this perceptron",
        )
    check_finite("plane", plane)


def check_extent(extent: Sequence[float]) -> tuple[float, ...]:
    """Refuses anything but finite (left, right, bottom, top) with left < right and bottom < top."""
    numbers = tuple(map(float, extent))
    if len(numbers) != 4 or not (
        all(map(math.isfinite, numbers)) and numbers[0] < numbers[1] and numbers[2] < numbers[3]
    ):
        raise refuse(
            f"extent={numbers}",
            "finite (left, right, bottom, top), left < right and bottom < top",
            "order it as matplotlib's imshow does",
        )
    return numbers
