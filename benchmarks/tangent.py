"""|d2f/dtheta dx|_F^2 by all methods, against torch.func, in seconds an example.

Of the sum of the outputs. A 3072-100x4-10 perceptron: PyTorch takes `jvp` of `grad` over the input's basis in
chunks (the quickest of three sizes), for one example; ours share work in a batch of 256 where the method can,
and take one example elsewhere. A 64-32x2-10 perceptron, for which the dense matrix fits: PyTorch takes
`vmap` of `jacfwd` of `grad`. Random probes take the same number of directions on both sides, drawn anew, and
are compared in standard errors.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import in_torch
import jax
import jax.numpy as jnp
import numpy as np
from convolution import small_resnet
from jax import Array
from timing import Ready, Row, Way, compiled, mean_difference, quickest, standard_errors

from jaxsens.metrics import relu_mlp_tangent_sensitivity, tangent_sensitivity
from jaxsens.models import ModelConfig, build, resnet

__all__ = ["Perceptron", "forward", "perceptron", "rows"]

PROBES, TORCH_CHUNKS = 64, (8, 32, 128)


class Perceptron(NamedTuple):
    """Weights (in, out) and biases, and the examples that are measured."""

    weights: list[Array]
    biases: list[Array]
    xs: Array

    @property
    def params(self) -> tuple[list[Array], list[Array]]:
        """What `forward` takes."""
        return self.weights, self.biases


def perceptron(sizes: tuple[int, ...], examples: int) -> Perceptron:
    """He-normal weights and small biases, on normal inputs."""
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    pairs = list(itertools.pairwise(sizes))
    weights = [normal(*pair) * (2 / pair[0]) ** 0.5 for pair in pairs]
    return Perceptron(weights, [0.1 * normal(after) for _, after in pairs], normal(examples, sizes[0]))


def forward(params: tuple[list[Array], list[Array]], x: Array) -> Array:
    """The perceptron in plain JAX."""
    *hidden, last = zip(*params, strict=True)
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight + bias)
    return x @ last[0] + last[1]


def rows(smoke: bool) -> Iterator[Row]:
    """A large and a small perceptron, random probes, and a ResNet."""
    rounds = 2 if smoke else 5
    large, batch = ((32, 8, 8, 4), 8) if smoke else ((3072, 100, 100, 100, 100, 10), 256)
    yield Row(
        name=named(large),
        unit="example",
        data=lambda: perceptron(large, batch),
        ours={
            f"closed form, batches of {batch}": Way(closed_form, batch, peak=True),
            "closed form, one example": Way(lambda data: closed_form(data._replace(xs=data.xs[:1]))),
            f"structured, batches of {batch}": Way(method("structured"), batch),
            "streamed, one example": Way(method("streamed", 1), peak=True),
        },
        peers=in_torch.peers({"torch.func, streamed": Way(torch_streamed, peak=True)}),
        absent=in_torch.ABSENT,
        compare=mean_difference,
        rounds=2 if smoke else 3,
    )
    small, batch = ((16, 8, 4), 8) if smoke else ((64, 32, 32, 10), 64)
    yield Row(
        name=named(small),
        unit="example",
        data=lambda: perceptron(small, batch),
        ours={
            "closed form": Way(closed_form, batch),
            **{name: Way(method(name), batch) for name in ("structured", "streamed", "dense")},
        },
        peers=in_torch.peers({"torch.func, dense": Way(torch_dense, batch)}),
        absent=in_torch.ABSENT,
        compare=mean_difference,
        rounds=rounds,
    )
    yield Row(
        name=f"{PROBES} random probes, {named(large)}",
        unit="example",
        data=lambda: perceptron(large, 1),
        ours={"hutchinson": Way(random_probes)},
        peers=in_torch.peers({"torch.func": Way(torch_random_probes)}),
        absent=in_torch.ABSENT,
        compare=standard_errors,
        tolerance=5.0,
        rounds=rounds,
    )
    config = small_resnet() if smoke else resnet(18, 0.25)
    yield Row(
        name=config.name,
        unit="example",
        data=lambda: config,
        ours={"structured, one example": Way(structured_of_network)},
        no_peer="streaming 3072 gradients of a ResNet for each example was not tried in PyTorch",
        rounds=2,
    )


def named(sizes: tuple[int, ...]) -> str:
    """3072-100x4-10."""
    return f"{sizes[0]}-{sizes[1]}x{len(sizes) - 2}-{sizes[-1]}"


def closed_form(data: Perceptron) -> Ready:
    """`relu_mlp_tangent_sensitivity`."""
    return compiled(relu_mlp_tangent_sensitivity, *data)


def method(name: str, examples: int | None = None) -> Callable[[Perceptron], Ready]:
    """`tangent_sensitivity` by this method, of the first examples."""

    def prepare(data: Perceptron) -> Ready:
        measure = functools.partial(tangent_sensitivity, forward, method=name)
        return compiled(measure, data.params, data.xs[:examples])

    return prepare


def random_probes(data: Perceptron) -> Ready:
    """`tangent_sensitivity` by "hutchinson": the value and standard error of one example."""

    def measure(params: Any, xs: Array, key: Array) -> Any:
        options = {"method": "hutchinson", "num_probes": PROBES, "key": key}
        value, stderr = tangent_sensitivity(forward, params, xs, **options)
        return value[0], stderr[0]

    return compiled(measure, data.params, data.xs[:1], jax.random.key(0))


def structured_of_network(config: ModelConfig) -> Ready:
    """The structured path of a network of the zoo, for one 32 x 32 image."""
    network = build(config, input_shape=(32, 32, 3), num_outputs=10)
    params, state = network.init(jax.random.key(0))
    xs = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 32, 32, 3)), jnp.float32)
    return compiled(lambda p, x: tangent_sensitivity(network.function(state), p, x), params, xs)


def torch_streamed(data: Perceptron) -> Ready:
    """`jvp` of `grad`, vmapped over some directions of the basis at a time, for one example."""
    square = _torch_square(data)
    basis = in_torch.torch().eye(data.xs.shape[1])

    def prepare(chunk: int) -> Ready:
        mapped = in_torch.torch().func.vmap(square)
        return Ready(lambda: np.array([float(sum(mapped(part).sum() for part in basis.split(chunk)))]))

    return quickest({f"chunks of {chunk}": lambda chunk=chunk: prepare(chunk) for chunk in TORCH_CHUNKS})


def torch_random_probes(data: Perceptron) -> Ready:
    """The same along normal directions: their mean and its standard error."""
    t, square = in_torch.torch(), _torch_square(data)

    def prepare(chunk: int) -> Ready:
        mapped = t.func.vmap(square)

        def run() -> tuple[float, float]:
            directions = t.randn(PROBES, data.xs.shape[1])
            squares = t.cat([mapped(part) for part in directions.split(chunk)])
            return float(squares.mean()), float(squares.std() / PROBES**0.5)

        return Ready(run)

    return quickest({f"chunks of {chunk}": lambda chunk=chunk: prepare(chunk) for chunk in TORCH_CHUNKS})


def torch_dense(data: Perceptron) -> Ready:
    """The matrix itself, `vmap` of `jacfwd` of `grad`, for all examples at once."""
    func = in_torch.torch().func
    params, total = _torch_params(data), _torch_total
    xs = in_torch.batch(np.asarray(data.xs))

    def square(x: Any) -> Any:
        return sum((part**2).sum() for part in func.jacfwd(lambda x: func.grad(total)(params, x))(x))

    mapped = func.vmap(square)
    return Ready(lambda: mapped(xs).numpy())


def _torch_square(data: Perceptron) -> Callable[[Any], Any]:
    """|Sens(x) v|^2 of the first example as a function of v."""
    func, params = in_torch.torch().func, _torch_params(data)
    example = in_torch.batch(np.asarray(data.xs))[0]

    def square(direction: Any) -> Any:
        _, tangents = func.jvp(lambda x: func.grad(_torch_total)(params, x), (example,), (direction,))
        return sum((tangent**2).sum() for tangent in tangents)

    return square


def _torch_params(data: Perceptron) -> list[Any]:
    return [
        in_torch.batch(np.asarray(array))
        for pair in zip(data.weights, data.biases, strict=True)
        for array in pair
    ]


def _torch_total(params: list[Any], x: Any) -> Any:
    for index in range(0, len(params) - 2, 2):
        x = in_torch.torch().relu(x @ params[index] + params[index + 1])
    return (x @ params[-2] + params[-1]).sum()
