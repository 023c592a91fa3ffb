"""The command `jaxsens`: help without JAX, exit codes, one line for each error, and what needs no network."""

import inspect
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

import jaxsens
from jaxsens.cli import command, doctor, experiment, options, selftest
from jaxsens.cli import report as report_command
from jaxsens.cli.printing import print_table
from jaxsens.cli.reproduce import experiments
from jaxsens.data import NAMES, RECIPES

ROOT = Path(__file__).parents[1]


def run(capsys, *words):
    """The exit code, stdout and stderr."""
    code = command.main(list(words))
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def python(*words, **more):
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, **more)


def test_help_imports_neither_jax_nor_numpy():
    heavy = "{'jax', 'numpy', 'matplotlib', 'flax'}"
    ended = python(
        "-c",
        "import sys; from jaxsens.cli.command import main\n"
        "assert main(['--help']) == main(['measure', '--help']) == 0\n"
        f"assert not {heavy} & set(sys.modules)",
    )
    assert ended.returncode == 0, ended.stderr
    for name in ("measure", "compare", "report", "reproduce", "datasets", "doctor"):
        assert f"• {name} " in ended.stdout


def test_a_reader_that_leaves_is_no_error():
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "jaxsens", "--version"], cwd=ROOT, stdout=closed, stderr=subprocess.PIPE
        )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_the_script_is_main():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["jaxsens"].partition(":")
    assert getattr(import_module(module), name) is command.main


def test_version_and_bare_command(capsys):
    assert run(capsys, "--version") == (0, f"jaxsens {jaxsens.__version__}\n", "")
    code, out, _ = run(capsys)
    assert code == 0
    assert "usage: jaxsens" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["meassure"], "Unrecognized options: meassure; Available subcommands: measure,"),
        (["measure"], "Missing from jaxsens measure: MODULE:FUNCTION --data"),
        (["measure", "a:b", "--data", "digits", "--sedes", "3"], "Unrecognized options: --sedes"),
        (["measure", "a:b", "--data", "digits", "--seed", "x"], "Error parsing --seed: invalid literal"),
        (["measure", "a:b", "--data", "digits", "--split", "x"], "invalid choice 'x'"),
        (["measure", "a", "--data", "digits"], "got 'a'; expected MODULE:FUNCTION"),
        (["report", "/nowhere"], "got no folder /nowhere"),
        (["reproduce", "fig99"], "got experiment='fig99'; expected one of compare, fig1, fig2,"),
    ],
)
def test_what_is_not_usable_is_said_in_one_line(words, said, capsys):
    code, out, err = run(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert said in err
    assert err.count("\n") == 1
    assert not set("│─╭╰\x1b") & set(err)


def test_options_are_those_of_the_library():
    """The command repeats the defaults of `measure` and `compare`; here they are held together."""
    for chosen, function in ((options.Measure, jaxsens.measure), (options.Compare, jaxsens.compare)):
        own = {field.name: field.default for field in chosen.__dataclass_fields__.values()}
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and name not in ("key", "also", "watch"):
                assert own[name] == parameter.default, name


def test_interrupts_and_errors_of_the_program(monkeypatch, capsys):
    def raises(error):
        def write_report(*_):
            raise error

        monkeypatch.setattr(report_command, "write_report", write_report)

    raises(KeyboardInterrupt())
    assert run(capsys, "report", "folder") == (130, "", "stopped\n")
    raises(PermissionError(13, "no", "/x/report.html"))
    assert run(capsys, "report", "folder") == (2, "", "error: /x/report.html: Permission denied\n")
    raises(RuntimeError("a mistake of ours"))
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        command.main(["report", "folder"])


def test_tables_on_a_terminal_of_80_columns_and_in_a_pipe(monkeypatch, capsys):
    columns = ("rank", "model", "softmax_jacobian_norm", "not told from")
    rows = [("1 to 2", "a-model-of-a-long-name" * 4, "0.1234 +- 0.0056", "other models and 12 more")]
    print_table(columns, rows)
    piped = capsys.readouterr().out.splitlines()
    assert all(text in piped[2] for text in rows[0])
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    print_table(columns, rows)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert "softmax_jacobian_norm" in lines[0] + lines[1]
    start, end = (lines[0].index(header) for header in ("model", "softmax"))
    assert "".join(line[start:end].strip() for line in lines[2:]) == rows[0][1]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions(shell, capsys, tmp_path):
    code, script, err = run(capsys, "--tyro-print-completion", shell)
    assert (code, err) == (0, "")
    assert "measure" in script
    assert "noise" in script
    if shutil.which(shell) and shell != "fish":
        file = tmp_path / "completion"
        file.write_text(script)
        ended = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
        assert (ended.returncode, ended.stderr) == (0, "")


def test_reports(capsys, tmp_path, monkeypatch):
    pytest.importorskip("plotly")
    page = tmp_path / "page.html"
    code, out, err = run(capsys, "report", str(ROOT / "figures" / "fig1"), str(page))
    assert (code, out, err) == (0, f"{page}\n", "")
    assert page.stat().st_size > 100_000
    monkeypatch.setitem(sys.modules, "jinja2", None)
    code, _, err = run(capsys, "report", str(ROOT / "figures" / "fig1"), str(page))
    assert code == 2
    assert "pip install 'jaxsens[report]'" in err


def test_the_list_of_experiments(capsys):
    code, out, _ = run(capsys, "reproduce", "--json")
    assert code == 0
    listed = json.loads(out)["experiments"]
    files = {
        str(path.relative_to(ROOT / "experiments").with_suffix(""))
        for path in ROOT.glob("experiments/**/*.py")
    }
    assert {one["name"] for one in listed} == files
    assert all(len(one["what"]) > 20 for one in listed)
    names = [one["name"] for one in listed]
    assert names.index("fig2") < names.index("fig10") < names.index("tangent/fig1")
    code, out, _ = run(capsys, "reproduce")
    assert code == 0
    lines = out.splitlines()
    assert len(lines) == len(files) + 2
    (fig1,) = [line for line in lines if line.startswith("fig1 ")]
    assert fig1.endswith(
        "Paper A, Figure 1: test loss L against sensitivity S_after for popular CNN architectures."
    )


@pytest.mark.parametrize("name", ["fig1", "tangent/fig1.py"])
def test_an_experiment_has_all_words_after_its_name(name, monkeypatch, capsys):
    given = []

    def main(found, words, *, prog):
        given.append((found.name, tuple(words), prog))
        return 7

    monkeypatch.setattr(experiment, "main", main)
    words = ("--preset", "cpu", "--json", "--data_dir", "x", "-h")
    assert command.main(["reproduce", name, *words]) == 7
    plain = name.removesuffix(".py")
    assert given == [(plain, words, f"jaxsens reproduce {plain}")]


def test_an_experiments_own_parser_answers(capsys, tmp_path):
    code, out, _ = run(capsys, "reproduce", "fig1", "--help")
    assert code == 0
    assert out.startswith("usage: jaxsens reproduce fig1 ")
    assert "--together" in out
    code, _, err = run(capsys, "reproduce", "fig1", "--sedes", "3")
    assert code == 2
    assert err.startswith("error: unrecognized arguments: --sedes 3")
    code, _, err = run(capsys, "reproduce", "fig1", "--cells", "nothing*", "--out", str(tmp_path))
    assert code == 2
    assert "no cell named 'nothing*'" in err


def test_experiments_of_a_wheel_come_first(monkeypatch, tmp_path):
    """In a wheel they lie in the package."""
    package = tmp_path / "jaxsens"
    shutil.copytree(
        ROOT / "experiments", package / "experiments", ignore=shutil.ignore_patterns("__pycache__")
    )
    monkeypatch.setattr(jaxsens, "__file__", str(package / "__init__.py"))
    assert experiments()["tangent/fig1"] == package / "experiments" / "tangent" / "fig1.py"
    shutil.rmtree(package)
    with pytest.raises(ValueError, match="an installation without experiments"):
        experiments()


@pytest.fixture
def required(monkeypatch):
    """What pyproject.toml requires now, whatever was installed, if anything."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    monkeypatch.setattr(doctor, "_requirements", lambda: project["dependencies"])


STAGES = ("JAX starts", "data are looked for", "numbers are computed")


def prepared(folder, name, form):
    path = folder / name / RECIPES[name].version
    path.mkdir(parents=True)
    (path / "dataset_info.json").write_text(json.dumps({"fileFormat": form}))


def test_datasets(capsys, tmp_path):
    prepared(tmp_path, "mnist", "array_record")
    prepared(tmp_path, "cifar10", "tfrecord")
    code, out, err = run(capsys, "datasets", "--data-dir", str(tmp_path), "--json")
    assert (code, err) == (0, "")
    found = {one["name"]: one for one in json.loads(out)["datasets"]}
    assert tuple(found) == NAMES
    assert [name for name, one in found.items() if one["here"]] == ["digits", "diabetes", "mnist"]
    assert (found["digits"]["num_train"], found["digits"]["num_test"]) == (1000, 797)
    assert found["digits"]["shape"] == [8, 8, 1]
    assert found["mnist"]["how"] is None
    assert "tfrecord: move it away, then python -m jaxsens.data prepare cifar10" in found["cifar10"]["how"]
    assert "boston.csv" in found["boston"]["how"]
    code, out, _ = run(capsys, "datasets", "--data-dir", str(tmp_path))
    assert code == 0
    assert "mnist          yes   60,000  10,000" in out
    assert f"cifar100: python -m jaxsens.data prepare cifar100 --data-dir {tmp_path}\n" in out
    assert max(len(line) for line in out.splitlines()[:9]) <= 80


def test_doctor(required, capsys):
    code, out, err = run(capsys, "doctor", "--json")
    found = json.loads(out)
    assert (code, err, found["ok"]) == (0, "", True)
    checks = {one["name"]: one for one in found["checks"]}
    assert {"requirements", "jaxlib", *STAGES, *selftest.TESTS} == set(checks)
    assert all(checks[name]["error"] <= 2e-5 for name in selftest.TESTS)
    assert len(found["devices"]) == 4
    assert set(found["packages"]) >= {"jax", "jaxlib", "flax", "optax", "numpy"}
    assert found["settings"]["matmul_error"] < 1e-4
    assert "digits" in found["datasets"]


@pytest.mark.parametrize(
    ("metric", "test"),
    [
        ("input_jacobian_norm", "Jacobian norm"),
        ("linearized_output_sensitivity", "S, small-noise limit"),
        ("tangent_sensitivity", "tangent sensitivity"),
        ("training_convolution", "gradient of convolutions"),
    ],
)
def test_the_self_tests_see_an_error_of_a_thousandth(metric, test, monkeypatch):
    right = getattr(selftest, metric)
    monkeypatch.setattr(selftest, metric, lambda *words, **more: 1.001 * right(*words, **more))
    assert [one.name for one in selftest.run_tests() if not one.ok] == [test]


def test_the_self_test_sees_one_wrong_row_of_a_vmapped_product(monkeypatch):
    monkeypatch.setattr(selftest.jnp, "sum", lambda y: jnp.where(y[0] == 32_768.0**2, 0, y[0]))
    found = {one.name: one for one in selftest.run_tests()}["vmapped product"]
    assert not found.ok


@pytest.mark.parametrize(("module", "stage"), [("devices", 0), ("selftest", 2)])
def test_doctor_of_what_cannot_be_imported(module, stage, required, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, f"jaxsens.cli.{module}", None)
    code, out, _ = run(capsys, "doctor", "--json")
    assert code == 1
    checks = {one["name"]: one for one in json.loads(out)["checks"]}
    assert [name for name, one in checks.items() if not one["ok"]] == [STAGES[stage]]
    assert "ModuleNotFoundError" in checks[STAGES[stage]]["detail"]
    assert run(capsys, "doctor")[0] == 1


def failing():
    raise RuntimeError("no such kernel\nsecond line")


def test_doctor_says_what_fails(required, monkeypatch, capsys):
    broken = {"wrong": lambda: 0.5, "lost": lambda: np.nan, "raises": failing}
    monkeypatch.setattr(selftest, "TESTS", broken)
    right = doctor._version
    monkeypatch.setattr(
        doctor, "_version", lambda name: {"jaxlib": "0.10.2", "optax": None}.get(name, right(name))
    )
    code, out, _ = run(capsys, "doctor", "--json")
    found = json.loads(out, parse_constant=pytest.fail)
    assert (code, found["ok"]) == (1, False)
    failed = {one["name"]: one for one in found["checks"] if not one["ok"]}
    assert list(failed) == ["requirements", "jaxlib", "wrong", "lost", "raises"]
    assert failed["lost"]["error"] is None
    assert failed["raises"]["detail"] == "RuntimeError: no such kernel"
    assert "!=0.10.2" in failed["jaxlib"]["remedy"]
    assert "optax is missing" in failed["requirements"]["detail"]
    code, out, _ = run(capsys, "doctor")
    assert code == 1
    assert out.count("FAILED") == 5
    assert "wrong: numbers of this installation are not to be trusted" in out


def test_doctor_where_jaxsens_is_not_installed(monkeypatch):
    def missing(name):
        raise doctor.PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "requires", missing)
    monkeypatch.setattr(doctor, "metadata", missing)
    assert doctor._requirements() == []
    assert doctor._extras([]) == {}
    assert not doctor._installed([]).ok
