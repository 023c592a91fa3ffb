"""What the figures depend on besides the code: versions, the machine, how busy it was; and memory in use."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

from jaxsens.table import environment
from jaxsens.train.memory import host_bytes

__all__ = ["peak_bytes", "provenance", "resident_bytes", "start_of_peak"]

# Beside those of a manifest.
PACKAGES = ("torch", "scipy")


def provenance() -> dict[str, Any]:
    """Versions, commit, processor, cores, memory, system and the load average; no date, host or folder."""
    found = environment()
    del found["time"]
    for package in PACKAGES:
        try:
            found["packages"][package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found["packages"][package] = None
    return found | {
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": host_bytes(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def resident_bytes() -> int | None:
    """What this process has in memory now; None where the system does not tell (other than Linux)."""
    return _status("VmRSS", "self")


def start_of_peak() -> bool:
    """From here on `peak_bytes` counts; False where it cannot.

    The system's own `ru_maxrss` will not do: a process starts with its parent's.
    """
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    return True


def peak_bytes(process: int | str = "self") -> int | None:
    """The most that a process has had in memory since it began, or since `start_of_peak`; None if unknown."""
    return _status("VmHWM", process)


def _status(field: str, process: int | str) -> int | None:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return None
    found = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(found[0][1]) * 1024 if found else None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
