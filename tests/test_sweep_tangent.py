"""The columns of papers B and C: each is the public measure of the member trained alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.checks import InputError
from jaxsens.metrics import (
    activation_pattern,
    active_counts,
    fisher_rao_norm,
    input_jacobian_norm,
    log_active_path_bound,
    log_empirical_tangent_sensitivity,
    log_layerwise_norm,
    log_psi_star,
    log_region_bound,
    log_spectral_product,
    log_tangent_norm_bound,
    mlp_preactivations,
    relu_mlp_tangent_sensitivity,
)
from jaxsens.models import build, cnn, fully_connected, perceptron
from jaxsens.sweep import Cell, DataConfig, MeasureConfig, SweepConfig, run_sweep
from jaxsens.sweep.run import prepare_data
from jaxsens.table import text_to_counts
from jaxsens.train import TrainConfig, make_train

DATA = DataConfig("digits", num_train=90, num_test=110, inputs="standard")
TRAIN = TrainConfig("sgd", learning_rate=0.1, batch_size=32, max_epochs=3)
MEASURE = MeasureConfig(
    derivative_examples=20, output_sensitivity=False, tangent_examples=30, snapshots=(0, 2)
)
GRID = tuple(
    Cell(f"net{index}", model, DATA, TRAIN, MEASURE, seeds=2)
    for index, model in enumerate(
        (fully_connected(2, 12, init="FU"), fully_connected(3, 9, batch_norm=True, dropout=0.3, init="FU"))
    )
)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(GRID[0], id="plain"),
        pytest.param(GRID[1], id="regularised", marks=pytest.mark.slow),
    ],
)
def swept(request, tmp_path_factory):
    """A cell and its table."""
    config = SweepConfig("test", tmp_path_factory.mktemp("sweep"), num_devices=1)
    return request.param, run_sweep((request.param,), config)


def wanted(weights, biases, data):
    """Every column from the public measures, not compiled and with no chunks."""
    values = {
        "num_weights": sum(w.size for w in weights),
        "num_hidden_units": sum(b.size for b in biases[:-1]),
        "largest_weight": max(float(jnp.abs(w).max()) for w in weights),
        "log_tangent_norm_bound": log_tangent_norm_bound(weights),
        "log_layerwise_norm": log_layerwise_norm(weights),
        "log_spectral_product": log_spectral_product(weights),
    }
    depth = len(weights)

    def f(params, x):
        hidden = x.reshape(-1)
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            hidden = jax.nn.relu(hidden @ weight + bias)
        return hidden @ weights[-1] + biases[-1]

    for split, xs in (("train", data.x_train), ("test", data.x_test)):
        xs = jnp.asarray(xs)
        some, total = xs[:30], active_counts(mlp_preactivations(weights, biases, xs)).total
        mean, std = float(np.mean(total)), float(np.std(total))
        sensitivities = relu_mlp_tangent_sensitivity(weights, biases, some)
        preactivations = mlp_preactivations(weights, biases, some)
        outputs = jax.vmap(lambda x: f(None, x))(xs)
        values |= {
            f"tangent_sensitivity_{split}": sensitivities.mean(),
            f"tangent_sensitivity_all_{split}": relu_mlp_tangent_sensitivity(
                weights, biases, some, outputs="all"
            ).mean(),
            f"log_empirical_soft_{split}": log_empirical_tangent_sensitivity(
                sensitivities, preactivations, weighting="soft"
            ),
            f"active_mean_{split}": mean,
            f"active_std_{split}": std,
            f"log_psi_star_{split}": log_psi_star(depth, mean, std),
            f"jacobian_norm_{split}": input_jacobian_norm(f, None, some).mean(),
            f"fisher_rao_norm_{split}": fisher_rao_norm(outputs),
        }
    sizes = (values["num_weights"], 64, depth, mean, std, values["largest_weight"])
    return values | {
        "log_region_bound": log_region_bound(weights, activation_pattern(preactivations)),
        "log_active_path_bound": log_active_path_bound(*sizes, num_outputs=10),
        "log_active_path_bound_as_printed": log_active_path_bound(*sizes, variant="as_printed"),
    }


def test_columns_are_the_measures_of_each_member(swept):
    cell, table = swept
    data = prepare_data(DATA)
    network = build(cell.model, input_shape=(8, 8, 1), num_outputs=10)
    xs, ys = jnp.asarray(data.x_train), jnp.asarray(data.y_train)
    training = make_train(TRAIN, network.init, network.apply)
    start, advance = jax.jit(training.start), jax.jit(training.advance)
    for seed in range(2):
        rows = table.where(cell=cell.name, seed=seed).rows()
        assert [row["snapshot"] for row in rows] == [0, 2, None]
        for row, epochs in zip(rows, (0, 2, 3), strict=True):
            member = advance(start(jax.random.key(seed)), xs, ys, epochs)
            with jax.default_matmul_precision("highest"):
                numbers = wanted(*perceptron(cell.model, member.params, member.state), data)
            for name, number in numbers.items():
                np.testing.assert_allclose(row[name], number, rtol=2e-4, err_msg=f"{name} at {epochs}")


def test_histograms_are_of_all_examples(swept):
    for row in swept[1].rows():
        for split, examples in (("train", 90), ("test", 110)):
            values, counts = text_to_counts(row[f"active_counts_{split}"])
            assert counts.sum() == examples
            assert 0 <= values.min() <= values.max() <= row["num_hidden_units"]
            np.testing.assert_allclose(counts @ values / examples, row[f"active_mean_{split}"])


def test_output_sensitivity_is_left_out_where_told(swept, tmp_path):
    """And nothing else changes by that: the other numbers are those beside S."""
    cell, table = swept
    assert "sensitivity_after" not in table.columns
    assert "temperature" not in table.columns
    assert "predicted_loss" not in table.columns
    measure = dataclasses.replace(MEASURE, output_sensitivity=True, snapshots=())
    both = run_sweep(
        (dataclasses.replace(cell, measure=measure),), SweepConfig("test", tmp_path, num_devices=1)
    )
    assert (both.column("sensitivity_after") > 0).all()
    end = table.where(snapshot=None)
    for name in end.columns:
        if not name.endswith("_seconds"):
            assert end.arrow[name].to_pylist() == both.arrow[name].to_pylist(), name


def test_without_tangent_examples_there_are_no_such_columns(tmp_path):
    measure = dataclasses.replace(MEASURE, tangent_examples=0, snapshots=())
    plain = run_sweep(
        (dataclasses.replace(GRID[0], measure=measure),), SweepConfig("test", tmp_path, num_devices=1)
    )
    assert not [name for name in plain.columns if "tangent" in name or "active" in name]


def test_networks_that_are_no_perceptrons_are_refused_before_training(tmp_path):
    cells = (GRID[0], Cell("cnn", cnn(1, 2), DATA, TRAIN, MEASURE, seeds=1))
    with pytest.raises(InputError, match="got cnn-1x2-sn with Conv"):
        run_sweep(cells, SweepConfig("test", tmp_path, num_devices=1))
    assert not list(tmp_path.glob("cells/*.parquet"))
    with pytest.raises(InputError, match="tangent_examples=-1"):
        MeasureConfig(tangent_examples=-1)
