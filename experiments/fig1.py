"""Paper A, Figure 1: test loss L against sensitivity S_after for popular CNN architectures.

Reproduces: Forouzesh, Salehi and Thiran, Figure 1 and its Pearson correlation of 0.9707 between log L and log
S_after over networks of many sizes, each averaged over 10 runs on 1000 CIFAR-10 training images.

    python experiments/fig1.py --seeds 10                                      # quick: embedded digits
    python experiments/fig1.py --preset cpu --data-dir DIR --out figures/fig1  # real CIFAR-10
    python experiments/fig1.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits, 8 x 8 enlarged to 32 x 32 | 4 small ones | 10 | 2 minutes on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images, all test images | 8, small scales | 3 | 1-1.5 hours on 2 CPU cores |
| paper | CIFAR-10, 1000 training images, all test images | all 35 of Appendix A | 10 | not run yet |
"""

from pathlib import Path

from jaxsens import cli
from jaxsens.models import alexnet, resnet, vgg
from jaxsens.plotting import Prediction, loss_against_sensitivity, save_figure
from jaxsens.sweep import MeasureConfig, Preset
from jaxsens.table import Table, read_manifest
from jaxsens.train import TrainConfig

PAPER_CORRELATION = 0.9707
SCALES = (0.25, 0.5, 1.0, 1.5, 2.0)
CHANNELS = (16, 32, 48, 64, 80)


PAPER_MODELS = (
    *(alexnet(h) for h in CHANNELS),
    *(vgg(depth, s) for depth in (11, 13, 16, 19) for s in SCALES),
    *(resnet(depth, s) for depth in (18, 34) for s in SCALES),
)

PRESETS = {
    # Small enough for minutes on two cores; the stop rule is as coarse as the networks.
    "quick": (
        Preset(
            models=(
                *(alexnet(h, hidden=64) for h in (4, 8)),
                *(vgg(depth, 1 / 32) for depth in (11, 13)),
            ),
            seeds=10,
            dataset="digits",
            num_train=256,
            num_test=256,
            image_size=32,
            train=TrainConfig(learning_rate=3e-3, batch_size=32, max_epochs=30, stop_loss=0.1, stop_count=2),
            measure=MeasureConfig(derivative_examples=200),
        ),
    ),
    "cpu": (
        Preset(
            models=(
                *(alexnet(h) for h in (16, 32)),
                *(vgg(13, s) for s in (0.125, 0.25)),
                *(vgg(13, s, init="SN") for s in (0.125, 0.25)),
                *(resnet(18, s) for s in (0.125, 0.25)),
            ),
            seeds=3,
            train=TrainConfig(max_epochs=100),
            measure=MeasureConfig(derivative_examples=500),
        ),
    ),
    "paper": (Preset(models=PAPER_MODELS, seeds=10),),
}


def draw(table: Table, out: Path) -> None:
    """L against S on logarithmic axes with eq. 9's line, as fig1.png and fig1.pdf."""
    manifest = read_manifest(out)
    (data,) = manifest["data"]
    some_cell = next(iter(manifest["cells"].values()))
    noise_std = some_cell["fields"]["measure"]["fields"]["noise_std"]
    figure = loss_against_sensitivity(
        table,
        paper_correlation=PAPER_CORRELATION,
        prediction=Prediction(data["num_outputs"], data["input_second_moment"], noise_std),
    )
    save_figure(figure, out, "fig1")


EXPERIMENT = cli.Experiment("fig1", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
