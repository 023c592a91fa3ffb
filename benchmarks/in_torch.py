"""Our networks in PyTorch, with the same weights: what its rows are measured on.

PyTorch is an optional extra (`pip install -e '.[bench]'`) and is imported where it is used. It runs eagerly,
on as many threads as there are cores; `torch.compile` is not tried. Of memory formats (channels first or
last) the quicker in one call is taken.
"""

import functools
import importlib.util
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from flax import nnx
from timing import Ready, Way, quickest

from jaxsens.models import ModelConfig
from jaxsens.models.layers import (
    BATCH_NORM_EPSILON,
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    Residual,
)

__all__ = ["ABSENT", "batch", "in_turn", "peers", "torch", "twin"]

ABSENT = () if importlib.util.find_spec("torch") else ("PyTorch",)


def torch() -> Any:
    """The package, with a thread for each core, or as many as OMP_NUM_THREADS says."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(os.cpu_count() or 1)
    return torch


def peers(ways: Mapping[str, Way]) -> dict[str, Way]:
    """The ways, or none where PyTorch is not installed."""
    return {} if ABSENT else dict(ways)


def batch(xs: np.ndarray, channels_last: bool = False) -> Any:
    """Inputs as PyTorch takes them: images (n, C, H, W)."""
    t = torch()
    if xs.ndim != 4:
        return t.from_numpy(np.array(xs))
    images = t.from_numpy(np.ascontiguousarray(xs.transpose(0, 3, 1, 2)))
    return images.contiguous(memory_format=t.channels_last) if channels_last else images


def twin(config: ModelConfig, input_shape: tuple[int, ...], params: Any) -> Any:
    """The network of a configuration as a `torch.nn.Module`, with these parameters (NNX, one member's)."""
    if config.activation != "relu":
        raise ValueError(f"activation {config.activation!r}, only ReLU has a twin")
    weights = nnx.to_pure_dict(params)
    layers, _, image = _stack(config.layers, input_shape, weights.get("body", {}).get("layers", {}))
    return torch().nn.Sequential(*layers, _dense(weights["head"], image))


def in_turn(
    config: ModelConfig,
    input_shape: tuple[int, ...],
    members: list[Any],
    xs: np.ndarray,
    ys: np.ndarray,
    orders: np.ndarray,
    *,
    fused: bool,
) -> Ready:
    """Trains one network after the other by Adam; a call returns each one's mean loss in its last epoch.

    `members` are their initial parameters, `orders` (members, epochs, steps, batch) which examples each batch
    has, drawn beforehand. The data are in memory, without a DataLoader.
    """
    t = torch()
    chosen = t.from_numpy(np.array(orders)).long()
    labels = t.from_numpy(np.array(ys)).long()

    def prepare(channels_last: bool) -> Ready:
        models = [twin(config, input_shape, params) for params in members]
        inputs = batch(xs, channels_last)
        if channels_last:
            models = [model.to(memory_format=t.channels_last) for model in models]
        adams = [t.optim.Adam(model.parameters(), 1e-3, fused=fused) for model in models]

        def run() -> np.ndarray:
            networks = zip(models, adams, chosen, strict=True)
            return np.array([_train(model, adam, inputs, labels, order) for model, adam, order in networks])

        return Ready(run)

    if xs.ndim != 4:
        return prepare(False)
    formats = {"channels first": False, "channels last": True}
    return quickest({name: functools.partial(prepare, last) for name, last in formats.items()})


def _train(model: Any, optimizer: Any, inputs: Any, labels: Any, order: Any) -> float:
    for epoch in order:
        losses = []
        for chosen in epoch:
            optimizer.zero_grad()
            loss = torch().nn.functional.cross_entropy(model(inputs[chosen]), labels[chosen])
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        mean = float(torch().stack(losses).mean())  # what a stop rule looks at
    return mean


def _stack(
    layers: tuple[Layer, ...], shape: tuple[int, ...], weights: Mapping[int, Any]
) -> tuple[list[Any], tuple[int, ...], tuple[int, ...] | None]:
    """The modules, the shape after them, and that of the image which was flattened last, if there is one."""
    made, image = [], None
    for place, layer in enumerate(layers):
        if isinstance(layer, Flatten) and len(shape) == 3:
            image = shape
        make: Callable = _MAKERS[type(layer)]
        made.append(make(layer, shape, weights.get(place, {}), image))
        if isinstance(layer, Dense):
            image = None
        shape = layer.output_shape(shape)
    return made, shape, image


def _affine(layer: Conv | Dense, shape: tuple[int, ...], weights: Any, image: Any) -> Any:
    nn = torch().nn
    if isinstance(layer, Conv):
        kernel = _tensor(weights["linear"]["kernel"]).permute(3, 2, 0, 1).contiguous()
        linear = nn.Conv2d(
            shape[-1], layer.channels, layer.kernel, layer.stride, layer.padding, bias=layer.use_bias
        )
        _fill(linear, kernel, weights["linear"].get("bias"))
    else:
        linear = _dense(weights["linear"], image)
    parts = [linear]
    if layer.batch_norm:
        kind = nn.BatchNorm2d if isinstance(layer, Conv) else nn.BatchNorm1d
        norm = kind(layer.output_shape(shape)[-1], BATCH_NORM_EPSILON, momentum=0.1)
        _fill(norm, _tensor(weights["norm"]["scale"]), weights["norm"]["bias"])
        parts.append(norm)
    return nn.Sequential(*parts, *([nn.ReLU()] if layer.activate else []))


def _dense(weights: Any, image: tuple[int, ...] | None) -> Any:
    """An affine layer; after an image (H, W, C), its inputs in the order of PyTorch's (C, H, W)."""
    kernel = np.asarray(weights["kernel"])
    if image is not None:
        kernel = kernel.reshape(*image, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
    linear = torch().nn.Linear(*kernel.shape)
    _fill(linear, _tensor(kernel).T.contiguous(), weights["bias"])
    return linear


def _fill(module: Any, weight: Any, bias: Any) -> None:
    with torch().no_grad():
        module.weight.copy_(weight)
        if bias is not None:
            module.bias.copy_(_tensor(bias))


def _tensor(array: Any) -> Any:
    return torch().from_numpy(np.array(array))


def _residual(layer: Residual, shape: tuple[int, ...], weights: Any, image: Any) -> Any:
    nn = torch().nn

    class Block(nn.Module):
        """The activation of a branch plus its shortcut."""

        def __init__(self) -> None:
            super().__init__()
            branch, shortcut = (weights.get(name, {}).get("layers", {}) for name in ("branch", "shortcut"))
            self.branch = nn.Sequential(*_stack(layer.branch, shape, branch)[0])
            self.shortcut = nn.Sequential(*_stack(layer.shortcut, shape, shortcut)[0])

        def forward(self, xs: Any) -> Any:
            """One batch."""
            return nn.functional.relu(self.branch(xs) + self.shortcut(xs))

    return Block()


_MAKERS: dict[type, Callable] = {
    Conv: _affine,
    Dense: _affine,
    Residual: _residual,
    MaxPool: lambda layer, *_: torch().nn.MaxPool2d(layer.size),
    AveragePool: lambda layer, shape, *_: torch().nn.AvgPool2d(layer.window(shape)),
    Flatten: lambda *_: torch().nn.Flatten(),
    Dropout: lambda layer, *_: torch().nn.Dropout(layer.rate),
}
