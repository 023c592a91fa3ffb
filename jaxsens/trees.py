"""A pytree in two parts: its arrays, which a compiled program takes, and the rest, which is part of it."""

import dataclasses
from typing import Any

import jax
import numpy as np

__all__ = ["Structure", "is_array", "split"]


class _Place:
    """Stands for an array."""


_ARRAY = _Place()


def is_array(leaf: Any) -> bool:
    """Whether a leaf is an argument of a program; others are part of it."""
    return isinstance(leaf, jax.Array | np.ndarray)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Structure:
    """All of a pytree but its arrays: the containers with what is static in them, and the other leaves.

    Two are equal if their containers are, and each leaf is of the other's type and equal to it; a leaf
    without an equality of its own, such as a function, is equal to itself alone. What cannot be compared,
    such as an array among what is static, is not equal.
    """

    tree: Any
    constants: tuple[Any, ...]

    def join(self, arrays: list[Any]) -> Any:
        """The pytree with these arrays, in the order in which `split` has them."""
        mine = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(mine) if c is _ARRAY else c for c in self.constants])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Structure):
            return NotImplemented
        try:
            return self.tree == other.tree and all(map(_same, self.constants, other.constants))
        except (TypeError, ValueError):
            return False

    def __hash__(self) -> int:
        return hash((self.tree, *map(type, self.constants)))


def split(tree: Any) -> tuple[list[Any], Structure]:
    """The arrays of JAX and of NumPy in a pytree, in order, and its structure."""
    leaves, containers = jax.tree.flatten(tree)
    constants = tuple(_ARRAY if is_array(leaf) else leaf for leaf in leaves)
    return [leaf for leaf in leaves if is_array(leaf)], Structure(containers, constants)


def _same(one: Any, other: Any) -> bool:
    # 1, 1.0 and True are equal to Python.
    return one is other or (type(one) is type(other) and bool(one == other))
