"""E's survey: 16 networks of one shape, four optimisers by four activations, in seconds a network.

Three shapes and two batch sizes, 1000 inputs of 784 numbers, 50 epochs each. Ours: one program, over as many
devices as there are cores. One by one: for each network a jitted step of its own with its optimiser's numbers
in it, called in a Python loop over batches, which it picks from the device's data itself; two of the 16 are
trained. The peer has all cores for its matrix products. Both compile in their first call, which is counted
apart: a survey trains each network once, so that it is the first call that it waits for. Losses after two
epochs are compared, before training has amplified the rounding.
"""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from timing import Ready, Row, Way
from training import Data, Task, built, random_data, step_of, train_epochs

from jaxsens.models import fully_connected
from jaxsens.train import OPTIMIZERS, TrainConfig, hyper_parameters, make_train, train_ensemble
from jaxsens.train.member import initial
from jaxsens.types import PIECEWISE_LINEAR

__all__ = ["rows"]

RATES = {"sgd": 0.1, "momentum": 0.03, "adam": 1e-3, "rmsprop": 5e-4}
WAYS = [(optimizer, activation) for optimizer in RATES for activation in PIECEWISE_LINEAR]
PEERS = [("sgd", "relu"), ("adam", "hard_tanh")]
COMPARED_EPOCH = 2


def rows(smoke: bool) -> Iterator[Row]:
    """A row for each shape and batch size."""
    shapes, batches = (((1, 4),), (8,)) if smoke else (((1, 50), (2, 100), (4, 200)), (25, 100))
    for shape in shapes:
        for batch in batches:
            model = fully_connected(*shape, init="HN")
            size, examples, epochs = ((16,), 32, 3) if smoke else ((784,), 1000, 50)
            task = Task(model, size, examples, members=1, epochs=epochs, batch_size=batch)
            yield Row(
                name=f"{model.name}, batches of {batch}",
                unit="network",
                data=lambda task=task: random_data(task),
                ours={"one program": Way(lambda data, task=task: one_program(task, data), len(WAYS))},
                peers={
                    "JAX, one after the other": Way(
                        lambda data, task=task: one_by_one(task, data), len(PEERS)
                    )
                },
                rounds=2 if smoke else 3,
            )


def one_program(task: Task, data: Data) -> Ready:
    """All 16 by `train_ensemble`; a call returns the early losses of those that the peer trains."""
    network = built(task)
    config = TrainConfig("sgd", batch_size=task.batch_size, max_epochs=task.epochs, stop_loss=1e-30)
    training = make_train(config, network.init, network.apply)
    hyper = [
        hyper_parameters(
            optimizer=optimizer, learning_rate=RATES[optimizer], weight_decay=0.0, activation=name, labels=0
        )
        for optimizer, name in WAYS
    ]
    hyper = jax.tree.map(lambda *leaves: jnp.stack(leaves), *hyper)
    keys = jnp.stack([task.keys[0]] * len(WAYS))
    xs, ys = jnp.asarray(data.xs), jnp.asarray(data.ys)[None]
    places = np.array([WAYS.index(way) for way in PEERS])

    def run() -> np.ndarray:
        early = []
        members = train_ensemble(
            training,
            keys,
            xs,
            ys,
            hyper=hyper,
            snapshots=(COMPARED_EPOCH,),
            observe=lambda _, members: early.append(np.asarray(members.loss)[places]),
        )
        jax.block_until_ready(members)
        return early[0]

    return Ready(run)


def one_by_one(task: Task, data: Data) -> Ready:
    """Two of them, each by a step of its own."""
    xs, ys = jnp.asarray(data.xs), jnp.asarray(data.ys)
    trained = []
    for name, activation in PEERS:
        model = fully_connected(task.model.hidden_layers, task.model.scale, init="HN", activation=activation)
        network = built(Task(model, task.input_shape, task.examples, 1, task.epochs, task.batch_size))
        optimizer = OPTIMIZERS[name](RATES[name])
        trained.append((network, optimizer, step_of(network, optimizer, xs, ys)))

    def run() -> np.ndarray:
        early = []
        for network, optimizer, step in trained:
            params, state = initial(network.init, task.keys[0])
            _, history = train_epochs(step, (params, state, optimizer.init(params)), data.orders[0])
            early.append(history[COMPARED_EPOCH - 1])
        return np.array(early)

    return Ready(run)
