"""A cell: everything that decides one network's rows, as data."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence

from jaxsens.checks import check_at_least, check_choice, check_positive, refuse
from jaxsens.data import Dataset, normalize
from jaxsens.models import ModelConfig, fully_connected
from jaxsens.train import TrainConfig

__all__ = [
    "CPU",
    "CPU_CONVOLUTIONAL",
    "INPUT_SCALES",
    "PAPER",
    "QUICK",
    "TANGENT_CPU",
    "TANGENT_PAPER",
    "TANGENT_QUICK",
    "Cell",
    "DataConfig",
    "MeasureConfig",
    "Preset",
    "Shard",
    "select_cells",
]

INPUT_SCALES: dict[str, Callable[[Dataset], Dataset]] = {
    "raw": lambda data: data,
    "standard": normalize,
    "unit_variance": lambda data: normalize(data, keep_mean=True),
}
"""Inputs as loaded; of mean 0 and variance 1 in each channel or feature; of variance 1 about their mean."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which examples: a data set, a random training subset (None: all of it), images resized (None: not).

    `inputs` is one of `INPUT_SCALES`; statistics are those of the training subset.
    """

    dataset: str = "cifar10"
    num_train: int | None = 1000
    num_test: int | None = None
    image_size: int | None = None
    subset_seed: int = 0
    inputs: str = "raw"

    def __post_init__(self):
        check_choice("inputs", self.inputs, INPUT_SCALES)
        for name in ("num_train", "num_test", "image_size"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 2)


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and how: by default S with A's noise, one draw per example, and the Jacobian norms.

    The exact derivatives, K reverse passes for the Jacobian norms, use the first `derivative_examples` test
    examples; S uses all. `output_sensitivity=False` leaves out S, which takes longest on many images, and
    what follows from it (eq. 9, temperature scaling). `tangent_examples` training and as many test examples
    give the tangent sensitivity of B and C, for ReLU perceptrons only (0: not measured); active units are
    counted on all examples. `snapshots` are epochs at which networks are measured on their way, besides the
    end.
    """

    noise_std: float = 0.1
    num_draws: int = 1
    derivative_examples: int = 1000
    output_sensitivity: bool = True
    tangent_examples: int = 0
    snapshots: tuple[int, ...] = ()

    def __post_init__(self):
        check_positive("noise_std", self.noise_std)
        check_at_least("num_draws", self.num_draws, 1)
        check_at_least("derivative_examples", self.derivative_examples, 1)
        check_at_least("tangent_examples", self.tangent_examples, 0)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One network, trained and measured with seeds 0, 1, ... `seeds` - 1."""

    name: str
    model: ModelConfig
    data: DataConfig = DataConfig()
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    seeds: int = 10

    def __post_init__(self):
        check_at_least("seeds", self.seeds, 1)
        if any(not 0 <= stage <= self.train.max_epochs for stage in self.measure.snapshots):
            raise refuse(
                f"snapshots={self.measure.snapshots} for {self.train.max_epochs} epochs",
                "epochs from 0 to the limit",
                "leave out later stages",
            )

    @property
    def physics(self) -> tuple:
        """What decides the numbers at the end of training: all but the name and the stages before the end."""
        return (*self.training, dataclasses.replace(self.measure, snapshots=()))

    @property
    def training(self) -> tuple:
        """What decides the trained network."""
        return (self.model, self.data, self.train)


@dataclasses.dataclass(frozen=True)
class Preset:
    """Networks that differ in nothing else: one size of an experiment, or a part of it.

    `suffix` goes behind the cells' names, which are those of the networks.
    """

    models: tuple[ModelConfig, ...] = ()
    seeds: int = 10
    dataset: str = "cifar10"
    num_train: int | None = 1000
    num_test: int | None = None
    image_size: int | None = None
    inputs: str = "raw"
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    suffix: str = ""

    def cells(self) -> tuple[Cell, ...]:
        """One cell per network."""
        data = DataConfig(self.dataset, self.num_train, self.num_test, self.image_size, inputs=self.inputs)
        return tuple(
            Cell(model.full_name + self.suffix, model, data, self.train, self.measure, self.seeds)
            for model in self.models
        )


QUICK = Preset(
    seeds=3,
    dataset="digits",
    num_train=256,
    num_test=256,
    train=TrainConfig(batch_size=32, max_epochs=20),
    measure=MeasureConfig(derivative_examples=100),
)
"""Embedded data and seconds a network: shows that an experiment works, and nothing else."""

CPU = Preset(seeds=5, train=TrainConfig(max_epochs=400), measure=MeasureConfig(derivative_examples=500))
"""Real images on two cores: A's settings with fewer epochs and seeds, and derivatives at 500 test images."""

CPU_CONVOLUTIONAL = dataclasses.replace(CPU, seeds=3, train=TrainConfig(max_epochs=150))
"""The same for convolutional networks, whose epochs take several times as long."""

PAPER = Preset(seeds=10)
"""A's settings (Appendix A): 1000 training images, all test images, at most 2000 epochs, 10 runs."""


# C's Table A1 and Appendix C: no regularisation, BN in all hidden layers, dropout from the second one on. The
# rate is not given. Inputs are normalised as in the published code.
_TANGENT_TRAIN = TrainConfig("sgd", learning_rate=0.05, weight_decay=5e-4, batch_size=64, max_epochs=50)
_TANGENT_VARIANTS = ({}, {"batch_norm": True}, {"dropout": 0.5, "dropout_from": 2})

TANGENT_PAPER = Preset(
    models=tuple(fully_connected(4, 100, init="FU", **variant) for variant in _TANGENT_VARIANTS),
    seeds=10,
    num_train=None,
    inputs="standard",
    train=_TANGENT_TRAIN,
    measure=MeasureConfig(
        derivative_examples=1000,
        output_sensitivity=False,
        tangent_examples=10_000,
        snapshots=tuple(range(50)),
    ),
)
"""C's networks and settings (Table A1, Appendix C): all of CIFAR-10, measured at the start of each epoch."""

TANGENT_CPU = dataclasses.replace(
    TANGENT_PAPER,
    seeds=3,
    measure=dataclasses.replace(TANGENT_PAPER.measure, derivative_examples=500, tangent_examples=1000),
)
"""The same with fewer seeds, and tangent sensitivities at fewer images."""

TANGENT_QUICK = dataclasses.replace(
    QUICK,
    models=tuple(fully_connected(3, 16, init="FU", **variant) for variant in _TANGENT_VARIANTS),
    seeds=2,
    inputs="standard",
    train=dataclasses.replace(_TANGENT_TRAIN, max_epochs=6),
    measure=MeasureConfig(
        derivative_examples=50, output_sensitivity=False, tangent_examples=50, snapshots=tuple(range(6))
    ),
)
"""Embedded data and seconds a network, as `QUICK`."""


@dataclasses.dataclass(frozen=True)
class Shard:
    """The i-th of N equal parts of a grid, i from 0."""

    index: int = 0
    count: int = 1

    @staticmethod
    def parse(text: str) -> "Shard":
        """From "i/N"."""
        index, slash, count = text.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and 0 <= int(index) < int(count)):
            raise refuse(f"shard {text!r}", "i/N with 0 <= i < N, such as 0/4", "count the shards from 0")
        return Shard(int(index), int(count))


def select_cells(cells: Sequence[Cell], *, pattern: str = "*") -> tuple[Cell, ...]:
    """The cells whose name matches a shell pattern, such as 'fc-4x200*'."""
    chosen = tuple(cell for cell in cells if fnmatch.fnmatchcase(cell.name, pattern))
    if not chosen:
        names = ", ".join(cell.name for cell in cells)
        raise refuse(
            f"no cell named {pattern!r}", f"a pattern that matches one of {names}", "quote the pattern"
        )
    return chosen
