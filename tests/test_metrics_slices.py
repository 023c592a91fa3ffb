"""Planes, their pixels, and the regions in them: by hand, by linear programs, and by what points say."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxsens.checks import InputError
from jaxsens.metrics.activations import mlp_preactivations
from jaxsens.metrics.crossings import count_crossings
from jaxsens.metrics.slices import plane, plane_points, region_labels, slice_regions
from jaxsens.metrics.transitions import activation_codes
from jaxsens.types import PIECEWISE_LINEAR

ACTIVATIONS = sorted(PIECEWISE_LINEAR)
# Half the side of a square that the kinks of each activation cross, and the size of inner weights.
SCALES = {"relu": (3.0, 1.0), "relu6": (9.0, 1.0), "hard_tanh": (2.0, 1.5), "hard_sigmoid": (6.0, 9.0)}


def normal(seed, *shape, dtype=np.float64):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def perceptron(seed, activation, widths):
    inner = SCALES[activation][1]
    weights = [
        (inner if i else 1.0) * normal([seed, 1, i], *shape)
        for i, shape in enumerate(itertools.pairwise(widths))
    ]
    return weights, [normal([seed, 2, i], width) for i, width in enumerate(widths[1:])]


def square(activation):
    half = SCALES[activation][0]
    return (-half, half, -half, half)


def flat_plane():
    """The plane whose coordinates are the two inputs."""
    return plane(jnp.zeros(2), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))


def codes_at(weights, biases, surface, coordinates, activation):
    s, t = (jnp.asarray(c).reshape(-1, *[1] * surface.u.ndim) for c in np.asarray(coordinates).T)
    h = mlp_preactivations(
        weights, biases, surface.origin + s * surface.u + t * surface.v, activation=activation
    )
    return np.asarray(activation_codes(h, activation=activation))


def area(polygon):
    s, t = polygon.T
    return (s * np.roll(t, -1) - np.roll(s, -1) * t).sum() / 2


def feasible(rows, bounds, extent):
    """Whether a disc of positive radius fits between lines: rows (s, t) . x <= bounds."""
    rows, bounds = np.array(rows), np.array(bounds)
    system = np.column_stack([rows, np.linalg.norm(rows, axis=1)])
    left, right, bottom, top = extent
    box = np.array([[1, 0, 1], [-1, 0, 1], [0, 1, 1], [0, -1, 1]], float)
    result = linprog(
        [0, 0, -1],
        A_ub=np.concatenate([system, box]),
        b_ub=np.concatenate([bounds, [right, -left, top, -bottom]]),
        bounds=[(None, None), (None, None), (0, None)],
    )
    return result.status == 0 and -result.fun > 1e-9


def feasible_codes(weights, biases, extent, activation):
    """The codes of all regions of a network of two inputs: every code of every layer, by linear programs."""
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    found = [((), np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), [], [])]
    for w, v in zip(weights[:-1], biases[:-1], strict=True):
        finer = []
        for code, hidden, rows, bounds in found:
            y = slope * (hidden @ np.asarray(w)) + np.array([[shift], [0], [0]])
            y[0] += slope * np.asarray(v)
            for own in itertools.product(range(2 if math.isinf(high) else 3), repeat=y.shape[1]):
                more_rows, more_bounds, output = [*rows], [*bounds], np.zeros_like(y)
                for unit, piece in enumerate(own):
                    constant, gradient = y[0, unit], y[1:, unit]
                    if piece < 2:
                        more_rows.append(gradient)
                        more_bounds.append((low if piece == 0 else min(high, 1e6)) - constant)
                    if piece > 0:
                        more_rows.append(-gradient)
                        more_bounds.append(constant - (low if piece == 1 else high))
                    if piece == 1:
                        output[:, unit] = y[:, unit]
                    else:
                        output[0, unit] = low if piece == 0 else high
                if feasible(more_rows, more_bounds, extent):
                    finer.append(((*code, *own), output, more_rows, more_bounds))
        found = finer
    return {code for code, _, _, _ in found}


def length_inside(polygon, start, stop):
    """The part of a segment, as a share of it, that lies in a convex counter-clockwise polygon."""
    first, last = 0.0, 1.0
    for corner, following in zip(polygon, np.roll(polygon, -1, axis=0), strict=True):
        side = following - corner
        at, to = (side[0] * (p - corner)[1] - side[1] * (p - corner)[0] for p in (start, stop))
        if at < 0 and to < 0:
            return 0.0
        if at < 0 <= to:
            first = max(first, at / (at - to))
        if to < 0 <= at:
            last = min(last, at / (at - to))
    return max(last - first, 0.0)


def test_a_plane_through_three_points(x64):
    a, b, c = (normal(seed, 2, 3) for seed in (1, 2, 3))
    surface = jax.jit(plane)(a, b, c)
    for (s, t), point in zip(surface.coordinates, (a, b, c), strict=True):
        np.testing.assert_allclose(surface.origin + s * surface.u + t * surface.v, point, atol=1e-14)
    axes = np.stack([np.ravel(surface.u), np.ravel(surface.v)])
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-15)
    assert surface.coordinates[2, 1] > 0
    np.testing.assert_array_equal(surface.coordinates[:2].at[1, 0].set(0), 0)


def test_the_axes_of_a_flat_triangle_are_orthonormal():
    """A height of a thousandth of the side, in float32."""
    a, b = normal(1, 784, dtype=np.float32), normal(2, 784, dtype=np.float32)
    surface = plane(a, b, (a + b) / 2 + 1e-3 * normal(3, 784, dtype=np.float32))
    axes = np.stack([surface.u, surface.v]).astype(np.float64)
    np.testing.assert_allclose(axes @ axes.T, np.eye(2), atol=1e-6)


def test_pixels_by_hand():
    points = plane_points(flat_plane(), (0.0, 4.0, -1.0, 1.0), resolution=2)
    np.testing.assert_allclose(points, [[[1, -0.5], [3, -0.5]], [[1, 0.5], [3, 0.5]]])
    surface = plane(*(normal(seed, 2, 3, dtype=np.float32) for seed in (1, 2, 3)))
    points = plane_points(surface, (-1.0, 2.0, 0.0, 6.0), resolution=3)
    assert points.shape == (3, 3, 2, 3)
    assert points.dtype == jnp.float32
    expected = surface.origin + 1.5 * surface.u + 3.0 * surface.v
    np.testing.assert_allclose(points[1, 2], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.int8, np.int32])
def test_labels_by_hand(dtype):
    codes = jnp.array([[[2, 1], [0, 1], [2, 1]], [[0, 1], [0, 0], [2, 2]]], dtype)
    labels = region_labels(codes)
    np.testing.assert_array_equal(labels, [[0, 1, 0], [1, 2, 3]])
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(region_labels(np.asarray(codes)), labels)


def test_one_layer_by_hand():
    """max(s, 0) and max(t - 1, 0) on a square of side 4: four rectangles."""
    weights, biases = [jnp.eye(2), jnp.ones((2, 1))], [jnp.array([0.0, -1.0]), jnp.zeros(1)]
    regions = slice_regions(weights, biases, flat_plane(), (-2.0, 2.0, -2.0, 2.0))
    areas = {tuple(code): area(p) for p, code in zip(regions.polygons, regions.codes.tolist(), strict=True)}
    assert areas == pytest.approx({(0, 0): 6.0, (1, 0): 6.0, (0, 1): 2.0, (1, 1): 2.0})
    assert regions.codes.dtype == np.int8
    corners = next(p for p, c in zip(regions.polygons, regions.codes, strict=True) if tuple(c) == (1, 1))
    assert {tuple(corner) for corner in corners} == {(0.0, 1.0), (2.0, 1.0), (2.0, 2.0), (0.0, 2.0)}


def test_a_second_layer_bends_by_hand():
    """max(max(s, 0) + max(t, 0) - 1, 0): s = 1, t = 1 and s + t = 1, each in its own quadrant."""
    weights = [jnp.eye(2), jnp.ones((2, 1)), jnp.ones((1, 1))]
    regions = slice_regions(
        weights, [jnp.zeros(2), -jnp.ones(1), jnp.zeros(1)], flat_plane(), (-2.0, 2.0, -2.0, 2.0)
    )
    areas = {tuple(code): area(p) for p, code in zip(regions.polygons, regions.codes.tolist(), strict=True)}
    expected = {(0, 0, 0): 4.0, (1, 1, 0): 0.5, (1, 1, 1): 3.5}
    expected |= {(*quadrant, on): 2.0 for quadrant in ((1, 0), (0, 1)) for on in (0, 1)}
    assert areas == pytest.approx(expected)


def test_no_hidden_layer_and_no_biases():
    regions = slice_regions([jnp.ones((2, 3))], None, flat_plane(), (0.0, 1.0, 0.0, 2.0))
    assert regions.codes.shape == (1, 0)
    assert area(regions.polygons[0]) == pytest.approx(2.0)
    weights = [normal(3, 2, 5, dtype=np.float32), jnp.ones((5, 1))]
    # Five lines through one point.
    assert len(slice_regions(weights, None, flat_plane(), (-1.0, 2.0, -1.0, 1.0)).polygons) == 10


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_regions_are_those_that_linear_programs_find(activation, x64):
    sizes = []
    for seed in range(6 if activation == "relu" else 3):
        weights, biases = perceptron(seed, activation, (2, 3, 2, 1))
        regions = slice_regions(weights, biases, flat_plane(), square(activation), activation=activation)
        codes = {tuple(code) for code in regions.codes.tolist()}
        assert len(codes) == len(regions.polygons)
        assert codes == feasible_codes(weights, biases, square(activation), activation)
        sizes.append(len(codes))
    assert max(sizes) > (8 if activation == "relu" else 15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_regions_of_a_deep_network(activation, x64):
    """They fill the rectangle, do not overlap, and each has the codes of the points in it."""
    weights, biases = perceptron(20, activation, (6, 8, 6, 5, 3))
    surface = plane(*(normal([21, i], 2, 3) for i in range(3)))
    extent = square(activation)
    regions = slice_regions(weights, biases, surface, extent, activation=activation)
    areas = np.array([area(p) for p in regions.polygons])
    assert np.all(areas > 0)
    np.testing.assert_allclose(areas.sum(), (2 * extent[1]) ** 2, rtol=1e-12)
    assert len(np.unique(regions.codes, axis=0)) == len(areas) > 60
    # A polygon of less area than this has no inside in float64.
    large = areas > 1e-9
    centres = np.stack([p.mean(axis=0) for p in regions.polygons])
    codes = codes_at(weights, biases, surface, centres, activation)
    np.testing.assert_array_equal(codes[large], regions.codes[large])
    pixels = plane_points(surface, extent, resolution=40)
    h = mlp_preactivations(weights, biases, pixels.reshape(-1, 2, 3), activation=activation)
    seen = activation_codes(h, activation=activation)
    assert {tuple(c) for c in seen.tolist()} <= {tuple(c) for c in regions.codes.tolist()}
    labels = region_labels(seen.reshape(40, 40, -1))
    assert labels[0, 0] == 0
    assert labels.max() + 1 == len(np.unique(seen, axis=0)) <= len(areas)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_segment_crosses_into_as_many_regions_as_counted(activation, x64):
    weights, biases = perceptron(30, activation, (5, 8, 6, 3))
    surface = plane(*(normal([31, i], 5) for i in range(3)))
    extent = square(activation)
    regions = slice_regions(weights, biases, surface, extent, activation=activation)
    ends = np.random.default_rng(32).uniform(-extent[1], extent[1], (2, 15, 2))
    visited = [
        sum(length_inside(p, start, stop) > 1e-9 for p in regions.polygons)
        for start, stop in zip(*ends, strict=True)
    ]
    a, b = (surface.origin + jnp.asarray(e) @ jnp.stack([surface.u, surface.v]) for e in ends)
    counts = count_crossings(weights, biases, a, b, activation=activation)
    np.testing.assert_array_equal(counts, np.array(visited) - 1)
    assert max(visited) > 8


def test_rescaling_nodes_leaves_the_regions_of_relu(x64):
    weights, biases = perceptron(40, "relu", (3, 6, 5, 2))
    surface, scale = plane(*(normal([41, i], 3) for i in range(3))), jnp.exp(normal(42, 6))
    moved = [weights[0] * scale, weights[1] / scale[:, None], weights[2]]
    before = slice_regions(weights, biases, surface, (-3.0, 3.0, -3.0, 3.0))
    after = slice_regions(moved, [biases[0] * scale, *biases[1:]], surface, (-3.0, 3.0, -3.0, 3.0))
    np.testing.assert_array_equal(after.codes, before.codes)
    for one, two in zip(after.polygons, before.polygons, strict=True):
        np.testing.assert_allclose(one, two, atol=1e-9)


def test_equal_units_and_lines_along_the_edge():
    """Lines that coincide, with each other or with a side, cut nothing twice."""
    weights = [jnp.array([[1.0, 1.0, 2.0, 1.0], [0.0, 0.0, 0.0, 0.0]]), jnp.ones((4, 1))]
    biases = [jnp.array([0.0, 0.0, 0.0, 1.0]), jnp.zeros(1)]
    regions = slice_regions(weights, biases, flat_plane(), (-1.0, 1.0, -1.0, 1.0))
    assert sorted(map(tuple, regions.codes.tolist())) == [(0, 0, 0, 1), (1, 1, 1, 1)]
    np.testing.assert_allclose([area(p) for p in regions.polygons], 2.0)


ONE = jnp.ones(3)
WEIGHTS = [jnp.ones((2, 3)), jnp.ones((3, 1))]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plane(ONE, 2 * ONE, 5 * ONE), "points on a line"),
        (lambda: plane(ONE, ONE, jnp.arange(3.0)), "points on a line: sides of 0"),
        (lambda: plane(ONE, jnp.arange(3.0), ONE), "points on a line"),
        (lambda: plane(ONE, ONE, jnp.ones(4)), r"a, b, c of shapes \(3,\), \(3,\), \(4,\)"),
        (lambda: plane(ONE, ONE, jnp.full(3, jnp.nan)), "NaN or infinity in c"),
        (lambda: plane_points(flat_plane(), (0.0, 1.0, 1.0, 0.0), resolution=2), r"extent=\(0.0, 1.0, 1"),
        (lambda: plane_points(flat_plane(), (0.0, 1.0, 1.0), resolution=2), "extent=.* expected finite"),
        (lambda: plane_points(flat_plane(), (0.0, np.inf, 0.0, 1.0), resolution=2), "extent=.*inf"),
        (lambda: plane_points(flat_plane(), (0.0, 1.0, 0.0, 1.0), resolution=0), "resolution=0"),
        (lambda: region_labels(jnp.ones((2, 2), jnp.int8)), r"codes of shape \(2, 2\)"),
        (lambda: region_labels(jnp.ones((2, 2, 0), jnp.int8)), r"codes of shape \(2, 2, 0\)"),
        (lambda: region_labels(jnp.ones((2, 2, 1))), "codes of dtype float32"),
        (lambda: slice_regions(WEIGHTS, None, flat_plane(), (1.0, 0.0, 0.0, 1.0)), r"extent=\(1.0, 0.0"),
        (lambda: slice_regions([*WEIGHTS, jnp.ones((2, 1))], None, flat_plane(), (0, 1, 0, 1)), "chain"),
        (
            lambda: slice_regions(WEIGHTS[1:], None, flat_plane(), (0, 1, 0, 1)),
            r"points of shape \(2,\) for weights\[0\] of shape \(3, 1\); expected 3 entries",
        ),
        (
            lambda: slice_regions(
                WEIGHTS, None, flat_plane()._replace(u=jnp.array([jnp.nan, 0])), (0, 1, 0, 1)
            ),
            "NaN or infinity in plane.u",
        ),
        (
            lambda: slice_regions(WEIGHTS, None, flat_plane(), (0, 1, 0, 1), activation="elu"),
            "activation='elu'",
        ),
    ],
)
def test_refusals(plain, call, message):
    with pytest.raises(InputError, match=message):
        call()
