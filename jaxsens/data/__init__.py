"""Data sets as plain arrays: load by name or file, prepare without TensorFlow, and pure transforms.

dataset = load("digits")
small = normalize(subset(dataset, 500, key=jax.random.key(0)))
"""

from jaxsens.data.archives import RECIPES, Recipe
from jaxsens.data.dataset import Dataset
from jaxsens.data.load import NAMES, load
from jaxsens.data.prepare import prepare
from jaxsens.data.transforms import (
    confusion_set,
    corrupt_labels,
    normalize,
    random_crop,
    random_flip,
    random_shift,
    resize,
    second_moment,
    subset,
)

__all__ = [
    "NAMES",
    "RECIPES",
    "Dataset",
    "Recipe",
    "confusion_set",
    "corrupt_labels",
    "load",
    "normalize",
    "prepare",
    "random_crop",
    "random_flip",
    "random_shift",
    "resize",
    "second_moment",
    "subset",
]
