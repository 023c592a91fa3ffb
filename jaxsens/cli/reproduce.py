"""`jaxsens reproduce`: the experiments by name, from the wheel or from a checkout."""

import ast
import re
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import jaxsens
from jaxsens.cli.options import Reproduce
from jaxsens.cli.printing import print_json, print_table

__all__ = ["experiments", "run"]


def run(options: Reproduce) -> int:
    """Runs the experiment's own command line, or lists all experiments."""
    found = experiments()
    if options.name is not None:
        return _start(options.name, options.options, found)
    lines = {name: _first_line(path) for name, path in found.items()}
    if options.json:
        listed = [{"name": name, "what": line, "path": str(found[name])} for name, line in lines.items()]
        print_json({"command": "reproduce", "experiments": listed})
    else:
        print_table(("name", "what"), [*lines.items()])
    return 0


def experiments() -> dict[str, Path]:
    """The files of all experiments by name, those in folders last."""
    package = Path(jaxsens.__file__).parent
    folders = (package / "experiments", package.parent / "experiments")
    folder = next((folder for folder in folders if (folder / "fig1.py").is_file()), None)
    if folder is None:
        from jaxsens.checks import refuse  # imports JAX

        raise refuse("an installation without experiments", "those of the wheel", "install jaxsens again")
    names = {str(path.relative_to(folder).with_suffix("")): path for path in folder.rglob("*.py")}
    return {name: names[name] for name in sorted(names, key=_reading_order)}


def _reading_order(name: str) -> tuple[bool, list[str | int]]:
    """Folders after files, and fig2 before fig10."""
    return "/" in name, [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _first_line(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0]


def _start(name: str, words: tuple[str, ...], found: dict[str, Path]) -> int:
    from jaxsens.checks import check_choice  # imports JAX, as the experiment does
    from jaxsens.cli.experiment import main

    name = name.removesuffix(".py")
    check_choice("experiment", name, found)
    # As a module, not as __main__: what a lock says of its holder is the command that was given.
    spec = spec_from_file_location(f"jaxsens_experiment_{name.replace('/', '_')}", found[name])
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return main(module.EXPERIMENT, words, prog=f"jaxsens reproduce {name}")
