"""The papers' networks, each a short function to a `ModelConfig`. Source: A, Appendix A.

What Appendix A leaves open is settled by the parameter counts that the paper gives and by its published
configurations; `docs/errata.md` lists each point.
"""

import dataclasses
import re

from jaxsens.checks import check_at_least, check_choice, check_positive, refuse
from jaxsens.models.layers import (
    AveragePool,
    Conv,
    Dense,
    Dropout,
    Flatten,
    Layer,
    MaxPool,
    OverlappingMaxPool,
    Residual,
)

__all__ = ["ModelConfig", "alexnet", "cnn", "fully_connected", "resnet", "vgg", "vgg_stacks"]


_TITLES = {
    "alexnet": "AlexNet",
    "vgg": "VGG",
    "vgg-stacks": "VGG of stacks",
    "resnet": "ResNet",
    "fc": "FC",
    "cnn": "CNN",
}
# What an architecture has when nothing is said; anything else is part of a network's name.
_USUAL_REGULARIZATION = {
    "alexnet": "do+mp",
    "vgg": "bn+mp",
    "vgg-stacks": "bn+do+mp",
    "resnet": "bn",
    "fc": "none",
    "cnn": "none",
}
_REGULARIZATION_TITLES = {"none": "plain", "bn": "BN", "do": "dropout", "mp": "max-pool"}
_ACTIVATION_TITLES = {"relu6": "ReLU6", "hard_tanh": "HardTanh", "hard_sigmoid": "HardSigmoid"}
# Dropout that leaves out the first hidden layers is another regulariser, and named by where it starts.
_LATE_DROPOUT = re.compile(r"do(\d+)")


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """A network without its last affine layer, which takes as many outputs as the data need.

    `name` is the architecture with its size; `family` groups the sizes of one architecture; `scale` is the
    number that varies within the family.
    """

    name: str
    family: str
    scale: float | int
    layers: tuple[Layer, ...]
    hidden_layers: int
    regularization: str = "none"
    activation: str = "relu"
    init: str = "XU"

    @property
    def title(self) -> str:
        """The family as papers write it: AlexNet, VGG13, FC-4."""
        return _TITLES.get(self._kind, self._kind) + self.family[len(self._kind) :]

    @property
    def full_name(self) -> str:
        """With initialiser, and what else is unusual: fc-3x200-sn-bn, fc-3x200-sn-relu6, vgg13-s0.5-xu."""
        usual = self.regularization == _USUAL_REGULARIZATION.get(self._kind)
        activation = "" if self.activation == "relu" else f"-{self.activation}"
        return f"{self.name}-{self.init.lower()}" + ("" if usual else f"-{self.regularization}") + activation

    @property
    def label(self) -> str:
        """What a legend says: the title, the initialiser but XU, what else is unusual."""
        usual = self.regularization == _USUAL_REGULARIZATION.get(self._kind)
        words = [_regularization_title(part) for part in self.regularization.split("+")]
        activation = _ACTIVATION_TITLES.get(self.activation, self.activation)
        return (
            self.title
            + ("" if self.init == "XU" else f" {self.init}")
            + ("" if usual else " " + " + ".join(words))
            + ("" if self.activation == "relu" else f" {activation}")
        )

    @property
    def _kind(self) -> str:
        return self.family.rstrip("0123456789-")

    @property
    def width(self) -> int | None:
        """Units or channels of the first hidden layer; None without one at the top level."""
        layers = (layer for layer in self.layers if isinstance(layer, Conv | Dense))
        return next((layer.units if isinstance(layer, Dense) else layer.channels for layer in layers), None)


def fully_connected(
    hidden_layers: int,
    width: int,
    *,
    batch_norm: bool = False,
    dropout: float | int = 0.0,
    dropout_from: int = 1,
    init: str = "SN",
    activation: str = "relu",
) -> ModelConfig:
    """M hidden layers of one width. (A counts "a 3-layer FC" with its output layer: 2 hidden layers.)

    Dropout follows hidden layers `dropout_from`, ..., M; C's Table A1 has 2, named fc-4x100-fu-do2.
    """
    check_at_least("hidden_layers", hidden_layers, 1)
    check_at_least("width", width, 1)
    if not 1 <= dropout_from <= hidden_layers:
        raise refuse(
            f"dropout_from={dropout_from} for {hidden_layers} hidden layers",
            f"a hidden layer, 1 to {hidden_layers}",
            "pass dropout=0 for no dropout",
        )
    dense = Dense(width, batch_norm=batch_norm)
    hidden = (dense,) * (dropout_from - 1)
    hidden += (dense, *_dropout(dropout)) * (hidden_layers - dropout_from + 1)
    return ModelConfig(
        name=f"fc-{hidden_layers}x{width}",
        family=f"fc-{hidden_layers}",
        scale=width,
        layers=(Flatten(), *hidden),
        hidden_layers=hidden_layers,
        regularization=_label(batch_norm=batch_norm, dropout=dropout > 0, dropout_from=dropout_from),
        init=init,
        activation=activation,
    )


def cnn(
    convolutions: int,
    channels: int,
    *,
    batch_norm: bool = False,
    dropout: float | int = 0.0,
    max_pool: bool = False,
    init: str = "SN",
) -> ModelConfig:
    """1-4 convolutions Conv(channels, 3, 1, 0), one hidden dense layer of 20 x channels units.

    Unpadded, so that CNN-1 with 5 channels and 100 units has A's 450k parameters on CIFAR-10 images, and 25
    channels with 500 units 11M. With `max_pool`, MaxPool(2) follows each convolution; batch normalisation and
    dropout follow every hidden layer.
    """
    check_at_least("convolutions", convolutions, 1)
    check_at_least("channels", channels, 1)
    stage = (
        Conv(channels, batch_norm=batch_norm),
        *((MaxPool(2),) if max_pool else ()),
        *_dropout(dropout),
    )
    return ModelConfig(
        name=f"cnn-{convolutions}x{channels}",
        family=f"cnn-{convolutions}",
        scale=channels,
        layers=(
            *stage * convolutions,
            Flatten(),
            Dense(20 * channels, batch_norm=batch_norm),
            *_dropout(dropout),
        ),
        hidden_layers=convolutions + 1,
        regularization=_label(batch_norm=batch_norm, dropout=dropout > 0, max_pool=max_pool),
        init=init,
    )


def alexnet(
    channels: int, *, hidden: int = 4096, dropout: float | int = 0.5, max_pool: bool = True, init: str = "XU"
) -> ModelConfig:
    """AlexNet(h): five convolutions of h, 3h, 6h, 4h, 4h channels, two dense layers of `hidden` units."""
    check_at_least("channels", channels, 1)
    pool = (MaxPool(2),) if max_pool else ()
    return ModelConfig(
        name=f"alexnet-h{channels}" + ("" if hidden == 4096 else f"-d{hidden}"),
        family="alexnet",
        scale=channels,
        layers=(
            Conv(channels, 3, 2, 1),
            *pool,
            Conv(3 * channels, 3, 1, 1),
            *pool,
            Conv(6 * channels, 3, 1, 1),
            Conv(4 * channels, 3, 1, 1),
            Conv(4 * channels, 3, 1, 1),
            *pool,
            Flatten(),
            *_dropout(dropout),
            Dense(hidden),
            *_dropout(dropout),
            Dense(hidden),
        ),
        hidden_layers=7,
        regularization=_label(dropout=dropout > 0, max_pool=max_pool),
        init=init,
    )


_VGG_STAGES = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}


def vgg(
    depth: int, scale: float | int, *, batch_norm: bool = True, max_pool: bool = True, init: str = "XU"
) -> ModelConfig:
    """VGG11, 13, 16, 19 (s): five stages of 64, 128, 256, 512, 512 (x s) channels, one affine layer.

    The closing Avgpool(2) finds 1 x 1 pixels on 32 x 32 images and is then the identity.
    """
    check_choice("depth", depth, _VGG_STAGES)
    stages = zip(_VGG_STAGES[depth], (64, 128, 256, 512, 512), strict=True)
    layers: tuple[Layer, ...] = ()
    for convolutions, channels in stages:
        conv = Conv(_scaled(channels, scale), 3, 1, 1, batch_norm=batch_norm)
        layers += (conv,) * convolutions + ((MaxPool(2),) if max_pool else ())
    return ModelConfig(
        name=f"vgg{depth}-s{scale:g}",
        family=f"vgg{depth}",
        scale=scale,
        layers=(*layers, AveragePool(2), Flatten()),
        hidden_layers=depth - 3,
        regularization=_label(batch_norm=batch_norm, max_pool=max_pool),
        init=init,
    )


def vgg_stacks(
    scale: float | int, *, batch_norm: bool = True, dropout: float | int = 0.5, init: str = "FU"
) -> ModelConfig:
    """D's modified VGG (s): stacks of 2 convolutions with 64, 128, 256, 512 (x s) channels (Appendix A).

    Each stack ends in MaxPool(2) and dropout; then AveragePool(4), a dense layer of 512 s units and one
    affine layer. Batch normalisation is before each ReLU. Four max-pools leave 2 x 2 pixels of 32 x 32
    images, all of which the average pool takes. D gives no rate of dropout and no initialisation: see
    `docs/errata.md`.
    """
    layers: tuple[Layer, ...] = ()
    for channels in (64, 128, 256, 512):
        conv = Conv(_scaled(channels, scale), 3, 1, 1, batch_norm=batch_norm)
        layers += (conv, conv, MaxPool(2), *_dropout(dropout))
    return ModelConfig(
        name=f"vgg-stacks-s{scale:g}",
        family="vgg-stacks",
        scale=scale,
        layers=(*layers, AveragePool(4), Flatten(), Dense(_scaled(512, scale), batch_norm=batch_norm)),
        hidden_layers=9,
        regularization=_label(batch_norm=batch_norm, dropout=dropout > 0, max_pool=True),
        init=init,
    )


_RESNET_STAGES = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}
# Whether the second convolution and the shortcut end in the activation: as Appendix A's sentence reads
# ("which Conv layers include BN and ReLU"), or as in the usual block.
_RESNET_BLOCKS = {"appendix": True, "usual": False}


_RESNET_SHORTCUTS = ("projection", "identity")
_RESNET_STEMS = ("cifar", "imagenet")


def resnet(
    depth: int,
    scale: float | int,
    *,
    block: str = "appendix",
    shortcut: str = "projection",
    stem: str = "cifar",
    init: str = "XU",
) -> ModelConfig:
    """ResNet18, 34 (s): stages of 64, 128, 256, 512 (x s) channels without biases, one affine layer.

    Each block is 2 x Conv(h, 3) + Conv(h, 1) with BN, then ReLU of the sum. The 1 x 1 convolution is in every
    block. A gives neither stem, strides nor head; they are the usual ones for 32 x 32 images: Conv(64 s, 3),
    stride 2 from the second stage on, the mean over the last 4 x 4 pixels.

    The usual ResNet (He et al. 2016, torchvision) has `block="usual"` and `shortcut="identity"`: a 1 x 1
    convolution only where the block changes the shape. For ImageNet its `stem="imagenet"` is Conv(64 s, 7, 2,
    3) and a max-pool over 3 x 3 pixels with stride 2. With either, the mean is over all last pixels.
    """
    check_choice("depth", depth, _RESNET_STAGES)
    check_choice("block", block, _RESNET_BLOCKS)
    check_choice("shortcut", shortcut, _RESNET_SHORTCUTS)
    check_choice("stem", stem, _RESNET_STEMS)
    activate, identity, imagenet = _RESNET_BLOCKS[block], shortcut == "identity", stem == "imagenet"

    def conv(channels: int, kernel: int, stride: int = 1, *, activate: bool = True) -> Conv:
        return Conv(channels, kernel, stride, kernel // 2, batch_norm=True, activate=activate, use_bias=False)

    first = _scaled(64, scale)
    layers: tuple[Layer, ...] = (conv(first, 7, 2), OverlappingMaxPool()) if imagenet else (conv(first, 3),)
    before = first
    for stage, blocks in enumerate(_RESNET_STAGES[depth]):
        channels = _scaled(64 * 2**stage, scale)
        for index in range(blocks):
            stride = 2 if stage > 0 and index == 0 else 1
            projection = (conv(channels, 1, stride, activate=activate),)
            layers += (
                Residual(
                    branch=(conv(channels, 3, stride), conv(channels, 3, activate=activate)),
                    shortcut=() if identity and (stride, channels) == (1, before) else projection,
                ),
            )
            before = channels
    kind = ("-identity" if identity else "") + ("-imagenet" if imagenet else "")
    return ModelConfig(
        name=f"resnet{depth}-s{scale:g}{kind}",
        family=f"resnet{depth}",
        scale=scale,
        layers=(*layers, AveragePool(None if kind else 4), Flatten()),
        hidden_layers=depth - 1,
        regularization="bn",
        init=init,
    )


def _scaled(channels: int, scale: float | int) -> int:
    check_positive("scale", scale)
    scaled = int(channels * scale)
    if scaled < 1:
        raise refuse(f"scale={scale}, {channels} x scale < 1", "at least one channel", "use a larger scale")
    return scaled


def _dropout(rate: float | int) -> tuple[Layer, ...]:
    if not 0 <= rate < 1:
        raise refuse(f"dropout={rate}", "a rate in [0, 1)", "pass 0 for no dropout")
    return (Dropout(rate),) if rate else ()


def _label(
    *, batch_norm: bool = False, dropout: bool = False, dropout_from: int = 1, max_pool: bool = False
) -> str:
    late = "do" if dropout_from == 1 else f"do{dropout_from}"
    used = [name for name, on in (("bn", batch_norm), (late, dropout), ("mp", max_pool)) if on]
    return "+".join(used) or "none"


def _regularization_title(part: str) -> str:
    late = _LATE_DROPOUT.fullmatch(part)
    return f"dropout from layer {late[1]}" if late else _REGULARIZATION_TITLES[part]
