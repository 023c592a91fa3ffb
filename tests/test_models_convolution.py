"""The convolutions of training and of measures equal lax's, and take the fast paths they are there for."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxsens.checks import InputError
from jaxsens.models.convolution import measured_convolution, training_convolution

LAYOUT = ("NHWC", "HWIO", "NHWC")
KERNELS = [(1, 1), (3, 3), (5, 4)]
STRIDES = [(1, 1), (2, 3)]
PADDINGS = ["SAME", ((1, 1), (1, 1)), ((0, 2), (3, 0))]
QUICK = [[0, 1, 1], [1, 0, 0], [1, 1, 2], [2, 1, 0]]
# Sizes that the strides divide and do not, and one that leaves few pixels.
CASES = [
    # Each kernel, stride and padding is among the quick ones.
    *(
        pytest.param(kernel, strides, padding, ((9, 8), 3), marks=() if at in QUICK else pytest.mark.slow)
        for *at, kernel, strides, padding in (
            (i, j, k, KERNELS[i], STRIDES[j], PADDINGS[k])
            for i, j, k in itertools.product(range(3), range(2), range(3))
        )
    ),
    # A phase of this gradient crops and pads at once, which jaxlib 0.10.1's own convolution gets wrong.
    ((3, 3), (2, 2), ((0, 2), (3, 0)), ((9, 8), 3)),
    ((3, 3), (1, 1), ((-2, 1), (-1, 0)), ((9, 8), 3)),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), ((2, 2), 3)),
    ((3, 3), (1, 1), ((1, 1), (1, 1)), ((6, 7), 20)),
    ((5, 4), (1, 1), ((0, 2), (3, 0)), ((6, 7), 8)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), ((6, 7), 8)),
    ((3, 3), (2, 2), ((1, 1), (1, 1)), ((3, 4), 20)),
]


def reference(x, w, strides, padding):
    if not isinstance(padding, str):
        # jaxlib 0.10.1 gets negative padding wrong, and must not be the judge of it.
        crop = ((0, 0, 0), *((min(low, 0), min(high, 0), 0) for low, high in padding), (0, 0, 0))
        x = lax.pad(x, jnp.zeros((), x.dtype), crop)
        padding = [(max(low, 0), max(high, 0)) for low, high in padding]
    return lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=LAYOUT)


@pytest.mark.parametrize(("kernel", "strides", "padding", "image"), CASES)
def test_values_and_gradients_equal_lax(key, kernel, strides, padding, image):
    size, channels = image
    x_key, w_key, dy_key = jax.random.split(key, 3)
    x = jax.random.normal(x_key, (2, *size, channels))
    w = jax.random.normal(w_key, (*kernel, channels, 4))

    @jax.jit
    def both(x, w):
        y, wanted = jax.vjp(lambda x, w: reference(x, w, strides, padding), x, w)
        ours, gradient = jax.vjp(lambda x, w: training_convolution(x, w, strides, padding), x, w)
        dy = jax.random.normal(dy_key, y.shape)
        return (y, *wanted(dy)), (ours, *gradient(dy))

    for wanted, got in zip(*both(x, w), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("kernel", "strides", "padding", "image"), CASES)
def test_the_measured_one_has_all_derivatives_of_lax(key, kernel, strides, padding, image):
    size, channels = image
    keys = jax.random.split(key, 4)
    shapes = 2 * [(2, *size, channels), (*kernel, channels, 4)]
    x, w, dx, dw = (jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True))

    def found(convolution):
        def f(x, w):
            return convolution(x, w, strides, padding)

        def mixed(x, w):
            return jax.jvp(lambda x: jax.grad(lambda w: (f(x, w) ** 3).sum())(w), (x,), (dx,))[1]

        return f(x, w), jax.jvp(f, (x, w), (dx, dw))[1], mixed(x, w), jax.jvp(mixed, (x, w), (dx, dw))[1]

    ours, wanted = jax.jit(lambda: (found(measured_convolution), found(reference)))()
    for a, b in zip(ours, wanted, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


@pytest.mark.parametrize(("pixels", "primitive"), [(2, "dot_general"), (4, "conv_general_dilated")])
def test_few_pixels_are_a_matrix_product(pixels, primitive):
    x, w = jnp.ones((1, pixels, pixels, 3)), jnp.ones((3, 3, 3, 4))
    jaxpr = jax.make_jaxpr(lambda x, w: measured_convolution(x, w, (1, 1), "SAME"))(x, w)
    found = {equation.primitive.name for equation in jaxpr.eqns} & {"dot_general", "conv_general_dilated"}
    assert found == {primitive}


@pytest.mark.parametrize("batched", [(0, 0), (None, 0), (0, None)])
def test_vmap_equals_a_loop(key, batched):
    x = jax.random.normal(key, (3, 2, 6, 6, 3))
    w = jax.random.normal(jax.random.fold_in(key, 1), (3, 3, 3, 3, 4))
    x, w = (v if axis == 0 else v[0] for v, axis in zip((x, w), batched, strict=True))

    def gradients(x, w):
        return jax.grad(lambda x, w: (training_convolution(x, w, (2, 2), "SAME") ** 2).sum(), (0, 1))(x, w)

    together = jax.vmap(gradients, in_axes=batched)(x, w)
    for i in range(3):
        alone = gradients(*(v if axis is None else v[i] for v, axis in zip((x, w), batched, strict=True)))
        for a, b in zip(together, alone, strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-5, atol=1e-5)


def test_vmap_makes_no_grouped_convolution(key):
    x, w = jax.random.normal(key, (3, 2, 6, 6, 3)), jax.random.normal(key, (3, 3, 3, 3, 4))

    def program(convolution):
        step = jax.vmap(jax.grad(lambda w, x: (convolution(x, w, (1, 1), "SAME") ** 2).sum()))
        return jax.jit(step).lower(w, x).as_text()

    groups = "feature_group_count = 3"
    assert groups in program(reference)  # the trap is there
    assert groups not in program(training_convolution)


def test_refuses_what_it_does_not_do():
    x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 1, 2))
    with pytest.raises(InputError, match=r"2 groups.*ungrouped"):
        training_convolution(x, w, (1, 1), "SAME", feature_group_count=2)
    with pytest.raises(InputError, match="undilated"):
        training_convolution(x, w, (1, 1), "SAME", rhs_dilation=(2, 2))
