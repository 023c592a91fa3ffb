"""How fast |d2f/dtheta dx|_F^2 is on a CPU: our methods against torch.func's forward over reverse.

    python benchmarks/tangent.py        # needs the extra `bench` for PyTorch's row

The network is a 3072-100x4-10 perceptron, of the sum of its outputs. PyTorch takes `jvp` of `grad` over the
input's basis in chunks (the fastest of three sizes), for one example. Ours are per example: in a batch of 256
where the method shares work, of one elsewhere. All ways take turns, compilation apart, medians of rounds.
Memory is what XLA's compiler reserves besides arguments and result. Prints a table and writes
`benchmarks/tangent.json`.
"""

import functools
import importlib.util
import itertools
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.metrics import relu_mlp_tangent_sensitivity, tangent_sensitivity
from jaxsens.models import build, resnet

SIZES, BATCH, ROUNDS = (3072, 100, 100, 100, 100, 10), 256, 5
TORCH_CHUNKS = (8, 32, 128)


def perceptron(sizes: tuple[int, ...] = SIZES) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """He-normal weights (in, out) and small biases."""
    rng = np.random.default_rng(0)
    weights = [rng.normal(size=s) * (2 / s[0]) ** 0.5 for s in itertools.pairwise(sizes)]
    biases = [0.1 * rng.normal(size=s) for s in sizes[1:]]
    return [w.astype(np.float32) for w in weights], [b.astype(np.float32) for b in biases]


def forward(params: tuple[list[Array], list[Array]], x: Array) -> Array:
    """The perceptron in plain JAX."""
    *hidden, last = zip(*params, strict=True)
    for weight, bias in hidden:
        x = jax.nn.relu(x @ weight + bias)
    return x @ last[0] + last[1]


def in_torch(
    weights: list[np.ndarray], biases: list[np.ndarray], x: np.ndarray, chunk: int
) -> Callable[[], float]:
    """torch.func: jvp of grad, vmapped over `chunk` directions at a time, for one example."""
    import torch
    from torch.func import grad, jvp, vmap

    params = [torch.from_numpy(a) for pair in zip(weights, biases, strict=True) for a in pair]
    example, basis = torch.from_numpy(x), torch.eye(len(x))

    def total(params: list, x: object) -> object:
        for index in range(0, len(params) - 2, 2):
            x = torch.relu(x @ params[index] + params[index + 1])
        return (x @ params[-2] + params[-1]).sum()

    def square(direction: object) -> object:
        _, tangents = jvp(lambda x: grad(total)(params, x), (example,), (direction,))
        return sum((tangent**2).sum() for tangent in tangents)

    return lambda: float(sum(vmap(square)(part).sum() for part in basis.split(chunk)))


def seconds(ways: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median time of each way; they take turns, after one call each that is not counted."""
    for run in ways.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - began)
    return {name: statistics.median(taken) for name, taken in times.items()}


def reserved(function: Callable, *arguments: object) -> int:
    """Bytes of temporary memory of a compiled call."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def memory_of_streaming() -> dict[str, int]:
    """Of the same parameters on D entries, which are folded to 3072: what D alone adds."""
    params = jax.tree.map(jnp.asarray, perceptron())

    def folded(params: object, x: Array) -> Array:
        return forward(params, x.reshape(-1, SIZES[0]).sum(axis=0))

    measure = functools.partial(tangent_sensitivity, folded, method="streamed")
    return {str(size): reserved(measure, params, jnp.ones((1, size))) for size in (3072, 12288, 49152)}


def residual_network() -> dict[str, float]:
    """ResNet18, s = 0.25, one 32 x 32 image: seconds and temporary memory of the structured path."""
    network = build(resnet(18, 0.25), input_shape=(32, 32, 3), num_outputs=10)
    params, state = network.init(jax.random.key(0))
    xs = jnp.asarray(np.random.default_rng(0).uniform(size=(1, 32, 32, 3)), jnp.float32)
    measure = jax.jit(lambda p, x: tangent_sensitivity(network.function(state), p, x))
    taken = seconds({"structured": lambda: jax.block_until_ready(measure(params, xs))}, 2)["structured"]
    return {"seconds": round(taken, 2), "temporary_bytes": reserved(measure, params, xs)}


def main() -> None:
    """Times all ways in turn and writes the record."""
    weights, biases = perceptron()
    xs = np.random.default_rng(1).normal(size=(BATCH, SIZES[0])).astype(np.float32)
    params, inputs = jax.tree.map(jnp.asarray, (weights, biases)), jnp.asarray(xs)

    def ours(method: str, count: int) -> Callable[[], Array]:
        measure = jax.jit(lambda p, x: tangent_sensitivity(forward, p, x, method=method))
        return lambda: jax.block_until_ready(measure(params, inputs[:count]))

    closed = jax.jit(relu_mlp_tangent_sensitivity)
    examples = {"closed form": BATCH, "structured": BATCH, "streamed": 1}
    ways: dict[str, Callable[[], object]] = {
        "closed form": lambda: jax.block_until_ready(closed(*params, inputs)),
        "structured": ours("structured", BATCH),
        "streamed": ours("streamed", 1),
    }
    values = {name: float(run()[0]) for name, run in ways.items()}
    if importlib.util.find_spec("torch"):
        tries = {chunk: in_torch(weights, biases, xs[0], chunk) for chunk in TORCH_CHUNKS}
        quickest = seconds(tries, 1)
        chunk = min(quickest, key=quickest.__getitem__)
        ways["torch.func"], examples["torch.func"] = tries[chunk], 1
        values["torch.func"] = tries[chunk]()
        print(f"torch.func, seconds by chunk: {quickest}")
    per_example = {name: taken / examples[name] for name, taken in seconds(ways, ROUNDS).items()}
    peer = per_example.get("torch.func")
    record = {
        "jax": jax.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "network": "-".join(map(str, SIZES)),
        "rounds": ROUNDS,
        "value": {name: round(value, 2) for name, value in values.items()},
        "milliseconds_per_example": {name: round(1000 * taken, 4) for name, taken in per_example.items()},
        "torch_func_over_ours": peer
        and {name: round(peer / taken, 1) for name, taken in per_example.items()},
        "streamed_temporary_bytes_by_input_size": memory_of_streaming(),
        "resnet18_s0.25": residual_network(),
    }
    print(json.dumps(record, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
