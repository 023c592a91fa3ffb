"""State dicts as PyTorch would write them, and their networks in NumPy: for the tests of `from_torch`."""

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from jaxsens.models import ModelConfig, resnet
from jaxsens.models.layers import Conv, Dense, Dropout, Flatten, MaxPool


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
