"""Flax NNX networks as data, and the bridge from them to pure functions."""

from jaxsens.models.layers import Dense, Dropout, Flatten
from jaxsens.models.network import Network, bridge, build
from jaxsens.models.perceptron import check_perceptron_config, perceptron
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
    "check_perceptron_config",
    "cnn",
    "fully_connected",
    "perceptron",
    "resnet",
    "vgg",
]
