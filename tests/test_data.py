"""Loading: embedded sets, prepared folders and files by path; what a Dataset refuses."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.data import NAMES, Dataset, load

ROOT = Path(__file__).parents[1]
PREPARED = ROOT.parent / "shared" / "data" / "tensorflow_datasets"
BOSTON = ROOT.parent / "shared" / "data" / "boston_house_prices.csv"

needs_prepared = pytest.mark.skipif(not PREPARED.is_dir(), reason=f"no prepared folder at {PREPARED}")
needs_boston = pytest.mark.skipif(not BOSTON.is_file(), reason=f"no {BOSTON}")

# Written down once: a published number depends on the split.
DIGITS_START = [1, 3, 9, 2, 1, 8, 8, 8, 0, 1, 9, 1]
DIABETES_START = [185, 257, 97, 170]


def arrays(**changes):
    """A small classification set, as what np.savez takes."""
    base = {
        "x_train": np.arange(12, dtype=np.uint8).reshape(3, 2, 2, 1),
        "y_train": np.array([0, 2, 1]),
        "x_test": np.full((2, 2, 2, 1), 255, np.uint8),
        "y_test": np.array([1, 0]),
    }
    return base | changes


def saved(folder, **changes):
    path = folder / "mine.npz"
    np.savez(path, **arrays(**changes))
    return path


def test_import_is_light_and_without_tensorflow():
    heavy = "('tensorflow', 'tensorflow_datasets', 'sklearn', 'PIL', 'array_record')"
    code = f"import sys, jaxsens.data; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_digits_are_stratified_and_whole():
    from sklearn.datasets import load_digits

    digits = load("digits")
    assert digits.x_train.shape == (1000, 8, 8, 1)
    assert digits.x_test.shape == (797, 8, 8, 1)
    assert (digits.x_train.dtype, digits.y_train.dtype) == (np.float32, np.int32)
    assert (digits.num_outputs, digits.task) == (10, "classification")
    images, labels = load_digits(return_X_y=True)
    both = np.concatenate([digits.x_train, digits.x_test]).reshape(-1, 64) * 16
    # The same multiset of images as in scikit-learn: nothing lost, nothing twice.
    np.testing.assert_array_equal(both[np.lexsort(both.T)], images[np.lexsort(images.T)])
    share = np.bincount(labels) * 1000 / 1797
    assert np.abs(np.bincount(digits.y_train) - share).max() < 1
    assert load("digits").fingerprint() == digits.fingerprint()


def test_the_fixed_split_does_not_move():
    assert load("digits").y_train[:12].tolist() == DIGITS_START
    assert load("diabetes").y_train[:4, 0].tolist() == DIABETES_START


def test_diabetes_is_in_measured_units():
    data = load("diabetes")
    assert data.x_train.shape == (309, 10)
    assert data.y_test.shape == (133, 1)
    assert data.y_train.dtype == np.float32
    ages = np.concatenate([data.x_train, data.x_test])[:, 0]
    assert (ages.min(), ages.max()) == (19, 79)
    assert data.task == "regression"


@needs_boston
def test_boston_by_path():
    data = load(BOSTON)
    assert data.x_train.shape == (354, 13)
    assert data.x_test.shape == (152, 13)
    assert data.y_train.shape == (354, 1)
    table = np.genfromtxt(BOSTON, delimiter=",", skip_header=1)
    prices = np.concatenate([data.y_train, data.y_test])
    np.testing.assert_allclose(np.sort(prices[:, 0]), np.sort(table[:, -1]), rtol=1e-6)
    # Rows stay whole: the first training row is some row of the file, price included.
    row = np.concatenate([data.x_train[0], data.y_train[0]])
    assert np.abs(table - row).max(axis=1).min() < 1e-4


def test_boston_by_name_is_a_file_in_the_data_folder(tmp_path, monkeypatch):
    header = "CRIM,ZN,INDUS,CHAS,NOX,RM,AGE,DIS,RAD,TAX,PTRATIO,B,LSTAT,MEDV"
    text = "\n".join([header, *(",".join(str(100 * i + j) for j in range(14)) for i in range(10))])
    with pytest.raises(InputError, match=r"no boston.csv or boston_house_prices.csv in .*; put one there"):
        load("boston", data_dir=tmp_path)
    (tmp_path / "boston_house_prices.csv").write_text(text)
    data = load("boston", data_dir=tmp_path)
    assert data.fingerprint() == load(tmp_path / "boston_house_prices.csv").fingerprint()
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    assert load("boston").fingerprint() == data.fingerprint()


def test_csv_columns_are_found_by_name(tmp_path):
    header = "MEDV,CRIM,ZN,INDUS,CHAS,NOX,RM,AGE,DIS,RAD,TAX,PTRATIO,B,LSTAT"
    path = tmp_path / "house.csv"
    rows = [",".join(str(100 * i + j) for j in range(14)) for i in range(10)]
    path.write_text("\n".join([header, *rows]))
    data = load(path)
    np.testing.assert_array_equal(data.x_train - data.y_train, np.tile(np.arange(1, 14), (7, 1)))


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "header and numbers"), ("", "header and numbers")],
)
def test_other_csv_is_refused(tmp_path, text, message):
    path = tmp_path / "house.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        load(path)


@needs_prepared
def test_mnist_from_the_prepared_folder():
    data = load("mnist", data_dir=PREPARED)
    assert data.x_train.shape == (60000, 28, 28, 1)
    assert data.x_test.shape == (10000, 28, 28, 1)
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(data.y_train).tolist() == counts
    # The published mean pixel of MNIST's training set.
    assert data.x_train.mean(dtype=np.float64) == pytest.approx(0.1307, abs=5e-5)
    assert (data.x_train.min(), data.x_train.max()) == (0, 1)


@needs_prepared
@pytest.mark.slow
def test_cifar10_from_the_prepared_folder():
    data = load("cifar10", data_dir=PREPARED)
    assert data.x_train.shape == (50000, 32, 32, 3)
    assert np.bincount(data.y_train).tolist() == [5000] * 10
    assert np.bincount(data.y_test).tolist() == [1000] * 10
    # The published channel means; the folder holds JPEG copies, hence the tolerance.
    means = data.x_train.mean(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, [0.4914, 0.4822, 0.4465], atol=2e-3)


@needs_prepared
def test_the_environment_names_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(InputError, match=f"no prepared folder at {tmp_path}/mnist/3.0.1"):
        load("mnist")


def test_a_missing_folder_is_told_how_to_make_it(tmp_path):
    command = f"run: python -m jaxsens.data prepare cifar10 --data-dir {tmp_path}"
    with pytest.raises(InputError, match=command) as caught:
        load("cifar10", data_dir=tmp_path)
    assert "\n" not in str(caught.value)
    assert "TFRECORD" not in str(caught.value)


@needs_prepared
@pytest.mark.parametrize("keep", [0, 100, 2_000_000])
def test_a_truncated_record_file_is_refused(tmp_path, keep):
    source, target = PREPARED / "mnist" / "3.0.1", tmp_path / "mnist" / "3.0.1"
    target.mkdir(parents=True)
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)
    train = target / "mnist-train.array_record-00000-of-00001"
    train.write_bytes(train.read_bytes()[:keep])
    with pytest.raises(InputError, match="unreadable train files") as caught:
        load("mnist", data_dir=tmp_path)
    assert "\n" not in str(caught.value)


def test_npz_labels_make_classification(tmp_path):
    data = load(saved(tmp_path))
    assert (data.name, data.task, data.num_outputs) == ("mine", "classification", 3)
    assert data.y_train.dtype == np.int32
    np.testing.assert_array_equal(data.x_train.ravel(), np.arange(12, dtype=np.float32) / 255)
    assert (data.x_test == 1).all()


def test_npz_floats_make_regression_and_features_keep_their_units(tmp_path):
    path = saved(
        tmp_path,
        x_train=np.full((3, 4), 7.5),
        x_test=np.full((2, 4), 300),
        y_train=np.array([0.5, 1.5, 2.5]),
        y_test=np.array([[3.0], [4.0]]),
    )
    data = load(str(path))
    assert (data.task, data.num_outputs, data.y_train.shape) == ("regression", 1, (3, 1))
    assert data.x_train.dtype == np.float32
    assert (data.x_test == 300).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_train": np.array([0, 1])}, "3 examples in x_train and 2 in y_train"),
        ({"y_train": np.array([0, -1, 1])}, "y_train from -1 to 1.*labels from 0"),
        ({"y_test": np.array([0.5, 1.0])}, "both integer labels, or both floating-point"),
        ({"y_train": np.array([[0], [1], [2]])}, r"class labels \(n,\)"),
        ({"x_test": np.zeros((2, 3, 3, 1), np.uint8)}, "one shape of example"),
        ({"x_train": np.full((3, 2, 2, 1), np.nan)}, "NaN, infinity"),
        ({"x_train": np.full((3, 2, 2, 1), 1e39)}, "beyond float32"),
        ({"x_train": np.zeros((3, 2, 2))}, r"images \(n, h, w, c\)"),
        ({"x_train": np.array(["a", "b", "c"])}, "real numbers"),
        ({"x_train": np.zeros((0, 2, 2, 1)), "y_train": np.zeros(0, int)}, "at least one example"),
        ({"x_train": np.array([{}, {}, {}], dtype=object)}, "plain arrays"),
    ],
)
def test_npz_refusals(tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        load(saved(tmp_path, **changes))


def test_npz_without_an_array_or_no_npz_at_all(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez(path, x_train=np.zeros((1, 1)))
    with pytest.raises(InputError, match="without y_train, x_test, y_test"):
        load(path)
    saved(tmp_path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=r"a readable \.npz"):
        load(path)


def test_unknown_names_list_the_known():
    with pytest.raises(InputError, match=", ".join(NAMES)):
        load("cifar11")
    with pytest.raises(InputError, match=r"no file at absent\.npz"):
        load("absent.npz")


def test_a_dataset_is_read_only_and_leaves_the_callers_array_writeable():
    x = np.zeros((2, 3), np.float32)
    data = Dataset(x, np.zeros(2, np.int32), x, np.zeros(2, np.int32), "zeros", 1, "classification")
    with pytest.raises(ValueError, match="read-only"):
        data.x_train[0] = 1
    x[0, 0] = 1


def test_the_fingerprint_sees_bytes_shapes_and_dtypes():
    def mark(x, y):
        return Dataset(x, y, x, y, "any", 2, "classification").fingerprint()

    x, y = np.zeros((2, 4), np.float32), np.array([0, 1], np.int32)
    changed = x.copy()
    changed[1, 3] = 1e-30
    marks = [mark(x, y), mark(changed, y), mark(x, y[::-1]), mark(x, y.astype(np.int64))]
    marks += [mark(x.reshape(2, 2, 2), y), mark(x.astype(np.float64), y)]
    assert len(set(marks)) == len(marks)
    assert mark(np.asfortranarray(x), y) == mark(x, y)


@pytest.mark.parametrize(
    ("y", "outputs", "task", "message"),
    [
        (np.array([0, 2], np.int32), 2, "classification", "labels from 0 to 1"),
        (np.zeros((2, 1), np.float32), 2, "regression", r"targets of shape \(n, 2\)"),
        (np.array([0, 1], np.int32), 2, "ranking", "one of classification, regression"),
    ],
)
def test_a_dataset_refuses_targets_unlike_its_task(y, outputs, task, message):
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(InputError, match=message):
        Dataset(x, y, x, y, "any", outputs, task)
