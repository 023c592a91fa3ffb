"""What the README shows runs as it stands."""

import re
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").rglob("*.md"))
# Their blocks run with every change; those of the other pages before an issue is closed.
QUICK = ("docs/getting-started.md",)


def blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_the_first_two_blocks_are_one_command_each():
    first, second = blocks("(?:sh|python)")[:2]
    assert len(first.strip().splitlines()) == len(second.strip().splitlines()) == 1
    assert "experiments/fig1.py" in first
    assert "pytest" in second


def test_python_blocks_run(capsys):
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), {})
    assert "+-" in capsys.readouterr().out


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(name, marks=() if name in QUICK else pytest.mark.slow)
        for name in (page.relative_to(ROOT).as_posix() for page in PAGES)
        if blocks("python", (ROOT / name).read_text())
    ],
)
def test_python_blocks_of_the_docs_run(page, capsys, tmp_path, monkeypatch):
    """They print numbers with error bars, or where the report is."""
    shutil.copytree(ROOT / "figures" / "fig1", tmp_path / "figures" / "fig1")
    monkeypatch.chdir(tmp_path)
    for block in blocks("python", (ROOT / page).read_text()):
        exec(compile(block, page, "exec"), {})
    printed = capsys.readouterr().out
    assert "+-" in printed or Path(printed.strip()).stat().st_size > 100_000


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *PAGES], ids=lambda page: page.relative_to(ROOT).as_posix()
)
def test_files_named_in_the_docs_exist(page):
    for path in re.findall(r"\]\(((?!http)[^)#]+)\)", page.read_text()):
        assert (page.parent / path).exists(), path


def test_errata_name_tests_that_exist():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "errata.md").read_text()))
    written = {
        name
        for file in (ROOT / "tests").glob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", file.read_text(), flags=re.MULTILINE)
    }
    assert named
    assert named <= written
