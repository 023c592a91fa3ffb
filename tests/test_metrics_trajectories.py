"""Curves through given points, closed where they say so, and points that keep the norms of the data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.trajectories import (
    ellipse,
    random_directions,
    segment,
    shuffled_pixels,
    translation_loop,
)


def normal(seed, *shape, dtype=np.float32):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def flat(points):
    return np.asarray(points, np.float64).reshape(len(points), -1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_segment_by_hand(dtype, x64):
    a, b = jnp.array([[0.0, 1.0]], dtype), jnp.array([[4.0, -1.0]], dtype)
    points = jax.jit(segment, static_argnames="num_points")(a, b, num_points=5)
    np.testing.assert_array_equal(points[:, 0], [[0, 1], [1, 0.5], [2, 0], [3, -0.5], [4, -1]])
    assert points.dtype == dtype
    assert points.shape == (5, 1, 2)


def test_a_segment_holds_its_ends_exactly():
    """a + t (b - a) would miss b by rounding."""
    a, b = normal(1, 1000), normal(2, 1000)
    points = segment(a, b, num_points=7)
    np.testing.assert_array_equal(points[0], a)
    np.testing.assert_array_equal(points[-1], b)
    assert np.any(np.asarray(a + (b - a)) != np.asarray(b))


def test_an_ellipse_through_three_points(x64):
    a, b, c = (normal(seed, 2, 3, dtype=np.float64) for seed in (1, 2, 3))
    points = jax.jit(ellipse, static_argnames="num_points")(a, b, c, num_points=12)
    assert points.shape == (12, 2, 3)
    for at, point in ((0, a), (4, b), (8, c)):
        np.testing.assert_allclose(points[at], point, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(points.mean(axis=0), (a + b + c) / 3, rtol=1e-12, atol=1e-12)
    # All on one ellipse: 1, s, t, s^2, st, t^2 in the plane's coordinates are dependent, by one equation.
    centred = flat(points - points.mean(axis=0))
    _, sizes, basis = np.linalg.svd(centred)
    np.testing.assert_allclose(sizes[2:], 0, atol=1e-12)
    s, t = centred @ basis[0], centred @ basis[1]
    conic = np.stack([np.ones(12), s, t, s * s, s * t, t * t], axis=1)
    assert np.linalg.matrix_rank(conic, tol=1e-10) == 5
    # Its area, from the first and the fourth part of a turn, is 4 pi / (3 sqrt 3) of the triangle's.
    sides = np.stack([flat([b - a])[0], flat([c - a])[0]])
    triangle = np.sqrt(np.linalg.det(sides @ sides.T)) / 2
    axes = centred[[0, 3]]
    area = np.pi * np.sqrt(np.linalg.det(axes @ axes.T))
    np.testing.assert_allclose(area, 4 * np.pi / (3 * np.sqrt(3)) * triangle, rtol=1e-12)


def test_the_ellipse_of_an_equilateral_triangle_is_its_circle(x64):
    corners = jnp.array([[1.0, 0.0], [-0.5, np.sqrt(3) / 2], [-0.5, -np.sqrt(3) / 2]])
    points = ellipse(*corners, num_points=7)
    theta = 2 * np.pi * np.arange(7) / 7
    np.testing.assert_allclose(points, np.stack([np.cos(theta), np.sin(theta)], axis=1), atol=1e-14)


def test_whole_pixel_translations_are_rolls():
    image = normal(4, 3, 5, 2)
    points = translation_loop(image)
    assert points.shape == (5, 3, 5, 2)
    for shift, point in enumerate(points):
        np.testing.assert_array_equal(point, np.roll(image, shift, axis=1))
    fewer = translation_loop(normal(4, 3, 6, 2), num_points=3)
    np.testing.assert_array_equal(fewer, translation_loop(normal(4, 3, 6, 2))[::2])


@pytest.mark.parametrize("num_points", [1, 4, 10, 35])
def test_translations_between_pixels_are_interpolated(num_points, x64):
    image = normal(5, 3, 5, 2, dtype=np.float64)
    points = jax.jit(translation_loop, static_argnames="num_points")(image, num_points=num_points)
    for i, point in enumerate(points):
        shift = 5 * i / num_points
        whole = int(np.floor(shift))
        one, two = np.roll(image, whole, axis=1), np.roll(image, whole + 1, axis=1)
        np.testing.assert_allclose(point, one + (shift - whole) * (two - one), rtol=1e-12, atol=1e-12)
    assert len(points) == num_points
    np.testing.assert_allclose(points.sum(axis=2), np.stack([image.sum(axis=1)] * num_points), atol=1e-12)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 3), ()])
def test_random_directions_have_norm_one(shape, key):
    directions = random_directions(key, shape, 50)
    assert directions.shape == (50, *shape)
    assert directions.dtype == jnp.float32
    np.testing.assert_allclose(np.linalg.norm(flat(directions), axis=1), 1, rtol=1e-6)
    assert len(np.unique(flat(directions), axis=0)) == (2 if shape == () else 50)


def test_random_directions_are_isotropic(key, x64):
    """Mean 0 and covariance I / D, to 4 of their standard errors."""
    n, dimension = 20_000, 4
    directions = flat(random_directions(key, (2, 2), n, dtype=jnp.float64))
    np.testing.assert_allclose(directions.mean(axis=0), 0, atol=4 * np.sqrt(1 / dimension / n))
    products = directions[:, :, None] * directions[:, None, :]
    errors = np.abs(products.mean(axis=0) - np.eye(dimension) / dimension)
    assert np.all(errors < 4 * products.std(axis=0) / np.sqrt(n))


def test_shuffled_pixels_keep_values_and_norms(key):
    xs = normal(6, 40, 2, 3, 2)
    shuffled = jax.jit(shuffled_pixels)(key, xs)
    assert shuffled.shape == xs.shape
    np.testing.assert_array_equal(np.sort(flat(shuffled)), np.sort(flat(xs)))
    assert not np.any(np.all(flat(shuffled) == flat(xs), axis=1))
    # Independently: equal examples are shuffled differently.
    same = flat(shuffled_pixels(key, jnp.tile(xs[:1], (40, 1, 1, 1))))
    assert len(np.unique(same, axis=0)) == 40


def test_each_place_of_a_shuffle_is_as_likely(key):
    """Four values, 4000 shuffles: each is at each place 1000 times, with a standard deviation of 27."""
    shuffled = np.asarray(shuffled_pixels(key, jnp.tile(jnp.arange(4.0), (4000, 1))))
    counts = np.array([[(shuffled[:, place] == value).sum() for place in range(4)] for value in range(4)])
    assert np.all(np.abs(counts - 1000) < 4 * np.sqrt(4000 * 0.25 * 0.75))


def test_vmap_equals_a_loop(key):
    a, b, c = (normal(seed, 3, 4, 5, 1) for seed in (1, 2, 3))
    for curve in (
        lambda a, b, c: segment(a, b, num_points=4),
        lambda a, b, c: ellipse(a, b, c, num_points=4),
        lambda a, b, c: translation_loop(a, num_points=7),
    ):
        slow = [curve(*triple) for triple in zip(a, b, c, strict=True)]
        np.testing.assert_allclose(jax.vmap(curve)(a, b, c), slow, rtol=1e-5, atol=1e-6)


ONE, NAN = jnp.ones(3), jnp.array([1.0, jnp.nan, 1.0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: segment(ONE, jnp.ones(4), num_points=3), r"a, b of shapes \(3,\), \(4,\)"),
        (lambda: segment(ONE, NAN, num_points=3), "NaN or infinity in b"),
        (lambda: segment(ONE, ONE, num_points=1), "num_points=1"),
        (lambda: segment(ONE, ONE, num_points=2.0), "num_points=2.0; expected a whole number >= 2"),
        (lambda: segment(jnp.arange(3), jnp.arange(3), num_points=3), "a of dtype int32"),
        (lambda: segment(jnp.ones(0), jnp.ones(0), num_points=3), r"a of shape \(0,\)"),
        (lambda: ellipse(ONE, ONE, jnp.ones((3, 1)), num_points=3), r"a, b, c of shapes .* \(3, 1\)"),
        (lambda: ellipse(ONE, ONE, NAN, num_points=3), "NaN or infinity in c"),
        (lambda: ellipse(ONE, ONE, ONE, num_points=2), "num_points=2"),
        (lambda: translation_loop(jnp.ones((4, 4))), r"image of shape \(4, 4\); expected \(H, W, C\)"),
        (lambda: translation_loop(jnp.ones((4, 0, 1))), r"image of shape \(4, 0, 1\)"),
        (lambda: translation_loop(jnp.ones((4, 4, 1)), num_points=0), "num_points=0"),
        (lambda: translation_loop(jnp.ones((4, 4, 1), jnp.uint8)), "image of dtype uint8"),
        (lambda: random_directions(jax.random.key(0), (3, 0), 2), r"shape=\(3, 0\)"),
        (lambda: random_directions(jax.random.key(0), (3,), 0), "num=0"),
        (lambda: random_directions(jnp.zeros(2, jnp.uint32), (3,), 2), "key of type"),
        (lambda: random_directions(jax.random.key(0), (3,), 2, dtype=jnp.float16), "dtype float16"),
        (lambda: shuffled_pixels(0, ONE[None]), "key of type int"),
        (lambda: shuffled_pixels(jax.random.key(0), jnp.ones((0, 3))), "0 examples in xs"),
        (lambda: shuffled_pixels(jax.random.key(0), NAN[None]), "NaN or infinity in xs"),
    ],
)
def test_refusals(plain, call, message):
    with pytest.raises(InputError, match=message):
        call()
