"""Weights of PyTorch land in their own layers: against PyTorch, and against NumPy in its layout."""

import dataclasses
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from jaxsens.adapters import from_torch
from jaxsens.adapters.torch_layers import layer_slots
from jaxsens.checks import InputError
from jaxsens.metrics import output_sensitivity, tangent_sensitivity
from jaxsens.models import ModelConfig, build, cnn, fully_connected, resnet, vgg
from jaxsens.models.layers import (
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    OverlappingMaxPool,
    Residual,
    output_shape,
)


def network(*layers):
    return ModelConfig("network", "network", 1, layers, 1)


class Weights:
    """A state dict under construction: random arrays under the names of modules, in PyTorch's layouts."""

    def __init__(self, seed=0):
        self.rng, self.arrays = np.random.default_rng(seed), {}

    def draw(self, *shape):
        return self.rng.normal(size=shape).astype(np.float32) / max(1, np.prod(shape[1:])) ** 0.5

    def linear(self, name, inputs, outputs):
        self.arrays |= {f"{name}.weight": self.draw(outputs, inputs), f"{name}.bias": self.draw(outputs)}

    def conv(self, name, inputs, outputs, kernel, bias=True):
        self.arrays[f"{name}.weight"] = self.draw(outputs, inputs, kernel, kernel)
        if bias:
            self.arrays[f"{name}.bias"] = self.draw(outputs)

    def norm(self, name, channels):
        self.arrays |= {
            f"{name}.weight": 1 + self.draw(channels) / 2,
            f"{name}.bias": self.draw(channels),
            f"{name}.running_mean": self.draw(channels),
            f"{name}.running_var": self.draw(channels) ** 2 + 0.5,
            f"{name}.num_batches_tracked": np.array(7),
        }


class InNumPy:
    """PyTorch's modules in evaluation mode, on (n, C, H, W) in float64: the oracle."""

    def __init__(self, arrays, eps=1e-5):
        self.arrays, self.eps = {name: np.asarray(a, np.float64) for name, a in arrays.items()}, eps

    def linear(self, name, xs):
        return xs @ self.arrays[f"{name}.weight"].T + self.arrays[f"{name}.bias"]

    def conv(self, name, xs, stride=1, padding=0):
        kernel = self.arrays[f"{name}.weight"]
        xs = np.pad(xs, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = np.lib.stride_tricks.sliding_window_view(xs, kernel.shape[2:], axis=(2, 3))
        ys = np.einsum("nchwij,ocij->nohw", windows[:, :, ::stride, ::stride], kernel)
        return ys + self.arrays.get(f"{name}.bias", np.zeros(len(kernel)))[:, None, None]

    def norm(self, name, xs):
        scale, shift, mean, var = (
            self.arrays[f"{name}.{part}"].reshape(-1, *[1] * (xs.ndim - 2))
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        return (xs - mean) / np.sqrt(var + self.eps) * scale + shift

    def max_pool(self, xs, size, stride=None, padding=0):
        pads = ((0, 0), (0, 0), (padding, padding), (padding, padding))
        xs = np.pad(xs, pads, constant_values=-np.inf)
        windows = np.lib.stride_tricks.sliding_window_view(xs, (size, size), axis=(2, 3))
        return windows[:, :, :: stride or size, :: stride or size].max(axis=(4, 5))


def relu(xs):
    return np.maximum(xs, 0)


def assert_close(ours, theirs, tolerance=1e-5):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance * np.abs(theirs).max())


def images(*shape, seed=1):
    """In PyTorch's layout, not around 0, so that pooling and padding show."""
    return (np.random.default_rng(seed).normal(size=shape) + 0.5).astype(np.float32)


def outputs(adapted, xs):
    """Of f, for inputs in PyTorch's layout."""
    return jax.jit(jax.vmap(adapted.f, in_axes=(None, 0)))(
        adapted.params, jnp.asarray(np.moveaxis(xs, 1, -1))
    )


def mlp_weights(sizes=(12, 5, 5, 5, 3), names=("0", "2", "4", "6")):
    weights = Weights()
    for name, inputs, units in zip(names, sizes, sizes[1:], strict=False):
        weights.linear(name, inputs, units)
    return weights.arrays


def mlp_in_numpy(arrays, xs, names=("0", "2", "4", "6")):
    own, xs = InNumPy(arrays), xs.reshape(len(xs), -1)
    for name in names[:-1]:
        xs = relu(own.linear(name, xs))
    return own.linear(names[-1], xs)


def cnn_weights(conv_bias=True):
    """features.0 ... features.11, classifier: numbers of one digit and of two."""
    weights = Weights()
    for number, (inputs, channels) in {0: (2, 4), 3: (4, 4), 10: (4, 4)}.items():
        weights.conv(f"features.{number}", inputs, channels, 3, conv_bias)
        weights.norm(f"features.{number + 1}", channels)
    weights.linear("classifier.1", 4 * 3 * 2, 6)
    weights.norm("classifier.2", 6)
    weights.linear("classifier.5", 6, 3)
    return weights.arrays


CNN = network(
    *(Conv(4, 3, 1, 1, batch_norm=True),) * 3, MaxPool(2), Dropout(0.5), Flatten(), Dense(6, batch_norm=True)
)
CNN_SHAPE = (6, 4, 2)  # As f takes it: not square, so that a transposed image shows.


def cnn_in_numpy(arrays, xs, eps=1e-5):
    own = InNumPy(arrays, eps)
    for number in (0, 3, 10):
        xs = relu(own.norm(f"features.{number + 1}", own.conv(f"features.{number}", xs, padding=1)))
    xs = own.max_pool(xs, 2).reshape(len(xs), -1)
    xs = relu(own.norm("classifier.2", own.linear("classifier.1", xs)))
    return own.linear("classifier.5", xs)


CHANNELS = (2, 2, 4, 8, 16)


def resnet_weights(*, stem, rename=lambda name: name, blocks=2):
    """The names and shapes of torchvision's ResNet18, 1/32 as wide."""
    weights = Weights()
    weights.conv("conv1", 3, 2, 7 if stem == "imagenet" else 3, bias=False)
    weights.norm("bn1", 2)
    for stage in range(1, 5):
        for block in range(blocks):
            name, before = f"layer{stage}.{block}", CHANNELS[stage - (block == 0)]
            for number, inputs in ((1, before), (2, CHANNELS[stage])):
                weights.conv(f"{name}.conv{number}", inputs, CHANNELS[stage], 3, bias=False)
                weights.norm(f"{name}.bn{number}", CHANNELS[stage])
            if before != CHANNELS[stage]:
                weights.conv(f"{name}.downsample.0", before, CHANNELS[stage], 1, bias=False)
                weights.norm(f"{name}.downsample.1", CHANNELS[stage])
    weights.linear("fc", 16, 10)
    return {rename(name): array for name, array in weights.arrays.items()}


def resnet_in_numpy(arrays, xs, *, stem):
    own = InNumPy(arrays)
    xs = relu(own.norm("bn1", own.conv("conv1", xs, *((2, 3) if stem == "imagenet" else (1, 1)))))
    xs = own.max_pool(xs, 3, 2, 1) if stem == "imagenet" else xs
    for stage in range(1, 5):
        for block in range(2):
            name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            ys = relu(own.norm(f"{name}.bn1", own.conv(f"{name}.conv1", xs, stride, 1)))
            ys = own.norm(f"{name}.bn2", own.conv(f"{name}.conv2", ys, 1, 1))
            if f"{name}.downsample.0.weight" in arrays:
                xs = own.norm(f"{name}.downsample.1", own.conv(f"{name}.downsample.0", xs, stride))
            xs = relu(xs + ys)
    return own.linear("fc", xs.mean(axis=(2, 3)))


def he(stem="cifar"):
    return resnet(18, 1 / 32, block="usual", shortcut="identity", stem=stem)


RESNET = {"input_shape": (16, 16, 3), "num_outputs": 10}


def as_given(arrays, how, folder):
    """The state dict as a mapping, or as the path of a file."""
    if how == "mapping":
        return arrays
    if how == "npz":
        np.savez(folder / "weights.npz", **arrays)
    else:
        safetensors.numpy.save_file(arrays, folder / "weights.safetensors")
    return folder / f"weights.{how}"


SOURCES = pytest.mark.parametrize("how", ["mapping", "npz", "safetensors"])


class TestValues:
    """Against the oracle, from each kind of source."""

    @SOURCES
    def test_perceptrons_and_the_order_of_pixels(self, how, tmp_path):
        arrays, xs = mlp_weights(), images(4, 2, 3, 2)
        given, own = as_given(arrays, how, tmp_path), mlp_in_numpy(arrays, xs)
        adapted = from_torch(given, fully_connected(3, 5), input_shape=(3, 2, 2), num_outputs=3)
        assert_close(outputs(adapted, xs), own)
        flat = from_torch(given, fully_connected(3, 5), input_shape=(12,), num_outputs=3)
        assert_close(outputs(flat, xs.reshape(4, 12)), own)

    @SOURCES
    def test_convolutions_batch_norm_and_the_first_dense_layer(self, how, tmp_path):
        arrays, xs = cnn_weights(), images(4, 2, 6, 4)
        adapted = from_torch(as_given(arrays, how, tmp_path), CNN, input_shape=CNN_SHAPE, num_outputs=3)
        assert_close(outputs(adapted, xs), cnn_in_numpy(arrays, xs))
        assert_close(
            adapted.f(adapted.params, jnp.asarray(np.moveaxis(xs, 1, -1)[0])), cnn_in_numpy(arrays, xs)[0]
        )

    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    @SOURCES
    def test_the_usual_resnet(self, how, stem, tmp_path):
        arrays, xs = resnet_weights(stem=stem), images(2, 3, 16, 16)
        adapted = from_torch(as_given(arrays, how, tmp_path), he(stem), **RESNET)
        assert_close(outputs(adapted, xs), resnet_in_numpy(arrays, xs, stem=stem))

    def test_the_last_layer_after_images(self):
        """Without Flatten in the configuration; an odd size, whose border the pool drops."""
        weights, xs = Weights(), images(3, 2, 5, 7)
        weights.conv("conv", 2, 4, 2)
        weights.linear("fc", 4 * 2 * 3, 3)
        own = InNumPy(weights.arrays)
        theirs = own.linear("fc", own.max_pool(relu(own.conv("conv", xs)), 2).reshape(3, -1))
        config = network(Conv(4, 2), MaxPool(2))
        assert_close(
            outputs(from_torch(weights.arrays, config, input_shape=(5, 7, 2), num_outputs=3), xs), theirs
        )

    @pytest.mark.parametrize("eps", [1e-3, 1e-5, 1e-8])
    def test_another_eps(self, eps):
        arrays, xs = cnn_weights(), images(4, 2, 6, 4)
        arrays = {name: a / 1e3 if name.endswith("var") else a for name, a in arrays.items()}
        adapted = from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3, batch_norm_epsilon=eps)
        assert_close(outputs(adapted, xs), cnn_in_numpy(arrays, xs, eps))

    def test_double_precision(self, x64):
        arrays, xs = cnn_weights(), images(4, 2, 6, 4).astype(np.float64)
        arrays = {name: np.asarray(a, np.float64) for name, a in arrays.items()}
        adapted = from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3)
        assert_close(outputs(adapted, xs), cnn_in_numpy(arrays, xs), 1e-12)

    def test_half_precision_is_widened(self):
        arrays, xs = {name: a.astype(jnp.bfloat16) for name, a in mlp_weights().items()}, images(4, 12)
        adapted = from_torch(arrays, fully_connected(3, 5), input_shape=(12,), num_outputs=3)
        assert {leaf.dtype for leaf in jax.tree.leaves(adapted.params)} == {jnp.dtype("float32")}
        assert_close(outputs(adapted, xs), mlp_in_numpy(arrays, xs))

    @pytest.mark.parametrize(
        ("config", "shape"),
        [
            (fully_connected(2, 5, batch_norm=True, dropout=0.5), (4, 3, 2)),
            (cnn(2, 3, batch_norm=True, max_pool=True), (10, 10, 3)),
            (vgg(11, 1 / 32), (32, 32, 3)),
            (resnet(18, 1 / 32, block="usual"), (16, 16, 3)),
            (he("imagenet"), (32, 32, 3)),
            (network(Flatten(), Dropout(0.5), Residual((Dense(12, batch_norm=True),))), (1, 1, 12)),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_every_layer_of_the_zoo_has_its_place(self, config, shape):
        """Each entry of the state dict is an entry of the parameters, but for the running statistics."""
        rng, arrays = np.random.default_rng(0), {}
        for slot in layer_slots(config, shape, 3):
            name = ".".join(map(str, slot.place))
            arrays |= {
                f"{name}.{suffix}": rng.random(size, np.float32) for suffix, size in slot.shapes.items()
            }
        _, params = from_torch(arrays, config, input_shape=shape, num_outputs=3)
        expected = jax.eval_shape(build(config, input_shape=shape, num_outputs=3).init, jax.random.key(0))[0]
        assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
        given = [array.ravel() for name, array in arrays.items() if "running" not in name]
        taken = [np.asarray(leaf).ravel() for leaf in jax.tree.leaves(params)]
        np.testing.assert_array_equal(*(np.sort(np.concatenate(entries)) for entries in (given, taken)))

    def test_measures_and_second_derivatives(self):
        arrays = cnn_weights()
        f, params = from_torch(arrays, CNN, input_shape=CNN_SHAPE, num_outputs=3)
        xs = jnp.asarray(np.moveaxis(images(2, 2, 6, 4), 1, -1))

        def oracle(_, x):
            def call(x):
                return cnn_in_numpy(arrays, np.moveaxis(np.asarray(x), -1, 0)[None])[0].astype(np.float32)

            return jax.pure_callback(
                call, jax.ShapeDtypeStruct((3,), jnp.float32), x, vmap_method="sequential"
            )

        def definition(x):
            rows = jax.jacfwd(jax.grad(lambda params, x: jnp.sum(f(params, x))), argnums=1)(params, x)
            return sum(jnp.sum(row**2) for row in jax.tree.leaves(rows))

        @jax.jit
        def measured(params, xs):
            sensitivities = [
                output_sensitivity(g, params, xs, key=jax.random.key(0)).value for g in (f, oracle)
            ]
            return sensitivities, tangent_sensitivity(f, params, xs), jax.vmap(definition)(xs)

        (ours, own), norms, dense = measured(params, xs)
        np.testing.assert_allclose(ours, own, rtol=1e-3)  # Differences of outputs, rounded.
        np.testing.assert_allclose(norms, dense, rtol=1e-4)


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


class TestLayers:
    """What torchvision's ResNet needs of our layers."""

    def test_overlapping_windows_are_those_of_the_oracle(self):
        config = network(OverlappingMaxPool(3, 2, 1), OverlappingMaxPool(2, 1, 0))
        shape = output_shape(config.layers, (7, 10, 2))
        xs = images(2, 2, 7, 10)
        own = InNumPy({})
        pooled = own.max_pool(own.max_pool(xs, 3, 2, 1), 2, 1)
        assert pooled.shape[2:] == shape[:2]
        weights = Weights()
        weights.linear("fc", pooled[0].size, 3)
        theirs = InNumPy(weights.arrays).linear("fc", pooled.reshape(2, -1))
        assert_close(
            outputs(from_torch(weights.arrays, config, input_shape=(7, 10, 2), num_outputs=3), xs), theirs
        )

    def test_windows_beyond_the_image_are_refused(self):
        with pytest.raises(InputError, match="padding of at most half the size"):
            output_shape((OverlappingMaxPool(3, 2, 2),), (8, 8, 1))

    def test_where_the_usual_resnet_has_convolutions_in_its_shortcuts(self):
        config = resnet(34, 1, block="usual", shortcut="identity", stem="imagenet")
        blocks = [layer for layer in config.layers if isinstance(layer, Residual)]
        projected = [index for index, block in enumerate(blocks) if block.shortcut]
        assert projected == [3, 7, 13]
        assert output_shape(config.layers, (224, 224, 3)) == (512,)
        assert output_shape(config.layers[:2], (224, 224, 3)) == (56, 56, 64)
        assert config.name == "resnet34-s1-identity-imagenet"
        for option in ({"shortcut": "none"}, {"stem": "patches"}):
            with pytest.raises(InputError, match=f"{next(iter(option))}=.*expected one of"):
                resnet(18, 1, **option)

    def test_parameter_counts_are_torchvisions(self):
        """11,689,512 and 21,797,672 parameters for 1000 classes (torchvision's documentation)."""
        for depth, count in ((18, 11_689_512), (34, 21_797_672)):
            config = resnet(depth, 1, block="usual", shortcut="identity", stem="imagenet")
            slots = layer_slots(config, (224, 224, 3), 1000)
            sizes = [
                np.prod(size) for slot in slots for name, size in slot.shapes.items() if "running" not in name
            ]
            assert sum(sizes) == count


class TestPyTorch:
    """The real library, where it is installed: modules in evaluation mode, as a user would write them."""

    @pytest.fixture
    def nn(self):
        return pytest.importorskip("torch").nn

    def trained(self, model, *shape):
        """With running statistics that moved, in evaluation mode; some inputs and their logits."""
        import torch

        torch.manual_seed(0)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.3 * torch.randn_like(parameter))
            model.train()
            for _ in range(3):
                model(torch.randn(16, *shape) + 0.5)
            model.eval()
            xs = torch.randn(4, *shape) + 0.5
            return xs, model(xs)

    def check(self, model, config, shape, num_outputs, tmp_path, **options):
        xs, logits = self.trained(model, *shape)
        state_dict = model.state_dict()
        arrays = {name: tensor.numpy(force=True) for name, tensor in state_dict.items()}
        for how in ("mapping", "npz", "safetensors"):
            source = state_dict if how == "mapping" else as_given(arrays, how, tmp_path)
            ours = (*shape[1:], shape[0]) if len(shape) == 3 else shape
            adapted = from_torch(
                source, config, input_shape=ours, num_outputs=num_outputs, reference=(xs, logits), **options
            )
            assert_close(outputs(adapted, xs.numpy()), logits.numpy(), 1e-5)
        for name, tensor in model.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), arrays[name])

    def test_a_perceptron_on_images(self, nn, tmp_path):
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(24, 7), nn.ReLU(), nn.Linear(7, 7), nn.ReLU(), nn.Linear(7, 3)
        )
        self.check(model, fully_connected(2, 7), (2, 3, 4), 3, tmp_path)

    def test_a_cnn(self, nn, tmp_path):
        layers = [
            nn.Conv2d(3, 4, 3),
            nn.BatchNorm2d(4, eps=1e-3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.3),
        ]
        layers += [
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4, eps=1e-3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.3),
        ]
        layers += [
            nn.Flatten(),
            nn.Linear(4 * 2 * 3, 80),
            nn.BatchNorm1d(80, eps=1e-3),
            nn.ReLU(),
            nn.Linear(80, 5),
        ]
        config = cnn(2, 4, batch_norm=True, max_pool=True, dropout=0.3)
        self.check(nn.Sequential(*layers), config, (3, 14, 18), 5, tmp_path, batch_norm_epsilon=1e-3)

    def test_vgg11(self, nn, tmp_path):
        layers, before = [], 3
        for channels in (2, "M", 4, "M", 8, 8, "M", 16, 16, "M", 16, 16, "M"):
            if channels == "M":
                layers.append(nn.MaxPool2d(2))
                continue
            layers += [nn.Conv2d(before, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
            before = channels

        class VGG(nn.Module):
            def __init__(self):
                super().__init__()
                self.features, self.classifier = nn.Sequential(*layers), nn.Linear(16, 10)

            def forward(self, x):
                return self.classifier(self.features(x).flatten(1))

        self.check(VGG(), vgg(11, 1 / 32), (3, 32, 32), 10, tmp_path)

    @pytest.mark.parametrize("stem", ["cifar", "imagenet"])
    def test_torchvisions_resnet18(self, nn, stem, tmp_path):
        class Block(nn.Module):
            def __init__(self, before, channels, stride):
                super().__init__()
                self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
                self.bn1 = nn.BatchNorm2d(channels)
                self.relu = nn.ReLU(inplace=True)
                self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
                self.bn2 = nn.BatchNorm2d(channels)
                self.downsample = None
                if stride != 1 or before != channels:
                    conv = nn.Conv2d(before, channels, 1, stride, bias=False)
                    self.downsample = nn.Sequential(conv, nn.BatchNorm2d(channels))

            def forward(self, x):
                y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
                return self.relu(y + (x if self.downsample is None else self.downsample(x)))

        class ResNet(nn.Module):
            def __init__(self):
                super().__init__()
                size, stride = (7, 2) if stem == "imagenet" else (3, 1)
                self.conv1 = nn.Conv2d(3, 2, size, stride, size // 2, bias=False)
                self.bn1, self.relu = nn.BatchNorm2d(2), nn.ReLU(inplace=True)
                self.maxpool = nn.MaxPool2d(3, 2, 1) if stem == "imagenet" else nn.Identity()
                for stage in range(1, 5):
                    before, channels = CHANNELS[stage - 1 : stage + 1]
                    first = Block(before, channels, 1 if stage == 1 else 2)
                    setattr(self, f"layer{stage}", nn.Sequential(first, Block(channels, channels, 1)))
                self.avgpool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

            def forward(self, x):
                x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
                x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
                return self.fc(self.avgpool(x).flatten(1))

        self.check(ResNet(), he(stem), (3, 32, 32), 10, tmp_path)

    def test_tensors_that_numpy_cannot_read(self, nn):
        model = nn.Linear(3, 2).bfloat16()
        with pytest.raises(InputError, match=r"'weight' of type Tensor .*t.float\(\)"):
            from_torch(model.state_dict(), network(), input_shape=(3,), num_outputs=2)
