"""What a training run is, as data: the optimiser, the loss, the batches, the stop rule."""

import dataclasses
from collections.abc import Callable

import jax.numpy as jnp
import optax
from jax import Array
from jaxtyping import Float

from jaxsens.checks import check_at_least, check_choice, check_positive, refuse

__all__ = ["LOSSES", "OPTIMIZERS", "TrainConfig", "cross_entropy", "squared_error"]


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Defaults are A's (Appendix A): Adam 0.001, batches of 128, stop at 1e-5 ten times or at 2000 epochs.

    An epoch visits the training set in ceil(n / batch_size) batches of one size, ceil(n / that number): 1000
    examples in batches of at most 128 are 8 batches of 125. `batch_size=None` is full batch.
    The stop rule counts epochs, consecutive or not, whose mean training loss (as met by the batches, in
    training mode) is below `stop_loss`. `weight_decay` adds weight_decay * w to the gradient. `augment` names
    a random change of each batch of inputs, one of `jaxsens.sweep.AUGMENTATIONS`.
    """

    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch_size: int | None = 128
    max_epochs: int = 2000
    loss: str = "cross_entropy"
    stop_loss: float = 1e-5
    stop_count: int = 10
    augment: str | None = None

    def __post_init__(self):
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("loss", self.loss, LOSSES)
        check_positive("learning_rate", self.learning_rate)
        check_at_least("max_epochs", self.max_epochs, 1)
        check_at_least("stop_count", self.stop_count, 1)
        if self.batch_size is not None:
            check_at_least("batch_size", self.batch_size, 1)
        if self.optimizer == "lbfgs" and self.batch_size is not None:
            raise refuse(
                f"optimizer='lbfgs' with batch_size={self.batch_size}",
                "the full batch: its line search compares losses on one function",
                "set batch_size=None",
            )
        if self.optimizer == "lbfgs" and self.augment is not None:
            raise refuse(
                f"optimizer='lbfgs' with augment={self.augment!r}",
                "none: its line search compares losses on one function",
                "set augment=None",
            )
        if self.optimizer == "lbfgs" and (self.learning_rate != 1 or self.weight_decay):
            raise refuse(
                f"lbfgs with learning_rate={self.learning_rate}, weight_decay={self.weight_decay}",
                "1 and 0: its line search finds the step, on the loss alone",
                "set learning_rate=1.0 and weight_decay=0.0",
            )

    def make_optimizer(self) -> optax.GradientTransformationExtraArgs:
        """The Optax transformation."""
        decay = optax.add_decayed_weights(self.weight_decay) if self.weight_decay else optax.identity()
        return optax.with_extra_args_support(
            optax.chain(decay, OPTIMIZERS[self.optimizer](self.learning_rate))
        )


def cross_entropy(outputs: Float[Array, "n K"], labels: Array) -> Float[Array, " n"]:
    """-log softmax(f(x))_y of each example, y an integer label. A eq. 1."""
    return optax.softmax_cross_entropy_with_integer_labels(outputs, labels)


def squared_error(outputs: Float[Array, "n K"], targets: Float[Array, "n K"]) -> Float[Array, " n"]:
    """|f(x) - y|^2 of each example. A eq. 4."""
    return jnp.sum((outputs - targets) ** 2, axis=-1)


LOSSES: dict[str, Callable] = {"cross_entropy": cross_entropy, "mse": squared_error}

OPTIMIZERS: dict[str, Callable[[float], optax.GradientTransformation]] = {
    "adam": lambda rate: optax.adam(rate, b1=0.9, b2=0.999),
    "sgd": optax.sgd,
    "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
    "rmsprop": lambda rate: optax.rmsprop(rate, decay=0.99),
    "lbfgs": optax.lbfgs,
}
