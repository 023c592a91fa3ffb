"""One check per precondition. Each refusal says what was got, what was expected and what to do.

Shapes are known while JAX traces, so those checks always run. Values are known only outside `jit`, `vmap`
and `grad`: a check of values looks at concrete arrays and lets traced ones pass.
"""

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import core

__all__ = [
    "InputError",
    "carry_nan",
    "check_at_least",
    "check_choice",
    "check_examples",
    "check_finite",
    "check_key",
    "check_labels",
    "check_outputs",
    "check_positive",
    "check_real",
    "refuse",
]


class InputError(ValueError):
    """A caller's input that cannot be used, said in one line."""


def refuse(got: str, expected: str, remedy: str) -> InputError:
    """The error to raise: `got X; expected Y; do Z`."""
    return InputError(f"got {got}; expected {expected}; {remedy}")


def is_concrete(value: Any) -> bool:
    """Whether the value can be looked at now, that is, is not traced."""
    return not isinstance(value, core.Tracer)


def check_real(name: str, value: Any) -> None:
    """Refuses complex numbers, which NumPy orders by their real parts, and what is no number."""
    dtype = value.dtype if hasattr(value, "dtype") else np.asarray(value).dtype
    real = (np.floating, np.integer, np.bool_)
    if not any(jnp.issubdtype(dtype, kind) for kind in real):
        raise refuse(f"{name} of dtype {dtype}", "real numbers", f"pass a real {name}")


def check_positive(name: str, value: Any) -> None:
    """Refuses a number that is not finite and above 0."""
    check_real(name, value)
    if is_concrete(value) and not (np.all(np.isfinite(value)) and np.all(np.asarray(value) > 0)):
        raise refuse(f"{name}={value}", f"a finite {name} > 0", f"pass a positive {name}")


def check_at_least(name: str, value: Any, least: int) -> None:
    """Refuses a whole number below `least`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise refuse(f"{name}={value!r}", f"a whole number >= {least}", f"pass a larger {name}")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Refuses a value that is not one of the choices."""
    if value not in choices:
        listed = ", ".join(map(str, choices))
        raise refuse(f"{name}={value!r}", f"one of {listed}", f"choose {name} from that list")


def check_key(key: Any) -> None:
    """Refuses anything but one typed key."""
    dtype = getattr(key, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jax.dtypes.prng_key) or key.shape != ():
        raise refuse(
            f"key of type {type(key).__name__}, dtype {dtype}, shape {getattr(key, 'shape', None)}",
            "one typed key of shape ()",
            "make it with jax.random.key(seed)",
        )


def check_examples(xs: Any, *, name: str = "xs", least: int = 1) -> None:
    """Refuses an array without a leading example axis of at least `least` entries."""
    if getattr(xs, "ndim", 0) < 1:
        raise refuse(
            f"{name} of rank 0", f"{name} with a leading example axis", "pass x[None] for one example"
        )
    if xs.shape[0] < least:
        raise refuse(f"{xs.shape[0]} examples in {name}", f"at least {least}", f"pass a longer {name}")


def check_outputs(shape: tuple[int, ...], *, name: str = "f(params, x)") -> None:
    """Refuses a model output of one example that is not a vector of K >= 1 entries."""
    if len(shape) != 1 or shape[0] < 1:
        raise refuse(
            f"{name} of shape {shape}",
            "shape (K,), for ONE example",
            "return a vector; for a batched model pass lambda p, x: model(p, x[None])[0]",
        )


def check_finite(name: str, tree: Any) -> None:
    """Refuses a pytree with a NaN or an infinity in it (concrete arrays only)."""
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        is_array = isinstance(leaf, jax.Array | np.ndarray | np.generic)
        if not (is_concrete(leaf) and is_array and jnp.issubdtype(leaf.dtype, np.inexact)):
            continue
        # NumPy throughout: inside a trace, jax.numpy would trace even concrete arrays. A float64 of NumPy
        # that JAX will make a float32 must be finite as such.
        with np.errstate(over="ignore"):
            array = np.asarray(leaf).astype(jax.dtypes.canonicalize_dtype(leaf.dtype))
        if not np.isfinite(array).all():
            raise refuse(
                f"a NaN or infinity in {name}{jax.tree_util.keystr(path)}",
                "finite numbers only",
                "drop this member, or find the step at which training diverged",
            )


def carry_nan(result: Any, *given: Any, examples: Any = ()) -> Any:
    """The result, but NaN (-1 for whole numbers) where a traced array behind it has a NaN or an infinity.

    `check_finite` cannot look at a traced array, and derivatives, maxima and comparisons lose a NaN. An array
    among `given` spoils all of the result, one among `examples` the rows of the leading axis that are its
    own. Booleans stay as they are.
    """

    def traced(tree: Any) -> list[Any]:
        leaves = [leaf for leaf in jax.tree.leaves(tree) if not is_concrete(leaf)]
        return [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, np.inexact)]

    whole = [jnp.isfinite(leaf).all() for leaf in traced(given)]
    rows = [jnp.isfinite(leaf).all(axis=tuple(range(1, leaf.ndim))) for leaf in traced(examples)]
    if not whole and not rows:
        return result

    def mark(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        if leaf.dtype == bool:
            return leaf
        missing = np.nan if jnp.issubdtype(leaf.dtype, np.inexact) else -1
        for sound in (*whole, *(row.reshape(-1, *[1] * (leaf.ndim - 1)) for row in rows)):
            leaf = jnp.where(sound, leaf, jnp.asarray(missing, leaf.dtype))
        return leaf

    return jax.tree.map(mark, result)


def check_labels(ys: Any, num_classes: int, *, name: str = "ys") -> None:
    """Refuses class labels that are not integers in [0, num_classes)."""
    if not jnp.issubdtype(ys.dtype, np.integer):
        raise refuse(
            f"{name} of dtype {ys.dtype}", "integer class labels", "cast them, or train with loss='mse'"
        )
    if not is_concrete(ys) or not ys.size:
        return
    lowest, highest = int(np.asarray(ys).min()), int(np.asarray(ys).max())
    if not 0 <= lowest <= highest < num_classes:
        raise refuse(
            f"{name} from {lowest} to {highest}",
            f"labels from 0 to {num_classes - 1}",
            "remap the labels, or set the number of classes",
        )
