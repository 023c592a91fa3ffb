"""What is installed: metadata, types, and the files of the wheel and of the source distribution."""

import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import jaxsens

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
TYPING = ROOT / "tests" / "typing"
PYRIGHT = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
needs_build = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("build", "twine"))), reason="pip install build twine"
)
needs_pyright = pytest.mark.skipif(not importlib.util.find_spec("pyright"), reason="pip install pyright")


def test_the_metadata_are_those_of_the_project():
    project = PROJECT["project"]
    found = importlib.metadata.metadata("jaxsens")
    assert found["Name"] == project["name"] == "jaxsens"
    assert found["Version"] == jaxsens.__version__
    assert found["Summary"] == project["description"]
    assert len(project["description"]) < 120
    assert found["Requires-Python"] == project["requires-python"]
    assert "Typing :: Typed" in project["classifiers"]
    assert project["license"] == "MIT"
    assert not any(name.startswith("http") for name in project.get("urls", {}).values())


def test_every_python_that_is_named_is_allowed():
    least = int(re.fullmatch(r">=3\.(\d+)", PROJECT["project"]["requires-python"])[1])
    named = re.findall(r"Python :: 3\.(\d+)", " ".join(PROJECT["project"]["classifiers"]))
    assert min(map(int, named)) == least
    assert PROJECT["tool"]["pyright"]["pythonVersion"] == f"3.{least}"
    assert PROJECT["tool"]["ruff"]["target-version"] == f"py3{least}"


def test_the_package_says_that_it_has_types():
    assert (ROOT / "jaxsens" / "py.typed").read_bytes() == b""


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "Could not find a version" in done.stdout + done.stderr:
        pytest.skip("no package index to build with")
    assert done.returncode == 0, done.stderr[-2000:]
    return next(folder.glob("*.tar.gz")), next(folder.glob("*.whl"))


@pytest.mark.slow
@needs_build
def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(built[1]) as wheel:
        names = set(wheel.namelist())
        metadata = Parser().parsestr(wheel.read(next(n for n in names if n.endswith("/METADATA"))).decode())
    assert {name.split("/")[0] for name in names} == {"jaxsens", f"jaxsens-{jaxsens.__version__}.dist-info"}
    inside = {name for name in names if name.startswith("jaxsens/")}
    kept = {
        p.relative_to(ROOT).as_posix() for p in (ROOT / "jaxsens").rglob("*") if p.suffix not in ("", ".pyc")
    }
    assert kept <= inside
    others = {name for name in inside - kept if not name.startswith("jaxsens/experiments/")}
    assert not others
    assert {"jaxsens/py.typed", "jaxsens/report/assets/page.html", "jaxsens/experiments/fig1.py"} <= inside
    assert not any(name.endswith((".pyc", ".png", ".pdf", ".csv", ".parquet")) for name in inside)
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_payload().startswith("# jaxsens")


@pytest.mark.slow
@needs_build
def test_the_source_distribution_has_what_its_tests_read(built):
    with tarfile.open(built[0]) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for needed in ("tests/conftest.py", "tests/test_packaging.py", "docs/measuring.md", "benchmarks/run.py"):
        assert needed in names
    assert {p.relative_to(ROOT).as_posix() for p in (ROOT / "figures").rglob("*.csv")} <= names
    assert not any(name.endswith((".png", ".pdf", ".pyc")) for name in names)
    assert built[0].stat().st_size < 10 * 2**20


@pytest.mark.slow
@needs_build
def test_an_index_would_take_both(built):
    command = [sys.executable, "-m", "twine", "check", "--strict", *map(str, built)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@needs_pyright
@pytest.mark.parametrize("arguments", [[], [str(TYPING / "accepted.py")]], ids=["the package", "user code"])
def test_a_type_checker_accepts(arguments):
    done = subprocess.run([*PYRIGHT, *arguments], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout


@pytest.mark.slow
@needs_pyright
def test_a_type_checker_refuses_wrong_calls():
    """One error in each line that says so, and in no other."""
    file = TYPING / "refused.py"
    lines = file.read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if "# error: " in line}
    assert len(wrong) >= 8
    done = subprocess.run([*PYRIGHT, str(file)], capture_output=True, text=True, cwd=ROOT)
    assert {int(line) for line in re.findall(r"refused\.py:(\d+):\d+ - error", done.stdout)} == wrong
