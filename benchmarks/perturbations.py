"""Expected sharpness over 1000 perturbed networks, in seconds a perturbation, on mini-batches of 64 images.

The peers call one perturbed network after the other from Python: a jitted function that draws noise and
mini-batch, and PyTorch in inference mode. They subtract the loss of all images once. Their draws are their
own, so that the results are compared in standard errors. Also forward passes of perturbed networks alone,
without drawing anything: what perturbations cannot go below.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import in_torch
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from norms import Folded, networks
from timing import Ready, Row, Way, compiled, standard_errors

from jaxsens.metrics import expected_sharpness

__all__ = ["rows"]

ALPHA, BATCH = 1e-3, 64


def rows(smoke: bool) -> Iterator[Row]:
    """A row for each network; the VGG takes fewer perturbations, for it takes longest."""
    for name, data in networks(smoke).items():
        count = 20 if smoke else 100 if name.startswith("vgg") else 1000
        way = functools.partial(_way, count)
        yield Row(
            name=f"{count} perturbations, {name}",
            unit="perturbation",
            data=data,
            ours={"jaxsens": way(ours)},
            peers={
                "JAX, one call each": way(jax_loop),
                **in_torch.peers({"PyTorch, one call each": way(torch_loop)}),
                "forward passes alone": way(passes, compared=False),
            },
            absent=in_torch.ABSENT,
            compare=standard_errors,
            tolerance=5.0,
            rounds=2 if smoke else 3,
        )


def _way(count: int, prepare: Callable[..., Ready], **options: bool) -> Way:
    return Way(functools.partial(prepare, count=count), count, **options)


def mean_loss(data: Folded, params: Any, chosen: Array) -> Array:
    """Cross-entropy over some images."""
    logits = jax.nn.log_softmax(data.predict(params, data.xs[chosen]))
    return -jnp.mean(jnp.take_along_axis(logits, data.ys[chosen][:, None], axis=1))


def minibatch(data: Folded, key: Array) -> Array:
    """The images of a key."""
    return jax.random.randint(key, (BATCH,), 0, len(data.xs))


def ours(data: Folded, count: int) -> Ready:
    """One program."""

    def loss(params: Any, key: Array) -> Array:
        return mean_loss(data, params, minibatch(data, key))

    def measure(params: Any, key: Array) -> Any:
        return expected_sharpness(loss, params, key=key, alpha=ALPHA, num_perturbations=count)

    return compiled(measure, data.params, jax.random.key(1))


def jax_loop(data: Folded, count: int) -> Ready:
    """A jitted function of one perturbation, called `count` times."""

    def perturbed(params: Any, key: Array) -> Array:
        batch_key, noise_key = jax.random.split(key)
        leaves, tree = jax.tree.flatten(params)
        noise_keys = jax.random.split(noise_key, len(leaves))
        moved = [
            w + ALPHA * (10 * jnp.abs(w) + 1) * jax.random.normal(k, w.shape)
            for w, k in zip(leaves, noise_keys, strict=True)
        ]
        return mean_loss(data, jax.tree.unflatten(tree, moved), minibatch(data, batch_key))

    keys = list(jax.random.split(jax.random.key(2), count))
    program = jax.jit(perturbed).lower(data.params, keys[0]).compile()
    low = float(mean_loss(data, data.params, jnp.arange(len(data.xs))))
    return Ready(lambda: estimate([program(data.params, key) for key in keys], low))


def torch_loop(data: Folded, count: int) -> Ready:
    """A forward pass of the functional network for each perturbation."""
    t = in_torch.torch()
    model = in_torch.twin(data.config, data.xs.shape[1:], data.params).eval()
    named = {name: value.detach() for name, value in model.named_parameters()}
    xs, ys = in_torch.batch(np.asarray(data.xs)), t.from_numpy(np.array(data.ys)).long()
    loss = t.nn.functional.cross_entropy

    def perturbed() -> float:
        moved = {name: w + ALPHA * (10 * w.abs() + 1) * t.randn_like(w) for name, w in named.items()}
        chosen = t.randint(0, len(xs), (BATCH,))
        return float(loss(t.func.functional_call(model, moved, xs[chosen]), ys[chosen]))

    def run() -> tuple[float, float]:
        with t.inference_mode():
            return estimate([perturbed() for _ in range(count)], low)

    with t.inference_mode():
        low = float(loss(model(xs), ys))
    return Ready(run)


def passes(data: Folded, count: int) -> Ready:
    """The loss of one perturbed network on `count` mini-batches, one call each."""
    near = jax.tree.map(lambda w: w * (1 + ALPHA), data.params)
    keys = list(jax.random.split(jax.random.key(2), count))
    program = (
        jax.jit(lambda params, key: mean_loss(data, params, minibatch(data, key)))
        .lower(near, keys[0])
        .compile()
    )
    return Ready(lambda: jax.block_until_ready([program(near, key) for key in keys]))


def estimate(highs: list[Any], low: float) -> tuple[float, float]:
    """The mean of the perturbed losses less the unperturbed one, and its standard error."""
    losses = np.array(jax.device_get(highs), np.float64)
    return float(losses.mean() - low), float(losses.std(ddof=1) / len(losses) ** 0.5)
