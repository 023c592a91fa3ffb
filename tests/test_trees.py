"""Which pytrees share a program: equal but for their arrays."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxsens.trees import split


def test_a_pytree_is_put_together_again():
    tree = {"a": [jnp.ones(2), 3, "relu"], "b": (np.zeros(1), None, math.tanh)}
    arrays, structure = split(tree)
    assert [leaf.shape for leaf in arrays] == [(2,), (1,)]
    joined = structure.join([jnp.zeros(4), jnp.zeros(5)])
    assert joined["a"][0].shape == (4,)
    assert joined["b"][0].shape == (5,)
    assert (joined["a"][1:], joined["b"][1:]) == ([3, "relu"], (None, math.tanh))


class Uncomparable:
    """As an array among static fields is."""

    def __eq__(self, other):
        raise ValueError("ambiguous")

    __hash__ = None


@pytest.mark.parametrize(
    ("one", "other", "equal"),
    [
        ([jnp.ones(2), 1], [jnp.zeros(3), 1], True),
        ([jnp.ones(2), 1], [jnp.ones(2), 2], False),
        ([1], [1.0], False),
        ([1], [True], False),
        ([jnp.ones(2)], [1.0], False),
        ([1.0], [jnp.ones(2)], False),
        ([1.0], (1.0,), False),
        ({"a": 1}, {"b": 1}, False),
        ([1.0, 1.0], [1.0], False),
        (lambda x: x, lambda x: x, False),
        (math.tanh, math.tanh, True),
        (jax.tree_util.Partial(math.pow, 2), jax.tree_util.Partial(math.pow, 2), True),
        (jax.tree_util.Partial(math.pow, 2), jax.tree_util.Partial(math.pow, 3), False),
        (functools.partial(math.pow, 2), functools.partial(math.pow, 2), False),
        (Uncomparable(), Uncomparable(), False),
        ([math.nan], [float("nan")], False),
    ],
)
def test_structures_are_equal_if_all_but_the_arrays_is(one, other, equal):
    structures = [split(tree)[1] for tree in (one, other)]
    assert (structures[0] == structures[1]) is equal
    if equal:
        assert hash(structures[0]) == hash(structures[1])
    assert structures[0] != "something else"
