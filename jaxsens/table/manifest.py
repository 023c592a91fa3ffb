"""What was run, in JSON: a configuration's plain form and its hash, and the versions it ran under."""

import dataclasses
import enum
import hashlib
import importlib.metadata
import json
import math
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from jaxsens.table.files import write_atomically
from jaxsens.table.rows import refuse

__all__ = ["config_hash", "environment", "read_manifest", "to_plain", "write_manifest"]

RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "tensorflow-datasets")


def to_plain(config: Any) -> Any:
    """A configuration as JSON holds it.

    Frozen dataclasses and named tuples become `{"class": name, "fields": {...}}`, enumerations
    `{"enum": "Class.MEMBER"}`, tuples lists, and floats that JSON lacks `{"float": "inf"}`.

    Raises:
        TableError: a function, an array, a list, a dataclass that is not frozen: anything whose value could
            change, or whose text does not tell its value.
    """
    return _plain(config, "config")


def config_hash(config: Any) -> str:
    """16 hexadecimal digits that two configurations share if and only if they are written alike.

    The first 64 bits of the SHA-256 of the canonical JSON of `to_plain(config)`: class and field names count,
    the order of fields does not, floats go by repr (so 1 and 1.0 differ). Raises TableError as `to_plain`.
    """
    canonical = json.dumps(to_plain(config), sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def write_manifest(folder: str | Path, manifest: Mapping[str, Any]) -> Path:
    """Writes `manifest.json` (keys sorted, a key per line), whole or not at all; gives its path.

    Raises:
        TableError: the manifest holds what JSON cannot.
    """
    try:
        text = json.dumps(dict(manifest), sort_keys=True, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise refuse(
            f"a manifest that JSON cannot hold ({error})", "plain values", "pass configs through to_plain"
        ) from error
    return write_atomically(Path(folder) / "manifest.json", (text + "\n").encode())


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest in a folder.

    Raises:
        TableError: there is none, or it is not a JSON object.
    """
    path = Path(folder) / "manifest.json"
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise refuse(f"no file {path}", "a manifest beside the table", "run the experiment again") from error
    except ValueError as error:
        raise refuse(f"{path.name}, damaged ({error})", "JSON", "delete it and run again") from error
    if not isinstance(manifest, dict):
        raise refuse(
            f"{path.name} holding a {type(manifest).__name__}", "an object", "delete it and run again"
        )
    return manifest


def environment() -> dict[str, Any]:
    """What a result depends on besides its configuration: versions, kind of machine, commit, time.

    Imports none of the packages it reports, and names neither the machine nor any folder. `commit` and
    `dirty` (whether tracked files differ from the commit) are None outside a checkout of this project.
    """
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "packages": {name: _version(name) for name in RECORDED_PACKAGES},
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        **_checkout(Path(__file__).resolve()),
    }


def _plain(value: Any, where: str) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    # Before the plain numbers and texts: an IntEnum is an int, a StrEnum a str.
    if isinstance(value, enum.Enum):
        return {"enum": f"{type(value).__qualname__}.{value.name}"}
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {"float": repr(float(value))}
    fields = _fields(value)
    if fields is not None:
        plain = {name: _plain(entry, f"{where}.{name}") for name, entry in fields.items()}
        return {"class": type(value).__qualname__, "fields": plain}
    if isinstance(value, tuple):
        return [_plain(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    raise refuse(
        f"{where} of type {type(value).__name__}",
        "a frozen dataclass, tuple, enum, number, text, bool or None",
        "name it in the config and look it up where it is used",
    )


def _fields(value: Any) -> dict[str, Any] | None:
    """The named fields of a frozen dataclass or a named tuple; None for anything else."""
    names = getattr(value, "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return dict(zip(names, value, strict=True))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind: Any = type(value)
        if not kind.__dataclass_params__.frozen:
            raise refuse(
                f"{type(value).__name__}, not frozen", "a frozen dataclass", "declare it with frozen=True"
            )
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _checkout(file: Path) -> dict[str, Any]:
    # A package installed somewhere below another project's checkout is not tracked there.
    if _git(file.parent, "ls-files", "--error-unmatch", file.name) is None:
        return {"commit": None, "dirty": None}
    changes = _git(file.parent, "status", "--porcelain", "--untracked-files=no")
    return {
        "commit": _git(file.parent, "rev-parse", "HEAD"),
        "dirty": None if changes is None else bool(changes),
    }


def _git(folder: Path, *words: str) -> str | None:
    """What git answers, or None where it is missing or refuses. Takes no lock: runs may share a checkout."""
    command = ("git", "--no-optional-locks", "-C", str(folder), *words)
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return answer.stdout.strip()
