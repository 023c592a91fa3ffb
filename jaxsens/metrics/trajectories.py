"""Paths through the input space to count transitions on (E), and points and directions away from the data.

E (Novak et al., "Sensitivity and Generalization in Neural Networks", 2018) counts the transitions of a
network's code along closed curves through data points. Points come with a leading axis, in order and in the
dtype of the input; a closed curve does not repeat its first point.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxsens.checks import check_at_least, check_examples, check_finite, check_key, refuse
from jaxsens.metrics._batching import check_floating
from jaxsens.types import PRNGKey

__all__ = ["ellipse", "random_directions", "segment", "shuffled_pixels", "translation_loop"]


def segment(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], *, num_points: int
) -> Float[Array, "num_points *shape"]:
    """(1 - t) a + t b at num_points >= 2 equally spaced t from 0 to 1: both ends are included, exactly.

    Raises InputError for ends of different shapes or without entries, a dtype other than float32 or float64,
    a NaN or infinity, or num_points below 2.
    """
    check_points(a=a, b=b)
    check_at_least("num_points", num_points, 2)
    t = column(np.arange(num_points) / (num_points - 1), a)
    return (1 - t) * a + t * b


def ellipse(
    a: Float[Array, "*shape"], b: Float[Array, "*shape"], c: Float[Array, "*shape"], *, num_points: int
) -> Float[Array, "num_points *shape"]:
    """The Steiner circumellipse of three points, the ellipse of least area through them.

        x(theta) = g + cos(theta) (a - g) + sin(theta) (b - c) / sqrt(3),    g = (a + b + c) / 3,

    at theta_i = 2 pi i / num_points: a is at 0, b at 2 pi / 3 and c at 4 pi / 3, which are among the points
    where 3 divides num_points. The mean of the points is g. E takes an ellipse through three data points, and
    many pass through them: which one E takes we do not know.

    Raises InputError for points of different shapes or without entries, a dtype other than float32 or
    float64, a NaN or infinity, or num_points below 3.
    """
    check_points(a=a, b=b, c=c)
    check_at_least("num_points", num_points, 3)
    theta = 2 * np.pi * np.arange(num_points) / num_points
    centre = (a + b + c) / 3
    return (
        centre + column(np.cos(theta), a) * (a - centre) + column(np.sin(theta) / math.sqrt(3), a) * (b - c)
    )


def translation_loop(
    image: Float[Array, "H W C"], *, num_points: int | None = None
) -> Float[Array, "_ H W C"]:
    """The image moved to the right by s_i = i W / num_points pixels, around a cylinder (E).

    What leaves at the right enters at the left. Between whole pixels it is (1 - r) T^m x + r T^(m+1) x, with
    m + r = s_i and T one pixel's move: a polygon through the W moved images, closed since T^W x = x.

    Args:
        image: (H, W, C).
        num_points: of the loop; None takes W, which are the whole-pixel moves.

    Raises:
        InputError: for another rank than 3, no entries, a dtype other than float32 or float64, a NaN or
            infinity, or num_points below 1.
    """
    check_points(image=image)
    if image.ndim != 3:
        raise refuse(
            f"image of shape {image.shape}",
            "(H, W, C)",
            "pass one image; vmap over several; add a channel axis",
        )
    width = image.shape[1]
    num_points = width if num_points is None else num_points
    check_at_least("num_points", num_points, 1)
    # In whole numbers, so that the whole-pixel moves among the points are exact.
    whole, rest = np.divmod(np.arange(num_points) * width, num_points)
    remainder = column(rest / num_points, image)
    columns = np.arange(width) - whole[:, None]

    def moved(by: int) -> Array:
        return jnp.moveaxis(image[:, (columns - by) % width], 1, 0)

    return (1 - remainder) * moved(0) + remainder * moved(1)


def random_directions(
    key: PRNGKey, shape: tuple[int, ...], num: int, *, dtype: Any = jnp.float32
) -> Float[Array, "num *shape"]:
    """num >= 1 independent directions in the space of inputs of this shape: Gaussians over their l2 norm.

    Raises InputError for a key that is not one typed key, a shape without entries, num below 1, or a dtype
    other than float32 or float64.
    """
    check_key(key)
    check_at_least("num", num, 1)
    if math.prod(shape) < 1:
        raise refuse(f"shape={shape}", "a shape with entries", "drop the empty axis")
    check_floating("directions", jnp.zeros((), dtype))
    directions = jax.random.normal(key, (num, *shape), dtype)
    axes = tuple(range(1, directions.ndim))
    return directions / jnp.sqrt(jnp.sum(directions**2, axis=axes, keepdims=True))


def shuffled_pixels(key: PRNGKey, xs: Float[Array, "n *shape"]) -> Float[Array, "n *shape"]:
    """Each example with its own entries in a random order, independent of the other examples'.

    These points are away from the data, with the norms and the pixel values of the data. Entries of all axes
    are mixed, the channels of an image too.

    Raises InputError for a key that is not one typed key, no examples or no entries, a dtype other than
    float32 or float64, or a NaN or infinity.
    """
    check_key(key)
    check_examples(xs)
    check_points(xs=xs)
    entries = xs.reshape(xs.shape[0], -1)
    return jax.random.permutation(key, entries, axis=1, independent=True).reshape(xs.shape)


def column(values: np.ndarray, like: Array) -> Array:
    """k numbers in the dtype of an array, shaped to multiply (k, *like.shape)."""
    return jnp.asarray(values, like.dtype).reshape(-1, *[1] * like.ndim)


def check_points(**points: Any) -> None:
    """Refuses points that are not finite floats, are empty, or differ in shape."""
    for name, point in points.items():
        check_floating(name, point)
        if point.size == 0:
            raise refuse(f"{name} of shape {point.shape}", "a point with entries", "drop the empty axis")
        check_finite(name, point)
    shapes = [point.shape for point in points.values()]
    if len(set(shapes)) > 1:
        raise refuse(
            f"{', '.join(points)} of shapes {', '.join(map(str, shapes))}",
            "points of one shape",
            "pass inputs of one network",
        )
