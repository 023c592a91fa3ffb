"""Paper A, Figure 11: numbers of training samples and stages of training.

Reproduces: Forouzesh, Salehi and Thiran, Figure 11 a-d on CIFAR-10: (a) small CNNs from SN and ResNets from
HN, 1000 training images; (b) the ResNets with more images; (c) the CNNs with other numbers of images; (d) the
CNNs at stages of training, of which L is the test loss there. Claims: with more images
and later in training the points come closer to equation 9, because the bias falls. The stages are measured on
the way of one training. Whatever the number of images, a network gets as many steps, so that what differs is
the images. At the cpu preset the ResNets are measured on the first 2000 test images.

    python experiments/fig11.py                                                  # quick: embedded digits
    python experiments/fig11.py --preset cpu --data-dir DIR --out figures/fig11  # real CIFAR-10
    python experiments/fig11.py --preset paper --data-dir DIR --checkpoint       # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 4 small ones | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 250 to 2000 training images | 10, at most 1200 or 160 steps | 3 | 18 core-minutes |
| paper | CIFAR-10, 1000 to 20,000 training images | 80 | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import ModelConfig, cnn, resnet
from jaxsens.plotting import Panel, equation_9_line, relabel, save_panels
from jaxsens.sweep import CPU_CONVOLUTIONAL, PAPER, QUICK, Preset
from jaxsens.table import Table, concatenate
from jaxsens.train import TrainConfig

# The number that stages and the first panel are about.
SAMPLES = {"quick": 256, "cpu": 1000, "paper": 1000}
STAGES = {"quick": (1, 5), "cpu": (1, 3, 10, 30, 100), "paper": (1, 3, 10, 30, 100, 300, 1000)}


def with_samples(preset: Preset, models: tuple[ModelConfig, ...], *numbers: int) -> tuple[Preset, ...]:
    """The same networks trained on several numbers of images, each in as many steps."""
    epochs, images = preset.train.max_epochs, preset.num_train
    return tuple(
        dataclasses.replace(
            preset,
            models=models,
            num_train=number,
            train=dataclasses.replace(preset.train, max_epochs=max(1, epochs * images // number)),
            suffix=f"-n{number}",
        )
        for number in numbers
    )


def with_stages(preset: Preset, size: str, models: tuple[ModelConfig, ...]) -> Preset:
    """The networks measured on the way."""
    measure = dataclasses.replace(preset.measure, snapshots=STAGES[size])
    return dataclasses.replace(
        preset, models=models, num_train=SAMPLES[size], measure=measure, suffix=f"-n{SAMPLES[size]}"
    )


CPU_CNNS = (cnn(1, 5), cnn(1, 10))
CPU_RESNETS = (resnet(18, 1 / 16, init="HN"), resnet(34, 1 / 16, init="HN"))
CPU_SMALL_TEST = dataclasses.replace(CPU_CONVOLUTIONAL, num_test=2000, train=TrainConfig(max_epochs=20))
PAPER_CNNS = tuple(cnn(convolutions, channels) for convolutions in (1, 2) for channels in range(5, 26, 5))
PAPER_RESNETS = tuple(resnet(depth, s, init="HN") for depth in (18, 34) for s in (0.25, 0.5, 1.0, 1.5, 2.0))

PRESETS = {
    "quick": (
        with_stages(QUICK, "quick", (cnn(1, 2), cnn(2, 2))),
        *with_samples(QUICK, (cnn(1, 2),), 64),
        *with_samples(
            dataclasses.replace(QUICK, train=TrainConfig(batch_size=32, max_epochs=3)),
            (resnet(18, 1 / 32, init="HN"),),
            256,
        ),
    ),
    "cpu": (
        with_stages(CPU_CONVOLUTIONAL, "cpu", CPU_CNNS),
        *with_samples(CPU_CONVOLUTIONAL, CPU_CNNS, 250, 2000),
        *with_samples(CPU_SMALL_TEST, CPU_RESNETS[:1], 500, 1000, 2000),
        *with_samples(CPU_SMALL_TEST, CPU_RESNETS[1:], 1000),
    ),
    "paper": (
        with_stages(PAPER, "paper", PAPER_CNNS),
        *with_samples(PAPER, PAPER_CNNS, 2000, 5000, 10_000),
        *with_samples(PAPER, PAPER_RESNETS, 1000, 5000, 10_000, 20_000),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Four panels with equation 9's line."""
    lines = equation_9_line(table)
    cnns = tuple({name for name in table.column("family") if name.startswith("CNN")})
    resnets = tuple({name for name in table.column("family") if name.startswith("ResNet")})
    end = table.where(snapshot=None)
    base = tuple({row["num_train"] for row in table.rows() if row["snapshot"] is not None})
    numbers = sorted({row["num_train"] for row in end.rows()})
    samples = relabel(
        concatenate([end.where(num_train=number) for number in numbers]),
        family=lambda row: f"{row['num_train']} images",
    )
    stages = relabel(
        table.where(family=cnns, num_train=base),
        cell=lambda row: f"{row['cell']} {row['snapshot']}",
        family=lambda row: "the end" if row["snapshot"] is None else f"epoch {row['snapshot']}",
    )
    panels = (
        Panel(end.where(num_train=base), "(a) as many images as in the other figures", lines=lines),
        Panel(samples.where(cell=cells_of(end, resnets)), "(b) ResNets", lines=lines),
        Panel(samples.where(cell=cells_of(end, cnns)), "(c) CNNs", lines=lines),
        Panel(stages, "(d) CNNs on the way", lines=lines),
    )
    save_panels(panels, out, "fig11")


def cells_of(table: Table, families: tuple[str, ...]) -> tuple[str, ...]:
    """The names of the cells of some families."""
    return table.where(family=families).cells()


EXPERIMENT = cli.Experiment("fig11", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
