"""Pure transforms: a new data set or batch from an old one and, where it is random, an explicit key."""

from collections.abc import Iterator
from dataclasses import replace
from hashlib import blake2b

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float64, Int32, Num

from jaxsens.checks import check_at_least, check_choice, check_key, refuse
from jaxsens.data.dataset import Dataset
from jaxsens.types import PRNGKey

__all__ = [
    "confusion_set",
    "corrupt_labels",
    "normalize",
    "random_crop",
    "random_flip",
    "random_shift",
    "resize",
    "second_moment",
    "subset",
]

# Examples at a time for float64 statistics: a whole data set in float64 would be gigabytes.
_CHUNK = 64


def subset(dataset: Dataset, num_train: int, *, key: PRNGKey) -> Dataset:
    """A random subset, without replacement, of the training set; the test set stays.

    With one key, smaller subsets are the beginnings of larger ones.

    Raises:
        InputError: `num_train` is not in 1..n.
    """
    check_key(key)
    check_at_least("num_train", num_train, 1)
    if num_train > len(dataset.x_train):
        raise refuse(
            f"num_train={num_train}",
            f"at most the {len(dataset.x_train)} examples there are",
            "pass a smaller one",
        )
    chosen = permutation(key, len(dataset.x_train))[:num_train]
    return replace(dataset, x_train=dataset.x_train[chosen], y_train=dataset.y_train[chosen])


def corrupt_labels(dataset: Dataset, fraction: float, *, key: PRNGKey) -> Dataset:
    """Replaces a fraction of the training labels by classes drawn uniformly (Zhang et al. 2017, section 2.1).

    A drawn class may be the true one, so on average fraction * (1 - 1/K) of the labels become wrong. Exactly
    round(fraction * n) labels are drawn anew, at random places; Zhang et al. toss a coin for each example,
    which has the same mean. With one key, a larger fraction keeps the changes of a smaller one.

    Raises:
        InputError: `fraction` is not in [0, 1], or the task is not classification.
    """
    check_key(key)
    check_classification(dataset)
    if not 0 <= fraction <= 1:
        raise refuse(f"fraction={fraction}", "a fraction from 0 to 1", "pass 0.5 for half of the labels")
    n = len(dataset.y_train)
    where_key, label_key = jax.random.split(key)
    chosen = permutation(where_key, n)[: round(fraction * n)]
    labels = dataset.y_train.copy()
    labels[chosen] = random_labels(label_key, n, dataset.num_outputs)[: len(chosen)]
    return replace(dataset, y_train=labels)


def confusion_set(dataset: Dataset, pool: Dataset, num_confused: int, *, key: PRNGKey) -> Dataset:
    """The training set joined with further examples under random labels (Neyshabur et al. 2017, section 3).

    Fitting this union leads to minima of the true training loss that generalise worse as the confusion set
    grows. The first n examples of the result are the training set as it was: measure on those.

    The further examples are drawn from `pool`'s training set, passing over those that are, byte for byte, in
    `dataset`'s: so the pool may be the whole set that `dataset` is a `subset` of, if both went through the
    same `normalize` or neither did. Labels are uniform over the K classes. With one key and pool, smaller
    confusion sets are the beginnings of larger ones.

    Raises:
        InputError: too few further examples, unlike shapes or classes, or the task is not classification.
    """
    check_key(key)
    check_classification(dataset)
    check_at_least("num_confused", num_confused, 0)
    kinds = [(data.x_train.shape[1:], data.x_train.dtype, data.num_outputs) for data in (dataset, pool)]
    if kinds[0] != kinds[1]:
        raise refuse(
            f"a pool of (shape, dtype, classes) {kinds[1]}",
            f"{kinds[0]}, as in the data set",
            "draw both from one data set",
        )
    where_key, label_key = jax.random.split(key)
    known = {row_hash(row) for row in dataset.x_train} if num_confused else set()
    chosen: list[int] = []
    for i in permutation(where_key, len(pool.x_train)):
        if len(chosen) == num_confused:
            break
        if row_hash(pool.x_train[i]) not in known:
            chosen.append(int(i))
    if len(chosen) < num_confused:
        raise refuse(
            f"num_confused={num_confused}",
            f"at most the {len(chosen)} examples of the pool outside the training set",
            "pass fewer, or a larger pool",
        )
    labels = random_labels(label_key, len(pool.x_train), dataset.num_outputs)[:num_confused]
    indices = np.array(chosen, dtype=np.intp)
    return replace(
        dataset,
        x_train=np.concatenate([dataset.x_train, pool.x_train[indices]]),
        y_train=np.concatenate([dataset.y_train, labels.astype(dataset.y_train.dtype)]),
    )


def random_crop(
    xs: Num[Array | np.ndarray, "n h w c"], *, key: PRNGKey, padding: int = 4
) -> Num[Array, "n h w c"]:
    """Each image padded by `padding` pixels of 0 on every side and cut back to size at a random place.

    Places are uniform and independent for each image. Runs under `jit` with `padding` static. After
    `normalize` the padding is the mean training pixel, before it is black.
    """
    check_key(key)
    check_at_least("padding", padding, 0)
    xs = jnp.asarray(xs)
    padded = jnp.pad(xs, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    corners = jax.random.randint(key, (xs.shape[0], 2), 0, 2 * padding + 1)
    cut = jax.vmap(lambda x, corner: jax.lax.dynamic_slice(x, (corner[0], corner[1], 0), xs.shape[1:]))
    return cut(padded, corners)


def random_shift(
    xs: Num[Array | np.ndarray, "n h w c"], *, key: PRNGKey, pixels: int = 2
) -> Num[Array, "n h w c"]:
    """Each image shifted circularly by -`pixels` to `pixels` whole pixels along both axes.

    Shifts are uniform and independent for each image and axis; what leaves on one side comes in on the other,
    so that every image keeps its pixel values. Runs under `jit` with `pixels` static.
    """
    check_key(key)
    check_at_least("pixels", pixels, 0)
    xs = jnp.asarray(xs)
    n, height, width, _ = xs.shape
    shifts = jax.random.randint(key, (2, n), -pixels, pixels + 1)
    rows = (jnp.arange(height) - shifts[0][:, None]) % height
    columns = (jnp.arange(width) - shifts[1][:, None]) % width
    return jax.vmap(lambda x, row, column: x[row][:, column])(xs, rows, columns)


def random_flip(xs: Num[Array | np.ndarray, "n h w c"], *, key: PRNGKey) -> Num[Array, "n h w c"]:
    """Each image mirrored left to right with probability 1/2, independently. Runs under `jit`."""
    check_key(key)
    xs = jnp.asarray(xs)
    flipped = jax.random.bernoulli(key, shape=(xs.shape[0], 1, 1, 1))
    return jnp.where(flipped, xs[:, :, ::-1, :], xs)


def normalize(dataset: Dataset, *, axes: str = "channel", keep_mean: bool = False) -> Dataset:
    """Inputs shifted and scaled to mean 0 and standard deviation 1 of the TRAINING set, both splits alike.

    With `keep_mean` they have standard deviation 1 about the mean that they had. Statistics are taken in
    float64. An entry that does not vary over the training set (up to float32 rounding) is shifted only.
    Targets stay as they are.

    Args:
        dataset: the data set.
        axes: what has a mean and a standard deviation of its own: 'channel' each entry of the last axis,
            'feature' each entry of an example (each pixel), 'global' all entries together.
    """
    check_choice("axes", axes, _REDUCED)
    mean, std = moments(dataset.x_train, _REDUCED[axes](dataset.x_train.ndim))
    scale = np.where(std <= np.finfo(np.float32).eps * np.abs(mean), 1.0, std)

    def standardise(xs: np.ndarray) -> np.ndarray:
        shifted = xs - spread(mean, xs).astype(xs.dtype)
        shifted /= spread(scale, xs).astype(xs.dtype)
        if keep_mean:
            shifted += spread(mean, xs).astype(xs.dtype)
        return shifted

    return replace(dataset, x_train=standardise(dataset.x_train), x_test=standardise(dataset.x_test))


_REDUCED = {
    "channel": lambda ndim: tuple(range(ndim - 1)),
    "feature": lambda ndim: (0,),
    "global": lambda ndim: tuple(range(ndim)),
}

_METHODS = ("nearest", "bilinear")


def resize(dataset: Dataset, size: int, *, method: str = "bilinear") -> Dataset:
    """Images (n, h, w, c) resized to (n, size, size, c), by 'nearest' or 'bilinear' interpolation.

    Making images smaller by 'bilinear' averages over the pixels that fall away (antialiasing).

    Raises:
        InputError: the inputs are not images, or `size` or `method` is not one that can be.
    """
    check_at_least("size", size, 1)
    check_choice("method", method, _METHODS)
    if dataset.x_train.ndim != 4:
        raise refuse(f"inputs of shape {dataset.x_train.shape}", "images (n, h, w, c)", "reshape them first")

    def resized(xs: np.ndarray) -> np.ndarray:
        shape = (xs.shape[0], size, size, xs.shape[3])
        return np.asarray(jax.image.resize(xs, shape, method=method))

    return replace(dataset, x_train=resized(dataset.x_train), x_test=resized(dataset.x_test))


def second_moment(xs: Num[Array | np.ndarray, "n *features"]) -> float:
    """The mean of x^2 over all examples and entries, in float64: sigma_x^2 of the inputs, about 0.

    Raises:
        InputError: there is no entry.
    """
    if not np.size(xs):
        raise refuse(f"xs of shape {xs.shape}", "at least one entry", "pass the training inputs")
    return sum(float(np.square(chunk).sum()) for chunk in float64_chunks(xs)) / np.asarray(xs).size


def moments(
    xs: np.ndarray, axes: tuple[int, ...]
) -> tuple[Float64[np.ndarray, "*kept"], Float64[np.ndarray, "*kept"]]:
    """Mean and standard deviation (over n, not n - 1) along `axes`, 0 among them; they stay, of length 1."""
    count = np.prod([xs.shape[axis] for axis in axes])
    within = tuple(axis for axis in axes if axis)
    # Over the examples first: summing along the other axes at once is several times slower in NumPy.
    total = sum((chunk.sum(axis=0, keepdims=True) for chunk in float64_chunks(xs)), np.zeros(()))
    mean = total.sum(axis=within, keepdims=True) / count
    # A second pass about the mean: the mean of squares less the squared mean would cancel.
    centre = spread(mean, xs)
    parts = (np.square(chunk - centre).sum(axis=0, keepdims=True) for chunk in float64_chunks(xs))
    squares = sum(parts, np.zeros(()))
    return mean, np.sqrt(squares.sum(axis=within, keepdims=True) / count)


def spread(statistic: np.ndarray, xs: np.ndarray) -> np.ndarray:
    """A statistic repeated to the shape of one example: NumPy is slow where the last axis is short."""
    return np.broadcast_to(statistic, (1, *xs.shape[1:])).copy()


def float64_chunks(xs: Array | np.ndarray) -> Iterator[np.ndarray]:
    """The examples in float64, some at a time."""
    xs = np.asarray(xs)
    return (xs[start : start + _CHUNK].astype(np.float64) for start in range(0, len(xs), _CHUNK))


def check_classification(dataset: Dataset) -> None:
    """Refuses a data set without class labels."""
    if dataset.task != "classification":
        raise refuse(f"task {dataset.task!r}", "classification", "pass a data set with class labels")


def permutation(key: PRNGKey, n: int) -> np.ndarray:
    """A random order of n examples, on the host."""
    return np.asarray(jax.random.permutation(key, n))


def random_labels(key: PRNGKey, n: int, num_classes: int) -> Int32[np.ndarray, " n"]:
    """n classes drawn uniformly."""
    return np.asarray(jax.random.randint(key, (n,), 0, num_classes, dtype=jnp.int32))


def row_hash(row: np.ndarray) -> bytes:
    """A short stand-in for an example's bytes."""
    return blake2b(np.ascontiguousarray(row), digest_size=16).digest()
