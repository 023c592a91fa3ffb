"""The published archives of the image sets: where they are, their checksums, and their byte formats.

Addresses, checksums and versions are those that tensorflow-datasets publishes (`url_checksums/` in its
package). Formats: https://www.cs.toronto.edu/~kriz/cifar.html (binary version) and the IDX format of MNIST.
"""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Callable, Mapping
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
from jaxtyping import UInt8

from jaxsens.checks import InputError, refuse

__all__ = ["RECIPES", "Columns", "Recipe", "download"]

_BLOCK = 1 << 20
_TIMEOUT_S = 60


class Columns(NamedTuple):
    """One split: images of any count n, and each label column by its name."""

    images: UInt8[np.ndarray, "n h w c"]
    labels: dict[str, UInt8[np.ndarray, " n"]]


class Recipe(NamedTuple):
    """How one data set is published and what it must hold.

    Fields:
        version: of the data set in tensorflow-datasets.
        module: the tensorflow-datasets module that defines it.
        homepage: address of the data set's own page.
        image_shape: (h, w, c).
        classes: the number of classes of each label column, in the order of the label bytes.
        counts: the number of examples of each split.
        has_id: whether each record names its place in the archive.
        url: the folder that holds the files.
        checksums: the SHA-256 of each file, in hex, by its name.
        parse: reads the files in a folder.
    """

    version: str
    module: str
    homepage: str
    image_shape: tuple[int, int, int]
    classes: Mapping[str, int]
    counts: Mapping[str, int]
    has_id: bool
    url: str
    checksums: Mapping[str, str]
    parse: Callable[[Path, Any], dict[str, Columns]]


def download(url: str, target: Path, *, sha256: str) -> None:
    """Streams a file to `target` and checks it; the caller owns what is left there after an error.

    Raises:
        InputError: the address does not answer, the body is shorter than announced, or the checksum differs.
    """
    from tqdm import tqdm

    digest, size = hashlib.sha256(), 0
    try:
        with urlopen(url, timeout=_TIMEOUT_S) as response, target.open("wb") as file:
            announced = response.headers.get("Content-Length")
            total = None if announced is None else int(announced)
            with tqdm(total=total, desc=target.name, unit="B", unit_scale=True, disable=None) as bar:
                while block := response.read(_BLOCK):
                    file.write(block)
                    digest.update(block)
                    size += len(block)
                    bar.update(len(block))
    except (OSError, HTTPException, ValueError) as error:
        if isinstance(error, HTTPError):
            error.close()
        raise refuse(
            f"no file from {url} ({first_line(error)})",
            "a published archive",
            "check the network, or name a mirror with --url",
        ) from error
    if total is not None and size != total:
        raise refuse(f"{size} bytes from {url}", f"the {total} bytes announced", "run the command again")
    if digest.hexdigest() != sha256:
        raise refuse(
            f"SHA-256 {digest.hexdigest()} from {url}",
            sha256,
            "run the command again, or pass --checksum if you trust this other file",
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, for a message of one line."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def truncated(path: Path, detail: str) -> InputError:
    """The error for an archive that does not hold what its format promises."""
    return refuse(f"{path.name} with {detail}", "the whole published archive", "fetch the archive again")


def read_idx(path: Path, *, rank: int) -> UInt8[np.ndarray, "..."]:
    """A gzipped IDX file of bytes: magic (0, 0, 8, rank), big-endian sizes, then the entries."""
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise truncated(path, f"a damaged gzip stream ({first_line(error)})") from error
    start = 4 + 4 * rank
    if len(content) < start or content[:4] != bytes((0, 0, 8, rank)):
        raise truncated(path, f"a header that is not IDX of bytes of rank {rank}")
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", count=rank, offset=4))
    entries = int(np.prod(shape, dtype=np.int64))
    if len(content) - start != entries:
        raise truncated(path, f"{len(content) - start} entries where its header says {entries}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def parse_idx(folder: Path, recipe: Recipe) -> dict[str, Columns]:
    """MNIST and its kin: an image and a label file for each split."""
    prefixes = {"train": "train", "test": "t10k"}
    return {
        split: Columns(
            images=read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", rank=3)[..., None],
            labels={"label": read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", rank=1)},
        )
        for split, prefix in prefixes.items()
    }


def read_members(path: Path, names: list[str]) -> dict[str, bytes]:
    """The named files of a tar.gz, read in one pass and never unpacked to disk."""
    found = {}
    try:
        with tarfile.open(path, "r|gz") as tar:
            for member in tar:
                if member.name in names and (file := tar.extractfile(member)) is not None:
                    found[member.name] = file.read()
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise truncated(path, f"a damaged tar.gz stream ({first_line(error)})") from error
    if missing := [name for name in names if name not in found]:
        raise truncated(path, f"no {', '.join(missing)}")
    return found


def parse_cifar(folder: Path, recipe: Recipe) -> dict[str, Columns]:
    """CIFAR's binary form: each record its label bytes, then the red, green and blue planes, row by row."""
    (name,) = recipe.checksums
    members = _CIFAR_MEMBERS[name]
    contents = read_members(folder / name, [member for group in members.values() for member in group])
    height, width, channels = recipe.image_shape
    length = len(recipe.classes) + height * width * channels
    splits = {}
    for split, group in members.items():
        for member in group:
            if len(contents[member]) % length:
                raise truncated(folder / name, f"{member} of {len(contents[member])} bytes, not n x {length}")
        records = np.frombuffer(b"".join(contents[member] for member in group), np.uint8).reshape(-1, length)
        planes = records[:, len(recipe.classes) :].reshape(-1, channels, height, width)
        splits[split] = Columns(
            images=planes.transpose(0, 2, 3, 1),
            labels={column: records[:, i] for i, column in enumerate(recipe.classes)},
        )
    return splits


_CIFAR_MEMBERS = {
    "cifar-10-binary.tar.gz": {
        "train": [f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)],
        "test": ["cifar-10-batches-bin/test_batch.bin"],
    },
    "cifar-100-binary.tar.gz": {
        "train": ["cifar-100-binary/train.bin"],
        "test": ["cifar-100-binary/test.bin"],
    },
}

_CIFAR = {
    "version": "3.0.2",
    "module": "tensorflow_datasets.image_classification.cifar",
    "homepage": "https://www.cs.toronto.edu/~kriz/cifar.html",
    "image_shape": (32, 32, 3),
    "counts": {"train": 50_000, "test": 10_000},
    "has_id": True,
    "url": "https://www.cs.toronto.edu/~kriz",
    "parse": parse_cifar,
}

_MNIST = {
    "version": "3.0.1",
    "module": "tensorflow_datasets.image_classification.mnist",
    "image_shape": (28, 28, 1),
    "classes": {"label": 10},
    "counts": {"train": 60_000, "test": 10_000},
    "has_id": False,
    "parse": parse_idx,
}

RECIPES: Mapping[str, Recipe] = {
    "cifar10": Recipe(
        **_CIFAR,
        classes={"label": 10},
        checksums={
            "cifar-10-binary.tar.gz": "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
        },
    ),
    "cifar100": Recipe(
        **_CIFAR,
        classes={"coarse_label": 20, "label": 100},
        checksums={
            "cifar-100-binary.tar.gz": "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec"
        },
    ),
    "mnist": Recipe(
        **_MNIST,
        homepage="http://yann.lecun.com/exdb/mnist/",
        url="https://storage.googleapis.com/cvdf-datasets/mnist",
        checksums={
            "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        },
    ),
    "fashion_mnist": Recipe(
        **_MNIST,
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
        checksums={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
}
"""The image sets that `prepare` can fetch and `load` can read, by name."""
