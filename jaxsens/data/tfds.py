"""Reads a prepared tensorflow-datasets folder (ArrayRecord) with no TensorFlow installed."""

import io
import os
import shlex
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32, UInt8

from jaxsens.checks import InputError, refuse
from jaxsens.data.archives import RECIPES, first_line
from jaxsens.data.dataset import Dataset, to_unit_interval

__all__ = ["data_folder", "load_prepared"]

_BATCH = 4096


def data_folder(data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder of prepared data sets: the argument, else TFDS_DATA_DIR, else ~/tensorflow_datasets."""
    return Path(data_dir or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def load_prepared(name: str, *, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """An image set of `RECIPES` from `data_folder(data_dir)/<name>/<version>`.

    Images are float32 in [0, 1], NHWC; labels int32; the order is that of the records.

    Raises:
        InputError: the folder is not there, is not in ArrayRecord form, or cannot be read to its end.
    """
    folder = data_folder(data_dir)
    # Asked for before TFDS is: it would look on the network, and blame the absence on the TFRECORD format.
    if not (folder / name / RECIPES[name].version / "dataset_info.json").is_file():
        raise unprepared(name, folder, "no prepared folder")
    x_train, y_train = read_split(name, "train", folder)
    x_test, y_test = read_split(name, "test", folder)
    return Dataset(
        x_train=to_unit_interval(x_train),
        y_train=y_train,
        x_test=to_unit_interval(x_test),
        y_test=y_test,
        name=name,
        num_outputs=RECIPES[name].classes["label"],
        task="classification",
    )


def unprepared(name: str, folder: Path, problem: str, *, first: str = "") -> InputError:
    """The error for a folder that cannot be read, with the command that makes one."""
    return refuse(
        f"{problem} at {folder / name / RECIPES[name].version}",
        f"{name} {RECIPES[name].version} as tensorflow-datasets' ArrayRecord files",
        f"{first}run: python -m jaxsens.data prepare {name} --data-dir {shlex.quote(str(folder))}",
    )


def read_split(
    name: str, split: str, folder: Path
) -> tuple[UInt8[np.ndarray, "n h w c"], Int32[np.ndarray, " n"]]:
    """All images and labels of one split."""
    import tensorflow_datasets as tfds
    from PIL import Image
    from tensorflow_datasets.proto import tf_example_pb2

    messages: Any = tf_example_pb2

    try:
        # The raw records: TFDS's own decoding takes twice as long and advises about OpenCV on stderr.
        source: Any = tfds.data_source(name, split=split, data_dir=folder, download=False)
        records = source.data_source
        images = np.empty((len(records), *RECIPES[name].image_shape), np.uint8)
        labels = np.empty(len(records), np.int32)
        pixels = images.reshape(len(images), -1)
        for start in range(0, len(records), _BATCH):
            batch = records.__getitems__(range(start, min(start + _BATCH, len(records))))
            for i, record in enumerate(batch, start):
                columns = messages.Example.FromString(record).features.feature
                encoded = io.BytesIO(columns["image"].bytes_list.value[0])
                image = Image.open(encoded, formats=("PNG", "JPEG"))
                pixels[i] = np.frombuffer(image.tobytes(), np.uint8)
                labels[i] = columns["label"].int64_list.value[0]
    except MemoryError:
        raise
    except Exception as error:
        # TFDS, protobuf, Riegeli and Pillow each raise classes of their own for a damaged file.
        problem = f"unreadable {split} files ({first_line(error)})"
        raise unprepared(name, folder, problem, first="move that folder away, then ") from error
    return images, labels
