"""Members in training on disk, through Orbax, which writes to a temporary folder and renames it."""

import logging
from pathlib import Path

import jax
import numpy as np

from jaxsens.checks import InputError, refuse
from jaxsens.train.member import Member

__all__ = ["restore_members", "save_members"]


def save_members(folder: Path, members: Member, *, step: int) -> None:
    """Writes all members as of epoch `step`, and removes older steps but one."""
    import orbax.checkpoint as ocp

    with _manager(folder) as manager:
        manager.save(step, args=ocp.args.StandardSave(_to_arrays(members)))


def restore_members(folder: Path, members: Member) -> Member:
    """The members of the newest save, or those given where there is none.

    `members`, freshly started, gives shapes, types and placement; a save of other shapes is refused.
    """
    import orbax.checkpoint as ocp

    if not folder.is_dir():
        return members
    with _manager(folder) as manager:
        step = manager.latest_step()
        if step is None:
            return members
        wanted = _to_arrays(members)
        try:
            saved = manager.restore(step, args=ocp.args.StandardRestore(wanted))
        except (ValueError, KeyError, OSError) as error:
            raise _unusable(folder, type(error).__name__) from error
    # Orbax gives back what was saved, whatever shape was asked for.
    if {name: v.shape for name, v in saved.items()} != {name: v.shape for name, v in wanted.items()}:
        raise _unusable(folder, "arrays of other shapes")
    leaves, structure = jax.tree.flatten(members)
    return structure.unflatten(
        _like(leaf, saved[name]) for leaf, name in zip(leaves, sorted(saved), strict=True)
    )


def _unusable(folder: Path, problem: str) -> InputError:
    return refuse(
        f"a checkpoint in {folder} that cannot be used ({problem})",
        "one saved by this program with the same settings",
        "delete that folder to train from the start",
    )


def _manager(folder: Path):
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def _to_arrays(members: Member) -> dict[str, np.ndarray]:
    """The leaves under sortable names, keys as the words they are made of."""
    leaves = jax.tree.leaves(members)
    return {f"leaf{index:05d}": np.asarray(_words(leaf)) for index, leaf in enumerate(leaves)}


def _words(leaf):
    return jax.random.key_data(leaf) if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def _like(leaf, saved: np.ndarray):
    """The saved values with the type and placement of a fresh leaf."""
    if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        saved = jax.random.wrap_key_data(saved, impl=jax.random.key_impl(leaf))
    return jax.device_put(saved, leaf.sharding)
