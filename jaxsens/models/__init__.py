"""Flax NNX networks as data, and the bridge from them to pure functions."""

from jaxsens.models.folding import Folded, check_chain, layer_weights, without_batch_norm
from jaxsens.models.layers import Conv, Dense, Dropout, Flatten, output_shape
from jaxsens.models.network import Network, bridge, build
from jaxsens.models.perceptron import check_perceptron_config, perceptron
from jaxsens.models.zoo import ModelConfig, alexnet, cnn, fully_connected, resnet, vgg, vgg_stacks

__all__ = [
    "Conv",
    "Dense",
    "Dropout",
    "Flatten",
    "Folded",
    "ModelConfig",
    "Network",
    "alexnet",
    "bridge",
    "build",
    "check_chain",
    "check_perceptron_config",
    "cnn",
    "fully_connected",
    "layer_weights",
    "output_shape",
    "perceptron",
    "resnet",
    "vgg",
    "vgg_stacks",
    "without_batch_norm",
]
