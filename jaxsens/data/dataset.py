"""What flows from `load` through the transforms to training: four arrays and what they mean."""

import hashlib
from dataclasses import dataclass, fields

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from jaxsens.checks import check_choice, refuse

__all__ = ["TASKS", "Dataset", "to_unit_interval"]

TASKS = ("classification", "regression")


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set, as read-only NumPy arrays in host memory.

    Fields:
        x_train, x_test: inputs, (n, h, w, c) images in [0, 1] or (n, d) features; float32 as loaded.
        y_train, y_test: int32 labels (n,) in [0, num_outputs), or float32 targets (n, num_outputs).
        name: what it was loaded as.
        num_outputs: K, the number of classes or of regression targets.
        task: 'classification' or 'regression'.

    Raises:
        InputError: lengths, feature shapes, dtypes or labels do not fit together.
    """

    x_train: Float[np.ndarray, "_ ..."]
    y_train: Int[np.ndarray, "_"] | Float[np.ndarray, "_ _"]
    x_test: Float[np.ndarray, "_ ..."]
    y_test: Int[np.ndarray, "_"] | Float[np.ndarray, "_ _"]
    name: str
    num_outputs: int
    task: str

    def __post_init__(self) -> None:
        check_choice("task", self.task, TASKS)
        for split in ("train", "test"):
            x, y = getattr(self, f"x_{split}"), getattr(self, f"y_{split}")
            if x.ndim < 2 or len(x) < 1:
                raise refuse(f"x_{split} of shape {x.shape}", "at least one example (n, ...)", "reshape it")
            if not np.issubdtype(x.dtype, np.floating):
                raise refuse(f"x_{split} of dtype {x.dtype}", "floating-point inputs", "cast them to float32")
            if x.shape[1:] != self.x_train.shape[1:]:
                raise refuse(
                    f"x_{split} of shape {x.shape}, x_train of shape {self.x_train.shape}",
                    "one shape of example",
                    "reshape one of them",
                )
            check_targets(y, f"y_{split}", task=self.task, num_outputs=self.num_outputs)
            if len(x) != len(y):
                raise refuse(
                    f"{len(x)} examples in x_{split} and {len(y)} in y_{split}",
                    "equal lengths",
                    "drop the examples without a pair",
                )
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.ndarray):
                # Derived data sets share arrays, so writing into one would change the others. A view keeps
                # the caller's own array as writeable as it was.
                view = value.view()
                view.flags.writeable = False
                object.__setattr__(self, field.name, view)

    def fingerprint(self) -> str:
        """SHA-256, in hex, over the four arrays' names, dtypes, shapes and bytes: which data gave a result.

        Costs one pass over the data (about half a second a gigabyte with hardware support). The name and the
        task are not part of it: equal arrays have equal fingerprints, however they were come by.
        """
        digest = hashlib.sha256()
        for name in ("x_train", "y_train", "x_test", "y_test"):
            array = np.ascontiguousarray(getattr(self, name))
            digest.update(f"{name} {array.dtype.str} {array.shape}".encode())
            digest.update(array.data.cast("B"))
        return digest.hexdigest()


def check_targets(y: np.ndarray, name: str, *, task: str, num_outputs: int) -> None:
    """Refuses targets whose rank, dtype or range is not that of the task."""
    if task == "classification":
        if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
            raise refuse(
                f"{name} of dtype {y.dtype} and shape {y.shape}",
                "integer class labels of shape (n,)",
                "cast and ravel them",
            )
        if y.size and not 0 <= int(y.min()) <= int(y.max()) < num_outputs:
            raise refuse(
                f"{name} from {y.min()} to {y.max()}",
                f"labels from 0 to {num_outputs - 1}",
                "remap the labels, or set num_outputs",
            )
    elif y.ndim != 2 or y.shape[1] != num_outputs or not np.issubdtype(y.dtype, np.floating):
        raise refuse(
            f"{name} of dtype {y.dtype} and shape {y.shape}",
            f"floating-point targets of shape (n, {num_outputs})",
            "cast and reshape them",
        )


def to_unit_interval(pixels: UInt8[np.ndarray, "*shape"]) -> Float32[np.ndarray, "*shape"]:
    """Pixels 0..255 as float32 in [0, 1], with no float64 copy on the way."""
    return np.divide(pixels, np.float32(255), dtype=np.float32)
