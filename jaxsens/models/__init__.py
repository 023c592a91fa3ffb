"""Flax NNX networks as data, and the bridge from them to pure functions."""

from jaxsens.models.layers import Dense, Dropout, Flatten
from jaxsens.models.network import Network, bridge, build
from jaxsens.models.zoo import ModelConfig, alexnet, cnn, fully_connected, resnet, vgg

__all__ = [
    "Dense",
    "Dropout",
    "Flatten",
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
