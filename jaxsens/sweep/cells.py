"""A cell: everything that decides one network's rows, as data."""

import dataclasses
import fnmatch
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
from jax import Array

from jaxsens.checks import check_at_least, check_choice, check_positive, refuse
from jaxsens.data import Dataset, normalize, random_crop, random_flip, random_shift
from jaxsens.models import ModelConfig
from jaxsens.train import TrainConfig

__all__ = [
    "AUGMENTATIONS",
    "INPUT_SCALES",
    "Cell",
    "ComplexityConfig",
    "DataConfig",
    "MeasureConfig",
    "Preset",
    "RobustnessConfig",
    "Shard",
    "select_cells",
]

INPUT_SCALES: dict[str, Callable[[Dataset], Dataset]] = {
    "raw": lambda data: data,
    "standard": normalize,
    "unit_variance": lambda data: normalize(data, keep_mean=True),
}
"""Inputs as loaded; of mean 0 and variance 1 in each channel or feature; of variance 1 about their mean."""


def crop_and_flip(xs: Array, *, key: Array) -> Array:
    """Cut out of the image padded by 4 pixels, and mirrored half of the time."""
    crop_key, flip_key = jax.random.split(key)
    return random_flip(random_crop(xs, key=crop_key), key=flip_key)


AUGMENTATIONS: dict[str, Callable[..., Array]] = {"shift": random_shift, "crop_flip": crop_and_flip}
"""What `TrainConfig.augment` names: circular shifts by up to 2 pixels for digits, crops for photographs."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which examples: a data set, a random training subset (None: all of it), images resized (None: not).

    A share `label_noise` of the training labels is drawn anew (`corrupt_labels`), and `num_confused` further
    training images join the subset under random labels (`confusion_set`): networks are trained on both, and
    what is measured on training examples is of the subset alone.
    `inputs` is one of `INPUT_SCALES`; statistics are those of all that is trained on.
    """

    dataset: str = "cifar10"
    num_train: int | None = 1000
    num_test: int | None = None
    image_size: int | None = None
    subset_seed: int = 0
    inputs: str = "raw"
    label_noise: float = 0.0
    num_confused: int = 0

    def __post_init__(self):
        check_choice("inputs", self.inputs, INPUT_SCALES)
        check_at_least("num_confused", self.num_confused, 0)
        if not 0 <= self.label_noise <= 1:
            raise refuse(f"label_noise={self.label_noise}", "a share from 0 to 1", "pass 1.0 for all labels")
        for name in ("num_train", "num_test", "image_size"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 2)


@dataclasses.dataclass(frozen=True)
class ComplexityConfig:
    """How D's norms, sharpness and KL are measured; defaults are its Appendix A's.

    All are of the network with batch normalisation folded in, on its training examples: the margin is the
    percentile `margin_percent` over all of them, and each update and each group of perturbations of sharpness
    sees a mini-batch of `batch_size`. `alphas` are the spreads of the bi-criteria plot, rising; the KL at an
    expected sharpness of `sharpness_level` is read off between them. `num_evaluations` mini-batches tell how
    sharp the end of the ascent is.
    """

    margin_percent: float = 5.0
    batch_size: int = 64
    sharpness_alpha: float = 5e-4
    sharpness_steps: int = 2000
    num_evaluations: int = 32
    alphas: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 5e-3, 1e-2, 2e-2, 5e-2)
    num_perturbations: int = 1000
    sharpness_level: float = 0.05

    def __post_init__(self):
        check_at_least("batch_size", self.batch_size, 1)
        check_positive("sharpness_alpha", self.sharpness_alpha)
        check_positive("sharpness_level", self.sharpness_level)
        check_at_least("sharpness_steps", self.sharpness_steps, 1)
        check_at_least("num_perturbations", self.num_perturbations, 20)
        check_positive("alphas", self.alphas)
        if len(self.alphas) < 1 or any(a >= b for a, b in pairwise(self.alphas)):
            raise refuse(f"alphas={self.alphas}", "one or more, rising", "sort them and leave out repeats")


@dataclasses.dataclass(frozen=True)
class RobustnessConfig:
    """How E's measures are taken, of fully-connected networks with a piecewise linear activation.

    Jacobian norms on training images are means over as many as `MeasureConfig.derivative_examples`. `loops`
    training and as many test images are moved around their translation loops. `triples` ellipses of each kind
    are cut into `points`, a multiple of 6; from as many images rays go into random directions, and segments
    lead to another image. `pointwise_examples` test images are scored one by one, S with
    `pointwise_draws` of its noise. Slices through three training images of different classes are squares of
    `slice_pixels`. What is 0 is not measured.
    """

    loops: int = 100
    triples: int = 0
    points: int = 120
    pointwise_examples: int = 0
    pointwise_draws: int = 30
    slice_pixels: int = 0

    def __post_init__(self):
        for name in ("loops", "triples", "pointwise_examples", "slice_pixels"):
            check_at_least(name, getattr(self, name), 0)
        check_at_least("pointwise_draws", self.pointwise_draws, 2)
        if 0 < self.pointwise_examples < 10:
            raise refuse(
                f"pointwise_examples={self.pointwise_examples}",
                "0, or 10 and more: tenths of them",
                "pass 1000",
            )
        if self.points < 6 or self.points % 6:
            raise refuse(f"points={self.points}", "a multiple of 6: data and midpoints", "pass 120")


@dataclasses.dataclass(frozen=True)
class MeasureConfig:
    """What is measured, and how: by default S with A's noise, one draw per example, and the Jacobian norms.

    The exact derivatives, K reverse passes for the Jacobian norms, use the first `derivative_examples` test
    examples; S uses all. `output_sensitivity=False` leaves out S, which takes longest on many images, and
    what follows from it (eq. 9, temperature scaling). `tangent_examples` training and as many test examples
    give the tangent sensitivity of B and C and its bounds, for ReLU perceptrons only (0: not measured);
    active units are counted on all examples. `exact_tangent_examples` test examples give the exact tangent
    sensitivity of any network. `complexity` asks for D's norms, sharpness and KL, `condition_examples`
    training examples for the conditions of its Theorem 1, for ReLU perceptrons only. `robustness` asks for
    E's measures. `snapshots` are epochs at which networks are measured on their way, besides the end.
    """

    noise_std: float = 0.1
    num_draws: int = 1
    derivative_examples: int = 1000
    output_sensitivity: bool = True
    tangent_examples: int = 0
    exact_tangent_examples: int = 0
    complexity: ComplexityConfig | None = None
    condition_examples: int = 0
    robustness: RobustnessConfig | None = None
    snapshots: tuple[int, ...] = ()

    def __post_init__(self):
        check_positive("noise_std", self.noise_std)
        check_at_least("num_draws", self.num_draws, 1)
        check_at_least("derivative_examples", self.derivative_examples, 1)
        check_at_least("tangent_examples", self.tangent_examples, 0)
        check_at_least("exact_tangent_examples", self.exact_tangent_examples, 0)
        check_at_least("condition_examples", self.condition_examples, 0)


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
        check_choice("augment", self.train.augment, (None, *AUGMENTATIONS))
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
    label_noise: float = 0.0
    num_confused: int = 0
    train: TrainConfig = TrainConfig()
    measure: MeasureConfig = MeasureConfig()
    suffix: str = ""

    def cells(self) -> tuple[Cell, ...]:
        """One cell per network."""
        data = DataConfig(
            self.dataset,
            self.num_train,
            self.num_test,
            self.image_size,
            inputs=self.inputs,
            label_noise=self.label_noise,
            num_confused=self.num_confused,
        )
        return tuple(
            Cell(model.full_name + self.suffix, model, data, self.train, self.measure, self.seeds)
            for model in self.models
        )


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
