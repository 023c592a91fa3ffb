"""Which module of a PyTorch state dict is which layer of a configuration.

A state dict has names and shapes. It does not say in which order the network calls its modules. `match` takes
an order only where the evidence leaves one, and refuses otherwise.
"""

import collections
import itertools
import re
from collections.abc import Sequence
from typing import TypeAlias

from jaxsens.adapters.torch_layers import Module, Slot
from jaxsens.checks import refuse

__all__ = ["match"]

Pairs: TypeAlias = list[tuple[Slot, Module]]

# How long an order is looked for before a network counts as undecided.
_MOST_STEPS = 20_000
_REMEDY = "pass names=[...], the modules in the order in which the network calls them"


def match(
    layouts: Sequence[Sequence[Slot]], modules: Sequence[Module], *, names: Sequence[str] | None = None
) -> Pairs:
    """The module for each place. Raises InputError where none fits or several orders do.

    Kinds and shapes must agree, and numbers in names must go up: features.3 is called before features.10, and
    all of layer1.0 before layer1.1. The order of the state dict decides what this leaves open, if it agrees
    with all of it and has each batch normalisation beside its layer, with the same parent. If it does not,
    the one order in which each batch normalisation has the parent of its layer is taken, else the one order
    that there is.

    Args:
        layouts: the places in the order of calls, in each of the orders that come into question.
        modules: those of the state dict.
        names: the modules in the order of the first of the layouts, instead of all this.
    """
    if names is not None:
        return _named(layouts[0], modules, names)
    _check_fits(layouts[0], modules)
    # PyTorch has each weight before its bias. A file of safetensors, and what was read from one, is sorted.
    if all(next(iter(module.arrays)) == "weight" for module in modules):
        found = [pairs for slots in layouts if (pairs := _in_order(slots, modules)) is not None]
        if found:
            _check_numbers(modules)
            return _only(found)
    for same_parent in (True, False):
        found = [pairs for slots in layouts for pairs in _orders(slots, modules, same_parent=same_parent)]
        if found:
            return _only(found)
    raise refuse(
        "modules whose numbers contradict the order of the layers",
        "names like layer1.0.conv2, numbered in the order in which the network calls them",
        _REMEDY,
    )


def _named(slots: Sequence[Slot], modules: Sequence[Module], names: Sequence[str]) -> Pairs:
    known = {module.name: module for module in modules}
    strange = [name for name in names if name not in known]
    if strange or len(set(names)) != len(names) or len(names) != len(slots):
        raise refuse(
            f"{len(names)} names" + (f", among them {strange[0]!r}" if strange else ""),
            f"{len(slots)} different names of modules with arrays: {', '.join(known)}",
            "list them in the order of calls, of each residual block the branch before the shortcut",
        )
    pairs = list(zip(slots, [known[name] for name in names], strict=True))
    for slot, module in pairs:
        if not slot.fits(module):
            raise refuse(f"the module {module}", f"{slot}", "correct names=")
    return pairs


def _check_fits(slots: Sequence[Slot], modules: Sequence[Module]) -> None:
    """Refuses state dicts whose modules are not those of the configuration in any order."""
    spare, missing = list(modules), []
    for slot in slots:
        place = next((place for place, module in enumerate(spare) if slot.fits(module)), None)
        if place is None:
            missing.append(slot)
        else:
            del spare[place]
    if not spare and not missing:
        return
    # Beside the first place without a module, the first spare module of its kind.
    alike = [module for module in spare if missing and module.kind == missing[0].kind]
    counts = collections.Counter(module.kind for module in modules)
    held = ", ".join(f"{count} x {kind}" for kind, count in counts.items()) or "nothing"
    raise refuse(
        f"the module {(alike or spare)[0]}" if spare else f"a state dict of {held} and no more",
        f"{missing[0]}" if missing else f"{len(slots)} modules, without this one",
        "choose this network's configuration: ModelConfig(layers=...) writes any, Conv has use_bias=False",
    )


def _in_order(slots: Sequence[Slot], modules: Sequence[Module]) -> Pairs | None:
    """The modules as they stand, where they fit so."""
    pairs = list(zip(slots, modules, strict=True))
    neighbours = itertools.pairwise(pairs)
    beside = all(
        slot.kind != "batch norm" or one.parent == norm.parent for (_, one), (slot, norm) in neighbours
    )
    return pairs if beside and all(slot.fits(module) for slot, module in pairs) else None


def _orders(slots: Sequence[Slot], modules: Sequence[Module], *, same_parent: bool) -> list[Pairs]:
    """Up to two orders of the modules that fit, by depth-first search."""
    before = {m.name: {other.name for other in modules if _precedes(other, m)} for m in modules}
    found: list[Pairs] = []
    stack: list[tuple[Module, ...]] = [()]
    steps = 0
    while stack and len(found) < 2:
        steps += 1
        if steps > _MOST_STEPS:
            raise refuse(
                "many modules of equal shapes", "names or an order that tell which is which", _REMEDY
            )
        chosen = stack.pop()
        if len(chosen) == len(slots):
            found.append(list(zip(slots, chosen, strict=True)))
            continue
        slot, placed = slots[len(chosen)], {module.name for module in chosen}
        parent = chosen[-1].parent if same_parent and slot.kind == "batch norm" else None
        stack += [
            (*chosen, module)
            for module in modules
            if module.name not in placed
            and slot.fits(module)
            and before[module.name] <= placed
            and parent in (None, module.parent)
        ]
    return found


def _only(found: Sequence[Pairs]) -> Pairs:
    """The one order found. Refuses several that put different modules in a place."""
    modules = [{slot.place: module.name for slot, module in pairs} for pairs in found]
    for slot, module in found[0]:
        others = {names[slot.place] for names in modules} - {module.name}
        if others:
            raise refuse(
                f"the modules {module.name!r} and {min(others)!r}, either of which could be the {slot}",
                "names or an order that tell which is which",
                _REMEDY,
            )
    return found[0]


def _check_numbers(modules: Sequence[Module]) -> None:
    """Refuses an order in which numbers in names go down."""
    for earlier, later in itertools.combinations(modules, 2):
        if _precedes(later, earlier):
            raise refuse(
                f"the module {later.name!r} after {earlier.name!r}",
                "a state dict in the order of the numbers in its names",
                _REMEDY,
            )


def _precedes(one: Module, other: Module) -> bool:
    """Whether the first parts in which the names differ are the same but for smaller numbers in this one."""
    for a, b in zip(one.name.split("."), other.name.split("."), strict=False):
        if a != b:
            return re.sub(r"\d+", "#", a) == re.sub(r"\d+", "#", b) and _numbers(a) < _numbers(b)
    return False


def _numbers(part: str) -> list[int]:
    return [int(digits) for digits in re.findall(r"\d+", part)]
