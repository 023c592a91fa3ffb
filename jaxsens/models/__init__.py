"""Flax NNX networks as data, and the bridge from them to pure functions."""

from jaxsens.models.network import Network, bridge, build
from jaxsens.models.zoo import ModelConfig, alexnet, cnn, fully_connected, resnet, vgg

__all__ = [
    "ModelConfig",
    "Network",
    "alexnet",
    "bridge",
    "build",
    "cnn",
    "fully_connected",
    "resnet",
    "vgg",
]
