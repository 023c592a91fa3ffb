"""How the time of a call grows with one size, the others held: fitted exponents beside the expected ones.

All sizes of a row take turns. `exponents.py` says over which of them an exponent is fitted.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from exponents import FEWEST, fit
from jax import Array
from tangent import Perceptron, closed_form, forward, method, perceptron
from timing import Ready, Row, Way, compiled, rounded
from training import Task, one_program, random_data

from jaxsens.metrics import expected_sharpness, input_jacobian_norm, output_sensitivity, tangent_sensitivity
from jaxsens.models import fully_connected

__all__ = ["finish", "rows"]

_FOLDED, _UNITS = 3072, 100
_OUTPUTS = 10


@dataclasses.dataclass(frozen=True)
class Series:
    """One size that grows: `ready(size)` is a call, whose time is expected to grow as size^expected.

    `why` says what bends the line where it is bent: fixed costs, caches, other terms of the work.
    """

    what: str
    size: str
    sizes: Sequence[int]
    ready: Callable[[int], Ready]
    expected: float
    why: str


def series(smoke: bool) -> list[Series]:
    """All of them; for `--smoke` each with its three smallest sizes."""
    two, four = (100,) * 2, (100,) * 4
    every = [
        Series(
            "training, an epoch of fc-3x100",
            "seeds",
            (1, 2, 4, 8, 16, 32),
            lambda n: ensemble(fully_connected(3, 100), 784, n),
            1,
            "members take turns: nothing is shared between them",
        ),
        Series(
            "training, an epoch of 3 hidden layers on 64 inputs",
            "width",
            (64, 128, 256, 512, 1024),
            lambda n: ensemble(fully_connected(3, n), 64, 1),
            2,
            "small products run below the processor's rate, and the first layer grows with exponent 1",
        ),
        Series(
            "tangent sensitivity, closed form, 4 hidden layers, D = 3072",
            "width",
            (32, 64, 128, 256, 512),
            lambda n: closed_form(perceptron((3072, *(n,) * 4, _OUTPUTS), 64)),
            3,
            "the factor of W_1 grows with exponent 2, and small products run below the processor's rate",
        ),
        Series(
            "tangent sensitivity, streamed, 4 hidden layers, D = 64",
            "width",
            (64, 128, 256, 512, 1024),
            lambda n: method("streamed", 1)(perceptron((64, *(n,) * 4, _OUTPUTS), 1)),
            2,
            "a gradient of small layers is all overhead, and the first layer grows with exponent 1",
        ),
        Series(
            "S, 256 examples, 2 hidden layers of 100",
            "D",
            (768, 1536, 3072, 6144, 12288, 24576),
            lambda n: sensitivity(perceptron((n, *two, _OUTPUTS), 256)),
            1,
            "inputs that no longer fit the cache cost more an entry",
        ),
        Series(
            "tangent sensitivity, streamed, parameters held",
            "D",
            (3072, 6144, 12288, 24576, 49152),
            streamed_over_folded_input,
            1,
            "fewer directions at a time fit as they grow longer",
        ),
        Series(
            "tangent sensitivity, streamed, layers of 256, D = 256, by depth",
            "N_theta",
            (2, 4, 8, 16, 32),
            lambda n: method("streamed", 1)(perceptron((256, *(256,) * n, _OUTPUTS), 1)),
            1,
            "fewer tangents at a time fit the cache as there are more parameters",
        ),
        Series(
            "expected sharpness, 100 perturbations, layers of 256, by depth",
            "N_theta",
            (2, 4, 8, 16, 32),
            lambda n: sharpness(perceptron((256, *(256,) * n, _OUTPUTS), 64)),
            1,
            "parameters that no longer fit the cache cost more each",
        ),
        Series(
            "J, 784-100x4-10",
            "examples",
            (32, 64, 128, 256, 512, 1024, 2048),
            lambda n: jacobian(perceptron((784, *four, _OUTPUTS), n)),
            1,
            "Jacobians that no longer fit the cache cost more an entry",
        ),
        Series(
            "tangent sensitivity, closed form, 784-100x4-10",
            "examples",
            (32, 64, 128, 256, 512, 1024, 2048),
            lambda n: closed_form(perceptron((784, *four, _OUTPUTS), n)),
            1,
            "the factor of W_1, found once, weighs less the more examples there are",
        ),
    ]
    return [dataclasses.replace(one, sizes=one.sizes[:FEWEST]) for one in every] if smoke else every


def rows(smoke: bool) -> Iterator[Row]:
    """A row for each size that grows; its ways are the sizes."""
    for one in series(smoke):
        yield Row(
            name=one.what,
            unit="call",
            data=lambda: None,
            ours={
                str(size): Way(lambda _, one=one, size=size: one.ready(size), compared=False)
                for size in one.sizes
            },
            no_peer="growth is of our own time",
            rounds=2 if smoke else 3,
        )


def finish(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The records with their fits."""
    known = {one.what: one for one in series(smoke=False)}
    return [record | {"growth": growth(record, known[record["row"]])} for record in records]


def growth(record: dict[str, Any], one: Series) -> dict[str, Any]:
    """The exponent over the sizes of a record."""
    times = {int(size): way["median"] for size, way in record["ways"].items()}
    # What grows is the number of parameters, not the number of layers.
    scale = _parameters if one.size == "N_theta" else int
    found = fit([scale(size) for size in times], list(times.values()))
    return {
        "size": one.size,
        "sizes": [scale(size) for size in times],
        "fitted": found.sizes,
        "exponent": rounded(found.exponent),
        "stderr": rounded(found.stderr),
        "expected": one.expected,
        "why": one.why,
    }


def _parameters(depth: int) -> int:
    """Of `depth` hidden layers of 256 units on 256 inputs."""
    return depth * (256 * 256 + 256) + (256 + 1) * _OUTPUTS


def ensemble(model: Any, size: int, members: int) -> Ready:
    """An epoch of 1024 examples in 8 batches."""
    task = Task(model, (size,), examples=1024, members=members, epochs=1)
    return one_program(task, random_data(task), member_axis="map")


def sensitivity(data: Perceptron) -> Ready:
    """S of one draw for each example."""
    return compiled(
        lambda params, xs, key: output_sensitivity(forward, params, xs, key=key, noise_std=0.1),
        data.params,
        data.xs,
        jax.random.key(0),
    )


def jacobian(data: Perceptron) -> Ready:
    """J of all examples."""
    return compiled(functools.partial(input_jacobian_norm, forward), data.params, data.xs)


def sharpness(data: Perceptron) -> Ready:
    """Of the mean squared output, on 64 examples."""

    def loss(params: Any, key: Array) -> Array:
        del key
        return jnp.mean(jax.vmap(forward, (None, 0))(params, data.xs) ** 2)

    return compiled(
        lambda params, key: expected_sharpness(loss, params, key=key, alpha=1e-3, num_perturbations=100),
        data.params,
        jax.random.key(0),
    )


def streamed_over_folded_input(size: int) -> Ready:
    """The same perceptron on inputs of several times 3072 entries, which it sums to 3072: D alone grows."""
    data = perceptron((_FOLDED, *(_UNITS,) * 4, _OUTPUTS), 1)

    def folded(params: Any, x: Array) -> Array:
        return forward(params, x.reshape(-1, _FOLDED).sum(axis=0))

    measure = functools.partial(tangent_sensitivity, folded, method="streamed")
    return compiled(measure, data.params, jnp.ones((1, size)))
