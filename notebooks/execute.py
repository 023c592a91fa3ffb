"""Runs notebooks and keeps what they print and draw: `python notebooks/execute.py [NAME ...]`.

NAME.py, in Jupytext's percent format, is the source; NAME.ipynb is the same cells with their outputs. Needs
`pip install 'jaxsens[notebooks]'`.
"""

import argparse
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).parent
NAMES = ("figure1", "your_own_model", "tangent_sensitivity", "linear_regions")
# What the machine adds besides, its Python's version among it, would change with each run.
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def source(name: str) -> NotebookNode:
    """The notebook that NAME.py says, without outputs."""
    notebook = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
    for index, cell in enumerate(notebook.cells):
        cell.id = f"{name}-{index}"  # Jupytext's own are random.
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def execute(
    notebook: NotebookNode,
    folder: Path,
    *,
    parameters: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> NotebookNode:
    """The notebook with its outputs, run in a folder, which must exist; an error in a cell is raised.

    Values in `parameters` replace those that the cell tagged "parameters" gives.
    """
    given = parameters or {}
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", ()):
            cell.source += "".join(f"\n{name} = {value!r}" for name, value in given.items())
    client = NotebookClient(
        notebook, timeout=None, record_timing=False, resources={"metadata": {"path": folder}}
    )
    client.execute(**({} if environment is None else {"env": dict(environment)}))
    notebook.metadata = nbformat.from_dict(METADATA)
    return notebook


def main() -> None:
    """Writes NAME.ipynb beside NAME.py for each name given, or for all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(NAMES)} (default: all)")
    for name in parser.parse_args().names or NAMES:
        with tempfile.TemporaryDirectory() as folder:
            nbformat.write(execute(source(name), Path(folder)), FOLDER / f"{name}.ipynb")


if __name__ == "__main__":
    main()
