"""Weights of PyTorch land in their own layers: against PyTorch, and against NumPy in its layout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from torch_models import (
    CHANNELS,
    CNN,
    CNN_SHAPE,
    RESNET,
    InNumPy,
    Weights,
    as_given,
    assert_close,
    cnn_in_numpy,
    cnn_weights,
    he,
    images,
    mlp_in_numpy,
    mlp_weights,
    network,
    outputs,
    relu,
    resnet_in_numpy,
    resnet_weights,
)

from jaxsens.adapters import from_torch
from jaxsens.adapters.torch_layers import layer_slots
from jaxsens.checks import InputError
from jaxsens.metrics import output_sensitivity, tangent_sensitivity
from jaxsens.models import build, cnn, fully_connected, resnet, vgg
from jaxsens.models.layers import (
    Conv,
    Dense,
    Dropout,
    Flatten,
    MaxPool,
    OverlappingMaxPool,
    Residual,
    output_shape,
)

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
            pytest.param(resnet(18, 1 / 32, block="usual"), (16, 16, 3), marks=pytest.mark.slow),
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
