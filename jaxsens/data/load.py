"""`load`: a data set by its name, or by the path of a file."""

import csv
import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxsens.checks import refuse
from jaxsens.data.archives import RECIPES, first_line
from jaxsens.data.dataset import Dataset, to_unit_interval
from jaxsens.data.tfds import data_folder, load_prepared

__all__ = ["NAMES", "load"]

_DIGITS_TRAIN = 1000
_TRAIN_SHARE = 0.7
_NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
_BOSTON_FEATURES = (
    *("CRIM", "ZN", "INDUS", "CHAS", "NOX", "RM", "AGE"),
    *("DIS", "RAD", "TAX", "PTRATIO", "B", "LSTAT"),
)
_BOSTON_TARGET = "MEDV"
_BOSTON_FILES = ("boston.csv", "boston_house_prices.csv")


def load(name_or_path: str | os.PathLike[str], *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Loads a data set into host memory; the same call always gives the same arrays.

    | what | inputs | train / test |
    |---|---|---|
    | `digits` (in scikit-learn) | (n, 8, 8, 1) in [0, 1] | 1,000 / 797, stratified |
    | `diabetes` (in scikit-learn) | (n, 10), in the units measured | 309 / 133 |
    | `cifar10`, `cifar100` | (n, 32, 32, 3) in [0, 1] | 50,000 / 10,000 |
    | `mnist`, `fashion_mnist` | (n, 28, 28, 1) in [0, 1] | 60,000 / 10,000 |
    | `boston` (`data_dir`/boston.csv), or a `.csv` like it | (n, 13), in the units of the file | 70% / 30% |
    | a `.npz` with x_train, y_train, x_test, y_test | rank 2 or 4; uint8 is scaled to [0, 1] | as given |

    Boston's file has the 13 features and MEDV, and may be named boston_house_prices.csv as well.
    Inputs are float32. Labels are int32 (n,); regression targets float32 (n, 1), in the units of the source.
    In a `.npz`, integer labels mean classification (K = largest label + 1) and floating-point targets
    regression. Nothing is normalised: see `normalize`.

    Args:
        name_or_path: a name, or the path of a `.csv` or `.npz` file.
        data_dir: the tensorflow-datasets folder of the image sets; else TFDS_DATA_DIR, else
            ~/tensorflow_datasets.

    Raises:
        InputError: unknown name, no such file, or a file that does not hold what it should.

    Memory: CIFAR takes 0.7 GB as float32, and a quarter more while loading.
    """
    name = os.fspath(name_or_path)
    if name in RECIPES:
        return load_prepared(name, data_dir=data_dir)
    if name in _EMBEDDED:
        return _EMBEDDED[name]()
    if name == "boston":
        return load_boston(find_boston(data_dir))
    path = Path(name).expanduser()
    if path.suffix.lower() not in _READERS:
        raise refuse(
            f"data set {name!r}", f"one of {', '.join(NAMES)}, or the path of a .npz or .csv file", "name one"
        )
    if not path.is_file():
        raise refuse(f"no file at {path}", "a file to read", "check the path")
    return _READERS[path.suffix.lower()](path)


def fixed_order(name: str, n: int) -> np.ndarray:
    """A permutation of n examples that no library's version can change: the order of hashes of indices."""
    return np.array(sorted(range(n), key=lambda i: hashlib.sha256(f"{name} {i}".encode()).digest()))


def load_digits() -> Dataset:
    """scikit-learn's 1,797 digits, pixels 0..16 scaled to [0, 1]."""
    from sklearn.datasets import load_digits as fetch

    images, labels = map(np.asarray, fetch(return_X_y=True))
    order = fixed_order("digits", len(labels))
    images, labels = images[order], labels[order]
    # Sorting by place within the class puts the classes in step, so that any cut is stratified.
    same = labels[:, None] == np.arange(10)
    place = ((np.cumsum(same, axis=0) - 0.5) / same.sum(axis=0))[np.arange(len(labels)), labels]
    train = np.sort(np.argsort(place, kind="stable")[:_DIGITS_TRAIN])
    test = np.setdiff1d(np.arange(len(labels)), train)
    xs = (images / 16).astype(np.float32).reshape(-1, 8, 8, 1)
    ys = labels.astype(np.int32)
    return Dataset(xs[train], ys[train], xs[test], ys[test], "digits", 10, "classification")


def load_diabetes() -> Dataset:
    """scikit-learn's 442 patients in the units measured.

    Its own scaling is not used: that looks at all examples, the test set's with them.
    """
    from sklearn.datasets import load_diabetes as fetch

    xs, ys = map(np.asarray, fetch(return_X_y=True, scaled=False))
    return regression("diabetes", xs, ys)


def regression(name: str, xs: np.ndarray, ys: np.ndarray) -> Dataset:
    """A table (n, d) with targets (n,), split 70 / 30 in an order that depends on name and n only."""
    order = fixed_order(name, len(xs))
    train, test = np.split(order, [round(_TRAIN_SHARE * len(xs))])
    xs, ys = xs.astype(np.float32), ys.astype(np.float32)[:, None]
    return Dataset(xs[train], ys[train], xs[test], ys[test], name, 1, "regression")


def find_boston(data_dir: str | os.PathLike[str] | None) -> Path:
    """The CSV of the Boston house prices in the data folder. It has no home to be downloaded from."""
    folder = data_folder(data_dir)
    for name in _BOSTON_FILES:
        if (folder / name).is_file():
            return folder / name
    raise refuse(
        f"no {' or '.join(_BOSTON_FILES)} in {folder}",
        "a CSV with the columns " + ", ".join((*_BOSTON_FEATURES, _BOSTON_TARGET)),
        "put one there, or name its folder with data_dir or --data-dir",
    )


def load_boston(path: Path) -> Dataset:
    """The Boston house prices from a CSV with a header: 13 features and MEDV, in any order."""
    wanted = (*_BOSTON_FEATURES, _BOSTON_TARGET)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = [row for row in csv.reader(file) if row]
        columns = [header.index(column) for column in wanted]
        table = np.array([[float(row[column]) for column in columns] for row in rows])
    except (ValueError, IndexError, csv.Error) as error:
        raise refuse(
            f"{path} ({first_line(error)})",
            f"a CSV with a header and numbers in the columns {', '.join(wanted)}",
            "load other tables as a .npz",
        ) from error
    if len(table) < 2:
        raise refuse(f"{len(table)} rows in {path}", "at least 2", "pass the whole table")
    check_all_finite(path, "the table", table)
    return regression("boston", table[:, :-1], table[:, -1])


def load_npz(path: Path) -> Dataset:
    """Four arrays from a `.npz`; see `load`."""
    arrays = read_npz(path)
    for key, array in arrays.items():
        check_all_finite(path, key, array)
    floating = arrays["y_train"].dtype.kind == "f"
    if floating != (arrays["y_test"].dtype.kind == "f"):
        raise refuse(
            f"y_train of {arrays['y_train'].dtype} and y_test of {arrays['y_test'].dtype} in {path}",
            "both integer labels, or both floating-point targets",
            "cast one of them",
        )
    targets, task = (npz_targets, "regression") if floating else (npz_labels, "classification")
    y_train, y_test = (targets(path, key, arrays[key]) for key in ("y_train", "y_test"))
    return Dataset(
        x_train=npz_inputs(path, "x_train", arrays["x_train"]),
        y_train=y_train,
        x_test=npz_inputs(path, "x_test", arrays["x_test"]),
        y_test=y_test,
        name=path.stem,
        num_outputs=y_train.shape[1] if floating else 1 + max(int(y_train.max()), int(y_test.max())),
        task=task,
    )


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """The four arrays of a `.npz`, as they are; pickled objects are refused."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            arrays = {key: file[key] for key in _NPZ_KEYS if key in file.files}
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        ValueError,
        AttributeError,
        TypeError,
    ) as error:
        # np.load also returns a bare array, which is no context manager, where a .npy was renamed.
        raise refuse(
            f"{path} ({first_line(error)})", "a readable .npz of plain arrays", "write it again with np.savez"
        ) from error
    if missing := [key for key in _NPZ_KEYS if key not in arrays]:
        raise refuse(
            f"{path} without {', '.join(missing)}",
            f"the arrays {', '.join(_NPZ_KEYS)}",
            "save it with np.savez(path, x_train=..., y_train=..., x_test=..., y_test=...)",
        )
    if empty := [key for key in _NPZ_KEYS if arrays[key].size == 0]:
        raise refuse(f"no entries in {', '.join(empty)} of {path}", "at least one example", "fill them")
    return arrays


def npz_inputs(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Inputs as float32; uint8 is taken for pixels 0..255."""
    if array.ndim not in (2, 4):
        raise refuse(
            f"{key} of shape {array.shape} in {path}", "features (n, d) or images (n, h, w, c)", "reshape it"
        )
    return to_unit_interval(array) if array.dtype == np.uint8 else array.astype(np.float32)


def npz_targets(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Regression targets as float32, (n,) made (n, 1)."""
    if array.ndim not in (1, 2):
        raise refuse(f"{key} of shape {array.shape} in {path}", "targets (n,) or (n, K)", "reshape it")
    return array.astype(np.float32).reshape(len(array), -1)


def npz_labels(path: Path, key: str, array: np.ndarray) -> np.ndarray:
    """Class labels as int32."""
    if array.ndim != 1:
        raise refuse(
            f"{key} of shape {array.shape} in {path}", "class labels (n,)", "pass it through ravel()"
        )
    if int(array.min()) < 0 or int(array.max()) >= np.iinfo(np.int32).max:
        raise refuse(
            f"{key} from {array.min()} to {array.max()} in {path}", "class labels from 0", "remap the labels"
        )
    return array.astype(np.int32)


def check_all_finite(path: Path, name: str, array: np.ndarray) -> None:
    """Refuses an array from a file that is not of numbers, or holds a NaN, or overflows float32."""
    if array.dtype.kind not in "fiu":
        raise refuse(f"{name} of dtype {array.dtype} in {path}", "real numbers", "convert it")
    limit = np.finfo(np.float32).max
    if array.dtype.kind == "f" and not bool((np.abs(array) <= limit).all()):
        raise refuse(
            f"a NaN, infinity or number beyond float32 in {name} of {path}",
            "finite numbers only",
            "drop or repair those examples",
        )


_EMBEDDED: dict[str, Callable[[], Dataset]] = {"digits": load_digits, "diabetes": load_diabetes}
_READERS: dict[str, Callable[[Path], Dataset]] = {".npz": load_npz, ".csv": load_boston}

NAMES = (*_EMBEDDED, "boston", *RECIPES)
"""The names that `load` knows."""
