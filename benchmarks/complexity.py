"""What D's measures cost on a CPU, in forward passes, and how fast the operator norms of a VGG are.

    python benchmarks/complexity.py

Three networks: figure 3's VGG (s = 0.25) and a CNN on 32 x 32 images, and a perceptron of 2 x 200 units.
All ways take turns, compilation apart, medians of rounds (of minima for perturbations, whose ratio is asked
for).

    norms           l2, spectral and both path norms, and the margins' percentile, of one network, in forward
                    passes of a test set of 10,000 images; margins of 1000 training images, which are 1000
                    forward passes, are counted apart
    perturbations   `expected_sharpness` of mini-batches of 64, over as many forward passes of perturbed
                    networks, in a compiled loop and called one after another
    operator norms  the ten convolutions of VGG13 (s = 0.5), to a residual of 1e-4

Prints the record and writes `benchmarks/complexity.json`.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxsens.metrics import (
    conv_operator_norm,
    expected_sharpness,
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

SHAPE, OUTPUTS, TEST, CHUNK, BATCH = (32, 32, 3), 10, 10_000, 500, 64
PERTURBATIONS, ROUNDS = 100, 5
NETWORKS = {
    "vgg-stacks s = 0.25": vgg_stacks(0.25, dropout=0),
    "cnn-3x8": cnn(3, 8),
    "fc-2x200": fully_connected(2, 200),
}


def seconds(ways: dict[str, Callable[[], object]], rounds: int, best: bool = False) -> dict[str, float]:
    """The median (or least) time of each way; they take turns, after one call each that is not counted."""
    for run in ways.values():
        jax.block_until_ready(run())
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            began = time.perf_counter()
            jax.block_until_ready(run())
            times[name].append(time.perf_counter() - began)
    return {name: (min if best else statistics.median)(taken) for name, taken in times.items()}


def folded(model: ModelConfig) -> tuple[ModelConfig, Any, Any]:
    """The network without batch normalisation: configuration, pure functions, parameters."""
    params, state = build(model, input_shape=SHAPE, num_outputs=OUTPUTS).init(jax.random.key(0))
    config, params, _ = without_batch_norm(model, params, state)
    return config, build(config, input_shape=SHAPE, num_outputs=OUTPUTS), params


def measure(model: ModelConfig) -> dict[str, Any]:
    """Norms and perturbations of one network, in forward passes."""
    config, network, params = folded(model)
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(CHUNK, *SHAPE)), jnp.float32)
    ys = jnp.asarray(rng.integers(0, OUTPUTS, CHUNK), jnp.int32)

    def f(params: Any, x: Array) -> Array:
        return network.predict(params, {}, x[None])[0]

    predict = jax.jit(lambda p, x: network.predict(p, {}, x))
    norms = jax.jit(
        lambda p: (
            log_l2_norm(layer_weights(config, p)),
            log_spectral_norm(layer_weights(config, p)),
            log_path_norm(f, p, SHAPE, p=1),
            log_path_norm(f, p, SHAPE, p=2),
        )
    )
    margins = jax.jit(lambda p, x, y: margin_percentile(f, p, x, y))
    taken = seconds(
        {
            "forward": lambda: predict(params, xs),
            "norms": lambda: norms(params),
            "margins": lambda: margins(params, xs, ys),
        },
        ROUNDS,
    )
    forward = taken["forward"] * TEST / CHUNK

    def loss(p: Any, key: Array) -> Array:
        chosen = jax.random.randint(key, (BATCH,), 0, CHUNK)
        logits = network.predict(p, {}, xs[chosen])
        return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(logits), ys[chosen][:, None], axis=1))

    keys = jax.random.split(jax.random.key(1), PERTURBATIONS)
    near = jax.tree.map(lambda p: p * 1.001, params)
    single = jax.jit(loss)
    loop = jax.jit(lambda p, keys: jax.lax.map(lambda key: loss(p, key), keys))
    ours = jax.jit(
        lambda p, key: expected_sharpness(loss, p, key=key, alpha=1e-3, num_perturbations=PERTURBATIONS)
    )
    ways = {
        "ours": lambda: ours(params, jax.random.key(2)),
        "compiled loop": lambda: loop(near, keys),
        "one call each": lambda: [single(near, key) for key in keys],
    }
    times = seconds(ways, ROUNDS, best=True)
    return {
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(params)),
        "forward_seconds_of_10000": round(forward, 3),
        "norms_in_forward_passes_of_the_test_set": round(taken["norms"] / forward, 4),
        "margins_of_1000_in_forward_passes_of_the_test_set": round(
            taken["margins"] * 1000 / CHUNK / forward, 3
        ),
        "milliseconds_per_perturbation": round(1000 * times["ours"] / PERTURBATIONS, 3),
        "perturbations_over_forward_passes": {
            name: round(times["ours"] / times[name], 3) for name in ("compiled loop", "one call each")
        },
    }


def operator_norms() -> dict[str, float]:
    """All convolutions of VGG13, s = 0.5, in one compiled call."""
    config, _, params = folded(vgg(13, 0.5))
    kernels, shape, places = layer_weights(config, params), SHAPE, []
    for layer in config.layers:
        if isinstance(layer, Conv):
            places.append((shape, layer.stride, layer.padding))
        shape = output_shape((layer,), shape)

    @jax.jit
    def norms(kernels: list[Array]) -> list[Any]:
        return [
            conv_operator_norm(
                kernel, shape, strides=(stride, stride), padding=((pad, pad), (pad, pad)), tol=1e-4
            )
            for kernel, (shape, stride, pad) in zip(kernels, places, strict=True)
        ]

    convolutions = list(kernels[: len(places)])
    taken = seconds({"norms": lambda: norms(convolutions)}, ROUNDS)["norms"]
    found = norms(convolutions)
    return {
        "convolutions": len(found),
        "seconds": round(taken, 3),
        "largest_residual": float(max(norm.residual for norm in found)),
    }


def main() -> None:
    """Times everything and writes the record."""
    record = {
        "jax": jax.__version__,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "rounds": ROUNDS,
        "perturbations": PERTURBATIONS,
        "networks": {name: measure(model) for name, model in NETWORKS.items()},
        "operator_norms_of_vgg13_s0.5": operator_norms(),
    }
    print(json.dumps(record, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
