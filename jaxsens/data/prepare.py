"""Makes a prepared tensorflow-datasets folder from a published archive, with no TensorFlow installed."""

import io
import json
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from jaxsens.checks import check_choice, refuse
from jaxsens.data.archives import RECIPES, Columns, Recipe, download
from jaxsens.data.tfds import data_folder

__all__ = ["prepare", "prepare_from"]


def prepare(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    url: str | None = None,
    checksums: Sequence[str] = (),
) -> Path:
    """Fetches a data set's published archive and writes it in the form that `load` reads.

    Everything happens in a temporary folder inside `data_dir`, renamed once it is complete: an error or an
    interrupt leaves nothing half-written. A folder that is already prepared is left as it is.

    Args:
        name: one of `RECIPES`.
        data_dir: as for `load`.
        url: a mirror: the folder that holds the files under their published names, or the file itself.
        checksums: the SHA-256 of each file in hex, in the order of `RECIPES[name].checksums`, where they are
            not the published ones.

    Returns:
        The prepared folder, `<data_dir>/<name>/<version>`.

    Raises:
        InputError: unknown name, failed download, wrong checksum, or an archive that is not whole.
    """
    check_choice("name", name, RECIPES)
    return prepare_from(name, RECIPES[name], data_dir=data_dir, url=url, checksums=checksums)


def prepare_from(
    name: str,
    recipe: Recipe,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    url: str | None = None,
    checksums: Sequence[str] = (),
) -> Path:
    """`prepare` for a recipe of one's own."""
    expected = expected_checksums(recipe, checksums)
    root = data_folder(data_dir)
    target = root / name / recipe.version
    if (target / "dataset_info.json").is_file():
        return target
    if target.exists():
        raise refuse(f"{target} without dataset_info.json", "no folder, or a prepared one", "move it away")
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{name}-incomplete-", dir=root) as scratch:
        archives, prepared = Path(scratch) / "archives", Path(scratch) / "prepared"
        archives.mkdir()
        prepared.mkdir()
        for file, sha256 in expected.items():
            download(address(url or recipe.url, file), archives / file, sha256=sha256)
        splits = recipe.parse(archives, recipe)
        for split, columns in splits.items():
            check_columns(split, columns, recipe)
        write_folder(prepared, name, recipe, splits)
        target.parent.mkdir(exist_ok=True)
        prepared.rename(target)
    return target


def expected_checksums(recipe: Recipe, checksums: Sequence[str]) -> dict[str, str]:
    """The checksum to hold each file to, by its name."""
    if not checksums:
        return dict(recipe.checksums)
    if len(checksums) != len(recipe.checksums):
        raise refuse(
            f"{len(checksums)} checksums",
            f"{len(recipe.checksums)}, one for each of {', '.join(recipe.checksums)}",
            "pass them in that order",
        )
    for checksum in checksums:
        if not re.fullmatch("[0-9a-fA-F]{64}", checksum):
            raise refuse(f"checksum {checksum!r}", "64 hexadecimal digits", "pass a SHA-256")
    return {file: checksum.lower() for file, checksum in zip(recipe.checksums, checksums, strict=True)}


def address(url: str, file: str) -> str:
    """Where a file is: `url` if it ends in the file's name, else in the folder `url`."""
    return url if url.endswith(f"/{file}") else f"{url.rstrip('/')}/{file}"


def check_columns(split: str, columns: Columns, recipe: Recipe) -> None:
    """Refuses a split without the published number, shape and classes of images."""
    lengths = {"images": len(columns.images)} | {key: len(value) for key, value in columns.labels.items()}
    for column, length in lengths.items():
        if length != recipe.counts[split]:
            raise refuse(
                f"{length} {column} in {split}", f"{recipe.counts[split]}", "fetch the published archive"
            )
    if columns.images.shape[1:] != recipe.image_shape:
        raise refuse(
            f"{split} images of shape {columns.images.shape[1:]}",
            f"{recipe.image_shape}",
            "fetch the published archive",
        )
    for column, num_classes in recipe.classes.items():
        if int(columns.labels[column].max()) >= num_classes:
            raise refuse(
                f"{column} {columns.labels[column].max()} in {split}",
                f"labels below {num_classes}",
                "fetch the published archive",
            )


def write_folder(folder: Path, name: str, recipe: Recipe, splits: dict[str, Columns]) -> None:
    """Writes the records, features.json and dataset_info.json; records keep the archive's order."""
    from array_record.python.array_record_module import ArrayRecordWriter
    from tensorflow_datasets import features as tf_features

    features = tf_features.FeaturesDict(
        ({"id": tf_features.Text()} if recipe.has_id else {})
        | {"image": tf_features.Image(shape=recipe.image_shape)}
        | {column: tf_features.ClassLabel(num_classes=count) for column, count in recipe.classes.items()}
    )
    features.save_config(os.fspath(folder))
    entries = []
    for split, columns in splits.items():
        size = 0
        path = folder / f"{name}-{split}.array_record-00000-of-00001"
        # One record a group, so that any single record can be read without its neighbours.
        with closing(ArrayRecordWriter(os.fspath(path), "group_size:1")) as writer:
            for example in examples(split, columns, has_id=recipe.has_id):
                record = features.serialize_example(example)
                size += len(record)
                writer.write(record)
        entries.append(
            {
                "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
                "name": split,
                "numBytes": str(size),
                "shardLengths": [str(len(columns.images))],
            }
        )
    info = {
        "description": f"{name}, converted from the published archive by jaxsens.data.",
        "fileFormat": "array_record",
        "location": {"urls": [recipe.homepage]},
        "moduleName": recipe.module,
        "name": name,
        "splits": entries,
        "supervisedKeys": {"tuple": {"items": [{"featureKey": "image"}, {"featureKey": "label"}]}},
        "version": recipe.version,
    }
    (folder / "dataset_info.json").write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")


def examples(split: str, columns: Columns, *, has_id: bool) -> Iterator[dict[str, str | bytes | int]]:
    """Each image as PNG bytes with its labels, and its place in the split where records have an id."""
    for i, image in enumerate(columns.images):
        yield (
            ({"id": f"{split}_{i:05d}"} if has_id else {})
            | {"image": to_png(image)}
            | {column: int(values[i]) for column, values in columns.labels.items()}
        )


def to_png(image: UInt8[np.ndarray, "h w c"]) -> bytes:
    """One image as PNG: lossless. TFDS's own encoder would need TensorFlow."""
    from PIL import Image

    buffer = io.BytesIO()
    pixels = np.ascontiguousarray(image if image.shape[2] == 3 else image[..., 0])
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
