"""Norms of convolutions against singular values of the unrolled matrix, in loops and in float64."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics.operator_norms import conv_operator_norm


def draw(*shape, seed=0):
    return np.random.default_rng([seed, *shape]).normal(size=shape)


def slow_convolution(x, kernel, strides, pads):
    """By its definition: `jax.vjp` of a convolution with wide pads is wrong on a CPU with jaxlib 0.10.1."""
    x = np.pad(x, (*pads, (0, 0)))
    kh, kw = kernel.shape[:2]
    rows = range(0, x.shape[0] - kh + 1, strides[0])
    columns = range(0, x.shape[1] - kw + 1, strides[1])
    return np.array([[np.tensordot(x[i : i + kh, j : j + kw], kernel, 3) for j in columns] for i in rows])


def unrolled(kernel, shape, strides, padding):
    """The matrix (inputs, outputs)."""
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(shape[:2], kernel.shape[:2], strides, padding)
    basis = np.eye(math.prod(shape)).reshape(-1, *shape)
    return np.stack([slow_convolution(e, kernel, strides, pads).ravel() for e in basis])


# Kernel size, image, strides, padding.
GEOMETRIES = [
    ((3, 3), (6, 7), (1, 1), "SAME"),
    ((3, 3), (6, 7), (2, 2), "SAME"),
    ((3, 3), (7, 6), (2, 2), "VALID"),
    ((2, 3), (5, 7), (3, 2), "VALID"),
    ((1, 1), (5, 5), (2, 2), "SAME"),
    ((5, 5), (2, 3), (1, 1), "SAME"),
    ((4, 4), (3, 3), (1, 1), ((3, 4), (5, 1))),
    ((1, 2), (6, 6), (4, 3), ((0, 0), (1, 1))),
]


@pytest.mark.parametrize(("size", "image", "strides", "padding"), GEOMETRIES)
def test_norms_are_largest_singular_values(size, image, strides, padding, x64):
    kernel, shape = draw(*size, 2, 3), (*image, 2)
    matrix = unrolled(kernel, shape, strides, padding)
    largest = np.linalg.svd(matrix, compute_uv=False)[0]
    found = conv_operator_norm(jnp.asarray(kernel), shape, strides=strides, padding=padding, tol=1e-10)
    assert found.residual <= 2e-10
    np.testing.assert_allclose(found.value, largest, rtol=1e-12)

    # The two bounds of the module's text.
    flat = np.linalg.svd(kernel.reshape(-1, 3), compute_uv=False)[0]
    patches = math.prod(-(-k // s) for k, s in zip(size, strides, strict=True))
    assert largest <= math.sqrt(patches) * flat * (1 + 1e-12)
    pads = padding
    if isinstance(padding, str):
        pads = jax.lax.padtype_to_pads(image, size, strides, padding)
    inside = all(
        any(start + k <= n for start in range(-low % s, n, s))
        for n, k, s, (low, _) in zip(image, size, strides, pads, strict=True)
    )
    if inside:
        assert flat <= largest * (1 + 1e-12)


def test_kernels_of_one_pixel_have_their_matrix_norm():
    kernel = jnp.asarray(draw(1, 1, 5, 4), jnp.float32)
    found = conv_operator_norm(kernel, (6, 6, 5))
    np.testing.assert_allclose(found.value, np.linalg.norm(np.asarray(kernel)[0, 0], 2), rtol=1e-5)


def test_constant_kernel_by_hand():
    """A row of n pixels and the kernel (1, 1, 1): 1 + 2 cos(pi / (n + 1)), a tridiagonal matrix."""
    found = conv_operator_norm(jnp.ones((1, 3, 1, 1)), (1, 9, 1))
    assert float(found.value) == pytest.approx(1 + 2 * math.cos(math.pi / 10), rel=1e-5)


def test_single_precision_and_its_defaults():
    kernel, shape = draw(3, 3, 4, 4), (8, 8, 4)
    found = conv_operator_norm(jnp.asarray(kernel, jnp.float32), shape)
    largest = np.linalg.svd(unrolled(kernel, shape, (1, 1), "SAME"), compute_uv=False)[0]
    np.testing.assert_allclose(found.value, largest, rtol=1e-5)
    assert found.residual <= 1.2e-4
    assert found.value.dtype == jnp.float32


def test_zero_kernels():
    found = conv_operator_norm(jnp.zeros((3, 3, 2, 4)), (5, 5, 2))
    assert found.value == 0
    assert found.residual == 0
    assert found.iterations == 0


def test_squares_stay_in_range():
    kernel = jnp.asarray(draw(3, 3, 2, 4), jnp.float32)
    expected = conv_operator_norm(kernel, (5, 5, 2))
    for scale in (1e-30, 1e30):
        found = conv_operator_norm(kernel * scale, (5, 5, 2))
        np.testing.assert_allclose(found.value, expected.value * scale, rtol=1e-5)
        np.testing.assert_allclose(found.residual, expected.residual, atol=1e-4)


def test_the_residual_is_what_it_says(x64):
    """After few steps: below the norm, and some singular value is within the residual."""
    kernel, shape = draw(3, 3, 3, 4), (6, 6, 3)
    values = np.linalg.svd(unrolled(kernel, shape, (1, 1), "SAME"), compute_uv=False)
    before = 0.0
    for max_iters in (1, 2, 4, 8, 16):
        found = conv_operator_norm(jnp.asarray(kernel), shape, tol=1e-12, max_iters=max_iters)
        assert found.iterations == max_iters
        assert found.value <= values[0] * (1 + 1e-12)
        assert np.min(np.abs(values**2 / float(found.value) ** 2 - 1)) <= found.residual
        assert float(found.value) > before
        before = float(found.value)


def test_the_start_does_not_matter(key):
    kernel = jnp.asarray(draw(3, 3, 4, 4), jnp.float32)
    expected = conv_operator_norm(kernel, (8, 8, 4)).value
    for one in jax.random.split(key, 5):
        np.testing.assert_allclose(conv_operator_norm(kernel, (8, 8, 4), key=one).value, expected, rtol=1e-5)


def test_wide_layers_take_few_steps():
    """Plain power iteration takes 250 steps and more for such a layer."""
    kernel = jnp.asarray(draw(3, 3, 64, 64) / 24, jnp.float32)
    found = conv_operator_norm(kernel, (16, 16, 64))
    assert found.residual <= 1.2e-4
    assert found.iterations < 80


def test_derivatives(x64):
    """u^T dA v: against the derivative of the unrolled matrix's singular value, by finite differences."""
    kernel, shape = draw(3, 2, 2, 2), (4, 5, 2)
    gradient = jax.jit(jax.grad(lambda k: conv_operator_norm(k, shape, tol=1e-10).value))(jnp.asarray(kernel))

    def largest(kernel):
        return np.linalg.svd(unrolled(kernel, shape, (1, 1), "SAME"), compute_uv=False)[0]

    for index in ((0, 0, 0, 0), (1, 1, 0, 1), (2, 0, 1, 0)):
        step = np.zeros(kernel.shape)
        step[index] = 1e-6
        expected = (largest(kernel + step) - largest(kernel - step)) / 2e-6
        np.testing.assert_allclose(gradient[index], expected, rtol=1e-6)


def test_members_equal_a_loop(x64):
    kernels = jnp.asarray(draw(3, 3, 3, 2, 3))

    def measure(kernel):
        return conv_operator_norm(kernel, (5, 6, 2), strides=(2, 1)).value

    expected = [measure(kernel) for kernel in kernels]
    np.testing.assert_allclose(jax.vmap(measure)(kernels), expected, rtol=1e-9)
    np.testing.assert_allclose(jax.lax.map(measure, kernels), expected, rtol=1e-9)


def test_bad_input_is_refused(plain):
    kernel, shape = jnp.ones((3, 3, 2, 4)), (5, 5, 2)
    cases = [
        (kernel[0], shape, {}, "kernel of shape \\(3, 2, 4\\)"),
        (kernel.astype(int), shape, {}, "kernel of dtype int32"),
        (kernel * jnp.nan, shape, {}, "NaN or infinity in kernel"),
        (kernel, (5, 5), {}, "input_shape=\\(5, 5\\)"),
        (kernel, (5, 5, 3), {}, "2 channels"),
        (kernel, (5, 0, 2), {}, "entry of input_shape=0"),
        (kernel, shape, {"strides": (1, 0)}, "entry of strides=0"),
        (kernel, shape, {"strides": 2}, "strides=2"),
        (kernel, shape, {"padding": "CIRCULAR"}, "padding='CIRCULAR'"),
        (kernel, shape, {"padding": ((1, 1),)}, "padding="),
        (kernel, shape, {"padding": ((1, 1), (1,))}, "padding="),
        (kernel, shape, {"padding": (1, 1)}, "padding="),
        (kernel, shape, {"padding": ((-1, 1), (0, 0))}, "none below 0"),
        (kernel, (2, 5, 2), {"padding": "VALID"}, "no larger than the padded image"),
        (kernel, shape, {"tol": 0.0}, "tol=0.0"),
        (kernel, shape, {"max_iters": 0}, "max_iters=0"),
        (kernel, shape, {"key": 3}, "one typed key"),
    ]
    for array, image, options, message in cases:
        with pytest.raises(InputError, match=message):
            conv_operator_norm(array, image, **options)
