"""`jaxsens datasets`: which data sets are known, which of them are here, and how to get the others."""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from jaxsens.checks import InputError
from jaxsens.cli.options import Datasets
from jaxsens.cli.printing import print_json, print_lines, print_table
from jaxsens.data import NAMES, RECIPES, load
from jaxsens.data.tfds import data_folder

__all__ = ["Known", "known_datasets", "run"]

_EMBEDDED = ("digits", "diabetes")


class Known(NamedTuple):
    """A data set: its sizes, None where they are not known before it is there; and how to get it."""

    name: str
    here: bool
    where: str
    num_train: int | None
    num_test: int | None
    shape: tuple[int, ...] | None
    num_outputs: int
    how: str | None


def run(options: Datasets) -> int:
    """Prints all data sets that `load` knows."""
    folder = data_folder(options.data_dir)
    found = known_datasets(folder)
    if options.json:
        listed: list[dict[str, Any]] = [one._asdict() for one in found]
        print_json({"command": "datasets", "data_dir": str(folder), "datasets": listed})
        return 0
    rows = [
        (
            one.name,
            "yes" if one.here else "no",
            *("" if count is None else f"{count:,}" for count in (one.num_train, one.num_test)),
            "" if one.shape is None else " x ".join(map(str, one.shape)),
            str(one.num_outputs),
        )
        for one in found
    ]
    print_table(("name", "here", "train", "test", "input", "outputs"), rows)
    missing = [f"{one.name}: {one.how}" for one in found if one.how]
    print_lines(["", f"Prepared data sets are looked for in {folder}.", *missing])
    return 0


def known_datasets(folder: Path) -> list[Known]:
    """Every name of `load`. A prepared folder is looked for, not read."""
    return [_known(name, folder) for name in NAMES]


def _known(name: str, folder: Path) -> Known:
    if name in RECIPES:
        return _prepared(name, folder)
    try:
        data = load(name, data_dir=folder)
    except InputError as error:
        return Known(name, False, str(folder), None, None, None, 1, str(error))
    where = "scikit-learn" if name in _EMBEDDED else str(folder)
    return Known(
        name, True, where, len(data.x_train), len(data.x_test), data.x_train.shape[1:], data.num_outputs, None
    )


def _prepared(name: str, folder: Path) -> Known:
    recipe = RECIPES[name]
    path = folder / name / recipe.version
    how = f"python -m jaxsens.data prepare {name} --data-dir {shlex.quote(str(folder))}"
    try:
        form = json.loads((path / "dataset_info.json").read_text(encoding="utf-8")).get("fileFormat")
        problem = None if form == "array_record" else f"{path} has the form {form}: move it away, then {how}"
    except (OSError, ValueError, AttributeError):
        problem = how
    return Known(
        name,
        problem is None,
        str(path),
        recipe.counts["train"],
        recipe.counts["test"],
        recipe.image_shape,
        recipe.classes["label"],
        problem,
    )
