"""Which module of a state dict is which layer: orders that are taken, and those that are refused."""

import dataclasses
import sys

import jax
import numpy as np
import pytest
from torch_models import (
    CNN,
    CNN_SHAPE,
    RESNET,
    Weights,
    assert_close,
    cnn_in_numpy,
    cnn_weights,
    he,
    images,
    mlp_in_numpy,
    mlp_weights,
    network,
    outputs,
    resnet_weights,
)

from jaxsens.adapters import from_torch
from jaxsens.checks import InputError
from jaxsens.models import fully_connected, resnet
from jaxsens.models.layers import AveragePool, Conv, Dense, Flatten, MaxPool, Residual


def in_order(arrays, *modules):
    """The state dict with its modules in this order, or in the opposite one."""
    if not modules:
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))[::-1]
    return {name: array for m in modules for name, array in arrays.items() if name.rpartition(".")[0] == m}


def same(first, second):
    return all(
        np.array_equal(a, b)
        for a, b in zip(jax.tree.leaves(first.params), jax.tree.leaves(second.params), strict=True)
    )


class TestMatching:
    """Orders that names or the state dict decide, and those that nothing does."""

    def taken(self, arrays, config=None, **options):
        config, shape = (fully_connected(3, 5), (12,)) if config is None else (config, CNN_SHAPE)
        return from_torch(arrays, config, input_shape=shape, num_outputs=3, **options)

    def test_a_sorted_state_dict_is_read_by_numbers(self):
        """features.10 stands before features.3 there; all three convolutions but the first have one shape."""
        arrays = cnn_weights()
        assert same(self.taken(dict(sorted(arrays.items())), CNN), self.taken(arrays, CNN))

    def test_layers_apart_from_their_batch_norm(self):
        """All convolutions, then all batch normalisations: numbers still tell."""
        arrays = cnn_weights()
        names = {"features.0": "convs.0", "features.3": "convs.1", "features.10": "convs.2"}
        names |= {"features.1": "norms.0", "features.4": "norms.1", "features.11": "norms.2"}
        names |= {"classifier.1": "one", "classifier.2": "norm", "classifier.5": "two"}
        renamed = {f"{names[n.rpartition('.')[0]]}.{n.rpartition('.')[2]}": a for n, a in arrays.items()}
        order = [f"{kind}.{i}" for kind in ("convs", "norms") for i in range(3)] + ["one", "norm", "two"]
        assert same(self.taken(in_order(renamed, *order), CNN), self.taken(arrays, CNN))
        assert same(self.taken(dict(sorted(renamed.items())), CNN), self.taken(arrays, CNN))

    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    def test_shortcuts_stand_before_or_after_the_branch(self, stem):
        arrays = resnet_weights(stem=stem)
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in arrays))
        first = sorted(
            modules, key=lambda m: (m[:8] if m.startswith("layer") else m[:0], "downsample" not in m)
        )
        first = ["conv1", "bn1", *(m for m in first if m.startswith("layer")), "fc"]
        assert first != modules
        expected = from_torch(arrays, he(stem), **RESNET)
        assert same(from_torch(in_order(arrays, *first), he(stem), **RESNET), expected)
        assert same(from_torch({f"module.{n}": a for n, a in arrays.items()}, he(stem), **RESNET), expected)

    def test_words_are_read_in_the_order_of_the_state_dict(self):
        words = ("embed", "up", "down", "out")
        arrays, xs = mlp_weights(names=words), images(4, 12)
        assert_close(outputs(self.taken(arrays), xs), mlp_in_numpy(arrays, xs, words))

    def test_words_of_a_sorted_state_dict_are_refused(self):
        """down before up, though the network calls up first."""
        words = ("embed", "up", "down", "out")
        arrays = mlp_weights(names=words)
        with pytest.raises(
            InputError, match=r"modules '(up|down)' and '(up|down)', either.*weight \(5, 5\).*names="
        ):
            self.taken(dict(sorted(arrays.items())))
        named = self.taken(dict(sorted(arrays.items())), names=words)
        assert same(named, self.taken(arrays))

    def test_an_order_against_the_numbers_is_refused(self):
        arrays = mlp_weights()
        with pytest.raises(InputError, match=r"'2' after '4'.*order of the numbers"):
            self.taken(in_order(arrays, "0", "4", "2", "6"))
        assert same(
            self.taken(in_order(arrays, "0", "4", "2", "6"), names=("0", "2", "4", "6")), self.taken(arrays)
        )

    def test_a_batch_norm_of_another_parent_is_not_taken_for_its_neighbour(self):
        """Normalisation before each convolution, in the same shapes and the same order of kinds."""
        weights = Weights()
        weights.conv("stem", 4, 4, 3, bias=False)
        for block in range(2):
            weights.norm(f"{block}.bn", 4)
            weights.conv(f"{block}.conv", 4, 4, 3, bias=False)
        weights.norm("last", 4)
        weights.linear("head", 4, 3)
        conv = Conv(4, 3, 1, 1, batch_norm=True, use_bias=False)
        config = network(conv, Residual((conv,)), Residual((conv,)), AveragePool(None))
        with pytest.raises(InputError, match="either of which could be"):
            from_torch(weights.arrays, config, input_shape=(4, 4, 4), num_outputs=3)

    def test_flat_names_of_shortcuts_need_an_order(self):
        """bn3 could be that of conv2 as far as shapes go; bn_skip that of conv1."""
        weights = Weights()
        for name, kernel in (("1", 3), ("2", 3), ("_skip", 1)):
            weights.conv(f"conv{name}", 4, 4, kernel, bias=False)
            weights.norm(f"bn{name}", 4)
        weights.linear("fc", 4, 3)
        conv = Conv(4, 3, 1, 1, batch_norm=True, use_bias=False)
        skip = dataclasses.replace(conv, kernel=1, padding=0)
        config, options = network(Residual((conv, conv), (skip,)), AveragePool(None)), {"num_outputs": 3}
        expected = from_torch(weights.arrays, config, input_shape=(4, 4, 4), **options)
        assert expected.params["body"]["layers"][0]["shortcut"]["layers"][0]["norm"]["scale"].shape == (4,)
        np.testing.assert_array_equal(
            expected.params["body"]["layers"][0]["shortcut"]["layers"][0]["norm"]["scale"][...],
            weights.arrays["bn_skip.weight"],
        )
        with pytest.raises(InputError, match="either of which could be the batch norm"):
            from_torch(dict(sorted(weights.arrays.items())), config, input_shape=(4, 4, 4), **options)

    def test_names_may_leave_modules_out(self):
        weights = Weights()
        weights.arrays = mlp_weights()
        weights.linear("auxiliary", 5, 3)
        with pytest.raises(InputError, match=r"module auxiliary, linear of weight \(3, 5\)"):
            self.taken(weights.arrays)
        assert same(self.taken(weights.arrays, names=("0", "2", "4", "6")), self.taken(mlp_weights()))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (("0", "2", "4"), "3 names; expected 4 different names"),
            (("0", "2", "2", "6"), "4 names; expected 4 different names"),
            (("0", "2", "4", "head"), "among them 'head'"),
            (
                ("2", "0", "4", "6"),
                r"module 2, linear of weight \(5, 5\); expected linear of weight \(5, 12\)",
            ),
        ],
    )
    def test_wrong_names_are_refused(self, names, message):
        with pytest.raises(InputError, match=message):
            self.taken(mlp_weights(), names=names)


class TestRefusals:
    """The first thing that does not fit, with its name and shape."""

    @pytest.mark.parametrize(
        ("arrays", "config", "message"),
        [
            (
                resnet_weights(stem="imagenet"),
                he("cifar"),
                r"got the module conv1, convolution of weight \(2, 3, 7, 7\) without bias; "
                r"expected convolution of weight \(2, 3, 3, 3\) without bias for body.layers.0.linear",
            ),
            (
                resnet_weights(stem="cifar"),
                resnet(18, 1 / 32, block="usual"),
                r"20 x convolution, 20 x batch norm, 1 x linear and no more; "
                r"expected convolution of weight \(2, 2, 1, 1\) without bias for body.layers.1.shortcut",
            ),
            (
                {name: a for name, a in resnet_weights(stem="cifar").items() if "layer4.1" not in name},
                he("cifar"),
                r"18 x convolution.*expected convolution of weight \(16, 16, 3, 3\)",
            ),
            (
                {n: a for n, a in resnet_weights(stem="cifar").items() if n != "fc.bias"},
                he("cifar"),
                r"fc, linear of weight \(10, 16\) without bias; expected .* \(10, 16\) for head",
            ),
            ({}, he("cifar"), "state dict of nothing"),
        ],
    )
    def test_another_architecture(self, arrays, config, message):
        with pytest.raises(InputError, match=message):
            from_torch(arrays, config, **RESNET)

    def test_a_convolution_that_has_a_bias_or_none(self):
        with pytest.raises(
            InputError, match=r"features.0, convolution of weight \(4, 2, 3, 3\) without bias; .*use_bias"
        ):
            from_torch(cnn_weights(conv_bias=False), CNN, input_shape=CNN_SHAPE, num_outputs=3)

    @pytest.mark.parametrize(
        ("name", "arrays"),
        [
            ("norm", {"weight": np.ones(3), "bias": np.ones(3)}),  # A layer norm, or no running statistics.
            ("norm", {"running_mean": np.ones(3), "running_var": np.ones(3)}),  # affine=False
            ("conv", {"weight_g": np.ones(3), "weight_v": np.ones((3, 2))}),
            ("conv", {"weight": np.ones((3, 2, 5))}),
            ("lstm", {"weight_ih_l0": np.ones((3, 2))}),
        ],
    )
    def test_other_modules(self, name, arrays):
        given = mlp_weights() | {f"{name}.{suffix}": array for suffix, array in arrays.items()}
        with pytest.raises(InputError, match=f"the module '{name}' with {next(iter(arrays))} "):
            from_torch(given, fully_connected(3, 5), input_shape=(12,), num_outputs=3)

    @pytest.mark.parametrize(
        ("entry", "message"),
        [
            ({"0.weight": np.full((5, 12), np.nan, np.float32)}, r"NaN or infinity in source\['0.weight'\]"),
            ({"0.weight": np.full((5, 12), 1e300)}, "NaN or infinity"),
            ({"0.weight": np.ones((5, 12), np.int8)}, "'0.weight' of type ndarray, dtype int8"),
            ({"state_dict": mlp_weights()}, "'state_dict' of type dict.*state dict alone"),
            ({"epoch": 3}, "'epoch' of type int"),
        ],
    )
    def test_what_is_no_array_of_weights(self, entry, message):
        with pytest.raises(InputError, match=message):
            from_torch(mlp_weights() | entry, fully_connected(3, 5), input_shape=(12,), num_outputs=3)

    def test_variances_below_zero(self):
        arrays = cnn_weights()
        arrays["features.1.running_var"][0] = -1
        with pytest.raises(InputError, match=r"running variance of -1 in features.1"):
            from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3)
        arrays["features.1.running_var"][0] = 0
        from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3)
        with pytest.raises(InputError, match=r"eps 1e-06; expected variances"):
            from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3, batch_norm_epsilon=1e-6)
        with pytest.raises(InputError, match="batch_norm_epsilon=0"):
            from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3, batch_norm_epsilon=0.0)

    def test_files_of_another_kind(self, tmp_path):
        with pytest.raises(InputError, match=r"model.pt; expected a .safetensors or an .npz file"):
            from_torch(tmp_path / "model.pt", fully_connected(3, 5), input_shape=(12,), num_outputs=3)

    def test_a_shortcut_around_a_flattened_image(self):
        config = network(Flatten(), Residual((Dense(12),)))
        with pytest.raises(InputError, match="shortcut around a flattened image"):
            from_torch(mlp_weights(), config, input_shape=(2, 2, 3), num_outputs=3)

    def test_a_reference_that_agrees_and_others(self):
        """Shapes do not show a pool of another kind, nor an activation at another place."""
        arrays, xs = cnn_weights(), images(4, 2, 6, 4)
        logits = cnn_in_numpy(arrays, xs)

        def taken(config, reference):
            return from_torch(arrays, config, input_shape=CNN_SHAPE, num_outputs=3, reference=reference)

        taken(CNN, (xs, logits))
        averaging = dataclasses.replace(
            CNN, layers=tuple(AveragePool(2) if layer == MaxPool(2) else layer for layer in CNN.layers)
        )
        with pytest.raises(InputError, match=r"logits that differ from the reference's by .* of the largest"):
            taken(averaging, (xs, logits))
        with pytest.raises(
            InputError, match=r"inputs of shape \(4, 6, 4, 2\).*expected shapes \(n, 2, 6, 4\)"
        ):
            taken(CNN, (np.moveaxis(xs, 1, -1), logits))
        with pytest.raises(InputError, match=r"'logits' of type ndarray, dtype int64"):
            taken(CNN, (xs, logits.argmax(axis=1)))

    def test_a_missing_safetensors_is_named(self, monkeypatch, tmp_path):
        monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
        with pytest.raises(
            InputError, match=r"safetensors beside jaxsens; pip install 'jaxsens\[adapters\]'"
        ):
            from_torch(tmp_path / "w.safetensors", CNN, input_shape=CNN_SHAPE, num_outputs=3)
