"""Ten fully-connected networks of 3 hidden layers: an epoch of Adam over 1000 inputs in 8 batches.

Ours is one program for all seeds: on a device for each core, as the experiments' command runs it, where the
members fill these; or on one device that has all cores for its products, members in turn (`lax.map`, the
default on a CPU) or side by side (`vmap`).
PyTorch trains them one after the other, with Adam as it comes and fused, and so does a Python loop around a
jitted step in JAX. All start from the same weights and take the same batches in the same order; their losses
are compared.
"""

import functools
from collections.abc import Iterator, Mapping

import in_torch
from timing import Ready, Row, Way
from training import Data, Task, initial_params, one_by_one, one_program, random_data

from jaxsens.models import fully_connected
from jaxsens.train import devices_for

__all__ = ["rows"]


def rows(smoke: bool) -> Iterator[Row]:
    """A row for each width."""
    for width in (8, 16) if smoke else (100, 200, 300, 400, 500):
        task = Task(
            model=fully_connected(3, width),
            input_shape=(64 if smoke else 3072,),
            examples=64 if smoke else 1000,
            members=2 if smoke else 10,
            epochs=1,
            batch_size=16 if smoke else 128,
        )
        # Memory is that of one width: a fresh process for each way takes its time.
        yield ensemble_row(task, f"fc-3x{width}", "epoch", rounds=2 if smoke else 5, peak=width in (8, 300))


def ensemble_row(
    task: Task, name: str, what: str, *, rounds: int, peak: bool, more: Mapping[str, Way] | None = None
) -> Row:
    """Ours against PyTorch, and against JAX one by one; `more` are further peers."""
    program = {axis: functools.partial(one_program, task, member_axis=axis) for axis in ("map", "vmap")}
    devices = devices_for(task.members)
    on_cores = functools.partial(program["map"], num_devices=devices)
    cores = {"one program, cores as devices": Way(on_cores, task.epochs, peak=peak)} if devices > 1 else {}

    def in_pytorch(data: Data, fused: bool) -> Ready:
        return in_torch.in_turn(task.model, task.input_shape, initial_params(task), *data, fused=fused)

    pytorch = {
        f"PyTorch, {adam}, one after the other": Way(
            functools.partial(in_pytorch, fused=fused), task.epochs, peak=peak and fused
        )
        for adam, fused in (("Adam", False), ("fused Adam", True))
    }
    jax = {"JAX, one after the other": Way(functools.partial(one_by_one, task), task.epochs, peak=peak)}
    return Row(
        name=name,
        unit=f"{what} of {task.members} seeds",
        data=lambda: random_data(task),
        ours={
            **cores,
            "one program, members in turn": Way(program["map"], task.epochs, peak=peak),
            "one program, members side by side": Way(program["vmap"], task.epochs, peak=peak),
        },
        peers={**in_torch.peers(pytorch), **jax, **(more or {})},
        absent=in_torch.ABSENT,
        # Adam takes steps of one length however small a gradient is, and so amplifies rounding.
        tolerance=5e-3,
        rounds=rounds,
    )
