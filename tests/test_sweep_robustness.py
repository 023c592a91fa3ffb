"""The columns of paper E: each is the public measure of the member trained alone, or a loop by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from jaxsens.checks import InputError
from jaxsens.data import Dataset
from jaxsens.metrics import (
    count_crossings,
    input_jacobian_norm,
    output_noise,
    random_directions,
    relu_mlp_tangent_sensitivity,
    translation_loop,
)
from jaxsens.models import build, cnn, fully_connected, perceptron
from jaxsens.sweep import Cell, DataConfig, MeasureConfig, RobustnessConfig, SweepConfig, pointwise, run_sweep
from jaxsens.sweep.pointwise import pointwise_measures
from jaxsens.sweep.prepare import build_network
from jaxsens.sweep.robustness import (
    RAY_RADII,
    TRAJECTORY_KINDS,
    RobustnessPrograms,
    compile_robustness,
    draw_triples,
)
from jaxsens.sweep.run import prepare_data
from jaxsens.table import text_to_image, text_to_numbers
from jaxsens.train import TrainConfig, make_train
from jaxsens.types import PIECEWISE_LINEAR

DATA = DataConfig("digits", num_train=60, num_test=80, inputs="standard")
TRAIN = TrainConfig("sgd", learning_rate=0.1, batch_size=32, max_epochs=3)
ROBUSTNESS = RobustnessConfig(
    loops=7, triples=5, points=12, pointwise_examples=50, pointwise_draws=6, slice_pixels=16
)
MEASURE = MeasureConfig(derivative_examples=20, output_sensitivity=False, robustness=ROBUSTNESS)
GRID = {
    name: Cell(name, fully_connected(2, 12, init="FU", activation=name), DATA, TRAIN, MEASURE, seeds=1)
    for name in ("relu", "hard_tanh")
}
SOFTMAX_AND_LOGITS = {"softmax": jax.nn.softmax, "logits": lambda logits: logits}


@pytest.fixture(scope="module")
def data():
    return prepare_data(DATA)


@pytest.fixture(scope="module", params=["relu", pytest.param("hard_tanh", marks=pytest.mark.slow)])
def case(request, tmp_path_factory, data):
    """A cell with its row, its network, and its member before and after training, trained alone."""
    cell = GRID[request.param]
    network = build(cell.model, input_shape=(8, 8, 1), num_outputs=10)
    training = make_train(TRAIN, network.init, network.apply)
    start = training.start(jax.random.key(0))
    end = jax.jit(training)(jax.random.key(0), jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    config = SweepConfig("test", tmp_path_factory.mktemp("sweep"), num_devices=1)
    (row,) = run_sweep((cell,), config).rows()
    return cell, row, network, {"before": start, "after": end}


def maps_of(cell, member):
    """The weights and biases."""
    return perceptron(cell.model, member.params, member.state, activations=GRID)


def close(found, wanted, name="", rtol=2e-4):
    np.testing.assert_allclose(found, wanted, rtol=rtol, atol=1e-7, err_msg=name)


def numpy_codes(maps, xs, activation):
    """The code of each unit at each point, (n, N), in float64."""
    slope, shift, low, high = PIECEWISE_LINEAR[activation]
    hidden, codes = np.asarray(xs, np.float64).reshape(len(xs), -1), []
    for weight, bias in list(zip(*maps, strict=True))[:-1]:
        y = slope * (hidden @ np.asarray(weight, np.float64) + np.asarray(bias, np.float64)) + shift
        codes.append((y > low) * 1 + (y >= high))
        hidden = np.clip(y, low, high)
    return np.concatenate(codes, axis=1)


def transitions(codes, *, closed=True):
    total = 0
    for here in range(len(codes) if closed else len(codes) - 1):
        total += np.abs(codes[here] - codes[(here + 1) % len(codes)]).sum()
    return total


def norms_of(network, member, xs, name):
    def f(params, x):
        return SOFTMAX_AND_LOGITS[name](network.function(member.state)(params, x))

    with jax.default_matmul_precision("highest"):
        return np.asarray(jax.jit(lambda xs: input_jacobian_norm(f, member.params, xs))(jnp.asarray(xs)))


def numpy_ellipse(a, b, c, count):
    a, b, c = (np.asarray(x, np.float64) for x in (a, b, c))
    centre = (a + b + c) / 3
    angles = 2 * np.pi * np.arange(count) / count
    return np.stack(
        [centre + np.cos(t) * (a - centre) + np.sin(t) * (b - c) / np.sqrt(3) for t in angles]
    ).astype(np.float32)


def test_loops_are_counted_by_hand(case, data):
    cell, row, _, members = case
    maps = maps_of(cell, members["after"])
    for split, images in (("train", data.x_train), ("test", data.x_test)):
        counts = []
        for image in images[:7]:
            loop = np.stack([np.roll(image, by, axis=1) for by in range(8)])
            np.testing.assert_array_equal(loop, translation_loop(jnp.asarray(image)))
            counts.append(transitions(numpy_codes(maps, loop, cell.model.activation)))
        assert np.ptp(counts) > 0
        close(row[f"transitions_{split}"], np.mean(counts))


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("kind", TRAJECTORY_KINDS)
def test_ellipses_by_hand(case, data, kind, stage):
    cell, row, network, members = case
    maps = maps_of(cell, members[stage])
    triples, _ = draw_triples(data, kind, 5)
    points = np.stack([numpy_ellipse(*triple, 12) for triple in triples])
    codes = np.stack([numpy_codes(maps, each, cell.model.activation) for each in points])
    close(row[f"transitions_{kind}_{stage}"], np.mean([transitions(each) for each in codes]))
    curve = text_to_numbers(row[f"transitions_curve_{kind}_{stage}"])
    assert len(curve) == 12
    close(curve[11], np.abs(codes[:, 11] - codes[:, 0]).sum(axis=1).mean())
    close(curve.sum(), row[f"transitions_{kind}_{stage}"])
    for name in SOFTMAX_AND_LOGITS:
        # At 0, 120, 240 degrees are the data themselves.
        near = norms_of(network, members[stage], triples.reshape(15, 8, 8, 1), name).reshape(5, 3)
        far = norms_of(network, members[stage], points[:, 2::4].reshape(15, 8, 8, 1), name).reshape(5, 3)
        close(row[f"{name}_near_{kind}_{stage}"], near.mean(), name)
        close(row[f"{name}_far_{kind}_{stage}"], far.mean(), name)
        close(row[f"{name}_share_{kind}_{stage}"], (far.mean(axis=1) > near.mean(axis=1)).mean())
        curve = text_to_numbers(row[f"{name}_curve_{kind}_{stage}"])
        assert len(curve) == 12
        close(curve[::4], near.mean(axis=0), name)
        close(curve[2::4], far.mean(axis=0), name)


def test_crossings_are_exact_and_bound_dense_samples(case, data):
    cell, row, _, members = case
    for kind in TRAJECTORY_KINDS:
        triples, _ = draw_triples(data, kind, 5)
        maps = maps_of(cell, members["after"])
        a, b = triples[:, 0], triples[:, 1]
        counts = np.asarray(
            count_crossings(*maps, jnp.asarray(a), jnp.asarray(b), activation=cell.model.activation)
        )
        close(row[f"crossings_{kind}_after"], counts.mean())
        lengths = [np.sqrt(((x - y).astype(np.float64) ** 2).sum()) for x, y in zip(a, b, strict=True)]
        close(row[f"crossings_per_length_{kind}_after"], (counts / lengths).mean())
        at = np.linspace(0, 1, 3001).reshape(-1, 1, 1, 1)
        for x, y, count in zip(a, b, counts, strict=True):
            dense = transitions(numpy_codes(maps, (1 - at) * x + at * y, cell.model.activation), closed=False)
            assert dense <= count <= dense + 2


def test_rays_start_at_the_data(case, data):
    _, row, network, members = case
    images = data.x_train[:5].astype(np.float64)
    directions = np.asarray(random_directions(jax.random.key(1), (8, 8, 1), 5), np.float64)
    for stage, member in members.items():
        for name in SOFTMAX_AND_LOGITS:
            curve = text_to_numbers(row[f"{name}_ray_{stage}"])
            assert len(curve) == len(RAY_RADII)
            for place in (0, 3, 9):
                moved = [
                    image + RAY_RADII[place] * np.linalg.norm(image) * direction
                    for image, direction in zip(images, directions, strict=True)
                ]
                norms = norms_of(network, member, np.float32(moved), name)
                close(curve[place], norms.mean(), f"{name} {stage} at {RAY_RADII[place]}")


def test_norms_on_training_images(case, data):
    _, row, network, members = case
    for name in SOFTMAX_AND_LOGITS:
        norms = norms_of(network, members["after"], data.x_train[:20], name)
        close(row[f"jacobian_{name}_train"], norms.mean())


def test_triples_are_of_the_classes_that_their_kind_says(data):
    same, labels = draw_triples(data, "same", 30)
    assert same.shape == (30, 3, 8, 8, 1)
    assert labels.shape == (30, 3)
    assert (labels == labels[:, :1]).all()
    assert len(set(labels[:, 0])) > 5
    different, labels = draw_triples(data, "different", 30)
    assert all(len(set(three)) == 3 for three in labels.tolist())
    for triples, told in ((same, draw_triples(data, "same", 30)[1]), (different, labels)):
        for images, three in zip(triples, told, strict=True):
            assert len({image.tobytes() for image in images}) == 3
            for image, label in zip(images, three, strict=True):
                places = np.flatnonzero((data.x_train == image).all(axis=(1, 2, 3)))
                assert label in data.y_train[places]
    shuffled, of = draw_triples(data, "shuffled", 30)
    np.testing.assert_array_equal(of, labels)
    np.testing.assert_array_equal(*(np.sort(x.reshape(90, 64), axis=1) for x in (shuffled, different)))
    assert ((shuffled != different).mean(axis=(2, 3, 4)) > 0.2).all()
    for kind in TRAJECTORY_KINDS:
        np.testing.assert_array_equal(draw_triples(data, kind, 30)[0], draw_triples(data, kind, 30)[0])


def tenths_of(score):
    """The tenth of each point by its rank; equal ones are in the lowest."""
    return np.array([10 * (score < one).sum() // len(score) for one in score])


def test_points_that_are_wrong_are_told_by_each_score(case, data):
    cell, row, network, members = case
    member, key = members["after"], jax.random.fold_in(jax.random.key(0), 2**31 - 3)
    xs, ys = jnp.asarray(data.x_test[:50]), data.y_test[:50]
    f = network.function(member.state)
    with jax.default_matmul_precision("highest"):
        logits = np.asarray(network.predict(member.params, member.state, xs), np.float64)
        noise = output_noise(f, member.params, xs, key=jax.random.fold_in(key, 0), noise_std=0.1, num_draws=6)
    wrong = logits.argmax(axis=1) != ys
    assert row["pointwise_wrong"] == wrong.sum()
    assert row["pointwise_examples"] == 50
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = {
        "doubt": 1 - probabilities.max(axis=1),
        "jacobian_softmax": norms_of(network, member, xs, "softmax"),
        "jacobian_logits": norms_of(network, member, xs, "logits"),
        # S of each point: the variance over the draws of the mean over the outputs.
        "sensitivity": np.asarray(noise, np.float64).mean(axis=2).var(axis=0),
    }
    if cell.model.activation == "relu":
        maps = maps_of(cell, member)
        scores |= {
            "tangent_sensitivity": relu_mlp_tangent_sensitivity(*maps, xs),
            "tangent_sensitivity_all": relu_mlp_tangent_sensitivity(*maps, xs, outputs="all"),
        }
    assert {name for name in row if name.startswith("wrong_") and row[name] is not None} == {
        f"wrong_{name}" for name in scores
    }
    tenths = tenths_of(scores["doubt"])
    assert np.bincount(tenths).tolist() == [5] * 10
    for name, score in scores.items():
        score = np.asarray(score, np.float64)
        close(row[f"auroc_{name}"], roc_auc_score(wrong, score), name, rtol=1e-6)
        assert 0 < row[f"auroc_{name}_stderr"] < 0.3
        shares = text_to_numbers(row[f"wrong_{name}"])
        assert len(shares) == 10
        bins = tenths_of(score)
        sizes = np.bincount(bins, minlength=10)
        # Points of a saturated network have norm 0 alike: a tenth may then be empty.
        assert (np.isnan(shares) == (sizes == 0)).all()
        close(sizes @ np.nan_to_num(shares), wrong.sum())
        close(shares[sizes > 0], [wrong[bins == i].mean() for i in range(10) if sizes[i]], name)
        pairs = [
            np.sign(score[i] - score[j]) / 2 + 0.5
            for i in np.flatnonzero(wrong)
            for j in np.flatnonzero(~wrong)
            if tenths[i] == tenths[j]
        ]
        close(row[f"auroc_{name}_within"], np.mean(pairs), name)
    softmax = scores["jacobian_softmax"]
    close(row["jacobian_softmax_wrong"], softmax[wrong].mean())
    close(row["jacobian_softmax_right"], softmax[~wrong].mean())


def test_nothing_is_told_where_all_points_are_of_one_kind(case, data, key):
    cell, _, network, members = case
    programs = compile_robustness(cell.model, network, MEASURE)
    right = np.eye(10, dtype=np.float32)[data.y_test]
    for outputs, count in ((right, 0), (-right, 50)):
        found = pointwise_measures(programs, members["after"], data, outputs, MEASURE, key)
        assert found == {"pointwise_wrong": count, "pointwise_examples": 50}


@pytest.mark.parametrize("stage", ["before", "after"])
@pytest.mark.parametrize("kind", ["different", "shuffled"])
def test_slices_by_hand(case, data, kind, stage):
    cell, row, network, members = case

    def column(name):
        return row[f"slice_{name}_{kind}_{stage}"]

    triples, labels = draw_triples(data, kind, 1)
    np.testing.assert_array_equal(text_to_numbers(row[f"slice_point_labels_{kind}"]), labels[0])
    a, b, c = triples[0].reshape(3, 64).astype(np.float64)
    u = (b - a) / np.linalg.norm(b - a)
    v = (c - a) - (c - a) @ u * u
    v /= np.linalg.norm(v)
    points = text_to_numbers(column("points")).reshape(3, 2)
    np.testing.assert_allclose(points, [[(x - a) @ u, (x - a) @ v] for x in (a, b, c)], rtol=1e-4, atol=1e-4)
    left, right, bottom, top = text_to_numbers(column("extent"))
    close(right - left, top - bottom)
    assert np.all((points > [left, bottom]) & (points < [right, top]))
    # The longer side of the points' rectangle is two thirds of the square's.
    close((right - left) * 2 / 3, np.ptp(points, axis=0).max())
    centres = (np.arange(16) + 0.5) / 16
    pixels = np.stack(
        [
            a + (left + (right - left) * s) * u + (bottom + (top - bottom) * t) * v
            for t in centres
            for s in centres
        ]
    )
    member = members[stage]
    with jax.default_matmul_precision("highest"):
        logits = network.predict(member.params, member.state, jnp.float32(pixels.reshape(-1, 8, 8, 1)))
    classes = text_to_image(column("classes"))
    assert classes.dtype == np.uint8
    np.testing.assert_array_equal(classes, np.argmax(logits, axis=1).reshape(16, 16))
    maps = maps_of(cell, member)
    codes = numpy_codes(maps, pixels, cell.model.activation)
    image = text_to_image(column("labels"))
    assert image.shape == (16, 16)
    assert column("regions") >= column("seen") == image.max() + 1 == len(np.unique(codes, axis=0)) > 1
    # One label, one code.
    for label in range(column("seen")):
        assert len(np.unique(codes[image.ravel() == label], axis=0)) == 1


def test_what_is_zero_is_not_measured(tmp_path):
    measure = dataclasses.replace(
        MEASURE, robustness=RobustnessConfig(loops=0, triples=0, pointwise_examples=0, slice_pixels=0)
    )
    cell = dataclasses.replace(GRID["relu"], measure=measure)
    table = run_sweep((cell,), SweepConfig("test", tmp_path, num_devices=1))
    parts = ("transitions", "crossings", "_ray", "auroc", "pointwise", "slice", "_near", "_curve")
    assert not [name for name in table.columns if any(part in name for part in parts)]
    assert table.column("jacobian_softmax_train")[0] > 0


def test_unsuitable_cells_are_refused_before_training(tmp_path, plain):
    config = SweepConfig("test", tmp_path, num_devices=1)
    sound = GRID["relu"]
    for changes, message in (
        ({"model": cnn(1, 2)}, "got cnn-1x2-sn with Conv"),
        ({"model": fully_connected(1, 4, activation="tanh")}, "the activation tanh"),
        (
            {
                "data": DataConfig("diabetes", None),
                "train": TrainConfig(max_epochs=1, loss="mse"),
            },
            r"expected classes of images \(H, W, C\)",
        ),
    ):
        bad = dataclasses.replace(sound, name="bad", **changes)
        with pytest.raises(InputError, match=message):
            run_sweep((sound, bad), config)
    assert not list(tmp_path.glob("cells/*.parquet"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": 10}, "points=10; expected a multiple of 6"),
        ({"points": 0}, "points=0"),
        ({"loops": -1}, "loops=-1"),
        ({"triples": -1}, "triples=-1"),
        ({"slice_pixels": -1}, "slice_pixels=-1"),
        ({"pointwise_examples": -1}, "pointwise_examples=-1"),
        ({"pointwise_draws": 1}, "pointwise_draws=1"),
    ],
)
def test_unusable_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RobustnessConfig(**options)


def test_what_cannot_be_measured_is_refused_before_training():
    with pytest.raises(InputError, match="pointwise_examples=9; expected 0, or 10 and more"):
        RobustnessConfig(pointwise_examples=9)
    rng = np.random.default_rng(0)
    images = rng.random((20, 4, 4, 1), np.float32)
    labels = np.array([0, 1] * 9 + [2, 2], np.int32)
    data = Dataset(images, labels, images[:9], labels[:9], "tiny", 3, "classification")
    for config, match in (
        (RobustnessConfig(triples=2), "2 classes with 3 training images in 'tiny'; expected 3"),
        (RobustnessConfig(slice_pixels=9), "2 classes with 3 training images"),
        (RobustnessConfig(pointwise_examples=10), "9 test images in 'tiny'; expected 10"),
    ):
        cell = Cell("a", fully_connected(1, 4), measure=MeasureConfig(robustness=config))
        with pytest.raises(InputError, match=match):
            build_network(cell, data)


def test_points_that_no_tenth_mixes_and_scores_that_overflow_have_no_area(monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.random((20, 4, 4, 1), np.float32), np.zeros(20, np.int32)
    data = Dataset(images, labels, images, labels, "tiny", 2, "classification")
    # Five wrong points, alone in the last of four strata of doubt.
    outputs = np.stack([np.linspace(9, 1, 20), np.zeros(20)], axis=1)
    outputs[-5:] = outputs[-5:, ::-1]
    scores = {
        "doubt": np.arange(20.0),
        "jacobian_softmax": np.arange(20.0),
        "sensitivity": np.full(20, np.inf),
    }
    programs = RobustnessPrograms._make([None] * len(RobustnessPrograms._fields))
    monkeypatch.setattr(pointwise, "score_points", lambda *_: scores)
    measure = MeasureConfig(robustness=RobustnessConfig(pointwise_examples=20))
    values = pointwise_measures(programs, None, data, outputs, measure, jax.random.key(0))
    assert values["pointwise_wrong"] == 5
    assert values["auroc_doubt"] == values["auroc_jacobian_softmax"] == 1
    assert not [name for name in values if name.endswith("_within") or "sensitivity" in name]
