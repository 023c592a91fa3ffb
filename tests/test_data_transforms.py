"""Transforms: purity, determinism by key, and values known in closed form."""

from dataclasses import fields

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from jaxsens.checks import InputError
from jaxsens.data import (
    Dataset,
    confusion_set,
    corrupt_labels,
    load,
    normalize,
    random_crop,
    random_flip,
    random_shift,
    resize,
    second_moment,
    subset,
)


@pytest.fixture(scope="module")
def digits():
    return load("digits")


def made(n=2000, classes=10):
    """Images that are all different, and labels."""
    x = np.random.default_rng(1).random((n, 4, 4, 3), dtype=np.float32)
    y = (np.arange(n) % classes).astype(np.int32)
    return Dataset(x, y, x[:50], y[:50], "made", classes, "classification")


TRANSFORMS = {
    "subset": lambda data, key: subset(data, 100, key=key),
    "corrupt_labels": lambda data, key: corrupt_labels(data, 0.5, key=key),
    "confusion_set": lambda data, key: confusion_set(
        subset(data, 100, key=jax.random.key(7)), data, 30, key=key
    ),
}
FIXED = {
    "normalize": normalize,
    "resize": lambda data: resize(data, 12),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_random_transforms_are_pure_and_follow_the_key(digits, key, name):
    before = digits.fingerprint()
    transform = TRANSFORMS[name]
    first = transform(digits, key).fingerprint()
    assert transform(digits, key).fingerprint() == first
    assert transform(digits, jax.random.key(1)).fingerprint() != first
    assert digits.fingerprint() == before
    assert transform(digits, key).y_test is not None
    np.testing.assert_array_equal(transform(digits, key).x_test, digits.x_test)


@pytest.mark.parametrize("name", FIXED)
def test_fixed_transforms_are_pure(digits, name):
    before = digits.fingerprint()
    result = FIXED[name](digits)
    assert result.fingerprint() == FIXED[name](digits).fingerprint() != before
    assert digits.fingerprint() == before
    assert {field.name for field in fields(result)} == {field.name for field in fields(digits)}
    assert result.x_train.dtype == np.float32


def test_subset_is_without_replacement_and_nested(key):
    data = made()
    whole = subset(data, 2000, key=key)
    rows = {row.tobytes() for row in whole.x_train}
    assert rows == {row.tobytes() for row in data.x_train}
    assert len(rows) == 2000
    small = subset(data, 10, key=key)
    np.testing.assert_array_equal(small.x_train, whole.x_train[:10])
    # Pairs stay pairs.
    where = [int(np.flatnonzero((data.x_train == x).all((1, 2, 3)))[0]) for x in small.x_train]
    np.testing.assert_array_equal(data.y_train[where], small.y_train)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 1.0])
def test_corrupted_share_is_fraction_times_one_less_one_over_k(key, fraction):
    data = made(n=20_000, classes=4)
    changed = corrupt_labels(data, fraction, key=key).y_train != data.y_train
    share = fraction * (1 - 1 / 4)
    # Five standard errors of a binomial share of the fraction * n labels drawn.
    assert abs(changed.mean() - share) <= 5 * np.sqrt(fraction * 3 / 16 / 20_000)


def test_a_larger_fraction_keeps_the_smaller_ones_labels(key):
    data = made(n=5000)
    less, more = (corrupt_labels(data, fraction, key=key).y_train for fraction in (0.2, 0.6))
    kept = less != data.y_train
    np.testing.assert_array_equal(more[kept], less[kept])
    # At most 20% of the labels are touched, and those drawn are uniform over the classes.
    assert kept.sum() <= 1000
    counts = np.bincount(corrupt_labels(data, 1.0, key=key).y_train, minlength=10)
    assert ((counts - 500) ** 2 / 500).sum() < 28  # chi-squared, 9 degrees of freedom: p = 0.001


def test_confusion_set_joins_further_examples(key):
    data = made()
    train = subset(data, 300, key=jax.random.key(3))
    joined = confusion_set(train, data, 200, key=key)
    assert joined.x_train.shape == (500, 4, 4, 3)
    np.testing.assert_array_equal(joined.x_train[:300], train.x_train)
    np.testing.assert_array_equal(joined.y_train[:300], train.y_train)
    rows = [row.tobytes() for row in joined.x_train]
    # All different: no further example is one of the training set, and none comes twice.
    assert len(set(rows)) == 500
    assert set(rows) <= {row.tobytes() for row in data.x_train}
    fewer = confusion_set(train, data, 50, key=key)
    np.testing.assert_array_equal(fewer.x_train, joined.x_train[:350])
    np.testing.assert_array_equal(fewer.y_train, joined.y_train[:350])
    assert confusion_set(train, data, 0, key=key).fingerprint() == train.fingerprint()


def test_confused_labels_are_uniform(key):
    data = made(n=4000)
    train = subset(data, 10, key=key)
    labels = confusion_set(train, data, 3990, key=key).y_train[10:]
    counts = np.bincount(labels, minlength=10)
    assert ((counts - 399) ** 2 / 399).sum() < 28  # chi-squared, 9 degrees of freedom: p = 0.001


def test_flip_twice_is_the_identity_and_half_are_flipped(key):
    xs = jnp.asarray(made().x_train)
    once = jax.jit(lambda xs, key: random_flip(xs, key=key))(xs, key)
    np.testing.assert_array_equal(random_flip(once, key=key), xs)
    same = np.asarray((once == xs).all((1, 2, 3)))
    mirrored = np.asarray((once == xs[:, :, ::-1]).all((1, 2, 3)))
    assert (same ^ mirrored).all()
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(len(xs))


def test_crops_are_windows_of_the_padded_image_and_uniform(key):
    n, size, padding = 4000, 5, 2
    xs = jnp.broadcast_to(jnp.arange(1.0, size * size + 1).reshape(1, size, size, 1), (n, size, size, 1))
    crops = np.asarray(jax.jit(lambda xs, key: random_crop(xs, key=key, padding=padding))(xs, key))
    padded = np.pad(np.asarray(xs[0]), ((padding,) * 2, (padding,) * 2, (0, 0)))
    windows = [
        padded[i : i + size, j : j + size] for i in range(2 * padding + 1) for j in range(2 * padding + 1)
    ]
    hits = np.array([[np.array_equal(crop, window) for window in windows] for crop in crops[:500]])
    assert (hits.sum(axis=1) == 1).all()
    # The middle of the crop tells where it was cut.
    counts = np.unique(crops[:, 2, 2, 0], return_counts=True)[1]
    assert len(counts) == 25
    assert ((counts - n / 25) ** 2 / (n / 25)).sum() < 52  # chi-squared, 24 degrees of freedom: p = 0.001
    np.testing.assert_array_equal(random_crop(xs, key=key, padding=0), xs)


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifts_are_the_circular_ones_and_uniform(key, pixels):
    n = 4000
    image = np.arange(30.0, dtype=np.float32).reshape(5, 6, 1)
    xs = jnp.broadcast_to(jnp.asarray(image), (n, 5, 6, 1))
    moved = np.asarray(jax.jit(lambda xs, key: random_shift(xs, key=key, pixels=pixels))(xs, key))
    by = range(-pixels, pixels + 1)
    rolled = {np.roll(image, (i, j), axis=(0, 1)).tobytes(): 0 for i in by for j in by}
    for each in moved:
        rolled[each.tobytes()] += 1  # anything else is no key
    count = (2 * pixels + 1) ** 2
    assert len(rolled) == count
    counts = np.array(list(rolled.values()))
    # chi-squared, 8 and 24 degrees of freedom: p = 0.001
    assert ((counts - n / count) ** 2 / (n / count)).sum() < {1: 27, 2: 52}[pixels]
    np.testing.assert_array_equal(moved, random_shift(xs, key=key, pixels=pixels))
    assert (moved != random_shift(xs, key=jax.random.key(1), pixels=pixels)).any()
    np.testing.assert_array_equal(random_shift(xs, key=key, pixels=0), xs)


def test_channels_shift_together_and_by_two_pixels_unless_told(key):
    xs = jnp.asarray(made(200).x_train)
    moved = np.asarray(random_shift(xs, key=key))
    np.testing.assert_array_equal(moved, random_shift(xs, key=key, pixels=2))
    for image, found in zip(np.asarray(xs), moved, strict=True):
        assert any(
            np.array_equal(found, np.roll(image, (i, j), axis=(0, 1)))
            for i in range(-2, 3)
            for j in range(-2, 3)
        )


@pytest.mark.parametrize(
    ("axes", "reduced"), [("channel", (0, 1, 2)), ("feature", (0,)), ("global", (0, 1, 2, 3))]
)
def test_normalize_uses_training_statistics_for_both(axes, reduced):
    x = np.random.default_rng(2).normal(3, [0.1, 1, 10], (500, 2, 2, 3)).astype(np.float32)
    y = np.zeros(500, np.int32)
    data = Dataset(x, y, 2 * x[:40] + 1, y[:40], "any", 1, "classification")
    result = normalize(data, axes=axes)
    np.testing.assert_allclose(result.x_train.mean(axis=reduced, dtype=np.float64), 0, atol=2e-6)
    np.testing.assert_allclose(result.x_train.std(axis=reduced, dtype=np.float64), 1, rtol=2e-6)
    exact = x.astype(np.float64)
    mean, std = exact.mean(axis=reduced, keepdims=True), exact.std(axis=reduced, keepdims=True)
    np.testing.assert_allclose(result.x_test, (2 * exact[:40] + 1 - mean) / std, rtol=1e-4, atol=1e-4)
    kept = normalize(data, axes=axes, keep_mean=True)
    np.testing.assert_allclose(kept.x_train.std(axis=reduced, dtype=np.float64), 1, rtol=2e-6)
    np.testing.assert_allclose(kept.x_test, result.x_test + mean, rtol=1e-4, atol=1e-4)


def test_a_constant_feature_is_shifted_only():
    x = np.random.default_rng(3).random((3000, 3), dtype=np.float32)
    x[:, 1] = np.float32(0.1)
    y = np.zeros((3000, 1), np.float32)
    data = Dataset(x, y, x + 1, y, "any", 1, "regression")
    result = normalize(data, axes="feature")
    np.testing.assert_allclose(result.x_train[:, 1], 0, atol=1e-7)
    np.testing.assert_allclose(result.x_test[:, 1], 1, rtol=1e-6)


def test_second_moment_of_normalised_data_is_one(digits):
    assert second_moment(normalize(digits, axes="global").x_train) == pytest.approx(1, rel=1e-6)
    assert second_moment(np.array([[1.0, 2.0], [3.0, 4.0]])) == 7.5
    # In float32 the sum would stop growing at 2^24.
    assert second_moment(jnp.ones((20_000, 1000), jnp.float32)) == 1


def test_resize_by_nearest_repeats_pixels(digits):
    doubled = resize(digits, 16, method="nearest")
    np.testing.assert_array_equal(doubled.x_train, digits.x_train.repeat(2, axis=1).repeat(2, axis=2))
    assert doubled.x_test.shape == (797, 16, 16, 1)
    # Bilinear weights are positive and sum to 1: the range and constants are kept.
    smooth = resize(digits, 20)
    assert 0 <= smooth.x_train.min() <= smooth.x_train.max() <= 1 + 1e-6


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda data, key: subset(data, 0, key=key), "num_train=0"),
        (lambda data, key: subset(data, 1001, key=key), "at most the 1000 examples"),
        (lambda data, key: corrupt_labels(data, 1.5, key=key), "a fraction from 0 to 1"),
        (lambda data, key: corrupt_labels(load("diabetes"), 0.5, key=key), "expected classification"),
        (lambda data, key: confusion_set(data, data, 1, key=key), "at most the 0 examples of the pool"),
        (lambda data, key: confusion_set(data, resize(data, 4), 1, key=key), "as in the data set"),
        (lambda data, key: random_crop(data.x_train, key=key, padding=-1), "padding=-1"),
        (lambda data, key: random_shift(data.x_train, key=key, pixels=-1), "pixels=-1"),
        (lambda data, key: normalize(data, axes="row"), "one of channel, feature, global"),
        (lambda data, key: resize(data, 0), "size=0"),
        (lambda data, key: resize(data, 8, method="cubic"), "one of nearest, bilinear"),
        (lambda data, key: resize(load("diabetes"), 8), r"images \(n, h, w, c\)"),
    ],
)
def test_refusals(digits, key, call, message):
    with pytest.raises(InputError, match=message):
        call(digits, key)


def test_a_key_of_the_old_kind_is_refused(digits):
    # By the check, or before it by the annotation that the tests enforce.
    with pytest.raises((InputError, TypeCheckError), match="key"):
        subset(digits, 10, key=jax.random.PRNGKey(0))
