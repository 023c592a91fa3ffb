"""What `--data` names: arrays of a file, a data set by its name, or what a function returns."""

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxsens.checks import check_at_least, refuse
from jaxsens.cli.given import given_errors, load_function
from jaxsens.cli.options import Measuring
from jaxsens.data import NAMES, Dataset, load
from jaxsens.measuring import MEASURES

__all__ = ["Data", "load_data"]

# Folded into the key of the measures: which examples are taken is another matter than their noise.
_EXAMPLES = 1
_INPUTS = ("x", "xs", "X", "inputs", "images")
_LABELS = ("y", "ys", "Y", "labels", "targets")
_OF_SPLIT: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"inputs": ("x_{}", "xs_{}", "X_{}"), "labels": ("y_{}", "ys_{}", "Y_{}")}
)


class Data(NamedTuple):
    """Examples and their labels, if there are any; what was read; and what a reader has to know of it."""

    xs: np.ndarray
    ys: np.ndarray | None
    facts: dict[str, Any]
    notes: tuple[str, ...]

    def labels_for(self, measures: Sequence[str]) -> np.ndarray | None:
        """The labels, where a measure needs them: other networks may have nothing to do with them."""
        needed = any(MEASURES[name].needs_labels for name in measures if name in MEASURES)
        return self.ys if needed or "all" in measures else None

    def in_words(self, seed: int) -> str:
        """What was read, as a line under a table."""
        shape = " x ".join(map(str, self.facts["shape"]))
        taken = f"{self.facts['num_examples']} of {self.facts['num_available']} examples"
        return f"Data: {self.facts['source']}, {self.facts['read']}; {taken} of {shape}; seed {seed}."


class _Found(NamedTuple):
    """Arrays as they were found, which part of the data they are, and where they were in it."""

    xs: Any
    ys: Any
    split: str | None
    read: str


def load_data(options: Measuring) -> Data:
    """The examples that `--data`, `--split`, `--examples` and `--seed` mean.

    Inputs are float32 (float64 where JAX has it): uint8 is taken for pixels and divided by 255, and a note
    says so; other whole numbers are refused.

    Raises:
        InputError: no such file, data set or function, names in a file that are not known, a split that it
            has not, inputs of another dtype, or more examples asked for than there are.
    """
    found = _find(options)
    xs, notes = _as_inputs(found.xs, options.data)
    ys = None if found.ys is None else np.asarray(found.ys)
    total = len(xs) if xs.ndim else 0
    if ys is not None and (ys.ndim == 0 or len(ys) != total):
        raise refuse(
            f"{total} inputs and labels of shape {ys.shape} in {options.data}", "one for each", "cut"
        )
    if options.examples is not None:
        check_at_least("--examples", options.examples, 2)
        if options.examples > total:
            raise refuse(
                f"--examples {options.examples}", f"at most the {total} of {options.data}", "lower it"
            )
        key = jax.random.fold_in(jax.random.key(options.seed), _EXAMPLES)
        chosen = np.asarray(jax.random.permutation(key, total)[: options.examples])
        xs, ys = xs[chosen], None if ys is None else ys[chosen]
    facts = {
        "source": options.data,
        "read": found.read,
        "split": found.split,
        "num_available": total,
        "num_examples": len(xs) if xs.ndim else 0,
        "shape": list(xs.shape[1:]),
        "dtype": str(xs.dtype),
        "labelled": ys is not None,
    }
    return Data(xs, ys, facts, tuple(notes))


def _find(options: Measuring) -> _Found:
    text = options.data
    suffix = Path(text).suffix.lower()
    if text in NAMES or suffix == ".csv":
        return _of_dataset(load(text, data_dir=options.data_dir), options.split)
    if suffix in (".npz", ".npy"):
        return _of_npz(text, options.split) if suffix == ".npz" else _of_npy(text, options.split)
    if ":" in text:
        function = load_function(text, show=options.traceback)
        with given_errors(text, show=options.traceback):
            made = function()
        if isinstance(made, Dataset):
            return _of_dataset(made, options.split)
        _refuse_split(text, options.split)
        xs, ys = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
        return _Found(xs, ys, None, "xs" if ys is None else "xs, ys")
    raise refuse(
        f"--data {text}",
        f"a .npz or .npy file, MODULE:FUNCTION, or one of {', '.join(NAMES)}",
        "jaxsens datasets lists those that are there",
    )


def _of_dataset(dataset: Dataset, split: str | None) -> _Found:
    split = split or "test"
    return _Found(getattr(dataset, f"x_{split}"), getattr(dataset, f"y_{split}"), split, f"the {split} set")


def _of_npy(text: str, split: str | None) -> _Found:
    _refuse_split(text, split)
    array = _read(text)
    if not isinstance(array, np.ndarray):
        raise refuse(f"{text}, which holds several arrays", "one array", "name it .npz")
    return _Found(array, None, None, "the array")


def _of_npz(text: str, split: str | None) -> _Found:
    """Inputs and labels of a `.npz`, by the names that are usual; those of a split come first."""
    arrays = _read(text)
    if not isinstance(arrays, dict):
        raise refuse(f"{text}, which holds one array without a name", "several arrays", "name it .npy")
    names = {
        kind: {part: [name.format(part) for name in usual] for part in ("test", "train")}
        for kind, usual in _OF_SPLIT.items()
    }
    has = {part: any(name in arrays for name in names["inputs"][part]) for part in ("test", "train")}
    part = split or ("test" if has["test"] else None)
    if part is None and has["train"] and not any(name in arrays for name in _INPUTS):
        raise refuse(
            f"{text} with training examples alone ({', '.join(arrays)})",
            "unseen ones, which the measures are meant for",
            "pass --split train if you mean these",
        )
    x_name = _one_of(text, arrays, _INPUTS if part is None else names["inputs"][part])
    y_names = _LABELS if part is None else names["labels"][part]
    y_name = _one_of(text, arrays, y_names) if any(name in arrays for name in y_names) else None
    return _Found(
        arrays[x_name],
        None if y_name is None else arrays[y_name],
        part,
        f"{x_name} as inputs, {'no labels' if y_name is None else f'{y_name} as labels'}",
    )


def _one_of(text: str, arrays: Mapping[str, np.ndarray], names: tuple[str, ...] | list[str]) -> str:
    present = [name for name in names if name in arrays]
    if len(present) != 1:
        raise refuse(
            f"{text} with {', '.join(arrays) or 'nothing'}",
            f"one of {', '.join(names)}",
            "save it with np.savez(path, x=..., y=...), or pass --data MODULE:FUNCTION",
        )
    return present[0]


def _read(text: str) -> np.ndarray | dict[str, np.ndarray]:
    path = Path(text).expanduser()
    if not path.is_file():
        raise refuse(f"no file {text}", "a .npz or .npy file", "check the path")
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return content
        with content:
            return {name: content[name] for name in content.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        said = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise refuse(f"{text} ({said})", "plain arrays", "write it again with np.save or np.savez") from error


def _refuse_split(text: str, split: str | None) -> None:
    if split is not None:
        raise refuse(f"--split {split} of {text}", "data with a training and a test part", "leave it out")


def _as_inputs(given: Any, text: str) -> tuple[np.ndarray, list[str]]:
    """The inputs in a dtype that JAX computes in, and what was done to them."""
    if not (hasattr(given, "dtype") and hasattr(given, "shape")):
        raise refuse(f"{type(given).__name__} as inputs from {text}", "an array", "return xs, or (xs, ys)")
    xs = np.asarray(given)
    if xs.dtype == np.uint8:
        return np.divide(xs, np.float32(255), dtype=np.float32), [
            "inputs of uint8 were taken for pixels and divided by 255; where the network was trained on "
            "something else, save its own inputs or rescale inside f"
        ]
    if not jax.numpy.issubdtype(xs.dtype, np.floating):
        raise refuse(
            f"inputs of dtype {xs.dtype} from {text}",
            "floating-point numbers, or uint8 pixels",
            "save them as the network takes them",
        )
    wanted = jax.dtypes.canonicalize_dtype(np.float64) if xs.dtype == np.float64 else np.dtype(np.float32)
    if xs.dtype == wanted:
        return xs, []
    with np.errstate(over="ignore"):  # what became infinite is refused by its place
        return xs.astype(wanted), [f"inputs of {xs.dtype} were taken as {wanted}"]
