"""S, its exact small-noise limit and the Jacobian norm J of the logits, in seconds an example.

A perceptron of 3 x 300 units, the CNN of `convolution.py` and VGG13 (s = 0.25) as they are initialised, on
random 32 x 32 x 3 images. S has one draw for each example; its peer in PyTorch draws its own noise, so the
two are compared in standard errors; all else is compared example by example, in the mean. Our J takes all
examples at once or in parts of 100, torch.func in chunks of one of three sizes, the quicker each; autograd
takes a backward pass for each output over all examples. The limit is also timed against one forward and one
backward pass, and J against S.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import in_torch
import jax
import jax.numpy as jnp
import numpy as np
from convolution import cnn
from jax import Array
from timing import Ready, Row, Way, compiled, mean_difference, quickest, standard_errors

from jaxsens.metrics import input_jacobian_norm, linearized_output_sensitivity, output_sensitivity
from jaxsens.models import ModelConfig, build, fully_connected, vgg

__all__ = ["rows"]

OUTPUTS, NOISE = 10, 0.1


class Subject(NamedTuple):
    """A network in evaluation mode with the examples that it is measured on."""

    config: ModelConfig
    f: Callable[[Any, Array], Array]
    params: Any
    xs: Array

    @property
    def in_torch(self) -> Any:
        """Its twin, without derivatives of the parameters."""
        return in_torch.twin(self.config, self.xs.shape[1:], self.params).eval().requires_grad_(False)


def subject(config: ModelConfig, shape: tuple[int, ...], examples: int) -> Subject:
    """One as it is initialised, on random inputs."""
    network = build(config, input_shape=shape, num_outputs=OUTPUTS)
    params, state = network.init(jax.random.key(0))
    xs = np.random.default_rng(0).random((examples, *shape), np.float32)
    return Subject(config, network.function(state), params, jnp.asarray(xs))


def rows(smoke: bool) -> Iterator[Row]:
    """S, the limit and J of each network."""
    sizes = (
        [(fully_connected(2, 8), (16,), 32), (cnn(4, 4), (8, 8, 3), 16)]
        if smoke
        else [
            (fully_connected(3, 300), (3072,), 1000),
            (cnn(32, 64, 128), (32, 32, 3), 200),
            (vgg(13, 0.25), (32, 32, 3), 200),
        ]
    )
    for config, shape, examples in sizes:
        yield from _rows(config, shape, examples, rounds=2 if smoke else 5)


def _rows(config: ModelConfig, shape: tuple[int, ...], examples: int, *, rounds: int) -> Iterator[Row]:
    def row(
        name: str,
        measure: Callable,
        in_pytorch: dict[str, Callable],
        more: dict[str, Way],
        compare: Callable = mean_difference,
        tolerance: float = 1e-3,
    ) -> Row:
        # Memory is that of J of images: a fresh process for each way takes its time.
        measured = {"per_call": examples, "peak": name == "J" and len(shape) == 3}
        pytorch = {name: Way(way, **measured) for name, way in in_pytorch.items()}
        return Row(
            name=f"{name}, {config.name}",
            unit="example",
            data=lambda: subject(config, shape, examples),
            ours={"jaxsens": Way(measure, **measured)},
            peers=in_torch.peers(pytorch) | more,
            absent=in_torch.ABSENT,
            rounds=rounds,
            compare=compare,
            tolerance=tolerance,
        )

    yield row("S", S, {"PyTorch": torch_S}, {}, standard_errors, 5.0)
    in_pytorch = {"torch.func": torch_func_limit, "PyTorch's autograd": autograd_limit}
    passes = Way(forward_and_backward, examples, compared=False)
    yield row("the limit of S", limit, in_pytorch, {"one forward and one backward pass": passes})
    in_pytorch = {"torch.func": torch_func_J, "PyTorch's autograd": autograd_J}
    yield row("J", J, in_pytorch, {"S, one draw (jaxsens)": Way(S, examples, compared=False)})


def S(data: Subject) -> Ready:
    """Ours."""

    def measure(params: Any, xs: Array, key: Array) -> Any:
        return output_sensitivity(data.f, params, xs, key=key, noise_std=NOISE)

    return compiled(measure, data.params, data.xs, jax.random.key(1))


def torch_S(data: Subject) -> Ready:
    """Two forward passes in inference mode, and the variance of the mean output's noise."""
    t = in_torch.torch()

    def prepare(model: Any, xs: Any) -> Ready:
        def run() -> tuple[float, float]:
            with t.inference_mode():
                noise = (model(xs + NOISE * t.randn_like(xs)) - model(xs)).mean(dim=1)
                squares = (noise - noise.mean()) ** 2
                return float(squares.mean()), float(squares.std() / len(xs) ** 0.5)

        return Ready(run)

    return quickest(_formats(data, prepare))


def limit(data: Subject) -> Ready:
    """Ours."""
    return compiled(
        lambda params, xs: linearized_output_sensitivity(data.f, params, xs, noise_std=NOISE),
        data.params,
        data.xs,
    )


def forward_and_backward(data: Subject) -> Ready:
    """The summed outputs and their derivative at the inputs: what a first-order measure cannot go below."""
    both = jax.vmap(jax.value_and_grad(lambda x, params: jnp.sum(data.f(params, x))), (0, None))
    return compiled(both, data.xs, data.params)


def torch_func_limit(data: Subject) -> Ready:
    """The gradient of the summed outputs of each example, `vmap(grad)`."""
    gradient = in_torch.torch().func.grad(lambda x, f: f(x).sum())
    return _per_example(data, lambda x, f: gradient(x, f), _limit_of)


def autograd_limit(data: Subject) -> Ready:
    """One backward pass of the outputs' sum over all examples."""
    return _autograd(data, lambda outputs, xs: [_gradient(outputs.sum(), xs)], lambda g: _limit_of(g[0]))


def _limit_of(gradients: Any) -> float:
    return float((NOISE / OUTPUTS) ** 2 * (gradients**2).sum() / len(gradients))


def J(data: Subject) -> Ready:
    """Ours, all examples at once or in parts of 100, as the experiments take them."""

    def prepare(batch_size: int | None) -> Ready:
        return compiled(
            lambda params, xs: input_jacobian_norm(data.f, params, xs, batch_size=batch_size),
            data.params,
            data.xs,
        )

    return quickest({f"batch_size={size}": lambda size=size: prepare(size) for size in (None, 100)})


def torch_func_J(data: Subject) -> Ready:
    """`vmap(jacrev)`."""
    jacobian = in_torch.torch().func.jacrev(lambda x, f: f(x), argnums=0)
    return _per_example(
        data, lambda x, f: (jacobian(x, f) ** 2).sum(), lambda squares: squares.sqrt().numpy()
    )


def autograd_J(data: Subject) -> Ready:
    """A backward pass over all examples for each output."""

    def gradients(outputs: Any, xs: Any) -> list[Any]:
        return [_gradient(outputs[:, k].sum(), xs, retain_graph=k + 1 < OUTPUTS) for k in range(OUTPUTS)]

    def norms(found: list[Any]) -> np.ndarray:
        return sum((g**2).flatten(1).sum(dim=1) for g in found).sqrt().numpy()

    return _autograd(data, gradients, norms)


def _per_example(data: Subject, function: Callable, finish: Callable[[Any], Any]) -> Ready:
    """torch.func's `vmap` of `function(x, f)` over the examples, in chunks."""
    t, model = in_torch.torch(), data.in_torch
    xs = in_torch.batch(np.asarray(data.xs))

    def prepare(chunk: int | None) -> Ready:
        mapped = t.func.vmap(lambda x: function(x, lambda x: model(x[None])[0]), chunk_size=chunk)
        return Ready(lambda: finish(mapped(xs)))

    chunks = (None, 64, 16)
    return quickest({f"chunks of {c or len(xs)}": lambda c=c: prepare(c) for c in chunks})


def _autograd(data: Subject, gradients: Callable[[Any, Any], list[Any]], finish: Callable) -> Ready:
    def prepare(model: Any, xs: Any) -> Ready:
        xs.requires_grad_(True)
        return Ready(lambda: finish(gradients(model(xs), xs)))

    return quickest(_formats(data, prepare))


def _formats(data: Subject, prepare: Callable[[Any, Any], Ready]) -> dict[str, Callable[[], Ready]]:
    """`prepare(model, xs)` with channels first, and for images last."""
    t, xs = in_torch.torch(), np.asarray(data.xs)

    def in_format(channels_last: bool) -> Ready:
        kind = t.channels_last if channels_last else t.contiguous_format
        return prepare(data.in_torch.to(memory_format=kind), in_torch.batch(xs, channels_last))

    ways = {"channels first": lambda: in_format(False), "channels last": lambda: in_format(True)}
    return ways if data.xs.ndim == 4 else {"vectors": ways["channels first"]}


def _gradient(output: Any, xs: Any, **options: Any) -> Any:
    return in_torch.torch().autograd.grad(output, xs, **options)[0]
