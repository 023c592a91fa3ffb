"""Numbers with a known answer, computed on this device: each gives how far it is off.

The perceptron f(x) = relu(x V + b) W + c has, where no unit is at its kink and a(x) tells which are on,

    J_kd             = sum_h W_hk a_h V_dh
    S, small noise   = (s^2 / K^2) E_x |J^T 1|^2                                    (A Appendix B)
    |d2f/dtheta dx|^2 = sum_h a_h (K |V_h|^2 + D |W_h|^2)      over all K outputs   (B Definition 3.1)

which NumPy takes in float64.
"""

import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.metrics import input_jacobian_norm, linearized_output_sensitivity, tangent_sensitivity
from jaxsens.models.convolution import training_convolution
from jaxsens.types import Params

__all__ = ["TESTS", "Outcome", "run_tests"]

# float32 to some hundred operations.
_TOLERANCE = 2e-5
_NOISE_STD = 0.1
# From the kinks: far above the rounding of a sum of 12 products.
_LEAST_DISTANCE = 1e-3


class Outcome(NamedTuple):
    """Whether a number is right to float32; the largest error over the largest value, and the seconds."""

    name: str
    ok: bool
    error: float | None
    seconds: float
    detail: str


def run_tests() -> list[Outcome]:
    """All tests on the default device, in full float32, as `measure` computes. Takes some seconds."""
    return [_outcome(name, test) for name, test in TESTS.items()]


def vmapped_product() -> float:
    """jax issue 39103: jaxlib 0.10.2 on a CPU gets the last rows wrong."""
    xs = np.zeros((32_769, 3), np.float32)
    xs[:, 0] = np.arange(len(xs))
    found = jax.jit(jax.vmap(lambda x: jnp.sum((jnp.eye(3) @ x) ** 2)))(xs)
    return _relative(found, xs[:, 0].astype(np.float64) ** 2)


def jacobian_norms() -> float:
    """|J|_F of a perceptron."""
    params, xs, on = _perceptron()
    return _relative(
        jax.jit(lambda xs: input_jacobian_norm(_f, params, xs))(xs),
        np.sqrt(np.sum(_jacobian(params, on) ** 2, axis=(1, 2))),
    )


def small_noise_sensitivity() -> float:
    """The limit of S for small noise."""
    params, xs, on = _perceptron()
    jacobian = _jacobian(params, on)
    summed = np.sum(jacobian, axis=1)
    expected = (_NOISE_STD / jacobian.shape[1]) ** 2 * np.mean(np.sum(summed**2, axis=-1))
    found = jax.jit(lambda xs: linearized_output_sensitivity(_f, params, xs, noise_std=_NOISE_STD))(xs)
    return _relative(found, expected)


def tangent_sensitivities() -> float:
    """|d2f/dtheta dx|_F^2 of a perceptron."""
    params, xs, on = _perceptron()
    v, _, w, _ = (p.astype(np.float64) for p in params)
    of_unit = w.shape[1] * np.sum(v**2, axis=0) + v.shape[0] * np.sum(w**2, axis=1)
    found = jax.jit(lambda xs: tangent_sensitivity(_f, params, xs, outputs="all"))(xs)
    return _relative(found, on @ of_unit)


def convolution_gradients() -> float:
    """The gradient of the training convolution, vmapped over kernels, against `lax`'s one by one."""
    draw = np.random.default_rng(2)
    kernels = jnp.asarray(draw.normal(size=(3, 3, 3, 20, 5)) / 10, jnp.float32)
    images = jnp.asarray(draw.normal(size=(4, 8, 8, 20)), jnp.float32)

    def loss(kernel: Array) -> Array:
        return jnp.sum(jnp.sin(training_convolution(images, kernel, (1, 1), "SAME")))

    def plain_loss(kernel: Array) -> Array:
        outputs = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.sin(outputs))

    plain = jax.jit(jax.grad(plain_loss))
    expected = np.stack([np.asarray(plain(kernel), np.float64) for kernel in kernels])
    return _relative(jax.jit(jax.vmap(jax.grad(loss)))(kernels), expected)


TESTS: Mapping[str, Callable[[], float]] = MappingProxyType(
    {
        "vmapped product": vmapped_product,
        "Jacobian norm": jacobian_norms,
        "S, small-noise limit": small_noise_sensitivity,
        "tangent sensitivity": tangent_sensitivities,
        "gradient of convolutions": convolution_gradients,
    }
)
"""Each gives its largest error over the largest value."""


def _outcome(name: str, test: Callable[[], float]) -> Outcome:
    began = time.perf_counter()
    try:
        with jax.default_matmul_precision("highest"):
            error = test()
    except Exception as raised:
        # Whatever a broken installation raises is what is looked for here.
        said = next(iter(str(raised).splitlines()), "")
        return Outcome(name, False, None, time.perf_counter() - began, f"{type(raised).__name__}: {said}")
    finite = float(error) if np.isfinite(error) else None
    seconds = time.perf_counter() - began
    detail = "not finite" if finite is None else f"relative error {error:.1e}"
    return Outcome(name, finite is not None and error <= _TOLERANCE, finite, seconds, detail)


def _relative(found: Array, expected: np.ndarray | np.floating) -> float:
    """The largest error over the largest value; NaN where a number is not finite."""
    return float(np.max(np.abs(np.asarray(found, np.float64) - expected)) / np.max(np.abs(expected)))


def _f(params: Params, x: Array) -> Array:
    v, b, w, c = params
    return jax.nn.relu(x @ v + b) @ w + c


def _perceptron() -> tuple[tuple[np.ndarray, ...], Array, np.ndarray]:
    """Parameters and inputs in float32, and which hidden units are on at each, whatever the rounding."""
    draw = np.random.default_rng(1)
    shapes = ((12, 16), (16,), (16, 3), (3,))
    params = tuple(draw.normal(size=shape).astype(np.float32) for shape in shapes)
    xs = draw.normal(size=(64, 12)).astype(np.float32)
    before = xs.astype(np.float64) @ params[0].astype(np.float64) + params[1]
    clear = np.min(np.abs(before), axis=1) > _LEAST_DISTANCE
    return params, jnp.asarray(xs[clear]), (before[clear] > 0).astype(np.float64)


def _jacobian(params: tuple[np.ndarray, ...], on: np.ndarray) -> np.ndarray:
    v, _, w, _ = (p.astype(np.float64) for p in params)
    return np.einsum("hk,nh,dh->nkd", w, on, v)
