"""Paper A, Figure 7: the variance of the mean logit, var, against sensitivity S, for five scales.

Reproduces: Forouzesh, Salehi and Thiran, Figure 7 a-e, 1000 CIFAR-10 training images: inputs as they are with
noise of variance (a) 0.01 and (b) 0.04; of mean 0 and variance 1 with (c) 0.01 and (d) 0.04; of variance 1
about their own mean with (e) 0.01. Claim: var follows equation 14, Sigma neglected. Panel (f) is ours: the
variance after the softmax against equation 7. A's sigma_x^2 = 0.2648 is not that of CIFAR-10: ours is the
second moment of the images in use.

    python experiments/fig7.py                                                 # quick: embedded digits
    python experiments/fig7.py --preset cpu --data-dir DIR --out figures/fig7  # real CIFAR-10
    python experiments/fig7.py --preset paper --data-dir DIR --checkpoint      # the paper's grid

| preset | data | networks | seeds | cost |
|---|---|---|---|---|
| quick | digits | 2 small ones, five times | 3 | 1 minute on 2 CPU cores |
| cpu | CIFAR-10, 1000 training images | 4, five times, at most 400 epochs | FC 5, CNN 3 | 7 core-minutes |
| paper | CIFAR-10, 1000 training images | 62, five times | 10 | not run yet |
"""

import dataclasses
from pathlib import Path

from jaxsens import cli
from jaxsens.models import ModelConfig, cnn, fully_connected
from jaxsens.plotting import Panel, equation_7_line, equation_14_line, save_panels
from jaxsens.sweep import CPU, CPU_CONVOLUTIONAL, PAPER, QUICK, Preset
from jaxsens.table import Table

# Inputs, and the standard deviation of the noise.
SCALES = (("raw", 0.1), ("raw", 0.2), ("standard", 0.1), ("standard", 0.2), ("unit_variance", 0.1))
TITLES = {
    "raw": "images as they are",
    "standard": "mean 0, variance 1",
    "unit_variance": "variance 1 about their mean",
}


def at_all_scales(
    preset: Preset, models: tuple[ModelConfig, ...], *, max_epochs: int | None = None
) -> tuple[Preset, ...]:
    """The same networks for each kind of input, measured with each noise.

    On images as they are, the networks are those of Figure 2; on others they may get fewer epochs.
    """
    fewer = dataclasses.replace(preset.train, max_epochs=max_epochs or preset.train.max_epochs)
    return tuple(
        dataclasses.replace(
            preset,
            models=models,
            inputs=inputs,
            train=preset.train if inputs == "raw" else fewer,
            measure=dataclasses.replace(preset.measure, noise_std=noise_std),
            suffix="" if (inputs, noise_std) == SCALES[0] else f"-{inputs}-noise{noise_std}",
        )
        for inputs, noise_std in SCALES
    )


PRESETS = {
    "quick": at_all_scales(QUICK, (fully_connected(2, 16), fully_connected(2, 32))),
    "cpu": (
        # Equation 14 does not ask for trained networks.
        *at_all_scales(
            CPU,
            (*(fully_connected(2, width) for width in (100, 200)), fully_connected(3, 100)),
            max_epochs=100,
        ),
        *at_all_scales(CPU_CONVOLUTIONAL, (cnn(1, 5),), max_epochs=50),
    ),
    "paper": at_all_scales(
        PAPER,
        (
            *(fully_connected(layers, width) for layers in (2, 3) for width in range(100, 501, 20)),
            *(cnn(convolutions, channels) for convolutions in (1, 2, 3, 4) for channels in range(5, 26, 5)),
        ),
    ),
}


def draw(table: Table, out: Path) -> None:
    """Six panels: equation 14 at each scale, equation 7 at the first."""
    panels = []
    for letter, (inputs, noise_std) in zip("abcde", SCALES, strict=True):
        part = table.where(inputs=inputs, noise_std=noise_std)
        panels.append(
            Panel(
                part,
                f"({letter}) {TITLES[inputs]}, noise {noise_std}",
                y="logit_variance",
                lines=equation_14_line(part),
            )
        )
    part = table.where(inputs="raw", noise_std=0.1)
    panels.append(
        Panel(
            part,
            "(f) after the softmax, as (a)",
            y="variance_unbiased",
            y_label=r"variance  $\varepsilon_{\mathrm{variance}}$",
            lines=equation_7_line(part),
        )
    )
    save_panels(panels, out, "fig7")


EXPERIMENT = cli.Experiment("fig7", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
