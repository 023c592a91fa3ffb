"""What was run, in words, out of a manifest. Whatever its shape, nothing here fails on it."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ["Fact", "facts_of_run", "missing_cells", "setting_names"]


class Fact(NamedTuple):
    """A line of the page: a term, and what is said of it; `full` is for a shortened text, such as a hash."""

    term: str
    text: str
    full: str = ""


Pairs = Iterator[tuple[str, str, Any]]

# A network's layers are told by its name; they stand whole in the manifest.
_NOT_IN_WORDS = {"layers", "name"}
_HEADINGS = {"model": "Models", "train": "Training", "measure": "Measured with", "data": "Data"}
_MOST_VALUES = 8
_HASH_DIGITS = 12


def facts_of_run(manifest: Mapping[str, Any]) -> list[Fact]:
    """Data, configuration, command, machine, versions, commit and date, as far as the manifest tells them.

    Of the configuration, what all cells share and which values the others have.
    """
    return [
        *_data_facts(_dicts(manifest.get("data"))),
        *_config_facts(manifest),
        Fact("Command", _command(manifest.get("command"))),
        *_environment_facts(_dicts(manifest.get("environments"))),
    ]


def setting_names(manifest: Mapping[str, Any]) -> frozenset[str]:
    """The names of all fields of all cells' configurations: columns so named are settings."""
    return frozenset(name for cell in _cells(manifest) for _, name, _ in _fields(cell))


def missing_cells(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the cells that were not finished when the table was written."""
    return [str(name) for name in _list(manifest.get("missing_cells"))]


def _data_facts(entries: Sequence[Mapping[str, Any]]) -> list[Fact]:
    sizes = ("dataset", "train_examples", "test_examples", "num_train", "num_test", "sha256")
    names = dict.fromkeys(name for entry in entries for name in entry)
    differing = [
        name for name in names if name not in sizes and len({_text(entry.get(name)) for entry in entries}) > 1
    ]
    facts = []
    for entry in entries:
        train, test = (_count(entry.get(name)) for name in ("train_examples", "test_examples"))
        said = [f"{_text(entry.get('dataset'))}, {train} training and {test} test examples"]
        said += [f"{_words(name)} {_text(entry.get(name))}" for name in differing]
        fingerprint = _text(entry.get("sha256"))
        said += [f"fingerprint {fingerprint[:_HASH_DIGITS]}"]
        facts.append(Fact("Data", ", ".join(said), f"SHA-256 {fingerprint}"))
    return facts


def _config_facts(manifest: Mapping[str, Any]) -> list[Fact]:
    """A line for each part of the cells' configurations but the data, which have their own lines."""
    cells = _cells(manifest)
    found: dict[str, dict[str, list[Any]]] = {}
    for cell in cells:
        for part, name, value in _fields(cell):
            found.setdefault(part, {}).setdefault(name, []).append(value)
    if _dicts(manifest.get("data")):
        found.pop("data", None)
    facts = []
    for part, names in found.items():
        told = {name: _values(values) for name, values in names.items() if name not in _NOT_IN_WORDS}
        said = [f"{_words(name)} {text}" for name, text in told.items() if text]
        if said:
            facts.append(Fact(_HEADINGS.get(part, _words(part).capitalize()), "; ".join(said)))
    return facts


def _environment_facts(environments: Sequence[Mapping[str, Any]]) -> list[Fact]:
    """One line a term; what several runs have in common is said once."""
    machines, versions, commits, dates = [], [], [], []
    for one in environments:
        count = one.get("num_devices")
        devices = f"{count} devices" if isinstance(count, int) and count > 1 else "1 device"
        python = f"Python {_text(one.get('python'))}"
        machines.append(f"{_text(one.get('device'))}, {devices}, {_text(one.get('platform'))}, {python}")
        packages = _dict(one.get("packages"))
        versions.append(", ".join(f"{name} {_text(version)}" for name, version in packages.items()))
        dirty = ", with uncommitted changes" if one.get("dirty") is True else ""
        commits.append((_text(one.get("commit")), dirty))
        dates += [_text(one["time"])] if one.get("time") else []
    return [
        *(Fact("Machine", text) for text in dict.fromkeys(machines)),
        *(Fact("Versions", text) for text in dict.fromkeys(versions) if text),
        *(Fact("Commit", commit[:_HASH_DIGITS] + dirty, commit) for commit, dirty in dict.fromkeys(commits)),
        Fact("Date", ", ".join(dict.fromkeys(dates)) or "not recorded"),
    ]


def _fields(cell: Mapping[str, Any], part: str = "") -> Pairs:
    """(part of the configuration, name, value) of every field of a cell, nested ones by their own names."""
    for name, value in _dict(cell.get("fields")).items():
        inner = _dict(value)
        if "fields" in inner:
            yield from _fields(inner, part or name)
        elif part:
            yield part, name, value


def _values(values: Sequence[Any]) -> str:
    """All different values of one field, in order; the ends and the number of many. "" if it is never set."""
    distinct = {_text(value): value for value in values if value not in (None, [])}
    numbers = [value for value in distinct.values() if type(value) in (int, float)]
    ordered = [_text(value) for value in sorted(numbers)] if len(numbers) == len(distinct) else [*distinct]
    if len(ordered) > _MOST_VALUES:
        first, last = ordered[0], ordered[-1]
        return (
            f"{first} to {last} ({len(ordered)} values)"
            if numbers
            else f"{first} and {len(ordered) - 1} more"
        )
    partly = ordered and any(value in (None, []) for value in values)
    return ", ".join([*ordered, "not set"] if partly else ordered)


def _text(value: Any) -> str:
    """A plain value as a person writes it; unknown what is not there."""
    plain = {None: "unknown", True: "yes", False: "no"}
    if value is None or isinstance(value, bool):
        return plain[value]
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list):
        texts = [_text(entry) for entry in value]
        return ", ".join(texts if len(texts) <= _MOST_VALUES else [*texts[:2], "...", texts[-1]])
    if isinstance(value, dict):
        # An enumeration or an infinity, see `to_plain`.
        return str(value.get("enum") or value.get("float") or value)
    return str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if type(value) is int else "an unknown number of"


def _command(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value or "not recorded")


def _words(name: str) -> str:
    return str(name).replace("_", " ")


def _cells(manifest: Mapping[str, Any]) -> list[dict]:
    return _dicts([*_dict(manifest.get("cells")).values()])


def _dicts(value: Any) -> list[dict]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


def _list(value: Any) -> list:
    return value if isinstance(value, list) else []


def _dict(value: Any) -> dict:
    return value if isinstance(value, dict) else {}
