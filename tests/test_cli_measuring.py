"""`jaxsens measure` and `jaxsens compare`: the library's numbers, what `--data` means, refusals."""

import json
import sys

import jax
import numpy as np
import pytest

import jaxsens
from jaxsens.cli import command
from jaxsens.cli.compare import distinguishing_names
from jaxsens.data import load

# A linear network of 3 outputs: every measure is quick.
CODE = """
import sys
import numpy as np
from jaxsens import Untrained
from jaxsens.data import load


def f(params, x):
    return x.ravel() @ params["weights"]


def made(width=64, scale=1.0):
    return {"weights": (scale * np.random.default_rng(0).normal(size=(width, 3))).astype(np.float32)}


def restore(checkpoint):
    print("restoring", checkpoint)
    with np.load(checkpoint) as arrays:
        return f, dict(arrays)


def plain():
    return f, made()


def talking():
    def g(params, x):
        print("tracing")
        return f(params, x)

    return g, made()


def other_width():
    return f, made(width=5)


def constant():
    return f, made(scale=0.0)


def architecture():
    return Untrained(f, lambda key: made())


def architecture_of_double_scale():
    return Untrained(f, lambda key: made(scale=2.0))


def fails():
    raise KeyError("weights")


def leaves():
    sys.exit("no such run")


def number():
    return 3


def images():
    return load("digits").x_test[:30]


def labelled():
    data = load("digits")
    return data.x_test[:30], data.y_test[:30] % 3


def dataset():
    return load("digits")


not_callable = 3
"""
MEASURES = "softmax_jacobian_norm,output_sensitivity"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With given.py, which is importable, two checkpoints of scales 1 and 3, and one that diverged."""
    (tmp_path / "given.py").write_text(CODE)
    (tmp_path / "broken.py").write_text("import a_package_that_is_not_there\n")
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    for name, scale in (("one", 1.0), ("three", 3.0), ("lost", np.nan)):
        (tmp_path / "runs" / name).mkdir(parents=True)
        np.savez(tmp_path / "runs" / name / "best.npz", weights=np.float32(scale) * weights)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("given", None)


def run(capsys, *words):
    code = command.main(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def refusal(capsys, *words):
    """The one line on stderr."""
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    *notes, last = err.splitlines()
    assert not [line for line in notes if line.startswith("error")]
    assert last.startswith("error: ")
    return last


def measured(capsys, *words, model="given.py:plain"):
    """The JSON document, and what was noted on stderr."""
    code, out, err = run(capsys, "measure", model, *words, "--measures", MEASURES, "--json")
    assert code == 0, err
    return json.loads(out, parse_constant=pytest.fail), err


def values(document):
    return {row["name"]: (row["value"], row["stderr"]) for row in document["measures"]}


def own(xs, ys=None, *, seed=0, scale=1.0, measures=MEASURES, **options):
    weights = np.float32(scale) * np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    found = jaxsens.measure(
        lambda params, x: x.ravel() @ params,
        jax.numpy.asarray(weights),
        xs,
        ys,
        key=jax.random.key(seed),
        measures=measures.split(",") if "," in measures else measures,
        **options,
    )
    return {row["name"]: (row["value"], row["stderr"]) for row in found.to_dict()["measures"]}


def test_the_numbers_are_those_of_the_library(folder, capsys):
    data = load("digits")
    document, err = measured(
        capsys, "--data", "digits", "--seed", "4", "--noise-std", "0.3", "--num-draws", "2"
    )
    assert values(document) == own(data.x_test, seed=4, noise_std=0.3, num_draws=2)
    assert err == ""
    assert document["data"] == {
        "source": "digits",
        "read": "the test set",
        "split": "test",
        "num_available": 797,
        "num_examples": 797,
        "shape": [8, 8, 1],
        "dtype": "float32",
        "labelled": True,
    }
    assert (document["command"], document["seed"], document["checkpoint"]) == ("measure", 4, None)
    train, _ = measured(capsys, "--data", "digits", "--split", "train")
    assert values(train) == own(data.x_train)


def test_all_measures_of_labelled_data(folder, capsys):
    words = (
        "--data",
        "given.py:labelled",
        "--measures",
        "all",
        "--num-perturbations",
        "20",
        "--alpha",
        "0.02",
    )
    code, out, _ = run(capsys, "measure", "given.py:plain", *words, "--json")
    data = load("digits")
    expected = own(data.x_test[:30], data.y_test[:30] % 3, measures="all", num_perturbations=20, alpha=0.02)
    assert code == 0
    assert values(json.loads(out)) == expected
    assert "accuracy" in expected


def test_the_table_for_people(folder, capsys):
    code, out, err = run(capsys, "measure", "given:plain", "--data", "given:images")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["measure", "value", "error", "over", "better"]
    assert lines[2].startswith("softmax_jacobian_norm ")
    assert " +- " in lines[2]
    assert lines[-1] == "Data: given:images, xs; 30 of 30 examples of 8 x 8 x 1; seed 0."


def test_a_checkpoint_is_given_as_an_absolute_path(folder, capsys):
    words = ("--checkpoint", "runs/three/best.npz", "--data", "digits")
    document, err = measured(capsys, *words, model="given:restore")
    path = folder / "runs" / "three" / "best.npz"
    assert document["checkpoint"] == str(path)
    assert err == f"restoring {path}\n"  # what the function prints is not on stdout
    assert values(document) == own(load("digits").x_test, scale=3.0)


def test_what_the_model_prints_is_not_on_stdout_and_the_path_is_left_alone(folder, capsys):
    before = list(sys.path)
    _, err = measured(capsys, "--data", "given:images", model="given:talking")
    assert "tracing" in err
    assert sys.path == before


def test_examples_are_taken_at_random_without_replacement(folder, capsys):
    xs = np.arange(40 * 64, dtype=np.float32).reshape(40, 64) / 2560
    np.savez("data.npz", x=xs, y=np.arange(40) % 3)
    words = ("--data", "data.npz", "--examples")
    some, _ = measured(capsys, *words, "10")
    assert (some["data"]["num_examples"], some["data"]["num_available"]) == (10, 40)
    assert values(some) == values(measured(capsys, *words, "10")[0])
    assert values(some) != values(measured(capsys, *words, "10", "--seed", "1")[0])
    assert values(some) != own(xs[:10])
    # All of them in another order: a sum over them stays, each with its own label.
    words = (*words, "40", "--measures", "jacobian_norm,loss,accuracy", "--json")
    code, out, _ = run(capsys, "measure", "given:plain", *words)
    everything = own(xs, np.arange(40) % 3, measures="jacobian_norm,loss,accuracy")
    assert code == 0
    assert values(json.loads(out)) == {name: pytest.approx(found) for name, found in everything.items()}
    assert "at most the 40" in refusal(capsys, "measure", "given:plain", *words[:3], "41")
    assert "--examples=1" in refusal(capsys, "measure", "given:plain", *words[:3], "1")


XS = np.random.default_rng(1).uniform(size=(20, 64)).astype(np.float32)
YS = np.arange(20) % 3


@pytest.mark.parametrize(
    ("arrays", "words", "read"),
    [
        ({"x": XS}, (), "x as inputs, no labels"),
        ({"xs": XS, "ys": YS, "names": YS}, (), "xs as inputs, ys as labels"),
        ({"X_test": XS, "Y_test": YS, "X_train": 2 * XS}, (), "X_test as inputs, Y_test as labels"),
        (
            {"x_train": XS, "y_train": YS, "x_test": 2 * XS},
            ("--split", "train"),
            "x_train as inputs, y_train as labels",
        ),
        ({"x_test": XS, "x": 2 * XS}, (), "x_test as inputs, no labels"),
        ({"inputs": XS, "x_train": 2 * XS}, (), "inputs as inputs, no labels"),
        ({"images": XS, "labels": YS}, (), "images as inputs, labels as labels"),
    ],
)
def test_names_in_an_npz(arrays, words, read, folder, capsys):
    np.savez("data.npz", **arrays)
    document, err = measured(capsys, "--data", "data.npz", *words)
    assert err == ""
    assert document["data"]["read"] == read
    assert values(document) == own(XS)


@pytest.mark.parametrize(
    ("arrays", "words", "said"),
    [
        ({"first": XS}, (), "data.npz with first; expected one of x, xs, X, inputs, images"),
        ({"x": XS, "xs": XS}, (), "data.npz with x, xs"),
        ({"x_train": XS, "y_train": YS}, (), "training examples alone (x_train, y_train)"),
        ({"x": XS}, ("--split", "train"), "expected one of x_train, xs_train, X_train"),
        ({"x": XS, "y": YS[:5]}, (), "20 inputs and labels of shape (5,)"),
        ({"x": (255 * XS).astype(np.int64)}, (), "inputs of dtype int64 from data.npz"),
        ({"x": XS > 0.5}, (), "inputs of dtype bool"),
        ({"x": XS.astype(complex)}, (), "inputs of dtype complex128"),
        ({"x": XS * np.float32(np.nan)}, (), "NaN or infinity in xs"),
        ({"x": XS.astype(float) * 1e300}, (), "NaN or infinity in xs"),
        ({"x": XS.astype(object)}, (), "expected plain arrays"),
        ({"x": np.float32(3)}, (), "xs of rank 0"),
    ],
)
def test_files_that_are_refused(arrays, words, said, folder, capsys, plain):
    np.savez("data.npz", **arrays)
    assert said in refusal(capsys, "measure", "given:plain", "--data", "data.npz", *words)


def test_dtypes_are_noted(folder, capsys):
    np.save("wide.npy", XS.astype(np.float64))
    document, err = measured(capsys, "--data", "wide.npy")
    assert err == "note: inputs of float64 were taken as float32\n"
    assert document["notes"][0] in err
    assert values(document) == own(XS)
    pixels = np.arange(20 * 64, dtype=np.uint8).reshape(20, 64)
    np.save("pixels.npy", pixels)
    document, err = measured(capsys, "--data", "pixels.npy")
    assert err.startswith("note: inputs of uint8 were taken for pixels and divided by 255")
    assert values(document) == own(pixels.astype(np.float32) / np.float32(255))
    with jax.enable_x64(True):
        document, err = measured(capsys, "--data", "wide.npy")
    assert (document["data"]["dtype"], err) == ("float64", "")


def test_data_of_a_function_or_a_data_set(folder, capsys):
    data = load("digits")
    assert values(measured(capsys, "--data", "given:dataset")[0]) == own(data.x_test)
    assert values(measured(capsys, "--data", "given:dataset", "--split", "train")[0]) == own(data.x_train)
    assert values(measured(capsys, "--data", "given:labelled")[0]) == own(data.x_test[:30])
    words = ("measure", "given:plain", "--data")
    assert "--split test of given:images" in refusal(capsys, *words, "given:images", "--split", "test")
    assert "int as inputs from given:number" in refusal(capsys, *words, "given:number")
    assert "given:fails: KeyError: 'weights' (given.py:" in refusal(capsys, *words, "given:fails")
    assert "got no file none.npz" in refusal(capsys, *words, "none.npz")
    assert "one of digits, diabetes, boston" in refusal(capsys, *words, "cifar11")
    assert "prepare mnist" in refusal(capsys, *words, "mnist", "--data-dir", "nowhere")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["given:nothing"],
            "got given:nothing, which is not there; expected a function of given; name one of f, made",
        ),
        (["given:not_callable"], "which is int"),
        (["nowhere:f"], "got no module nowhere"),
        (["nowhere.py:f"], "got no file nowhere.py"),
        (
            ["broken.py:f"],
            "importing broken.py: ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        ),
        (
            ["broken:f"],
            "importing broken: ModuleNotFoundError: No module named 'a_package_that_is_not_there'",
        ),
        (
            ["given:restore"],
            "got given:restore without a checkpoint (missing a required argument: 'checkpoint')",
        ),
        (["given:plain", "--checkpoint", "runs"], "got given:plain with a checkpoint (too many positional"),
        (["given:restore", "--checkpoint", "runs/none"], "got no checkpoint at runs/none"),
        (["given:restore", "--checkpoint", "runs"], "runs: IsADirectoryError"),
        (["given:fails"], "given:fails: KeyError: 'weights' (given.py:51); --traceback shows all of it"),
        (["given:leaves"], "given:leaves: SystemExit: no such run (given.py:55)"),
        (["given:number"], "got int from given:number; expected (f, params)"),
        (["given:architecture"], "got an architecture from given:architecture"),
        (["given:other_width"], "error: TypeError: dot_general requires contracting dimensions"),
        (
            ["given:plain", "--measures", "sensitivity"],
            "got measures='sensitivity'; expected one of label_free",
        ),
        (["given:plain", "--noise-std", "0"], "got noise_std=0"),
        (["given:plain", "--measures", "accuracy"], "got 'accuracy' without ys"),
        (["given:plain", "--loss", "l1"], "got loss='l1'; expected one of cross_entropy, mse"),
    ],
)
def test_models_that_are_refused(words, said, folder, capsys, plain):
    assert said in refusal(capsys, "measure", *words, "--data", "given:images")


def test_the_whole_traceback(folder, capsys):
    code, _, err = run(capsys, "measure", "given:fails", "--data", "digits", "--traceback")
    assert code == 2
    assert err.startswith("Traceback")
    assert 'raise KeyError("weights")' in err
    assert err.splitlines()[-1].startswith("error: given:fails: KeyError")


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/a/best.npz", "runs/b/best.npz"], ["a", "b"]),
        (["a.npz", "b.npz"], ["a", "b"]),
        (["x/step_1.5", "x/step_2.5"], ["step_1.5", "step_2.5"]),
        (["x/a.npz", "x/a.ckpt"], ["a.npz", "a.ckpt"]),
        (["runs/a", "runs/a/best"], ["a", "a/best"]),
        (["a/1/x", "b/2/y"], ["a/1/x", "b/2/y"]),
        (["gs://b/run/10/", "gs://b/run/20"], ["10", "20"]),
        (["one.npz"], ["one"]),
    ],
)
def test_names_of_checkpoints(paths, names):
    assert distinguishing_names(paths) == names


CHECKPOINTS = ("--checkpoints", "runs/one/best.npz", "runs/three/best.npz")


def test_checkpoints_are_ranked_as_the_library_ranks_them(folder, capsys):
    words = ("--by", "jacobian_norm", "--also", "confidence, entropy", "--confidence", "0.9", "--seed", "2")
    words = ("compare", "given:restore", *CHECKPOINTS, "--data", "given:images", *words)
    code, out, err = run(capsys, *words, "--json")
    document = json.loads(out, parse_constant=pytest.fail)
    assert code == 0
    assert "measuring one, 1 of 2, after " in err
    assert "measuring three, 2 of 2, after " in err
    weights = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)

    def f(params, x):
        return x.ravel() @ params

    expected = jaxsens.compare(
        {"one": (f, weights), "three": (f, 3 * weights)},
        load("digits").x_test[:30],
        key=jax.random.key(2),
        by="jacobian_norm",
        also=("confidence", "entropy"),
        confidence=0.9,
    ).to_dict()
    assert {name: document[name] for name in expected} == expected
    assert document["given"]["three"] == {
        "model": "given:restore",
        "checkpoint": str(folder / "runs" / "three" / "best.npz"),
    }
    code, out, _ = run(capsys, *words)
    lines = out.splitlines()
    assert code == 0
    assert lines[0].split()[:4] == ["rank", "model", "jacobian_norm", "times"]
    assert lines[2].split()[:2] == ["1", "one"]
    assert lines[3].split()[:2] == ["2", "three"]
    assert "  3.00" in lines[3]
    assert "'one' has the least jacobian_norm." in lines


def test_models_of_several_functions(folder, capsys):
    models = ("a=given:plain", "b=given.py:restore@runs/three/best.npz", "given:plain")
    code, out, _ = run(
        capsys, "compare", *models, "--data", "given:images", "--by", "jacobian_norm", "--json"
    )
    document = json.loads(out)
    assert code == 0
    assert {row["name"] for row in document["models"]} == {"a", "b", "given:plain"}
    assert document["given"]["a"] == {"model": "given:plain", "checkpoint": None}
    ties = {row["name"]: row["tied_with"] for row in document["models"]}
    assert ties["a"] == ["given:plain"]


def test_architectures(folder, capsys):
    models = ("x=given:architecture", "y=given:architecture_of_double_scale")
    code, out, _ = run(capsys, "compare", *models, "--data", "given:images", "--num-seeds", "2", "--json")
    document = json.loads(out)
    assert code == 0
    assert document["by"] == "output_sensitivity"
    assert [row["num_seeds"] for row in document["models"]] == [2, 2]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["given:restore", *CHECKPOINTS, "runs/lost/best.npz"],
            "error: lost: got a NaN or infinity in params",
        ),
        (["given:restore", *CHECKPOINTS, "runs/none/best.npz"], "got no checkpoint at runs/none/best.npz"),
        (["given:restore", *CHECKPOINTS, "given.py"], "given.py: given:restore of "),
        (["a=given:plain", "b=given:other_width"], "error: b: TypeError: dot_general"),
        (["a=given:plain", "b=given:fails"], "error: b: given:fails: KeyError"),
        (["a=given:plain", "b=given:number"], "error: b: got int from given:number"),
        (["a=given:plain", "a=given:constant"], "got a twice"),
        (["given:restore", *CHECKPOINTS, "runs/one/best.npz"], "runs/one/best.npz twice"),
        (["given:restore", "given:plain", *CHECKPOINTS], "got --checkpoints with given:restore given:plain"),
        (["a=given:plain", "b=given:architecture"], "trained networks among architectures"),
        (["a=given:plain"], "expected 2 or more models by name"),
        (["a=given:plain", "b=given:constant", "--by", "confidence"], "got by='confidence'"),
    ],
)
def test_what_is_refused_is_named_before_anything_is_measured(words, said, folder, capsys, plain):
    code, out, err = run(capsys, "compare", *words, "--data", "given:images")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert "measuring" not in err


def test_nothing_that_could_be_ranked_is_exit_code_1(folder, capsys):
    models = ("a=given:constant", "b=given:constant")
    code, out, _ = run(capsys, "compare", *models, "--data", "given:images")
    assert code == 1
    assert "Fewer than two models could be ranked." in out


def test_many_that_cannot_be_told_apart_stay_readable(folder, capsys):
    models = [f"m{i}=given:plain" for i in range(6)]
    code, out, _ = run(capsys, "compare", *models, "--data", "given:images")
    assert code == 0
    assert "m1, m2, m3 and 2 more" in out
    assert "and 5 more pairs" in out
