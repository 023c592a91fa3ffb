"""An experiment of four networks in seconds, for runs that are stopped, doubled and left without room."""

from pathlib import Path

from jaxsens import cli
from jaxsens.models import fully_connected
from jaxsens.sweep import MeasureConfig, Preset
from jaxsens.table import Table, write_atomically
from jaxsens.train import TrainConfig


def draw(table: Table, out: Path) -> None:
    """The cells' names, in place of a picture."""
    write_atomically(out / "tiny.txt", " ".join(table.cells()).encode())


PRESETS = {
    "quick": (
        Preset(
            # They differ in what nothing is compiled for.
            models=tuple(fully_connected(1, 4, init=init) for init in ("HN", "SN", "XU", "FU")),
            seeds=2,
            dataset="digits",
            num_train=100,
            num_test=150,
            train=TrainConfig(learning_rate=1e-6, max_epochs=2000),
            measure=MeasureConfig(derivative_examples=30, output_sensitivity=False),
        ),
    )
}

EXPERIMENT = cli.Experiment("tiny", __doc__, PRESETS, draw)

if __name__ == "__main__":
    raise SystemExit(cli.main(EXPERIMENT))
