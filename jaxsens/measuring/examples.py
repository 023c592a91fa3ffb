"""What comes in, checked once: the examples, and a network that takes them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxsens.checks import check_examples, check_finite, check_labels, check_real, is_concrete, refuse
from jaxsens.measuring.options import Options
from jaxsens.measuring.specs import CLASSIFIERS, MeasureSpec
from jaxsens.metrics._batching import bind
from jaxsens.metrics.sensitivity import check_resolved
from jaxsens.trees import is_array
from jaxsens.types import Function, Params

__all__ = ["Examples", "Network", "open_network"]


@dataclasses.dataclass(frozen=True)
class Examples:
    """n examples on the host, in a dtype that JAX has, and their labels or targets."""

    xs: np.ndarray
    ys: np.ndarray | None

    @classmethod
    def of(cls, xs: Any, ys: Any) -> "Examples":
        """Refuses fewer than 2 examples, another number of labels, NaN and infinities."""
        check_concrete("xs", xs)
        check_concrete("ys", ys)
        xs = on_host(xs)
        check_examples(xs, least=2)
        check_finite("xs", xs)
        if ys is not None:
            ys = on_host(ys)
            if ys.shape[:1] != xs.shape[:1]:
                raise refuse(f"ys of shape {ys.shape} for {len(xs)} examples", "one for each", "pass as many")
            check_finite("ys", ys)
        return cls(xs, ys)


class Network(NamedTuple):
    """A checked network: its parameters in float32 at least, and which narrower dtypes they had."""

    f: Function
    params: Params
    narrow: tuple[str, ...]
    num_outputs: int

    @property
    def weights(self) -> list[jax.Array]:
        """The floating arrays among the parameters."""
        leaves = jax.tree.leaves(self.params)
        return [w for w in leaves if is_array(w) and jnp.issubdtype(w.dtype, jnp.floating)]

    @property
    def num_parameters(self) -> int:
        """Their entries."""
        return sum(w.size for w in self.weights)


def open_network(
    f: Function, params: Params, examples: Examples, specs: Sequence[MeasureSpec], options: Options
) -> Network:
    """The network, if it takes these examples and these measures are of it."""
    check_concrete("params", params)
    params, narrow = in_single_precision(params)
    _, num_outputs = bind(f, params, jnp.asarray(examples.xs[:1]))
    if num_outputs == 1 and any(spec.applies_to == CLASSIFIERS for spec in specs):
        raise refuse(
            "f(params, x) of shape (1,)",
            "at least 2 outputs, one per class",
            "for a binary score s pass a model of the logits (0, s); for regression loss='mse'",
        )
    if any("noise" in spec.passes for spec in specs):
        check_resolved(options.noise_std, examples.xs)
    if examples.ys is not None:
        check_targets(examples.ys, num_outputs, options.loss)
    return Network(f, params, narrow, num_outputs)


def check_targets(ys: np.ndarray, num_outputs: int, loss: str) -> None:
    """Refuses what are no labels, or no targets for a squared error."""
    if loss == "cross_entropy":
        if ys.ndim != 1:
            raise refuse(
                f"ys of shape {ys.shape}", "shape (n,), a class label each", "take argmax of one-hot"
            )
        check_labels(ys, num_outputs)
        return
    check_real("ys", ys)
    if ys.shape[1:] != (num_outputs,):
        raise refuse(
            f"ys of shape {ys.shape} for {num_outputs} outputs",
            f"shape (n, {num_outputs})",
            "pass ys[:, None] for one target each, or loss='cross_entropy' for class labels",
        )


def check_concrete(name: str, tree: Any) -> None:
    """Refuses traced arrays: programs are compiled and results looked at."""
    if not all(is_concrete(leaf) for leaf in jax.tree.leaves(tree)):
        raise refuse(f"a traced array in {name}", "concrete arrays", "call it outside jit, vmap and grad")


def in_single_precision(params: Params) -> tuple[Params, tuple[str, ...]]:
    """The parameters on the device, leaves narrower than float32 as float32, and which dtypes these had."""
    narrow = set()

    def widen(leaf: Any) -> Any:
        if not is_array(leaf):
            return leaf
        if not jnp.issubdtype(leaf.dtype, jnp.floating) or jnp.finfo(leaf.dtype).bits >= 32:
            return jnp.asarray(leaf)
        narrow.add(str(leaf.dtype))
        return jnp.asarray(leaf, jnp.float32)

    return jax.tree.map(widen, params), tuple(sorted(narrow))


def on_host(array: Any) -> np.ndarray:
    """In NumPy, in the dtype that JAX would make of it; what leaves its range becomes infinite."""
    array = np.asarray(array)
    with np.errstate(over="ignore"):
        return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
