"""`jaxsens doctor`: versions, devices, settings, data, and numbers with a known answer, if JAX starts."""

import os
import platform
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, metadata, requires, version
from pathlib import Path
from typing import Any, NamedTuple

from packaging.requirements import Requirement

import jaxsens
from jaxsens.cli.options import Doctor
from jaxsens.cli.printing import print_json, print_lines, print_table

__all__ = ["run"]

_ENVIRONMENT = ("JAX_PLATFORMS", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "TFDS_DATA_DIR")
# What people are asked for; --json has all.
_SHOWN_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "orbax-checkpoint")
_NVIDIA = Path("/dev/nvidia0")


class Check(NamedTuple):
    """What was looked at, whether it is right, and what to do if not."""

    name: str
    ok: bool
    detail: str
    remedy: str = ""
    error: float | None = None
    seconds: float | None = None


def run(options: Doctor) -> int:
    """Prints what was found; 1 where a check failed."""
    required = [Requirement(text) for text in _requirements()]
    core = [one for one in required if one.marker is None or one.marker.evaluate({"extra": ""})]
    checks = [_installed(core), *_jaxlib(core)]
    facts: dict[str, Any] = {
        "jaxsens": jaxsens.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cores": os.cpu_count(),
        "memory_gb": _memory_gb(),
        "packages": {one.name: _version(one.name) for one in core} | {"jaxlib": _version("jaxlib")},
        "environment": {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        "extras": _extras(required),
    }
    for name, remedy, look in _STAGES:
        try:
            found, more = look(options)
        except Exception as error:
            # Whatever a broken installation raises; what comes after it cannot be looked at.
            said = next(iter(str(error).splitlines()), "")
            checks.append(Check(name, False, f"{type(error).__name__}: {said}", remedy))
            break
        facts |= found
        checks += [Check(name, True, ""), *more]
    ok = all(check.ok for check in checks)
    if options.json:
        print_json({"command": "doctor", "ok": ok} | facts | {"checks": [c._asdict() for c in checks]})
    else:
        _print(facts, checks)
    return 0 if ok else 1


def _jax(options: Doctor) -> tuple[dict[str, Any], list[Check]]:
    from jaxsens.cli.devices import device_facts

    return device_facts(), []


def _data(options: Doctor) -> tuple[dict[str, Any], list[Check]]:
    from jaxsens.cli.datasets import known_datasets
    from jaxsens.data.tfds import data_folder

    folder = data_folder(options.data_dir)
    here = [one.name for one in known_datasets(folder) if one.here]
    return {"data_dir": str(folder), "datasets": here}, []


def _numbers(options: Doctor) -> tuple[dict[str, Any], list[Check]]:
    from jaxsens.cli.selftest import run_tests

    remedy = (
        "numbers of this installation are not to be trusted: pip install another jax and jaxlib than "
        f"{_version('jax')} and {_version('jaxlib')}, or try JAX_PLATFORMS=cpu"
    )
    return {}, [
        Check(one.name, one.ok, one.detail, "" if one.ok else remedy, one.error, one.seconds)
        for one in run_tests()
    ]


# What is looked at, what to do where that is impossible, and how; each needs those before it.
_STAGES: tuple[tuple[str, str, Callable[[Doctor], tuple[dict[str, Any], list[Check]]]], ...] = (
    ("JAX starts", "pip install --force-reinstall jax jaxlib, or try JAX_PLATFORMS=cpu", _jax),
    ("data are looked for", "pip install --upgrade --force-reinstall jaxsens", _data),
    ("numbers are computed", "pip install --upgrade --force-reinstall jaxsens", _numbers),
)


def _requirements() -> list[str]:
    """Of the installed metadata, where the versions that are known to be bad are named."""
    try:
        return requires("jaxsens") or []
    except PackageNotFoundError:
        return []


def _installed(core: list[Requirement]) -> Check:
    """Whether every package that jaxsens requires is there in a version that it can work with."""
    if not core:
        return Check("requirements", False, "jaxsens is not installed", "pip install it, or pip install -e .")
    wrong = []
    for one in core:
        found = _version(one.name)
        if found is None or not one.specifier.contains(found, prereleases=True):
            wrong.append(f"{one.name} {found or 'is missing'}, wanted {one.specifier}")
    remedy = "" if not wrong else "pip install --upgrade jaxsens"
    return Check("requirements", not wrong, "; ".join(wrong) or f"{len(core)} packages", remedy)


def _jaxlib(core: list[Requirement]) -> list[Check]:
    """The versions that are excluded of jax are those of the jaxlib that comes with it."""
    found = _version("jaxlib")
    for one in core:
        if one.name == "jax" and found is not None:
            ok = one.specifier.contains(found, prereleases=True)
            remedy = "" if ok else f"pip install 'jax{one.specifier}' 'jaxlib{one.specifier}'"
            return [Check("jaxlib", ok, f"{found}, wanted {one.specifier}", remedy)]
    return []


def _extras(required: list[Requirement]) -> dict[str, list[str]]:
    """The packages that are missing for each extra; none where it is there."""
    try:
        names = metadata("jaxsens").get_all("Provides-Extra") or []
    except PackageNotFoundError:
        return {}
    missing = {}
    for name in names:
        of_extra = [r for r in required if r.marker is not None and r.marker.evaluate({"extra": name})]
        # Such as jax[cuda12], which is there where its plugin is.
        plugins = [f"jax-{extra}-plugin" for r in of_extra for extra in r.extras if extra.startswith("cuda")]
        plugins += ["libtpu" for r in of_extra if "tpu" in r.extras]
        missing[name] = [
            package for package in [*(r.name for r in of_extra), *plugins] if not _version(package)
        ]
    return missing


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _memory_gb() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        return None


def _print(facts: dict[str, Any], checks: list[Check]) -> None:
    rows = [
        ("jaxsens", f"{facts['jaxsens']}, Python {facts['python']}, {facts['platform']}"),
        ("machine", f"{facts['cores']} cores, {facts['memory_gb']} GB"),
        ("packages", ", ".join(f"{name} {_version(name) or 'missing'}" for name in _SHOWN_PACKAGES)),
    ]
    for one in facts.get("devices", ()):
        memory = "" if one["memory_gb"] is None else f", {one['memory_gb']} GB"
        rows.append((f"device {one['id']}", f"{one['platform']}, {one['kind']}{memory}"))
    if "settings" in facts:
        settings = facts["settings"]
        precision = settings["jax_default_matmul_precision"] or "default"
        rows.append(("x64", "on" if settings["jax_enable_x64"] else "off"))
        error = settings["matmul_error"]
        found = "not finite" if error is None else f"relative error {error:.1e}"
        rows.append(("products", f"precision {precision}: {found}"))
    if "datasets" in facts:
        rows.append(("data", f"{', '.join(facts['datasets'])}; looked for in {facts['data_dir']}"))
    rows += [(name, value) for name, value in facts["environment"].items()]
    for name, missing in facts["extras"].items():
        rows.append((f"extra {name}", f"without {', '.join(missing)}" if missing else "there"))
    print_table(("what", "found"), rows)
    print_lines([""])
    shown = [
        ("ok" if c.ok else "FAILED", c.name, c.detail, "" if c.seconds is None else f"{c.seconds:.1f}")
        for c in checks
    ]
    print_table(("", "check", "found", "seconds"), shown)
    remedies = [f"{check.name}: {check.remedy}" for check in checks if not check.ok]
    if _NVIDIA.exists() and {one["platform"] for one in facts.get("devices", ())} == {"cpu"}:
        remedies.append("A GPU is here that JAX does not use: pip install 'jaxsens[cuda13]', or [cuda12].")
    print_lines(["", *(remedies or ["All is well."])])
