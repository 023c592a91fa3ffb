"""Members in training packed together, so that those that are done cost nothing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsens.train.member import Member

__all__ = ["Packed"]


class Packed:
    """Members side by side, of which those still in training can be packed into a narrower array.

    Members that are done cost a `vmap` as much as the others do. Packed are they when half of the places, in
    multiples of the devices, hold the rest, so there are at most log2(members) programs.
    """

    def __init__(self, members: Member, mesh: Mesh) -> None:
        self.mesh = mesh
        self.whole: Member | None = None
        self.active: Member | None = members
        self.rows = np.arange(len(members.done))
        """Where the active members are among all; the places after them are padding."""
        self.done, self.losses = np.array(members.done), np.array(members.loss)

    @property
    def all_done(self) -> bool:
        """Whether no member is left in training."""
        return bool(self.done.all())

    @property
    def members(self) -> Member:
        """All of them, as they are now."""
        if self.whole is None:
            return self.active
        return _scattered(self.whole, self.active, self.rows)

    def first(self, count: int) -> Member:
        """The members without the padding after them; copies, because the next call reuses the memory."""
        return _copied(self.members, count)

    def take(self) -> Member:
        """The active members, for a program that may reuse their memory and gives them back to `put`."""
        active, self.active = self.active, None
        return active

    def put(self, active: Member) -> None:
        """The active members, further trained."""
        self.active = active
        count = len(self.rows)
        self.done[self.rows] = np.asarray(active.done)[:count]
        self.losses[self.rows] = np.asarray(active.loss)[:count]

    def pack(self) -> bool:
        """Packs those in training if they fit into half of the places; tells whether it did."""
        left = np.flatnonzero(~self.done)
        width = -(-len(left) // self.mesh.size) * self.mesh.size
        if not len(left) or 2 * width > len(self.active.done):
            return False
        self.whole, self.rows = self.members, left
        places = np.resize(left, width)
        split = NamedSharding(self.mesh, PartitionSpec("members"))
        active = jax.device_put(_gathered(self.whole, places), split)
        self.active = active._replace(done=jax.device_put(np.arange(width) >= len(left), split))
        return True


@jax.jit
def _gathered(members: Member, rows: Array) -> Member:
    return jax.tree.map(lambda leaf: leaf[rows], members)


@jax.jit
def _scattered(whole: Member, active: Member, rows: Array) -> Member:
    return jax.tree.map(lambda all_, some: all_.at[rows].set(some[: len(rows)]), whole, active)


@functools.partial(jax.jit, static_argnums=1)
def _copied(members: Member, count: int) -> Member:
    return jax.tree.map(lambda leaf: jnp.copy(leaf[:count]), members)
