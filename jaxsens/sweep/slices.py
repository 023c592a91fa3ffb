"""Slices through a network's input space, drawn region by region."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.metrics import plane, plane_points, region_labels, slice_regions
from jaxsens.sweep.chunks import FORWARD_EXAMPLES, chunks
from jaxsens.sweep.robustness import RobustnessPrograms
from jaxsens.table import Value, image_to_text, numbers_to_text

__all__ = ["SLICE_KINDS", "slice_measures"]

SLICE_KINDS = ("different", "shuffled")
"""Through three training images of different classes, and through these with shuffled pixels."""


def slice_measures(
    programs: RobustnessPrograms,
    predict: Callable[..., Array],
    whose: Any,
    triple: np.ndarray,
    *,
    pixels: int,
) -> dict[str, Value]:
    """The square of the plane through three points: each pixel's region and class, and the exact regions.

    `extent` is (left, right, bottom, top) in the plane's coordinates, `points` are the three points', both
    in distances of the input space. `seen` regions hold a pixel's centre, of `regions` that there are.
    """
    through = plane(*map(jnp.asarray, triple))
    points = np.asarray(through.coordinates, np.float64)
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.75 * (high - low).max()
    middle = (low + high) / 2
    extent = [float(x) for x in (middle[0] - half, middle[0] + half, middle[1] - half, middle[1] + half)]
    grid = np.asarray(plane_points(through, extent, resolution=pixels))
    parts = list(chunks(grid.reshape(-1, *grid.shape[2:]), FORWARD_EXAMPLES))
    weights, biases = programs.maps(whose.params, whose.state)
    codes = np.concatenate([programs.codes(weights, biases, x) for x in parts])
    labels = region_labels(codes.reshape(pixels, pixels, -1))
    classes = np.concatenate([np.argmax(predict(whose.params, whose.state, x), axis=1) for x in parts])
    exact = slice_regions(weights, biases, through, extent, activation=programs.activation)
    return {
        "labels": image_to_text(labels),
        "classes": image_to_text(classes.reshape(pixels, pixels).astype(np.uint8)),
        "extent": numbers_to_text(np.array(extent)),
        "points": numbers_to_text(points.ravel()),
        "regions": len(exact.polygons),
        "seen": int(labels.max()) + 1,
    }
