"""Many members as one program: over seeds by `vmap` or `lax.map`, over devices by `shard_map`."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxsens.checks import check_choice, refuse
from jaxsens.train.checkpoint import restore_members, save_members
from jaxsens.train.hyper import HyperParameters
from jaxsens.train.member import Member, Training

__all__ = ["Progress", "default_member_axis", "device_mesh", "train_ensemble"]

MEMBER_AXES: dict[str, Callable] = {
    "vmap": jax.vmap,
    "map": lambda function: lambda *stacked: lax.map(lambda one: function(*one), stacked),
}

# Between two calls of the compiled program there is time for a progress bar and for Ctrl-C.
_SECONDS_PER_CALL = 2.0
_SECONDS_PER_CHECKPOINT = 60.0


class Progress(NamedTuple):
    """How far an ensemble is: what a progress bar shows."""

    epoch: int
    max_epochs: int
    members_done: int
    num_members: int
    mean_loss: float


def default_member_axis() -> str:
    """How members run fastest, as measured: one after the other on a CPU, side by side elsewhere."""
    return "map" if jax.default_backend() == "cpu" else "vmap"


def device_mesh(num_devices: int | None = None) -> Mesh:
    """A mesh with one axis, "members", over this host's first `num_devices` devices (default: all)."""
    available = jax.local_devices()
    count = len(available) if num_devices is None else num_devices
    if not 1 <= count <= len(available):
        raise refuse(
            f"devices={count}",
            f"1 to {len(available)}, the {jax.default_backend()} devices here",
            "ask for fewer, or set XLA_FLAGS=--xla_force_host_platform_device_count=N for more on a CPU",
        )
    return jax.make_mesh((count,), ("members",), (AxisType.Auto,), devices=available[:count])


def train_ensemble(
    training: Training,
    keys: Array,
    xs: Array,
    ys: Array,
    *,
    hyper: HyperParameters | None = None,
    member_axis: str | None = None,
    num_devices: int | None = None,
    report: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    snapshots: Sequence[int] = (),
    observe: Callable[[int, Member], None] | None = None,
) -> Member:
    """Trains one member per key, all on the same data, and returns them stacked along a leading axis.

    `hyper`, arrays (members,), are hyper-parameters that differ; ys are then label sets (sets, n).

    The numbers are those of training each alone, to rounding, whatever `member_axis` ("vmap", "map") and
    however many devices: members never communicate. On several devices members are padded to a multiple of
    them; the padding is done from the start and dropped at the end.
    With `checkpoint`, a folder, the members are saved there about once a minute and a later call with the
    same arguments goes on exactly where the last save was.
    `observe(epoch, members)` is called at each epoch of `snapshots` with the members as they are then, those
    that are done as they ended, even where all are done. Snapshots before a restored checkpoint are not seen.
    """
    member_axis = default_member_axis() if member_axis is None else member_axis
    check_choice("member_axis", member_axis, MEMBER_AXES)
    if keys.ndim != 1 or not len(keys):
        raise refuse(
            f"keys of shape {keys.shape}", "one key per member, shape (members,)", "pass one at least"
        )
    limit = training.config.max_epochs
    if any(not 0 <= stage <= limit for stage in snapshots) or (snapshots and observe is None):
        raise refuse(
            f"snapshots={tuple(snapshots)} for {limit} epochs",
            "epochs from 0 to the limit, and a function observe(epoch, members)",
            "leave out later stages",
        )
    check_hyper(hyper, len(keys), ys)
    mesh = device_mesh(num_devices)
    start = _start_program(training.start, member_axis, mesh)
    advance = _advance_program(training.advance, member_axis, mesh)

    num_members, padding = len(keys), -len(keys) % mesh.size
    # Here too, because inside the compiled program values cannot be looked at.
    first = jax.tree.map(lambda leaf: leaf[0], hyper)
    training.check(jax.eval_shape(training.start, keys[0], first), xs, ys)
    places = np.arange(num_members + padding) % num_members
    padding_hyper = jax.tree.map(lambda leaf: leaf[places], hyper)
    members = start(keys[places], padding_hyper, np.arange(len(places)) >= num_members)
    if checkpoint is not None:
        members = restore_members(checkpoint, members, num_members)

    def only(members: Member) -> Member:
        """Without the padding; copies, because the next call reuses the memory."""
        return jax.tree.map(lambda leaf: jnp.copy(leaf[:num_members]), members)

    replicated = NamedSharding(mesh, PartitionSpec())
    xs, ys = jax.device_put((xs, ys), replicated)

    max_epochs = training.config.max_epochs
    epochs_per_call, saved = 1, time.monotonic()
    epoch = int(jnp.max(members.epoch))
    ahead = sorted(stage for stage in set(snapshots) if stage >= epoch)
    while True:
        if ahead and (ahead[0] == epoch or np.all(members.done)):
            observe(ahead.pop(0), only(members))
            continue
        if epoch >= max_epochs or np.all(members.done):
            return only(members)
        began = time.monotonic()
        epoch = min(epoch + epochs_per_call, max_epochs, *ahead[:1])
        members = jax.block_until_ready(advance(members, xs, ys, jnp.int32(epoch)))
        elapsed = time.monotonic() - began
        # Doubling keeps the rhythm without trusting the first call, which compiles.
        epochs_per_call = max(1, epochs_per_call * 2 if elapsed < _SECONDS_PER_CALL / 2 else epochs_per_call)
        if report is not None:
            done, losses = np.asarray(members.done)[:num_members], np.asarray(members.loss)[:num_members]
            report(Progress(epoch, max_epochs, int(done.sum()), num_members, float(losses.mean())))
        if checkpoint is not None and time.monotonic() - saved > _SECONDS_PER_CHECKPOINT:
            save_members(checkpoint, members, num_members, step=epoch)
            saved = time.monotonic()


def check_hyper(hyper: HyperParameters | None, num_members: int, ys: Array) -> None:
    """Refuses hyper-parameters of another number of members, or rows of labels that there are not."""
    if hyper is None:
        return
    if any(leaf.shape[:1] != (num_members,) for leaf in jax.tree.leaves(hyper)):
        raise refuse(
            f"hyper-parameters of shapes {sorted({leaf.shape for leaf in jax.tree.leaves(hyper)})}",
            f"({num_members},), one per key",
            "stack those of the members",
        )
    rows = np.asarray(hyper.labels)
    if rows.min() < 0 or rows.max() >= len(ys):
        raise refuse(
            f"rows of labels from {rows.min()} to {rows.max()}",
            f"0 to {len(ys) - 1}, the label sets there are",
            "pass ys of shape (sets, n)",
        )


# Kept between calls: trainings that share their `advance`, as those that differ in their initial weights may,
# share its compiled program.
@functools.lru_cache(maxsize=32)
def _advance_program(advance: Callable, member_axis: str, mesh: Mesh) -> Callable[..., Member]:
    """advance(members, xs, ys, until), compiled once for each shape of its arguments."""
    split, whole = PartitionSpec("members"), PartitionSpec()

    def advance_all(members: Member, xs: Array, ys: Array, until: Array) -> Member:
        return MEMBER_AXES[member_axis](lambda member: advance(member, xs, ys, until))(members)

    # No collectives are wanted, and the check for them does not know the training convolution.
    advance_all = jax.shard_map(
        advance_all, mesh=mesh, in_specs=(split, whole, whole, whole), out_specs=split, check_vma=False
    )
    return jax.jit(advance_all, donate_argnums=0)


@functools.lru_cache(maxsize=32)
def _start_program(start: Callable, member_axis: str, mesh: Mesh) -> Callable[..., Member]:
    """start(keys, hyper, padding): the members, those that are padding done from the start."""
    split = PartitionSpec("members")

    def start_all(keys: Array, hyper: HyperParameters | None, padding: Array) -> Member:
        members = MEMBER_AXES[member_axis](start)(keys, hyper)
        return members._replace(done=members.done | padding)

    return jax.jit(jax.shard_map(start_all, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
