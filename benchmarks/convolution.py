"""How fast an ensemble of convolutional networks trains on a CPU: ours, naive `vmap`, PyTorch in turn.

    python benchmarks/convolution.py            # needs the extra `bench` for PyTorch's row

Ten members of three convolutions (32, 64, 128 channels, 3 x 3, each with MaxPool(2)) and an affine layer on
32 x 32 x 3 images, batch 128, Adam: seconds per step for all ten, the median of several, compilation apart.
The ways take turns, so that a machine that slows down slows all of them; the naive one, a minute a step,
is timed once. Prints a table and writes
`benchmarks/convolution.json`.
"""

import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxsens.models import ModelConfig, build, network
from jaxsens.models.layers import Conv, Flatten, MaxPool
from jaxsens.train import TrainConfig, make_train

MEMBERS, BATCH, STEPS, ROUNDS = 10, 128, 2, 5
MODEL = ModelConfig(
    "cnn-32-64-128",
    "cnn",
    1,
    (*(layer for channels in (32, 64, 128) for layer in (Conv(channels, 3, 1, 1), MaxPool(2))), Flatten()),
    3,
)


def ours(member_axis: str, convolution: Callable | None = None) -> Callable[[int], None]:
    """Runs n steps of the whole ensemble in one compiled call."""
    kept = network.training_convolution
    network.training_convolution = convolution or kept
    try:
        built = build(MODEL, input_shape=(32, 32, 3), num_outputs=10)
    finally:
        network.training_convolution = kept
    training = make_train(TrainConfig(batch_size=None, max_epochs=10**6), built.init, built.apply)
    over = {"vmap": jax.vmap, "map": lambda f: lambda members: lax.map(f, members)}[member_axis]
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.random((BATCH, 32, 32, 3), np.float32))
    ys = jnp.asarray(rng.integers(0, 10, BATCH, dtype=np.int32))
    advance = jax.jit(lambda members, until: over(lambda m: training.advance(m, xs, ys, until))(members))
    held = {
        "members": jax.jit(jax.vmap(training.start))(jax.random.split(jax.random.key(0), MEMBERS)),
        "epoch": 0,
    }

    def run(steps: int) -> None:
        held["epoch"] += steps
        held["members"] = jax.block_until_ready(advance(held["members"], jnp.int32(held["epoch"])))

    return run


def torch_in_turn() -> Callable[[int], None]:
    """Runs n steps of each of ten PyTorch networks, one after the other."""
    import torch
    from torch import nn

    def make() -> nn.Module:
        layers: list[nn.Module] = []
        for before, after in ((3, 32), (32, 64), (64, 128)):
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 10))

    models = [make() for _ in range(MEMBERS)]
    optimizers = [torch.optim.Adam(model.parameters(), 1e-3) for model in models]
    xs, ys = torch.rand(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))

    def run(steps: int) -> None:
        for model, optimizer in zip(models, optimizers, strict=True):
            for _ in range(steps):
                optimizer.zero_grad()
                nn.functional.cross_entropy(model(xs), ys).backward()
                optimizer.step()

    return run


def main() -> None:
    """Times all ways in turn."""
    ways = {"ours, members in turn (map)": ours("map"), "ours, members side by side (vmap)": ours("vmap")}
    if importlib.util.find_spec("torch"):
        ways["PyTorch, networks in turn"] = torch_in_turn()
    slow = {"naive vmap of lax.conv": ours("vmap", lax.conv_general_dilated)}
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, *slow)}
    for run in (*ways.values(), *slow.values()):
        run(1)
    for round_ in range(ROUNDS):
        for name, run in (ways | (slow if round_ == 0 else {})).items():
            began = time.perf_counter()
            run(STEPS)
            seconds[name].append((time.perf_counter() - began) / STEPS)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    reference = medians["ours, members in turn (map)"]
    result = {
        name: {
            "seconds_per_step": round(medians[name], 4),
            "least": round(min(times), 4),
            "most": round(max(times), 4),
            "ratio_to_ours": round(medians[name] / reference, 2),
        }
        for name, times in seconds.items()
    }
    for name, row in result.items():
        print(f"{name:36s} {row['seconds_per_step']:8.3f} s  {row['ratio_to_ours']:6.2f}x")
    record = {
        "jax": jax.__version__,
        "machine": platform.machine(),
        "steps": STEPS,
        "rounds": ROUNDS,
        "rows": result,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
