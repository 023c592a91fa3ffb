"""How fast E's survey trains on a CPU, and what exact crossings cost.

    python benchmarks/robustness.py

Survey: for three shapes and two batch sizes, the 16 networks of four optimisers and four activations on 1000
inputs of 784 numbers, 100 epochs each. Ours: one program, over as many devices as there are cores. One by
one: for each network its own jitted step with its optimiser's numbers in it, called in a Python loop over
batches, which it picks from the device's data itself; both with their compilation, and apart
from it. The peer has both cores for its matrix products. Crossings: 64 segments between random inputs in a
784-100x4-10 ReLU network, beside sampling 4096 points. Ours and the peer take turns; medians of the rounds.
Prints a table and writes `benchmarks/robustness.json`.
"""

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
import optax

from jaxsens.metrics import (
    activation_codes,
    count_crossings,
    mlp_preactivations,
    segment,
    transition_count,
)
from jaxsens.models import build, fully_connected
from jaxsens.train import (
    LOSSES,
    OPTIMIZERS,
    TrainConfig,
    hyper_parameters,
    make_train,
    train_ensemble,
)
from jaxsens.types import PIECEWISE_LINEAR

CORES = os.cpu_count() or 1
# Before the first use of a device.
jax.config.update("jax_num_cpu_devices", CORES)

EXAMPLES, SIZE, OUTPUTS, EPOCHS, ROUNDS, SEGMENTS, SAMPLES = 1000, 784, 10, 100, 3, 64, 4096
SHAPES, BATCHES = ((1, 50), (2, 100), (4, 200)), (25, 100)
RATES = {"sgd": 0.1, "momentum": 0.03, "adam": 1e-3, "rmsprop": 5e-4}
WAYS = [(optimizer, activation) for optimizer in RATES for activation in PIECEWISE_LINEAR]


def ours(shape: tuple[int, int], batch: int, xs: np.ndarray, ys: np.ndarray) -> Callable[[], None]:
    """Trains all 16 as one program, compiled at the first call."""
    network = build(fully_connected(*shape, init="HN"), input_shape=(SIZE,), num_outputs=OUTPUTS)
    config = TrainConfig("sgd", batch_size=batch, max_epochs=EPOCHS, stop_loss=1e-30)
    training = make_train(config, network.init, network.apply)
    hyper = [
        hyper_parameters(
            optimizer=optimizer, learning_rate=RATES[optimizer], weight_decay=0.0, activation=name, labels=0
        )
        for optimizer, name in WAYS
    ]
    hyper = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper)
    keys = jnp.stack([jax.random.key(0)] * len(WAYS))
    return lambda: jax.block_until_ready(
        train_ensemble(training, keys, jnp.asarray(xs), jnp.asarray(ys)[None], hyper=hyper)
    )


def one_by_one(
    shape: tuple[int, int], batch: int, xs: np.ndarray, ys: np.ndarray, way: tuple[str, str]
) -> Callable[[], None]:
    """Trains one network by a step of its own, compiled at the first call."""
    optimizer_name, activation = way
    config = fully_connected(*shape, init="HN", activation=activation)
    network = build(config, input_shape=(SIZE,), num_outputs=OUTPUTS)
    optimizer = OPTIMIZERS[optimizer_name](RATES[optimizer_name])
    inputs, labels = jnp.asarray(xs), jnp.asarray(ys)

    @jax.jit
    def step(params, state, memory, chosen):
        def mean_loss(params):
            outputs, new_state = network.apply(params, state, inputs[chosen], key=jax.random.key(0))
            return jnp.mean(LOSSES["cross_entropy"](outputs, labels[chosen])), new_state

        (loss, state), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), state, memory, loss

    random = np.random.default_rng(0)

    def run() -> None:
        params, state = network.init(jax.random.key(0))
        memory = optimizer.init(params)
        for _ in range(EPOCHS):
            losses = []
            for chosen in random.permutation(EXAMPLES).reshape(-1, batch):
                params, state, memory, loss = step(params, state, memory, chosen)
                losses.append(loss)
            float(jnp.mean(jnp.stack(losses)))  # what a stop rule looks at

    return run


def seconds(run: Callable[[], object]) -> float:
    """Of one call."""
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def survey_row(shape: tuple[int, int], batch: int) -> dict:
    """Seconds per network, ours and one by one, with compilation and without."""
    random = np.random.default_rng(0)
    xs = random.random((EXAMPLES, SIZE), np.float32)
    ys = random.integers(0, OUTPUTS, EXAMPLES).astype(np.int32)
    peers = [("sgd", "relu"), ("adam", "hard_tanh")]
    mine, first = ours(shape, batch, xs, ys), [one_by_one(shape, batch, xs, ys, way) for way in peers]
    cold = seconds(mine) / len(WAYS), statistics.mean(seconds(run) for run in first)
    warm: list[tuple[float, float]] = [
        (seconds(mine) / len(WAYS), statistics.mean(seconds(run) for run in first)) for _ in range(ROUNDS)
    ]
    row = {"network": f"fc-{shape[0]}x{shape[1]}", "batch": batch}
    row |= {
        "jaxsens": statistics.median(a for a, _ in warm),
        "one by one": statistics.median(b for _, b in warm),
    }
    row |= {"jaxsens, compiled": cold[0], "one by one, compiled": cold[1]}
    row["rates"] = [round(b / a, 2) for a, b in warm]
    row["rate, compiled"] = round(cold[1] / cold[0], 2)
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}


def crossings_row() -> dict:
    """Milliseconds per segment, and how many of the crossings the sampled count finds."""
    network = build(fully_connected(4, 100, init="HN"), input_shape=(SIZE,), num_outputs=OUTPUTS)
    params, _ = network.init(jax.random.key(0))
    affine = [*(params["body"]["layers"][place]["linear"] for place in range(1, 5)), params["head"]]
    weights, biases = ([layer[name][...] for layer in affine] for name in ("kernel", "bias"))
    a, b = jax.random.uniform(jax.random.key(1), (2, SEGMENTS, SIZE))

    def sampled(start: jax.Array, end: jax.Array) -> jax.Array:
        points = segment(start, end, num_points=SAMPLES)
        codes = activation_codes(mlp_preactivations(weights, biases, points))
        return transition_count(codes, closed=False)

    exact = jax.jit(lambda: count_crossings(weights, biases, a, b))
    sampling = jax.jit(lambda: jax.lax.map(lambda ends: sampled(*ends), (a, b)))
    programs = {"exact": exact, "sampled": sampling}
    found = {name: np.asarray(run()) for name, run in programs.items()}
    taken = [{name: seconds(lambda run=run: jax.block_until_ready(run())) for name, run in programs.items()}
             for _ in range(ROUNDS + 2)]  # fmt: skip
    return {
        f"{name}, ms a segment": round(1000 / SEGMENTS * statistics.median(t[name] for t in taken), 3)
        for name in programs
    } | {
        "crossings": float(found["exact"].mean()),
        "sampled share": round(float(found["sampled"].sum() / found["exact"].sum()), 4),
    }


def main() -> None:
    """Prints and writes the figures."""
    rows = [survey_row(shape, batch) for shape in SHAPES for batch in BATCHES]
    crossings = crossings_row()
    for row in [*rows, crossings]:
        print(row)
    total = {name: sum(row[f"{name}, compiled"] for row in rows) for name in ("jaxsens", "one by one")}
    result = {
        "jax": jax.__version__,
        "machine": platform.machine(),
        "cores": CORES,
        "epochs": EPOCHS,
        "rounds": ROUNDS,
        "seconds_per_network": rows,
        "rate with compilation": round(total["one by one"] / total["jaxsens"], 2),
        "crossings": crossings,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(f"one by one over ours, with compilation: {result['rate with compilation']}")


if __name__ == "__main__":
    main()
