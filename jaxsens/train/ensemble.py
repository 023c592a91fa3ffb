"""Many members as one program: over seeds by `vmap` or `lax.map`, over devices by `shard_map`."""

import functools
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxsens.checks import check_choice, check_positive, refuse
from jaxsens.train.checkpoint import restore_members, save_members
from jaxsens.train.devices import default_member_axis, device_mesh, devices_for
from jaxsens.train.hyper import HyperParameters
from jaxsens.train.member import Member, Training
from jaxsens.train.memory import available_bytes, compiled_bytes, largest_fit, stored_bytes, traced_bytes
from jaxsens.train.packing import Packed

__all__ = ["Progress", "train_ensemble"]

MEMBER_AXES: dict[str, Callable] = {
    "vmap": jax.vmap,
    "map": lambda function: lambda *stacked: lax.map(lambda one: function(*one), stacked),
}

# Between two calls of the compiled program there is time for a progress bar and for Ctrl-C.
_SECONDS_PER_CALL = 2.0
_SECONDS_PER_CHECKPOINT = 60.0


class Progress(NamedTuple):
    """How far an ensemble is: what a progress bar shows.

    Where the members do not fit in memory at once, epoch and loss are those of part `part` of `num_parts`.
    """

    epoch: int
    max_epochs: int
    members_done: int
    num_members: int
    mean_loss: float
    part: int = 0
    num_parts: int = 1


def train_ensemble(
    training: Training,
    keys: Array,
    xs: Array,
    ys: Array,
    *,
    hyper: HyperParameters | None = None,
    member_axis: str | None = None,
    num_devices: int | None = None,
    max_bytes: int | None = None,
    report: Callable[[Progress], None] | None = None,
    checkpoint: Path | None = None,
    snapshots: Sequence[int] = (),
    observe: Callable[[int, Member], None] | None = None,
) -> Member:
    """Trains one member per key, all on the same data, and returns them stacked along a leading axis.

    `hyper`, arrays (members,), are hyper-parameters that differ; ys are then label sets (sets, n).

    The numbers are those of training each alone, to rounding, whatever `member_axis` ("vmap", "map") and
    however many devices: members never communicate. By default they go over all accelerators of this host, or
    over as many devices of a CPU as they fill (`devices_for`, `cores_as_devices`). On several devices members
    are padded to a multiple of them; the padding is done from the start and dropped at the end.
    With `checkpoint`, a folder, the members are saved there about once a minute and a later call with the
    same arguments goes on exactly where the last save was.
    `observe(epoch, members)` is called at each epoch of `snapshots` with the members as they are then, those
    that are done as they ended, even where all are done. Snapshots before a restored checkpoint are not seen.

    Under "vmap", members that are done leave the program when half of the places hold those that are left and
    compiling it anew has paid. When that is depends on the time it takes, so two runs, or one that goes on
    from a checkpoint, are then equal to rounding, not to the bit. Arrays of packed members are NumPy's, but
    for the keys.

    Members that would need more than `max_bytes` of a device (default: most of its memory) train in equal
    parts, one after the other. Their arrays, but for the keys, are then NumPy's, and so are those of the
    snapshots, which are observed after the last part.

    Raises:
        InputError: keys, data, hyper-parameters, snapshots or an option that cannot be used, or members of
            which not even one for each device fits.
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
    if max_bytes is not None:
        check_positive("max_bytes", max_bytes)
    mesh = device_mesh(devices_for(len(keys)) if num_devices is None else num_devices)
    # Here too, because inside the compiled program values cannot be looked at.
    first = jax.tree.map(lambda leaf: leaf[0], hyper)
    shapes = jax.eval_shape(training.start, keys[0], first)
    training.check(shapes, xs, ys)
    advance = _advance_program(training.advance, member_axis, mesh)
    width = _members_at_once(advance, shapes, len(keys), xs, ys, mesh, max_bytes, len(set(snapshots)))

    xs, ys = jax.device_put((xs, ys), NamedSharding(mesh, PartitionSpec()))
    start = _start_program(training.start, member_axis, mesh)
    timing = _timing(training.advance, member_axis, mesh)
    run = _Run(training, start, advance, xs, ys, width, mesh, timing, packs=member_axis == "vmap")
    if width >= len(keys):
        return run.train(keys, hyper, report, checkpoint, snapshots, observe)
    return _train_in_parts(run, keys, hyper, report, checkpoint, snapshots, observe)


class _Timing:
    """The longest of a program's first calls, those that compile, in seconds."""

    slowest = 0.0


class _Run(NamedTuple):
    """The compiled programs with their data: they take members `width` at a time."""

    training: Training
    start: Callable[..., Member]
    advance: Callable[..., Member]
    xs: Array
    ys: Array
    width: int
    mesh: Mesh
    timing: _Timing
    packs: bool
    """Whether members that are done cost as much as others: `vmap` masks them, `map` leaves them out."""

    def train(
        self,
        keys: Array,
        hyper: HyperParameters | None,
        report: Callable[[Progress], None] | None,
        checkpoint: Path | None,
        snapshots: Sequence[int],
        observe: Callable[[int, Member], None] | None,
        *,
        save_end: bool = False,
    ) -> Member:
        """Up to `width` members, trained; saved at the end too, if not only half-way."""
        num_members = len(keys)
        places = np.arange(self.width) % num_members
        padding_hyper = jax.tree.map(lambda leaf: leaf[places], hyper)
        members = self.start(keys[places], padding_hyper, np.arange(self.width) >= num_members)
        if checkpoint is not None:
            members = restore_members(checkpoint, members, num_members)

        max_epochs = self.training.config.max_epochs
        packed = Packed(members, self.mesh)
        epochs_per_call, saved = 1, time.monotonic()
        called = 0.0  # since the program was last compiled, or could have been
        epoch = int(jnp.max(members.epoch))
        ahead = sorted(stage for stage in set(snapshots) if stage >= epoch)
        while True:
            if observe is not None and ahead and (ahead[0] == epoch or packed.all_done):
                observe(ahead.pop(0), packed.first(num_members))
                continue
            if epoch >= max_epochs or packed.all_done:
                return packed.first(num_members)
            began = time.monotonic()
            epoch = min(epoch + epochs_per_call, max_epochs, *ahead[:1])
            packed.put(jax.block_until_ready(self.advance(packed.take(), self.xs, self.ys, jnp.int32(epoch))))
            elapsed = time.monotonic() - began
            # Doubling keeps the rhythm without trusting the first call, which compiles.
            if elapsed < _SECONDS_PER_CALL / 2:
                epochs_per_call *= 2
            if called == 0:
                self.timing.slowest = max(self.timing.slowest, elapsed)
            called += elapsed
            if self.packs and _compiling_pays(self.timing.slowest, called) and packed.pack():
                called = 0.0
            done, losses = packed.done[:num_members], packed.losses[:num_members]
            if report is not None:
                report(Progress(epoch, max_epochs, int(done.sum()), num_members, float(losses.mean())))
            due = time.monotonic() - saved > _SECONDS_PER_CHECKPOINT or (save_end and done.all())
            if checkpoint is not None and due:
                save_members(checkpoint, packed.members, num_members, step=epoch)
                saved = time.monotonic()


def _compiling_pays(slowest: float, called: float) -> bool:
    """Whether to compile a smaller program: when this one has run for twice as long as one takes to get.

    `slowest` is the longest of the first calls of such programs, the one that compiled; of `called` the first
    call may be a part. So compiling at most doubles the time, however early the members that are left end.
    """
    return called > 2 * slowest


def _members_at_once(
    advance: Callable[..., Member],
    shapes: Member,
    num_members: int,
    xs: Array,
    ys: Array,
    mesh: Mesh,
    max_bytes: int | None,
    num_snapshots: int,
) -> int:
    """How many members one program takes: all, padded to the devices, or equal parts of them that fit.

    First by an estimate that costs a trace and is too large; where they would not fit by it, by that of the
    compiler, which costs up to four compilations.
    """
    most = -(-num_members // mesh.size)
    available = available_bytes(mesh.devices.ravel().tolist()) if max_bytes is None else max_bytes
    if available is None:
        return most * mesh.size
    data = (jax.ShapeDtypeStruct(xs.shape, xs.dtype), jax.ShapeDtypeStruct(ys.shape, ys.dtype))

    def needed(count: int, estimate: Callable[[Callable, tuple], int | None]) -> int:
        """Bytes on a device with `count` members, while they train or are copied at the end."""
        stacked = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct((count * mesh.size, *leaf.shape), leaf.dtype), shapes
        )
        arguments = (stacked, *data, jax.ShapeDtypeStruct((), jnp.int32))
        training = estimate(advance, arguments) or traced_bytes(advance, arguments)
        return max(training, stored_bytes(data) + 2 * count * stored_bytes(shapes))

    if needed(most, traced_bytes) <= available or needed(most, compiled_bytes) <= available:
        return most * mesh.size
    if mesh.devices.flat[0].platform == "cpu":
        # Finished parts wait in the same memory.
        available -= (1 + num_snapshots) * num_members * stored_bytes(shapes) // mesh.size
    fits = largest_fit(lambda count: needed(count, compiled_bytes), most, available)
    if not fits:
        raise refuse(
            f"{needed(1, compiled_bytes) / 1e9:.3g} GB for one member in training on each device, beside "
            f"{num_members} members of {stored_bytes(shapes) / 1e9:.3g} GB",
            f"at most {max(available, 0) / 1e9:.3g} GB of memory left for it",
            "take smaller batches, fewer examples or fewer members at once, or allow more memory",
        )
    parts = -(-most // fits)
    return -(-most // parts) * mesh.size


def _train_in_parts(
    run: _Run,
    keys: Array,
    hyper: HyperParameters | None,
    report: Callable[[Progress], None] | None,
    checkpoint: Path | None,
    snapshots: Sequence[int],
    observe: Callable[[int, Member], None] | None,
) -> Member:
    """Members `run.width` at a time. The checkpoint of a part stays when the part is done."""
    parts = [slice(first, first + run.width) for first in range(0, len(keys), run.width)]
    finished = _Joined(len(keys))
    stages = {stage: _Joined(len(keys)) for stage in sorted(snapshots)}
    for index, part in enumerate(parts):

        def report_part(progress: Progress, part: slice = part, index: int = index) -> None:
            done = part.start + progress.members_done  # all of earlier parts are
            whole = progress._replace(members_done=done, num_members=len(keys))
            if report is not None:
                report(whole._replace(part=index, num_parts=len(parts)))

        members = run.train(
            keys[part],
            jax.tree.map(lambda leaf, part=part: leaf[part], hyper),
            None if report is None else report_part,
            None if checkpoint is None else checkpoint / f"members-{part.start}-of-{run.width}",
            snapshots,
            lambda stage, members, part=part: stages[stage].put(part, members),
            save_end=True,
        )
        finished.put(part, members)
    for stage, seen in stages.items():
        # Those before a restored checkpoint were not seen in all parts.
        if observe is not None and len(seen.keys) == len(parts):
            observe(stage, seen.members)
    return finished.members


class _Joined:
    """Members of several parts in the host's memory, but for their keys."""

    def __init__(self, num_members: int) -> None:
        self.num_members = num_members
        self.keys: list[Array] = []
        self.rest: Any = None

    def put(self, part: slice, members: Member) -> None:
        """Copies the members of the next part into their places."""
        self.keys.append(members.key)
        rest = members._replace(key=())
        if self.rest is None:
            shape = (self.num_members,)
            self.rest = jax.tree.map(lambda leaf: np.empty(shape + leaf.shape[1:], leaf.dtype), rest)
        for whole, leaf in zip(*map(jax.tree.leaves, (self.rest, rest)), strict=True):
            whole[part] = leaf

    @property
    def members(self) -> Member:
        """All of them, when all were put."""
        return self.rest._replace(key=jnp.concatenate(self.keys))


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
def _timing(advance: Callable, member_axis: str, mesh: Mesh) -> _Timing:
    """That of `_advance_program`, for all ensembles that share it."""
    return _Timing()


@functools.lru_cache(maxsize=32)
def _start_program(start: Callable, member_axis: str, mesh: Mesh) -> Callable[..., Member]:
    """start(keys, hyper, padding): the members, those that are padding done from the start."""
    split = PartitionSpec("members")

    def start_all(keys: Array, hyper: HyperParameters | None, padding: Array) -> Member:
        members = MEMBER_AXES[member_axis](start)(keys, hyper)
        return members._replace(done=members.done | padding)

    return jax.jit(jax.shard_map(start_all, mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
