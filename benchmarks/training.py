"""Ways to train an ensemble in JAX: our programs, and one network after the other as anybody writes it."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import NamedSharding, PartitionSpec
from timing import Ready

from jaxsens.models import ModelConfig, build, network
from jaxsens.train import LOSSES, TrainConfig, cores_as_devices, device_mesh, make_train
from jaxsens.train.ensemble import _advance_program
from jaxsens.train.member import epoch_batches, initial

__all__ = ["Task", "epoch_orders", "initial_params", "one_by_one", "one_program", "random_data"]

# As an experiment's command does. What takes one device has all cores for its products as before.
cores_as_devices()


@dataclasses.dataclass(frozen=True)
class Task:
    """Members of one network, trained by Adam for `epochs` in each call on random data.

    `batch_size=None` makes an epoch one step on the full batch.
    """

    model: ModelConfig
    input_shape: tuple[int, ...]
    examples: int
    members: int
    epochs: int
    batch_size: int | None = 128
    outputs: int = 10

    @functools.cached_property
    def keys(self) -> Array:
        """One for each member."""
        return jax.random.split(jax.random.key(0), self.members)


class Data(NamedTuple):
    """Inputs, labels and, for each member, epoch and step, which examples it takes."""

    xs: np.ndarray
    ys: np.ndarray
    orders: np.ndarray


def random_data(task: Task) -> Data:
    """What all ways train on, and the order in which ours will."""
    rng = np.random.default_rng(0)
    xs = rng.random((task.examples, *task.input_shape), np.float32)
    ys = rng.integers(0, task.outputs, task.examples, dtype=np.int32)
    return Data(xs, ys, epoch_orders(task.keys, task.epochs, task.examples, task.batch_size))


def epoch_orders(keys: Array, epochs: int, examples: int, batch_size: int | None) -> np.ndarray:
    """The batches that `jaxsens.train` draws, (members, epochs, steps, batch): peers take the same."""

    def order(key: Array, epoch: Array) -> Array:
        _, training_key = jax.random.split(key)
        order_key, _ = jax.random.split(jax.random.fold_in(training_key, epoch))
        return epoch_batches(order_key, examples, batch_size)

    each = jax.vmap(jax.vmap(order, (None, 0)), (0, None))
    return np.asarray(each(keys, jnp.arange(epochs)))


def built(task: Task, convolution: Callable | None = None) -> network.Network:
    """The network; with another convolution in training than the one that is fast on a CPU."""
    chosen = convolution or network.training_convolution
    with mock.patch.object(network, "training_convolution", chosen):
        return build(task.model, input_shape=task.input_shape, num_outputs=task.outputs)


def initial_params(task: Task) -> list[Any]:
    """Those of each member before training."""
    init = built(task).init
    return [initial(init, key)[0] for key in task.keys]


def one_program(
    task: Task,
    data: Data,
    *,
    member_axis: str,
    num_devices: int = 1,
    convolution: Callable | None = None,
) -> Ready:
    """All members as the compiled program that the experiments run; a call returns their losses."""
    ours = built(task, convolution)
    config = TrainConfig(batch_size=task.batch_size, max_epochs=10**6, stop_loss=1e-30)
    training = make_train(config, ours.init, ours.apply)
    mesh = device_mesh(num_devices)
    xs, ys = jax.device_put((data.xs, data.ys), NamedSharding(mesh, PartitionSpec()))
    members = jax.jit(jax.vmap(training.start))(task.keys)
    members = jax.device_put(members, NamedSharding(mesh, PartitionSpec("members")))
    held = {"members": members, "epoch": 0}

    began = time.perf_counter()
    jitted = _advance_program(training.advance, member_axis, mesh)
    program = jitted.lower(members, xs, ys, jnp.int32(0)).compile()
    seconds = time.perf_counter() - began

    def run() -> np.ndarray:
        held["epoch"] += task.epochs
        held["members"] = program(held["members"], xs, ys, jnp.int32(held["epoch"]))
        return np.asarray(held["members"].loss)

    return Ready(run, seconds, program.memory_analysis().temp_size_in_bytes)


def one_by_one(task: Task, data: Data) -> Ready:
    """A Python loop over members and batches around one jitted step, with `lax`'s own convolution."""
    plain, optimizer = built(task, lax.conv_general_dilated), optax.adam(1e-3)
    xs, ys = jnp.asarray(data.xs), jnp.asarray(data.ys)
    starts = [initial(plain.init, key) for key in task.keys]
    states = [(params, state, optimizer.init(params)) for params, state in starts]
    step = step_of(plain, optimizer, xs, ys)
    began = time.perf_counter()
    program = step.lower(*states[0], data.orders[0, 0, 0]).compile()
    seconds = time.perf_counter() - began

    def run() -> np.ndarray:
        losses = []
        for place, order in enumerate(data.orders):
            states[place], history = train_epochs(program, states[place], order)
            losses.append(history[-1])
        return np.array(losses)

    return Ready(run, seconds, program.memory_analysis().temp_size_in_bytes)


def step_of(
    trained: network.Network, optimizer: optax.GradientTransformation, xs: Array, ys: Array
) -> Callable:
    """The jitted step of one network, which picks its batch from the device's data itself."""

    @jax.jit
    def step(params: Any, state: Any, memory: Any, chosen: Array) -> tuple:
        def mean_loss(params: Any) -> tuple[Array, Any]:
            outputs, new_state = trained.apply(params, state, xs[chosen], key=jax.random.key(0))
            return jnp.mean(LOSSES["cross_entropy"](outputs, ys[chosen])), new_state

        (loss, state), gradient = jax.value_and_grad(mean_loss, has_aux=True)(params)
        updates, memory = optimizer.update(gradient, memory, params)
        return optax.apply_updates(params, updates), state, memory, loss

    return step


def train_epochs(step: Callable, state: tuple, order: np.ndarray) -> tuple[tuple, Sequence[float]]:
    """The state after the epochs of `order` (epochs, steps, batch), and the mean loss of each."""
    history = []
    for epoch in order:
        losses = []
        for chosen in epoch:
            *state, loss = step(*state, chosen)
            losses.append(loss)
        history.append(float(jnp.mean(jnp.stack(losses))))  # what a stop rule looks at
    return tuple(state), history
