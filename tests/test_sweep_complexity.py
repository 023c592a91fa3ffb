"""The columns of paper D, and the data that its figures are trained on."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics import (
    SharpnessKL,
    interaction_condition,
    kl_divergence,
    log_l2_norm,
    log_path_norm,
    log_spectral_norm,
    margin_percentile,
    spike_condition,
    tangent_sensitivity,
)
from jaxsens.models import build, cnn, fully_connected, layer_weights, perceptron, resnet, without_batch_norm
from jaxsens.sweep import Cell, ComplexityConfig, DataConfig, MeasureConfig, SweepConfig, run_sweep
from jaxsens.sweep.complexity import complexity_measures, kl_at_sharpness, log_operator_norm
from jaxsens.sweep.programs import shared_complexity, shared_measures
from jaxsens.sweep.run import prepare_data
from jaxsens.table import text_to_counts
from jaxsens.train import TrainConfig, make_train
from jaxsens.types import Estimate

DATA = DataConfig("digits", num_train=60, num_test=70, inputs="standard", num_confused=30)
TRAIN = TrainConfig("momentum", learning_rate=0.02, batch_size=30, max_epochs=8)
COMPLEXITY = ComplexityConfig(
    sharpness_steps=10,
    num_evaluations=8,
    alphas=(1e-2, 1e-1),
    num_perturbations=20,
    margin_percent=20.0,
)
MEASURE = MeasureConfig(
    derivative_examples=10,
    output_sensitivity=False,
    exact_tangent_examples=2,
    complexity=COMPLEXITY,
    condition_examples=5,
)
MODEL = fully_connected(2, 10, batch_norm=True, dropout=0.1, init="HN")


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    cell = Cell("net", MODEL, DATA, TRAIN, MEASURE, seeds=2)
    config = SweepConfig("test", tmp_path_factory.mktemp("sweep"), num_devices=1)
    return run_sweep((cell,), config).rows()


@pytest.fixture(scope="module")
def trained():
    """The second member, trained alone, and the data."""
    data = prepare_data(DATA)
    network = build(MODEL, input_shape=(8, 8, 1), num_outputs=10)
    train = make_train(TRAIN, network.init, network.apply)
    member = train(jax.random.key(1), jnp.asarray(data.x_train), jnp.asarray(data.y_train))
    return network, member, data


def test_columns_are_the_measures_of_the_folded_member(rows, trained):
    network, member, data = trained
    config, params, state = without_batch_norm(MODEL, member.params, member.state)
    folded = build(config, input_shape=(8, 8, 1), num_outputs=10)
    weights = layer_weights(config, params)
    row = rows[1]
    xs, ys = (jnp.asarray(a[:60]) for a in (data.x_train, data.y_train))
    found = margin_percentile(network.function(member.state), member.params, xs, ys, percent=20)
    np.testing.assert_allclose(row["margin"], found.value, rtol=1e-3)
    assert (row["log_margin"] is not None) == bool(found.separates)
    wanted = {
        "log_l2_plotted": log_l2_norm(weights),
        "log_l2_capacity": log_l2_norm(weights, form="capacity"),
        "log_spectral_plotted": log_spectral_norm(weights),
        "log_spectral_capacity": log_spectral_norm(weights, form="capacity"),
        "log_operator_norm": log_spectral_norm(weights),
        "kl_at_0.1": kl_divergence(params, alpha=0.1),
    }
    for p in (1, 2):
        for form in ("plotted", "capacity"):
            wanted[f"log_path{p}_{form}"] = log_path_norm(
                folded.function(state), params, (8, 8, 1), p=p, form=form
            )
    for name, value in wanted.items():
        np.testing.assert_allclose(row[name], value, rtol=1e-3, err_msg=name)
    exact = tangent_sensitivity(
        network.function(member.state), member.params, jnp.asarray(data.x_test[:2]), outputs="all"
    )
    np.testing.assert_allclose(row["exact_tangent_sensitivity_all"], exact.mean(), rtol=1e-3)


def test_times_are_of_running_and_the_ascent_finds_a_sharper_network(rows):
    for row in rows:
        times = {name: value for name, value in row.items() if name.endswith("_seconds")}
        assert all(value > 0 for value in times.values() if value is not None)
        assert row["sharpness"] > 0
        # At a spread of 0.1 |10 w + 1| nothing is left of what was learned.
        assert row["expected_sharpness_at_0.1"] > row["expected_sharpness_at_0.01"] > 0


def test_conditions_are_those_of_the_folded_perceptron_before_and_after(rows, trained):
    _, member, data = trained
    network = *perceptron(MODEL, member.params, member.state), jnp.asarray(data.x_train[:5])
    row = rows[1]
    ratios = interaction_condition(*network).ratio
    np.testing.assert_allclose(row["mu_after"], 1 / ratios.max(), rtol=1e-3)
    np.testing.assert_allclose(row["c3_after"], spike_condition(*network).max(), rtol=1e-3)
    values, counts = text_to_counts(row["interaction_all_after"])
    assert counts.sum() == np.sum(np.asarray(ratios) > 0)
    np.testing.assert_allclose(values.max() / 20, np.log10(ratios.max()), atol=0.026)
    _, outputs = text_to_counts(row["outputs_before"])
    assert outputs.sum() == 50
    assert row["mu_before"] != row["mu_after"]


def test_training_sees_the_confusion_set_and_measures_do_not(rows, trained):
    network, member, data = trained
    assert len(data.x_train) == 90
    plain = prepare_data(dataclasses.replace(DATA, num_confused=0, inputs="raw"))
    np.testing.assert_array_equal(data.y_train[:60], plain.y_train)
    outputs = network.predict(member.params, member.state, jnp.asarray(data.x_train[:60]))
    np.testing.assert_allclose(rows[1]["train_accuracy"], np.mean(np.argmax(outputs, -1) == plain.y_train))
    assert rows[1]["num_confused"] == 30


def test_label_noise_draws_that_share_of_labels_anew():
    true = prepare_data(dataclasses.replace(DATA, num_confused=0))
    noisy = prepare_data(dataclasses.replace(DATA, num_confused=0, label_noise=1.0))
    np.testing.assert_array_equal(true.x_train, noisy.x_train)
    np.testing.assert_array_equal(true.y_test, noisy.y_test)
    assert 0.75 < np.mean(true.y_train != noisy.y_train) <= 1


def test_networks_that_fold_to_one_share_their_measures():
    shared_complexity.cache_clear()
    shared_measures.cache_clear()
    models = [
        fully_connected(1, 8, init="HN", **options)
        for options in ({}, {"batch_norm": True}, {"dropout": 0.2}, {"batch_norm": True, "dropout": 0.5})
    ]
    found = {id(shared_measures(model, (8, 8, 1), 10, MEASURE).complexity) for model in models}
    assert len(found) == 1


def test_operator_norms_see_the_stride_and_the_image():
    """A 3 x 3 convolution as a map between images is not its matrix (kh kw in, out)."""
    narrow = cnn(1, 3, init="HN")
    params, _ = build(narrow, input_shape=(8, 8, 1), num_outputs=10).init(jax.random.key(0))
    by_matrix = log_spectral_norm(layer_weights(narrow, params))
    assert log_operator_norm(narrow, params, (8, 8, 1)) > by_matrix


def curve(sharp):
    alphas = jnp.array([0.1, 0.2, 0.4])
    return SharpnessKL(alphas, 1 / alphas**2, Estimate(jnp.array(sharp), jnp.zeros(3)))


def test_kl_at_a_sharpness_is_read_off_between_two_alphas():
    # Sharpness 0.4 alpha^2: 0.05 is at alpha^2 = 0.125, KL = 8.
    assert kl_at_sharpness(curve([0.004, 0.016, 0.064]), 0.05) == pytest.approx(np.log(8), rel=1e-5)
    assert kl_at_sharpness(curve([0.1, 0.2, 0.4]), 0.05) is None
    assert kl_at_sharpness(curve([0.01, 0.02, 0.04]), 0.05) is None
    assert kl_at_sharpness(curve([0.0, 0.2, 0.4]), 0.05) is None
    assert kl_at_sharpness(curve([0.01, np.nan, 0.4]), 0.05) is None


def test_unusable_settings_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"label_noise=1\.5.*from 0 to 1"):
        DataConfig(label_noise=1.5)
    with pytest.raises(InputError, match="num_confused=-1"):
        DataConfig(num_confused=-1)
    with pytest.raises(InputError, match=r"alphas=.*rising"):
        ComplexityConfig(alphas=(0.1, 0.01))
    with pytest.raises(InputError, match="num_perturbations"):
        ComplexityConfig(num_perturbations=10)
    regression = Cell(
        "net",
        MODEL,
        DataConfig("diabetes", num_train=20),
        TrainConfig(loss="mse", max_epochs=1),
        MeasureConfig(complexity=COMPLEXITY),
    )
    with pytest.raises(InputError, match="complexity measures on the regression data"):
        run_sweep((regression,), SweepConfig("test", tmp_path))
    shortcuts = Cell("net", resnet(18, 0.125), DATA, TRAIN, MeasureConfig(complexity=COMPLEXITY))
    with pytest.raises(InputError, match="with shortcuts"):
        run_sweep((shortcuts,), SweepConfig("test", tmp_path))
    conditions = Cell("net", cnn(1, 2), DATA, TRAIN, MeasureConfig(condition_examples=5))
    with pytest.raises(InputError, match="a fully-connected network of relu"):
        run_sweep((conditions,), SweepConfig("test", tmp_path))


@pytest.mark.slow
def test_members_on_a_mesh_and_from_a_file_share_their_programs(trained):
    """A kept network lies on one device, one trained now on a mesh of them."""
    _, member, _ = trained
    config, params, _ = without_batch_norm(MODEL, member.params, member.state)
    data = prepare_data(DataConfig("digits", num_train=20, num_test=20))
    small = dataclasses.replace(COMPLEXITY, sharpness_steps=1, num_evaluations=2)
    programs = shared_complexity(config, (8, 8, 1), 10, small)
    mesh = jax.make_mesh((2,), ("members",), devices=jax.devices()[:2])
    spread = jax.device_put(params, jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec()))
    found = [complexity_measures(programs, p, data, small, jax.random.key(0)) for p in (params, spread)]
    assert found[0]["log_l2_plotted"] == found[1]["log_l2_plotted"]
    assert found[0]["sharpness"] == pytest.approx(found[1]["sharpness"], rel=1e-4)
