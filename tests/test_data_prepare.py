"""Preparing: local archives in the published byte formats, served over loopback, and read back."""

import gzip
import hashlib
import io
import struct
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.data import RECIPES, load, prepare
from jaxsens.data.__main__ import main
from jaxsens.data.prepare import prepare_from

COUNTS = {"train": 20, "test": 10}


class Handler(SimpleHTTPRequestHandler):
    """A quiet file server that, for paths under /short/, promises more bytes than it sends."""

    def log_message(self, *args):
        """Says nothing."""

    def send_header(self, keyword, value):
        if keyword == "Content-Length" and self.path.startswith("/short/"):
            value = str(int(value) + 1000)
        super().send_header(keyword, value)


@pytest.fixture
def server(tmp_path):
    """The folder that is served and its address."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "short").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()
        thread.join()


def rng():
    return np.random.default_rng(0)


def idx(array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return gzip.compress(header + array.tobytes())


def write_mnist(folder):
    """The four files of MNIST's form; returns the arrays."""
    made = {}
    for split, prefix in (("train", "train"), ("test", "t10k")):
        made[split] = (
            rng().integers(0, 256, (COUNTS[split], 28, 28), dtype=np.uint8),
            (np.arange(COUNTS[split]) % 10).astype(np.uint8),
        )
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(idx(made[split][0]))
        (folder / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(idx(made[split][1]))
    return made


def write_cifar(folder, name, *, drop=0):
    """CIFAR's binary tar.gz; returns {split: (CHW planes, label bytes)}."""
    columns = len(RECIPES[name].classes)
    members, made = {}, {}
    for split in ("train", "test"):
        planes = rng().integers(0, 256, (COUNTS[split], 3, 32, 32), dtype=np.uint8)
        labels = np.stack([np.arange(COUNTS[split]) % 10 + i for i in range(columns)], 1).astype(np.uint8)
        made[split] = planes, labels
        body = np.concatenate([labels, planes.reshape(len(planes), -1)], axis=1).tobytes()
        if name == "cifar100":
            members[f"cifar-100-binary/{split}.bin"] = body
        elif split == "test":
            members["cifar-10-batches-bin/test_batch.bin"] = body
        else:
            step = len(body) // 5
            for i in range(5):
                members[f"cifar-10-batches-bin/data_batch_{i + 1}.bin"] = body[i * step : (i + 1) * step]
    (file,) = RECIPES[name].checksums
    with tarfile.open(folder / file, "w:gz") as tar:
        for member, body in members.items():
            body = body[: len(body) - drop]
            info = tarfile.TarInfo(member)
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return made


def small(name, folder):
    """The recipe with the counts and checksums of what a test has written."""
    recipe = RECIPES[name]
    sums = {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in recipe.checksums}
    return recipe._replace(counts=COUNTS, checksums=sums)


def leftovers(folder):
    return list(folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_round_trip(server, tmp_path, name):
    folder, url = server
    made = write_mnist(folder)
    path = prepare_from(name, small(name, folder), data_dir=tmp_path / "data", url=url)
    assert path == tmp_path / "data" / name / "3.0.1"
    assert leftovers(tmp_path / "data") == [tmp_path / "data" / name]
    data = load(name, data_dir=tmp_path / "data")
    np.testing.assert_array_equal(data.x_train[..., 0], made["train"][0].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.x_test[..., 0], made["test"][0].astype(np.float32) / 255)
    np.testing.assert_array_equal(data.y_train, made["train"][1])
    np.testing.assert_array_equal(data.y_test, made["test"][1])
    assert "tensorflow" not in sys.modules


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_round_trip(server, tmp_path, name):
    folder, url = server
    made = write_cifar(folder, name)
    (file,) = RECIPES[name].checksums
    prepare_from(name, small(name, folder), data_dir=tmp_path / "data", url=f"{url}/{file}")
    data = load(name, data_dir=tmp_path / "data")
    for split, x, y in (("train", data.x_train, data.y_train), ("test", data.x_test, data.y_test)):
        planes, labels = made[split]
        for channel in range(3):
            np.testing.assert_array_equal(x[..., channel], planes[:, channel].astype(np.float32) / 255)
        # The class is the last label byte: CIFAR-100 has the coarse label before it.
        np.testing.assert_array_equal(y, labels[:, -1])
    assert data.num_outputs == int(name.removeprefix("cifar"))


def test_tfds_itself_reads_the_folder(server, tmp_path):
    import tensorflow_datasets as tfds

    folder, url = server
    made = write_cifar(folder, "cifar100")
    prepare_from("cifar100", small("cifar100", folder), data_dir=tmp_path / "data", url=url)
    source = tfds.data_source("cifar100", split="test", data_dir=tmp_path / "data", download=False)
    assert len(source) == COUNTS["test"]
    record = source[3]
    assert (record["id"], record["coarse_label"], record["label"]) == (b"test_00003", 3, 4)
    np.testing.assert_array_equal(record["image"], made["test"][0][3].transpose(1, 2, 0))


def test_a_prepared_folder_is_left_alone(server, tmp_path):
    folder, url = server
    write_mnist(folder)
    recipe = small("mnist", folder)
    path = prepare_from("mnist", recipe, data_dir=tmp_path / "data", url=url)
    before = {file.name: file.stat().st_mtime_ns for file in path.iterdir()}
    assert prepare_from("mnist", recipe, data_dir=tmp_path / "data", url="http://127.0.0.1:9") == path
    assert {file.name: file.stat().st_mtime_ns for file in path.iterdir()} == before


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda recipe, folder: (recipe._replace(checksums=dict.fromkeys(recipe.checksums, "0" * 64)), ""),
            "SHA-256",
        ),
        (lambda recipe, folder: (recipe, "/absent"), "404"),
        (lambda recipe, folder: (recipe, "/short"), "bytes announced"),
        (
            lambda recipe, folder: (recipe._replace(counts={"train": 21, "test": 10}), ""),
            "20 images in train",
        ),
        (lambda recipe, folder: (recipe._replace(classes={"label": 9}), ""), "labels below 9"),
    ],
    ids=["checksum", "absent", "short", "count", "classes"],
)
def test_what_is_refused_leaves_nothing_behind(server, tmp_path, spoil, message):
    folder, url = server
    write_mnist(folder)
    write_mnist(folder / "short")
    recipe, place = spoil(small("mnist", folder), folder)
    with pytest.raises(InputError, match=message) as caught:
        prepare_from("mnist", recipe, data_dir=tmp_path / "data", url=url + place)
    assert "\n" not in str(caught.value)
    assert leftovers(tmp_path / "data") == []


def test_an_interrupt_leaves_nothing_behind(server, tmp_path):
    folder, url = server
    write_mnist(folder)

    def interrupted(archives, recipe):
        raise KeyboardInterrupt("by hand")

    recipe = small("mnist", folder)._replace(parse=interrupted)
    with pytest.raises(KeyboardInterrupt, match="by hand"):
        prepare_from("mnist", recipe, data_dir=tmp_path / "data", url=url)
    assert leftovers(tmp_path / "data") == []


@pytest.mark.parametrize("cut", ["gzip", "entries", "magic"])
def test_truncated_idx_is_refused(server, tmp_path, cut):
    folder, url = server
    write_mnist(folder)
    path = folder / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    bodies = {
        "gzip": whole[:-100],
        "entries": gzip.compress(gzip.decompress(whole)[:-1]),
        "magic": gzip.compress(b"\0\0\x0d" + gzip.decompress(whole)[3:]),
    }
    path.write_bytes(bodies[cut])
    with pytest.raises(InputError, match=r"train-images-idx3-ubyte\.gz with .*whole published archive"):
        prepare_from("mnist", small("mnist", folder), data_dir=tmp_path / "data", url=url)
    assert leftovers(tmp_path / "data") == []


def test_truncated_cifar_is_refused(server, tmp_path):
    folder, url = server
    write_cifar(folder, "cifar10", drop=1)
    with pytest.raises(InputError, match="not n x 3073"):
        prepare_from("cifar10", small("cifar10", folder), data_dir=tmp_path / "data", url=url)
    write_cifar(folder, "cifar10")
    path = folder / "cifar-10-binary.tar.gz"
    path.write_bytes(path.read_bytes()[:-5000])
    with pytest.raises(InputError, match=r"cifar-10-binary\.tar\.gz with"):
        prepare_from("cifar10", small("cifar10", folder), data_dir=tmp_path / "data", url=url)
    assert leftovers(tmp_path / "data") == []


def test_a_cifar100_archive_is_not_cifar10(server, tmp_path):
    folder, url = server
    write_cifar(folder, "cifar100")
    (folder / "cifar-100-binary.tar.gz").rename(folder / "cifar-10-binary.tar.gz")
    with pytest.raises(InputError, match=r"no cifar-10-batches-bin/data_batch_1\.bin"):
        prepare_from("cifar10", small("cifar10", folder), data_dir=tmp_path / "data", url=url)


def test_a_foreign_folder_in_the_way_is_refused(tmp_path):
    (tmp_path / "mnist" / "3.0.1").mkdir(parents=True)
    with pytest.raises(InputError, match=r"without dataset_info\.json"):
        prepare("mnist", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "checksums", "message"),
    [
        ("svhn", [], "one of cifar10, cifar100, mnist, fashion_mnist"),
        ("mnist", ["0" * 64], "1 checksums; expected 4, one for each of train-images"),
        ("cifar10", ["12ab"], "64 hexadecimal digits"),
    ],
)
def test_arguments_are_checked_first(tmp_path, name, checksums, message):
    with pytest.raises(InputError, match=message):
        prepare(name, data_dir=tmp_path / "data", checksums=checksums)
    assert not (tmp_path / "data").exists()


def test_the_command_says_one_line_and_exits_with_2(server, tmp_path, capsys):
    folder, url = server
    write_cifar(folder, "cifar10")
    command = ["prepare", "cifar10", "--data-dir", str(tmp_path / "data"), "--url", url]
    # The published checksum is not that of the archive made here.
    assert main(command) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: got SHA-256")
    assert captured.err.count("\n") == 1
    # With its own checksum accepted, the archive is too small to be CIFAR-10.
    checksum = hashlib.sha256((folder / "cifar-10-binary.tar.gz").read_bytes()).hexdigest()
    assert main([*command, "--checksum", checksum.upper()]) == 2
    assert "got 20 images in train; expected 50000" in capsys.readouterr().err
    assert leftovers(tmp_path / "data") == []


def test_the_command_prints_the_prepared_folder(tmp_path, capsys):
    folder = tmp_path / "mnist" / "3.0.1"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text("{}")
    assert main(["prepare", "mnist", "--data-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
