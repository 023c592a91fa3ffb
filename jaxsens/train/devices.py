"""Which devices members run on, and how: all accelerators, or the cores of a CPU, each as a device."""

import contextlib
import os

import jax
from jax.sharding import AxisType, Mesh

from jaxsens.checks import refuse

__all__ = ["cores_as_devices", "default_member_axis", "device_mesh", "devices_for"]

# Ten members on two CPU devices train 1.2 times as fast as on one whose products use both cores: that much
# may not be lost again to places without a member.
_EMPTY_SHARE = 0.1


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


def devices_for(num_members: int) -> int:
    """How many of this host's devices so many members run on, where nobody said how many.

    All accelerators, since one that is left out does nothing else. Of the devices of a CPU, which share its
    cores, as many as leave at most a tenth of the places without a member.
    """
    available = jax.local_devices()
    if available[0].platform != "cpu":
        return len(available)

    def fills(count: int) -> bool:
        empty = -num_members % count
        return empty <= _EMPTY_SHARE * (num_members + empty)

    return next(count for count in range(len(available), 0, -1) if fills(count))


def cores_as_devices() -> None:
    """Makes each core of a CPU a device, as for `device_mesh`; a program's own decision, not a library's.

    Nothing changes where somebody has chosen how many there are (XLA_FLAGS, JAX_NUM_CPU_DEVICES), or where
    JAX already has its devices.
    """
    chosen = jax.config.jax_num_cpu_devices >= 0
    if chosen or "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return
    with contextlib.suppress(RuntimeError):  # too late: a device was used before
        jax.config.update("jax_num_cpu_devices", _cores())


def _cores() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on every system
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
