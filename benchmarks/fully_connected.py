"""How fast Figure 2's fully-connected networks train on a CPU: our ensembles against PyTorch in turn.

    python benchmarks/fully_connected.py        # needs the extra `bench` for PyTorch's row

The networks of `experiments/fig2.py --preset cpu` without regularisation, 5 seeds each, on 1000 inputs of
3072 numbers in 8 batches, Adam, compilation apart. Both ways take turns, network by network. PyTorch gets its
data in memory, without a DataLoader. Prints a table and writes `benchmarks/fully_connected.json`.
"""

import importlib.util
import itertools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from jaxsens.models import build, fully_connected
from jaxsens.train import TrainConfig, make_train

SEEDS, EXAMPLES, SIZE, OUTPUTS, EPOCHS, ROUNDS = 5, 1000, 3072, 10, 4, 3
NETWORKS = (
    *((1, width) for width in (100, 300)),
    *((layers, width) for layers in (2, 3, 4) for width in (100, 200, 300)),
    *((2, 140), (4, 63)),
)


def ours(layers: int, width: int, xs: np.ndarray, ys: np.ndarray) -> Callable[[], None]:
    """Trains five seeds by the compiled program that the experiments run."""
    network = build(fully_connected(layers, width), input_shape=(SIZE,), num_outputs=OUTPUTS)
    training = make_train(TrainConfig(max_epochs=10**6, stop_loss=1e-30), network.init, network.apply)
    on_device = jnp.asarray(xs), jnp.asarray(ys)
    over = jax.jit(
        lambda members, until: jax.lax.map(lambda m: training.advance(m, *on_device, until), members)
    )
    held = {"members": jax.vmap(training.start)(jax.random.split(jax.random.key(0), SEEDS)), "epoch": 0}

    def run() -> None:
        held["epoch"] += EPOCHS
        held["members"] = jax.block_until_ready(over(held["members"], jnp.int32(held["epoch"])))

    return run


def in_turn(layers: int, width: int, xs: np.ndarray, ys: np.ndarray) -> Callable[[], None]:
    """Trains five PyTorch networks, one after the other."""
    import torch
    from torch import nn

    def make() -> nn.Module:
        sizes = [SIZE, *[width] * layers]
        hidden = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, OUTPUTS))

    models = [make() for _ in range(SEEDS)]
    inputs, labels = torch.from_numpy(xs), torch.from_numpy(ys).long()
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in models]

    def run() -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for _ in range(EPOCHS):
                for batch in torch.randperm(EXAMPLES).split(EXAMPLES // 8):
                    optimizer.zero_grad()
                    nn.functional.cross_entropy(model(inputs[batch]), labels[batch]).backward()
                    optimizer.step()

    return run


def main() -> None:
    """Times both ways, network by network."""
    rng = np.random.default_rng(0)
    xs = rng.random((EXAMPLES, SIZE), np.float32)
    ys = rng.integers(0, OUTPUTS, EXAMPLES, dtype=np.int32)
    makers = {"jaxsens": ours}
    if importlib.util.find_spec("torch"):
        makers["PyTorch"] = in_turn
    rows = []
    for layers, width in NETWORKS:
        ways = {name: make(layers, width, xs, ys) for name, make in makers.items()}
        for run in ways.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, run in ways.items():
                began = time.perf_counter()
                run()
                seconds[name].append((time.perf_counter() - began) / EPOCHS / SEEDS)
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        rows.append({"network": f"fc-{layers}x{width}"} | medians)
        print(rows[-1], flush=True)
    totals = {name: sum(row[name] for row in rows) for name in makers}
    ratio = round(totals["PyTorch"] / totals["jaxsens"], 2) if "PyTorch" in totals else None
    print(f"seconds an epoch and network, all networks: {totals}; PyTorch / jaxsens: {ratio}")
    record = {
        "jax": jax.__version__,
        "machine": platform.machine(),
        "seeds": SEEDS,
        "epochs": EPOCHS,
        "rounds": ROUNDS,
        "seconds_per_epoch_and_network": [
            {name: value if isinstance(value, str) else round(value, 5) for name, value in row.items()}
            for row in rows
        ],
        "pytorch_over_jaxsens": ratio,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
