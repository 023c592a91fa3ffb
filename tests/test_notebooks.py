"""Notebooks: the two halves of each pair are one, their outputs are whole, and they run as they stand."""

import base64
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tomllib
import venv
import zipfile
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "notebooks"


def imported(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


runner = imported(FOLDER / "execute.py")

# What the tests run: the same cells on fewer, smaller networks.
SMALL = {
    "figure1": {"NETWORKS": "alexnet-h4*", "SEEDS": 2, "EPOCHS": 2},
    "your_own_model": {"STEPS": 30, "SEEDS": 2},
    "tangent_sensitivity": {"INPUT_SIZES": (16,), "SEEDS": 2, "EPOCHS": 2},
    "linear_regions": {"SEEDS": 2, "EPOCHS": 1, "PIXELS": 30, "PAIRS": 20},
}
FIGURES = {"figure1": 1, "your_own_model": 1, "tangent_sensitivity": 3, "linear_regions": 4}


def committed(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(notebook):
    return "".join(
        output.text
        for cell in code_cells(notebook)
        for output in cell.outputs
        if output.output_type == "stream"
    )


def pictures(notebook):
    return [
        base64.b64decode(output.data["image/png"])
        for cell in code_cells(notebook)
        for output in cell.outputs
        if "image/png" in output.get("data", {})
    ]


def check_outputs(name, notebook):
    """All cells ran, in order, without a word on stderr; figures are there and have a size."""
    assert [cell.execution_count for cell in code_cells(notebook)] == [
        *range(1, len(code_cells(notebook)) + 1)
    ]
    for cell in code_cells(notebook):
        assert all(output.output_type != "error" for output in cell.outputs)
        assert all(output.get("name") != "stderr" for output in cell.outputs), cell.outputs
    assert not re.search("warning|deprecat|traceback", printed(notebook), flags=re.IGNORECASE)
    assert len(pictures(notebook)) == FIGURES[name]
    for picture in pictures(notebook):
        width, height = struct.unpack(">II", picture[16:24])
        assert width > 400
        assert height > 150
        assert len(picture) > 10_000


def install_cell(name):
    (cell,) = (cell for cell in runner.source(name).cells if cell.source.startswith("# @title Install"))
    return cell.source


def test_every_source_is_a_notebook_and_named():
    sources = {path.stem for path in FOLDER.glob("*.py")} - {"execute"}
    assert sources == {path.stem for path in FOLDER.glob("*.ipynb")} == set(runner.NAMES)
    readme = (FOLDER / "README.md").read_text()
    assert all(f"]({name}.ipynb)" in readme for name in runner.NAMES)


@pytest.mark.parametrize("name", runner.NAMES)
def test_both_halves_of_a_pair_have_the_same_cells(name):
    mine, theirs = runner.source(name), committed(name)
    nbformat.validate(theirs)
    assert [(cell.cell_type, cell.id, cell.source, cell.metadata) for cell in mine.cells] == [
        (cell.cell_type, cell.id, cell.source, cell.metadata) for cell in theirs.cells
    ]
    assert theirs.metadata == runner.METADATA


@pytest.mark.parametrize("name", runner.NAMES)
def test_committed_outputs_are_whole_and_small(name):
    check_outputs(name, committed(name))
    assert (FOLDER / f"{name}.ipynb").stat().st_size < 300_000
    text = (FOLDER / f"{name}.ipynb").read_text()
    assert "/tmp/" not in text
    assert str(Path.home()) + "/" not in text


@pytest.mark.parametrize("name", runner.NAMES)
def test_links_lead_to_files(name):
    text = (FOLDER / f"{name}.py").read_text()
    assert all((FOLDER / path).exists() for path in re.findall(r"\]\(((?!http)[^)#]+)", text))


@pytest.fixture(scope="module")
def environment(pytestconfig):
    """As a user has it: one device, no hook that checks types. What JAX compiles is kept, as in conftest."""
    kept = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    if getattr(pytestconfig, "cache", None) is None:  # -p no:cacheprovider
        return kept
    return kept | {
        "JAX_COMPILATION_CACHE_DIR": str(pytestconfig.cache.mkdir("jax") / "notebooks"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", runner.NAMES)
def test_runs(name, tmp_path, environment):
    notebook = runner.execute(runner.source(name), tmp_path, parameters=SMALL[name], environment=environment)
    check_outputs(name, notebook)
    CHECKS[name](printed(notebook), notebook)


def check_figure1(text, notebook):
    assert "alexnet-h4-d64-xu: " in text
    assert len(re.findall(r"^alexnet-h4-d64-xu( +\S+ \+- \S+){4}$", text, flags=re.MULTILINE)) == 1


def check_your_own_model(text, notebook):
    shown = "".join(str(o.data) for cell in code_cells(notebook) for o in cell.outputs if "data" in o)
    assert "softmax_jacobian_norm" in shown
    assert "not told from" in shown
    assert "Kendall's tau of norm and test error" in text


def check_tangent_sensitivity(text, notebook):
    """The closed form is jacfwd(grad), four methods agree, and a rescaled network is the same function."""
    assert text.startswith("True\n")
    numbers = re.search(r"jacfwd\(grad\): +([\d.]+)\nclosed form: +([\d.]+)", text).groups()
    assert float(numbers[1]) == pytest.approx(float(numbers[0]), rel=1e-5)
    assert float(re.search(r"spread of the four values: (\S+)", text)[1]) < 1e-4
    change = float(re.search(r"largest change of an output: (\S+)", text)[1])
    before, after = map(float, re.search(r"\|Sens\|\^2: (\S+) before, (\S+) after", text).groups())
    assert change < 1e-4
    assert abs(after / before - 1) > 0.1


def check_linear_regions(text, notebook):
    """Sampling finds at most what is there, and all of it once the steps are short."""
    assert text.count("never too many: True") == 2
    there = re.findall(r"training: (\S+) crossings a segment", text)
    missed = re.findall(r"training, missed: (.*)", text)
    assert len(missed) == len(there) == 2
    for line, crossings in zip(missed, there, strict=True):
        means = [float(pair.split(": ")[1]) for pair in line.split(", ")]
        assert means == sorted(means, reverse=True)
        assert means[-1] < 0.02 * float(crossings) < means[0]
    assert len(re.findall(r"ends over middle \d", text)) == 4


CHECKS = {
    "figure1": check_figure1,
    "your_own_model": check_your_own_model,
    "tangent_sensitivity": check_tangent_sensitivity,
    "linear_regions": check_linear_regions,
}


def test_figure1_has_the_presets_of_the_experiment():
    """Cells up to the grids run here; what follows them trains."""
    sources = [cell.source for cell in code_cells(runner.source("figure1"))]
    (grids,) = (source for source in sources if "presets = {" in source)
    preamble = [source for source in sources[: sources.index(grids)] if "@title" not in source]
    names = {}
    exec("\n".join([*preamble, grids]).replace("%matplotlib inline", ""), names)
    experiment = imported(ROOT / "experiments" / "fig1.py")
    assert {name: (preset,) for name, preset in names["presets"].items()} == experiment.PRESETS


def test_the_install_cell_is_one_and_the_first_code():
    assert len({install_cell(name) for name in runner.NAMES}) == 1
    for name in runner.NAMES:
        assert code_cells(runner.source(name))[0].source == install_cell(name)


def test_the_install_cell_does_nothing_where_jaxsens_is(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("pip was run")

    monkeypatch.setattr(subprocess, "run", refuse)
    exec(install_cell("figure1"), {})


def wheel(folder, *needs):
    """A wheel of nothing that needs these."""
    path = folder / "nothing-1.0-py3-none-any.whl"
    required = "".join(f"Requires-Dist: {need}\n" for need in needs)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(
            "nothing-1.0.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: nothing\nVersion: 1.0\n{required}",
        )
        file.writestr(
            "nothing-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr("nothing-1.0.dist-info/RECORD", "")
    return path


def test_the_install_cell_refuses_versions_that_do_not_fit_in_one_line(tmp_path):
    """pip itself reads the requirements; nothing is fetched or installed."""
    names = {}
    exec(install_cell("figure1"), names)
    needs = ("jax>=99,!=99.1", "numpy>=1", "flax>=98; extra == 'new'", "scipy>=97")
    with pytest.raises(SystemExit) as refusal:
        names["install"](str(wheel(tmp_path, *needs)))
    # Which of jax's specifiers pip names first is its own affair.
    needed = r"'jax(\[\w+\])?(!=99.1,>=99|>=99,!=99.1)'"
    line = rf"jaxsens does not fit jax \S+: run %pip install -U {needed} yourself, and restart\."
    assert re.fullmatch(line, str(refusal.value))
    assert importlib.util.find_spec("nothing") is None


def test_the_install_cell_holds_what_is_there(tmp_path, monkeypatch):
    """The constraints that pip gets are the installed versions; no other command installs."""
    names, commands = {}, []
    exec(install_cell("figure1"), names)
    run = subprocess.run

    def record(command, **options):
        if "--dry-run" in command:
            return run(command, **options)
        commands.append((command, Path(command[command.index("--constraint") + 1]).read_text()))
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", record)
    path = str(wheel(tmp_path, "jax>=0.10", "numpy"))
    names["install"](path)
    ((command, constraints),) = commands
    assert command[-1] == path
    version = importlib.metadata.version
    lines = constraints.splitlines()
    assert {f"{name}=={version(name)}" for name in ("jax", "jaxlib", "flax", "numpy")} <= set(lines)
    assert not any(line.startswith(("jaxtyping", "scipy")) for line in lines)


@pytest.mark.slow
def test_the_install_cell_leaves_jax_as_it_is(tmp_path):
    """With a real wheel, a real environment and pip's index; skipped where there is none."""
    required = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert any(need.startswith("jax>=0.10.0") for need in required)
    folder = tmp_path / "environment"
    venv.create(folder, with_pip=True)
    python = shutil.which("python", path=str(folder / "bin"))

    def run(*command):
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)

    if run(python, "-m", "pip", "install", "-q", "jax==0.10.1", "packaging").returncode:
        pytest.skip("no package index, or no jax 0.10.1 there")

    def versions():
        listed = json.loads(run(python, "-m", "pip", "list", "--format", "json").stdout)
        return {found["name"]: found["version"] for found in listed}

    before = versions()
    assert run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT).returncode == 0
    (built,) = tmp_path.glob("jaxsens-*.whl")
    script = tmp_path / "cell.py"
    script.write_text(install_cell("figure1").replace('SOURCE = "jaxsens"', f"SOURCE = {str(built)!r}"))
    done = run(python, script)
    assert done.returncode == 0, done.stderr
    after = versions()
    assert {name: after[name] for name in before if name.startswith(("jax", "numpy"))} == {
        name: version for name, version in before.items() if name.startswith(("jax", "numpy"))
    }
    assert run(python, "-c", "import jaxsens.metrics").returncode == 0
