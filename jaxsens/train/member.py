"""The training of one network as two pure functions, so that many are one `vmap` or `lax.map` of them."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax
from jaxtyping import Bool, Float, Int, Key

from jaxsens.checks import check_examples, check_key, check_labels, refuse
from jaxsens.train.config import LOSSES, TrainConfig
from jaxsens.train.hyper import HyperParameters, first_order

__all__ = ["Member", "Training", "initial", "make_train"]


class Member(NamedTuple):
    """One network in training; all that is needed to go on exactly."""

    params: Any
    state: Any
    optimizer: Any
    key: Key[Array, "*members"]
    epoch: Int[Array, "*members"]
    loss: Float[Array, "*members"]
    """Mean training loss of the last epoch."""
    below: Int[Array, "*members"]
    """How many epochs ended below the stop rule's loss."""
    done: Bool[Array, "*members"]
    hyper: HyperParameters | None = None
    """What differs between networks of one program; None where the configuration has it all."""

    @property
    def diverged(self) -> Bool[Array, "*members"]:
        """Whether the loss stopped being a finite number."""
        return (self.epoch > 0) & ~jnp.isfinite(self.loss)


@dataclasses.dataclass(frozen=True)
class Training:
    """start(key, hyper) -> Member; advance(member, xs, ys, until) -> Member at epoch `until`, or done before.

    With `hyper`, ys are label sets (sets, n), and what `hyper` has overrules the configuration.
    check(member, xs, ys) refuses data that do not fit; the values of labels only where they are not traced.
    """

    start: Callable[..., Member]
    advance: Callable[[Member, Array, Array, Array | int], Member]
    check: Callable[[Member, Array, Array], None]
    config: TrainConfig

    def __call__(self, key: Array, xs: Array, ys: Array) -> Member:
        """The whole training of one network: `train(key, xs, ys)`."""
        return self.advance(self.start(key), xs, ys, self.config.max_epochs)


def make_train(
    config: TrainConfig,
    init: Callable[[Array], tuple[Any, Any]],
    apply: Callable[..., tuple[Array, Any]],
    *,
    augment: Callable[..., Array] | None = None,
) -> Training:
    """Training from `init(key) -> (params, state)` and `apply(params, state, xs, key=) -> (ys, state)`.

    `augment(xs, key=)` changes each batch of inputs. A member that met the stop rule, or whose loss is no
    longer finite, changes no more: `while_loop` stops, and under `vmap` masks it.
    Networks of different hyper-parameters train as one program where `start(key, hyper)` is given them:
    `apply` then gets `activation=hyper.activation`.
    """
    losses = LOSSES[config.loss]

    def optimizer_of(hyper: HyperParameters | None) -> optax.GradientTransformationExtraArgs:
        if hyper is None or config.optimizer == "lbfgs":
            return config.make_optimizer()
        return optax.with_extra_args_support(first_order(hyper))

    def start(key: Array, hyper: HyperParameters | None = None) -> Member:
        params, state = initial(init, key)
        _, training_key = jax.random.split(key)
        return Member(
            params=params,
            state=state,
            optimizer=optimizer_of(hyper).init(params),
            key=training_key,
            epoch=jnp.zeros((), jnp.int32),
            loss=jnp.full((), jnp.inf, jnp.float32),
            below=jnp.zeros((), jnp.int32),
            done=jnp.zeros((), bool),
            hyper=hyper,
        )

    def step(hyper: HyperParameters | None, carry: tuple, batch: tuple) -> tuple:
        params, state, optimizer_state = carry
        xs, ys, key = batch
        apply_key, augment_key = jax.random.split(key)
        xs = xs if augment is None else augment(xs, key=augment_key)
        choice = {} if hyper is None else {"activation": hyper.activation}

        def mean_loss(params):
            outputs, new_state = apply(params, state, xs, key=apply_key, **choice)
            return jnp.mean(losses(outputs, ys)), new_state

        (loss, new_state), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, optimizer_state = optimizer_of(hyper).update(
            gradient,
            optimizer_state,
            params,
            value=loss,
            grad=gradient,
            value_fn=lambda params: mean_loss(params)[0],
        )
        params = jax.tree.map(lambda p, u: p + u.astype(p.dtype), params, updates)
        return (params, new_state, optimizer_state), loss

    def epoch(member: Member, xs: Array, ys: Array) -> Member:
        order_key, step_key = jax.random.split(jax.random.fold_in(member.key, member.epoch))
        batches = epoch_batches(order_key, len(xs), config.batch_size)
        keys = jax.random.split(step_key, len(batches))
        ys = ys if member.hyper is None else ys[member.hyper.labels]
        carry = (member.params, member.state, member.optimizer)
        (params, state, optimizer_state), step_losses = lax.scan(
            lambda carry, batch: step(member.hyper, carry, (xs[batch[0]], ys[batch[0]], batch[1])),
            carry,
            (batches, keys),
        )
        loss = jnp.mean(step_losses).astype(jnp.float32)
        below = member.below + (loss < config.stop_loss)
        number = member.epoch + 1
        done = (below >= config.stop_count) | (number >= config.max_epochs) | ~jnp.isfinite(loss)
        return Member(params, state, optimizer_state, member.key, number, loss, below, done, member.hyper)

    def check(member: Member, xs: Array, ys: Array) -> None:
        check_examples(xs)
        sets = 0 if member.hyper is None else 1  # leading axes before that of the examples
        if ys.ndim <= sets:
            raise refuse(
                f"targets of shape {ys.shape} with hyper-parameters", "label sets (sets, n)", "pass ys[None]"
            )
        count = ys.shape[sets]
        if len(xs) != count:
            raise refuse(f"{len(xs)} inputs and {count} targets", "as many", "pass arrays of one length")
        outputs, _ = jax.eval_shape(apply, member.params, member.state, xs[:1], key=member.key)
        if config.loss == "cross_entropy":
            check_labels(ys, outputs.shape[-1])
        elif ys.shape[sets + 1 :] != outputs.shape[1:]:
            # (n,) against (n, 1) would broadcast to (n, n) and train on nonsense.
            wanted = (*ys.shape[: sets + 1], *outputs.shape[1:])
            raise refuse(f"targets of shape {ys.shape}", f"shape {wanted}", "reshape them")

    def advance(member: Member, xs: Array, ys: Array, until: Array | int) -> Member:
        check(member, xs, ys)
        return lax.while_loop(lambda m: (m.epoch < until) & ~m.done, lambda m: epoch(m, xs, ys), member)

    return Training(start, advance, check, config)


def initial(init: Callable[[Array], tuple[Any, Any]], key: Array) -> tuple[Any, Any]:
    """The parameters and state with which the training of this key starts."""
    check_key(key)
    init_key, _ = jax.random.split(key)
    return init(init_key)


def epoch_batches(key: Array, num_examples: int, batch_size: int | None) -> Int[Array, "steps batch"]:
    """A random order of all examples, cut into equal batches of at most `batch_size`.

    Where the number does not divide, the last batch is filled up from the start of the order.
    """
    steps = 1 if batch_size is None else math.ceil(num_examples / batch_size)
    size = math.ceil(num_examples / steps)
    order = jax.random.permutation(key, num_examples)
    return jnp.resize(order, (steps, size))
