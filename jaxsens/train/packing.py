"""Members in training packed together, so that those that are done cost nothing."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsens.train.member import Member

__all__ = ["Packed"]


class Packed:
    """Members side by side, of which those still in training can be packed into a narrower array.

    Members that are done cost a `vmap` as much as the others do. Packed are they when half of the places, in
    multiples of the devices, hold the rest, so there are at most log2(members) programs. The others wait in
    the host's memory: packing takes no room on the devices, and no talk between them.
    """

    def __init__(self, members: Member, mesh: Mesh) -> None:
        self.split = NamedSharding(mesh, PartitionSpec("members"))
        self.num_devices = mesh.size
        self.impl = jax.random.key_impl(members.key)
        self.whole: Member | None = None
        self.active: Any = members
        self.rows = np.arange(len(members.done))
        """Where the active members are among all; the places after them are padding."""
        self.done, self.losses = np.array(members.done), np.array(members.loss)

    @property
    def all_done(self) -> bool:
        """Whether no member is left in training."""
        return bool(self.done.all())

    @property
    def members(self) -> Member:
        """All of them on the devices, as they are now."""
        return self.active if self.whole is None else self.on_devices(self.gathered())

    def first(self, count: int) -> Member:
        """The members without the padding after them; copies, because the next call reuses the memory.

        Once packed, the arrays are NumPy's, but for the keys.
        """
        if self.whole is None:
            return _copied(self.active, count)
        members = jax.tree.map(lambda leaf: leaf[:count], self.gathered())
        return members._replace(key=jax.random.wrap_key_data(members.key, impl=self.impl))

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
        width = -(-len(left) // self.num_devices) * self.num_devices
        if not len(left) or 2 * width > len(self.active.done):
            return False
        self.whole, self.active, self.rows = self.gathered(), None, left
        places = np.resize(left, width)
        packed = jax.tree.map(lambda leaf: leaf[places], self.whole)
        self.active = self.on_devices(packed._replace(done=np.arange(width) >= len(left)))
        return True

    def gathered(self) -> Member:
        """All members in the host's memory, keys as their data."""
        active = jax.device_get(self.active._replace(key=jax.random.key_data(self.active.key)))
        if self.whole is None:
            return active
        count = len(self.rows)

        def placed(all_: np.ndarray, some: np.ndarray) -> np.ndarray:
            filled = all_.copy()
            filled[self.rows] = some[:count]
            return filled

        return jax.tree.map(placed, self.whole, active)

    def on_devices(self, members: Member) -> Member:
        """Spread over the mesh, keys as keys."""
        members = jax.device_put(members, self.split)
        return members._replace(key=jax.random.wrap_key_data(members.key, impl=self.impl))


@functools.partial(jax.jit, static_argnums=1)
def _copied(members: Member, count: int) -> Member:
    return jax.tree.map(lambda leaf: jnp.copy(leaf[:count]), members)
