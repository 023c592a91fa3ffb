"""What the command `jaxsens` can be told: a class a subcommand, whose docstrings are its help."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

__all__ = ["Compare", "Datasets", "Doctor", "Measure", "Measuring", "Report", "Reproduce"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measuring:
    """What `measure` and `compare` have in common."""

    data: str
    """A .npz or .npy file, a data set's name (see `jaxsens datasets`), or MODULE:FUNCTION that returns xs or
    (xs, ys)."""
    data_dir: Path | None = None
    """The tensorflow-datasets folder; by default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    split: Literal["test", "train"] | None = None
    """Which part of data that has two; by default the test set."""
    examples: int | None = None
    """Take so many of them, at random by --seed, without replacement; by default all."""
    seed: int = 0
    """Of all randomness: jax.random.key(seed)."""
    loss: str = "cross_entropy"
    """cross_entropy for a classifier, or mse."""
    noise_std: float = 0.1
    """Standard deviation of the noise on each entry of the input, in its unit."""
    num_draws: int = 1
    """Draws of it for each example."""
    chunk_size: int | None = None
    """Examples at once, which bounds the memory; by default a number that suits the device."""
    tangent_examples: int | None = None
    """Examples whose tangent sensitivity is taken; by default 10000 / D, D the entries of an input."""
    alpha: float = 0.01
    """Scale of the perturbed parameters, of the expected sharpness and the KL."""
    num_perturbations: int = 100
    """Perturbed networks for the expected sharpness, a multiple of 10."""
    json: bool = False
    """One JSON document on stdout, and nothing else there."""
    traceback: bool = False
    """Show the whole traceback of an error in your code."""

    @staticmethod
    def names(text: str) -> tuple[str, ...]:
        """The names in `a,b`."""
        return tuple(name.strip() for name in text.split(",") if name.strip())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure(Measuring):
    """Measure one network: its sensitivity and its other measures, each with its standard error."""

    model: Positional[Annotated[str, arg(metavar="MODULE:FUNCTION")]]
    """FUNCTION(checkpoint), or FUNCTION() where there is none, returns (f, params); f(params, x) takes one
    example. MODULE is package.module or path/to/file.py."""
    checkpoint: str | None = None
    """The file or folder that FUNCTION is given."""
    measures: str = "label_free"
    """label_free, all (with labels), or names with commas between them; see docs/measuring.md."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Measuring):
    """Rank several networks, or architectures, and say which of them the data cannot tell apart."""

    models: Positional[Annotated[tuple[str, ...], arg(metavar="[NAME=]MODULE:FUNCTION[@CHECKPOINT]")]]
    """As for measure. A FUNCTION that returns jaxsens.Untrained is an architecture."""
    checkpoints: tuple[str, ...] = ()
    """The checkpoints to compare, of one MODULE:FUNCTION; their names are what differs in their paths."""
    by: str | None = None
    """The measure to rank by; by default softmax_jacobian_norm (jacobian_norm with --loss mse), and
    output_sensitivity for architectures."""
    also: str = ""
    """Other measures to show, with commas between them."""
    confidence: float = 0.95
    """Of all intervals, and of all ranks, together."""
    num_seeds: int = 5
    """Networks of each architecture."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """Write a results folder as one HTML page."""

    folder: Positional[Path]
    """A folder with table.parquet or table.csv."""
    out: Positional[Path | None] = None
    """The file to write, or a folder for report.html; by default FOLDER."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reproduce:
    """Run an experiment of the papers, or list them all."""

    name: Positional[str | None] = None
    """Such as fig1 or tangent/fig1; by default all are listed."""
    options: Positional[tuple[str, ...]] = ()
    """The experiment's own; `jaxsens reproduce NAME --help` tells them."""
    json: bool = False
    """The list as one JSON document."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Datasets:
    """List the data sets: which are there, and how to get the others."""

    data_dir: Path | None = None
    """The tensorflow-datasets folder; by default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: bool = False
    """One JSON document on stdout."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Doctor:
    """Check this installation: versions, devices, and numbers with a known answer."""

    data_dir: Path | None = None
    """The tensorflow-datasets folder; by default TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    json: bool = False
    """One JSON document on stdout."""
