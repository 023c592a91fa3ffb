"""The module table of the design, and the installed jaxlib, hold."""

import ast
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
BASE = {"types", "checks", "trees"}
SWEPT = BASE | {"data", "models", "train", "metrics", "stats", "table"}
ALL = SWEPT | {"sweep", "plotting", "adapters", "measuring", "report", "cli"}
MAY_IMPORT = {
    "types": set(),
    "trees": set(),
    "checks": {"types"},
    "data": BASE,
    "models": BASE,
    "train": BASE,
    "metrics": BASE,
    "stats": BASE,
    "table": set(),
    "sweep": SWEPT,
    "plotting": {"table", "stats"},
    "adapters": BASE | {"models"},
    "measuring": BASE | {"metrics", "stats"},
    "report": {"table", "stats", "plotting"},
    "cli": ALL,
    "__main__": {"cli"},
}


def imported_modules(file: Path) -> set[str]:
    """The first-level modules of jaxsens that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "jaxsens":
            found |= {alias.name for alias in node.names}
        names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        found |= {name.split(".")[1] for name in names if name.startswith("jaxsens.")}
    return found


@pytest.mark.parametrize("module", sorted(MAY_IMPORT))
def test_modules_import_only_what_the_design_allows(module):
    source = ROOT / "jaxsens"
    single = source / f"{module}.py"
    files = [single] if single.exists() else (source / module).rglob("*.py")
    found = {name for file in files for name in imported_modules(file)}
    assert found - {module} <= MAY_IMPORT[module]


def test_every_module_is_in_the_table():
    modules = {path.stem for path in (ROOT / "jaxsens").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert modules - {"__init__", "__pycache__"} == set(MAY_IMPORT)


def test_experiments_have_no_training_or_measuring_of_their_own():
    for file in (ROOT / "experiments").rglob("*.py"):
        imports = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            for name in (
                [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else []
            )
        }
        assert imports <= {"dataclasses", "pathlib", "jaxsens"}, file


def test_this_jaxlib_multiplies_correctly():
    """jax issue 39103: jaxlib 0.10.2 on CPU gets the last rows of a vmapped product wrong."""

    def squares(xs):
        return jax.vmap(lambda x: jnp.sum((jnp.eye(3) @ x) ** 2))(xs)

    xs = np.zeros((32_769, 3), np.float32)
    xs[:, 0] = np.arange(len(xs))
    np.testing.assert_allclose(jax.jit(squares)(xs), xs[:, 0] ** 2, rtol=1e-6)


def test_the_package_itself_imports_nothing():
    command = "import sys, jaxsens; assert not {'jax', 'numpy', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", command], check=True, cwd=ROOT)
