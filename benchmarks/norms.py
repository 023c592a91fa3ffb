"""Norms over layers and paths, margins, and the operator norms of convolutions.

Three networks on 32 x 32 images, batch normalisation folded in: D's VGG of stacks (s = 0.25), a CNN, a
perceptron of 2 x 200 units.

    norms            l2, spectral and both path norms of one network, also in PyTorch (`matrix_norm` of each
                     layer, and a forward pass of |w|^p on ones), and beside a forward pass of 10,000 images
    margins          the 5th percentile over 500 images, beside their forward pass
    operator norms   the ten convolutions of VGG13 (s = 0.5) to a residual of 1e-4, beside scipy's `svds` of
                     the same compiled convolution (ARPACK) to the same tolerance; and one small convolution
                     beside numpy's SVD of its matrix, whose making is not timed
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import in_torch
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.sparse.linalg import LinearOperator, svds
from timing import Ready, Row, Way, compiled

from jaxsens.metrics import (
    conv_operator_norm,
    log_l2_norm,
    log_path_norm,
    log_spectral_norm,
    margin_percentile,
)
from jaxsens.models import (
    Conv,
    ModelConfig,
    build,
    cnn,
    fully_connected,
    layer_weights,
    output_shape,
    vgg,
    vgg_stacks,
    without_batch_norm,
)

__all__ = ["Folded", "folded", "networks", "rows"]

OUTPUTS, TEST, PERCENT, TOLERANCE = 10, 10_000, 5, 1e-4


class Folded(NamedTuple):
    """A network without batch normalisation, with images and labels."""

    config: ModelConfig
    predict: Callable[[Any, Array], Array]
    params: Any
    xs: Array
    ys: Array

    def f(self, params: Any, x: Array) -> Array:
        """One example."""
        return self.predict(params, x[None])[0]


def folded(model: ModelConfig, side: int = 32, images: int = 500) -> Folded:
    """One as it is initialised, on random images."""
    shape = (side, side, 3)
    params, state = build(model, input_shape=shape, num_outputs=OUTPUTS).init(jax.random.key(0))
    config, params, _ = without_batch_norm(model, params, state)
    network = build(config, input_shape=shape, num_outputs=OUTPUTS)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(images, *shape)), jnp.float32)
    ys = jnp.asarray(rng.integers(0, OUTPUTS, images), jnp.int32)
    return Folded(config, lambda params, xs: network.predict(params, {}, xs), params, xs, ys)


def networks(smoke: bool) -> dict[str, Callable[[], Folded]]:
    """Those that are measured."""
    if smoke:
        return {"cnn-1x2": lambda: folded(cnn(1, 2), 8, 20)}
    configs = (vgg_stacks(0.25, dropout=0), cnn(3, 8), fully_connected(2, 200))
    return {config.name: functools.partial(folded, config) for config in configs}


def rows(smoke: bool) -> Iterator[Row]:
    """Norms and margins of each network, then operator norms."""
    rounds = 2 if smoke else 5
    images = 20 if smoke else 500
    for name, data in networks(smoke).items():
        yield Row(
            name=f"l2, spectral and path norms, {name}",
            unit="network",
            data=data,
            ours={"jaxsens": Way(norms)},
            peers=in_torch.peers({"PyTorch": Way(torch_norms)})
            | {"a forward pass of 10,000 images": Way(forward, images / TEST, compared=False)},
            absent=in_torch.ABSENT,
            rounds=rounds,
        )
        yield Row(
            name=f"margins, {name}",
            unit="image",
            data=data,
            ours={"jaxsens": Way(margins, images)},
            peers=in_torch.peers({"PyTorch": Way(torch_margins, images)})
            | {"a forward pass": Way(forward, images, compared=False)},
            absent=in_torch.ABSENT,
            rounds=rounds,
        )
    yield Row(
        name="operator norms of all convolutions, " + ("vgg13-s0.03125" if smoke else "vgg13-s0.5"),
        unit="network",
        data=lambda: convolutions(vgg(13, 1 / 32 if smoke else 0.5)),
        ours={"jaxsens": Way(operator_norms)},
        peers={"scipy's svds (ARPACK)": Way(scipy_norms)},
        tolerance=10 * TOLERANCE,
        rounds=2 if smoke else 3,
    )
    side, channels = (5, 2) if smoke else (16, 8)
    yield Row(
        name=f"operator norm of 3 x 3 x {channels} x {channels} on {side} x {side} pixels",
        unit="convolution",
        data=lambda: [random_convolution(side, channels)],
        ours={"jaxsens": Way(operator_norms)},
        peers={"numpy's SVD of the dense matrix": Way(dense_norm)},
        tolerance=10 * TOLERANCE,
        rounds=2 if smoke else 3,
    )


def forward(data: Folded) -> Ready:
    """A forward pass of the images."""
    return compiled(data.predict, data.params, data.xs)


def norms(data: Folded) -> Ready:
    """Ours, all four in one program."""

    def measure(params: Any) -> Array:
        weights, shape = layer_weights(data.config, params), data.xs.shape[1:]
        paths = [log_path_norm(data.f, params, shape, p=p) for p in (1, 2)]
        return jnp.stack([log_l2_norm(weights), log_spectral_norm(weights), *paths])

    return compiled(measure, data.params)


def torch_norms(data: Folded) -> Ready:
    """Each layer's norms, and a forward pass of |w|^p without biases on an input of ones."""
    t = in_torch.torch()
    model = in_torch.twin(data.config, data.xs.shape[1:], data.params).eval()
    named = dict(model.named_parameters())
    ones = t.ones_like(in_torch.batch(np.asarray(data.xs[:1])))

    averages = [module for module in model.modules() if isinstance(module, t.nn.AvgPool2d)]
    areas = [math.prod(np.broadcast_to(module.kernel_size, 2)) for module in averages]

    def log_path(p: int) -> float:
        for module, area in zip(averages, areas, strict=True):
            module.divisor_override = int(area) ** p  # an average's weights 1 / area count as any
        changed = {
            name: value.abs() ** p if value.ndim > 1 else t.zeros_like(value) for name, value in named.items()
        }
        return (2 if p == 1 else 1) * float(t.func.functional_call(model, changed, ones).sum().log())

    def run() -> np.ndarray:
        with t.inference_mode():
            matrices = [value.flatten(1) for value in named.values() if value.ndim > 1]
            l2 = sum(float((matrix**2).sum().log()) for matrix in matrices)
            spectral = sum(2 * float(t.linalg.matrix_norm(matrix, 2).log()) for matrix in matrices)
            return np.array([l2, spectral, log_path(1), log_path(2)])

    return Ready(run)


def margins(data: Folded) -> Ready:
    """Ours."""
    return compiled(
        lambda params, xs, ys: margin_percentile(data.f, params, xs, ys, percent=PERCENT).value,
        data.params,
        data.xs,
        data.ys,
    )


def torch_margins(data: Folded) -> Ready:
    """A forward pass in inference mode, and the same order statistic."""
    t = in_torch.torch()
    model = in_torch.twin(data.config, data.xs.shape[1:], data.params).eval()
    xs, ys = in_torch.batch(np.asarray(data.xs)), t.from_numpy(np.array(data.ys)).long()[:, None]
    place = math.ceil(PERCENT * len(xs) / 100)

    def run() -> float:
        with t.inference_mode():
            logits = model(xs)
            others = logits.scatter(1, ys, -math.inf).amax(dim=1)
            return float((logits.gather(1, ys)[:, 0] - others).kthvalue(place).values)

    return Ready(run)


class Convolution(NamedTuple):
    """A kernel and where it is used."""

    kernel: Array
    shape: tuple[int, ...]
    stride: int
    padding: int

    def apply(self, x: Array) -> Array:
        """The image of one image."""
        pads = ((self.padding, self.padding),) * 2
        strides = (self.stride, self.stride)
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(x[None], self.kernel, strides, pads, dimension_numbers=layout)[0]


def convolutions(model: ModelConfig) -> list[Convolution]:
    """Those of a network, with the shapes of their inputs."""
    data = folded(model, images=1)
    shape, found = data.xs.shape[1:], []
    # The last weights are those of the affine layer.
    kernels = iter(layer_weights(data.config, data.params)[:-1])
    for layer in data.config.layers:
        if isinstance(layer, Conv):
            found.append(Convolution(next(kernels), shape, layer.stride, layer.padding))
        shape = output_shape((layer,), shape)
    return found


def random_convolution(side: int, channels: int) -> Convolution:
    """A normal kernel of 3 x 3."""
    kernel = np.random.default_rng(0).normal(size=(3, 3, channels, channels))
    return Convolution(jnp.asarray(kernel, jnp.float32), (side, side, channels), 1, 1)


def operator_norms(data: list[Convolution]) -> Ready:
    """Ours, all in one program."""

    def measure(kernels: list[Array]) -> Array:
        found = [
            conv_operator_norm(
                kernel, c.shape, strides=(c.stride,) * 2, padding=((c.padding,) * 2,) * 2, tol=TOLERANCE
            ).value
            for kernel, c in zip(kernels, data, strict=True)
        ]
        return jnp.stack(found)

    return compiled(measure, [c.kernel for c in data])


def scipy_norms(data: list[Convolution]) -> Ready:
    """The largest singular value of each as a linear operator, whose two products are compiled."""
    operators = []
    for c in data:
        example = jax.ShapeDtypeStruct(c.shape, jnp.float32)
        after = jax.eval_shape(c.apply, example)
        there = jax.jit(c.apply).lower(example).compile()
        transposed = jax.jit(lambda y, c=c, example=example: jax.linear_transpose(c.apply, example)(y)[0])
        back = transposed.lower(after).compile()
        operators.append(
            LinearOperator(
                (math.prod(after.shape), math.prod(c.shape)),
                matvec=lambda x, f=there, s=c.shape: np.asarray(f(np.float32(x.reshape(s)))).ravel(),
                rmatvec=lambda y, f=back, s=after.shape: np.asarray(f(np.float32(y.reshape(s)))).ravel(),
                dtype=np.float32,
            )
        )

    options = {"k": 1, "tol": TOLERANCE, "return_singular_vectors": False, "solver": "arpack"}
    return Ready(lambda: np.array([svds(a, **options, rng=0)[0] for a in operators]))


def dense_norm(data: list[Convolution]) -> Ready:
    """All singular values of the matrix of the only convolution."""
    (c,) = data
    basis = jnp.eye(math.prod(c.shape)).reshape(-1, *c.shape)
    matrix = np.asarray(jax.vmap(c.apply)(basis)).reshape(len(basis), -1)
    return Ready(lambda: np.linalg.svd(matrix, compute_uv=False)[:1])
