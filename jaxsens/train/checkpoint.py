"""Members on disk: in training through Orbax, which writes to a temporary folder and renames it; trained
ones, without their optimiser, as one npz file."""

import errno
import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import IO, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxsens.checks import InputError, refuse
from jaxsens.train.member import Member

__all__ = ["load_trained", "restore_members", "save_members", "save_trained"]

# Members' fields that measuring does without.
_ONLY_TRAINING: dict[str, Any] = {"optimizer": (), "key": (), "hyper": None}

# What Orbax writes about the arrays: some twenty small files, each at least a page.
_BYTES_BESIDE = 2**18


def save_members(folder: Path, members: Member, num_members: int, *, step: int) -> None:
    """Writes the first `num_members` as of epoch `step`, and removes older steps but one.

    Raises:
        InputError: it cannot be written, for want of room or of the right to.
    """
    import orbax.checkpoint as ocp

    arrays = _to_arrays(members, num_members)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Asked before: on a full disk, Orbax's threads print tracebacks of their own.
        if shutil.disk_usage(folder).free < sum(array.nbytes for array in arrays.values()) + _BYTES_BESIDE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with _manager(folder) as manager:
            manager.save(step, args=ocp.args.StandardSave(arrays))
    except (ValueError, OSError, RuntimeError) as error:
        raise refuse(
            f"a checkpoint that cannot be written to {folder} ({_reason(error)})",
            "room and the right to write there",
            "make room, or leave out --checkpoint; the same command goes on from the save before",
        ) from error


def restore_members(folder: Path, members: Member, num_members: int) -> Member:
    """The members of the newest save that can be read, or those given where there is no save.

    `members`, freshly started, gives shapes, types, placement and the padding after the first `num_members`,
    so that a save may go on on another number of devices. Refuses a save of other shapes or other keys.
    """
    import orbax.checkpoint as ocp

    if not folder.is_dir():
        return members
    fresh = _to_arrays(members, num_members)
    problem: Exception | None = None
    with _manager(folder) as manager:
        steps = sorted(manager.all_steps(), reverse=True)
        if not steps:
            return members
        for step in steps:
            try:
                saved = manager.restore(step, args=ocp.args.StandardRestore(fresh))
                break
            except (ValueError, KeyError, OSError, RuntimeError) as error:
                problem = error
                if step != steps[-1]:
                    warnings.warn(
                        f"the save at epoch {step} in {folder} cannot be read; the one before it is tried",
                        stacklevel=2,
                    )
        else:
            raise _unusable(folder, type(problem).__name__) from problem
    # Orbax gives back what was saved, whatever shape was asked for.
    if {name: v.shape for name, v in saved.items()} != {name: v.shape for name, v in fresh.items()}:
        raise _unusable(folder, "arrays of other shapes")
    leaves, structure = jax.tree.flatten(members)
    names = sorted(fresh)
    given = jax.tree.map(lambda _: False, members)._replace(hyper=jax.tree.map(lambda _: True, members.hyper))
    for leaf, name, hyper in zip(leaves, names, jax.tree.leaves(given), strict=True):
        if (hyper or _is_key(leaf)) and not np.array_equal(saved[name], fresh[name]):
            other = "hyper-parameters" if hyper else "seeds"
            raise _unusable(folder, f"members of other {other}")
    return structure.unflatten(
        _like(leaf, np.asarray(saved[name])) for leaf, name in zip(leaves, names, strict=True)
    )


def save_trained(stream: IO[bytes], members: Member, *, seconds: float) -> None:
    """Writes trained members, without what only training needs, and the seconds they took."""
    arrays = _to_arrays(members._replace(**_ONLY_TRAINING), len(members.epoch))
    contents: dict[str, Any] = {"seconds": np.float64(seconds), **arrays}
    np.savez(stream, **contents)


def load_trained(file: Path, shapes: Member) -> tuple[Member, float] | None:
    """What `save_trained` wrote; None where there is no such file, or it is damaged or of other shapes.

    `shapes` is one member, abstract or not; the optimiser and the key come back as ().
    """
    if not file.is_file():
        return None
    leaves, structure = jax.tree.flatten(shapes._replace(**_ONLY_TRAINING))
    try:
        with file.open("rb") as stream, np.load(stream) as saved:
            arrays = [saved[f"leaf{index:05d}"] for index in range(len(leaves))]
            seconds = float(saved["seconds"])
    except Exception:  # a changed byte can make zipfile raise nearly anything
        return None
    pairs = zip(arrays, leaves, strict=True)
    if any(array.shape[1:] != leaf.shape or array.dtype != leaf.dtype for array, leaf in pairs):
        return None
    return structure.unflatten(arrays), seconds


def _unusable(folder: Path, problem: str) -> InputError:
    return refuse(
        f"a checkpoint in {folder} that cannot be used ({problem})",
        "one saved by this program with the same settings",
        "delete that folder to train from the start",
    )


def _reason(error: Exception) -> str:
    """The system's words if they are in the error, else its kind."""
    number = getattr(error, "errno", None)
    if number is not None:
        return os.strerror(number)
    known = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
    words = [os.strerror(number) for number in known if os.strerror(number) in str(error)]
    return words[0] if words else type(error).__name__


def _manager(folder: Path):
    import orbax.checkpoint as ocp

    # What it cannot write or read it also raises, and logs with tracebacks.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    options = ocp.CheckpointManagerOptions(max_to_keep=2, enable_async_checkpointing=False)
    return ocp.CheckpointManager(folder.resolve(), options=options)


def _to_arrays(members: Member, num_members: int) -> dict[str, np.ndarray]:
    """The leaves under sortable names, without the padding, keys as the words they are made of."""
    leaves = jax.tree.leaves(members)
    return {f"leaf{index:05d}": np.asarray(_words(leaf))[:num_members] for index, leaf in enumerate(leaves)}


def _is_key(leaf: jax.Array | np.ndarray) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _words(leaf: jax.Array | np.ndarray) -> jax.Array | np.ndarray:
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: jax.Array, saved: np.ndarray) -> jax.Array:
    """The saved values, then the fresh padding, with the type and placement of a fresh leaf."""
    values = np.concatenate([saved, np.asarray(_words(leaf))[len(saved) :]])
    if _is_key(leaf):
        values = jax.random.wrap_key_data(jnp.asarray(values), impl=jax.random.key_impl(leaf))
    return jax.device_put(values, leaf.sharding)
