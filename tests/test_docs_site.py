"""The site builds without a warning, has every public name, and loads nothing from another host."""

import ast
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from test_frame import MAY_IMPORT

ROOT = Path(__file__).parents[1]
MODULES = "adapters data measuring metrics models plotting report stats sweep table train types"
PUBLIC = ("jaxsens", *(f"jaxsens.{module}" for module in MODULES.split()))
LOADING = {
    "script": "src",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
    "embed": "src",
    "object": "data",
}
LOADING_LINKS = {"stylesheet", "icon", "preload", "preconnect", "dns-prefetch", "modulepreload", "manifest"}


class Page(HTMLParser):
    """What a page loads, where it leads, and which places it has."""

    def __init__(self, file: Path):
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = set()
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        if tag in LOADING and LOADING[tag] in found:
            self.loads.append(found[LOADING[tag]])
        if tag == "link" and set(found.get("rel", "").split()) & LOADING_LINKS:
            self.loads.append(found["href"])
        if tag == "a" and "href" in found:
            self.links.append(found["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as its readers would."""
    folder = tmp_path_factory.mktemp("site")
    command = (sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder))
    # The theme's advice on another tool is no warning about our pages.
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site) -> dict[Path, Page]:
    return {file: Page(file) for file in site.rglob("*.html")}


def navigation(item) -> list[str]:
    """All targets below an item of the navigation."""
    if isinstance(item, str):
        return [item]
    below = item.values() if isinstance(item, dict) else item
    return [target for part in below for target in navigation(part)]


def public_names(module: str) -> list[str]:
    """A module's `__all__`, read without importing it."""
    place = ROOT.joinpath(*module.split("."))
    file = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    raise AssertionError(f"{module} has no __all__")


def test_everything_in_the_navigation_is_built(site):
    targets = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(targets) == len(set(targets)) > 20
    for target in targets:
        path = Path(target)
        place = path.parent if path.stem in ("index", "README") else path.with_suffix("")
        assert (site / place / "index.html").is_file(), target


def test_every_page_of_the_docs_is_in_the_navigation():
    targets = set(navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")} <= targets


@pytest.mark.parametrize("module", PUBLIC)
def test_the_api_pages_have_every_public_name(pages, site, module):
    places = {place for file, page in pages.items() if site / "api" in file.parents for place in page.places}
    for name in public_names(module):
        # A function that shares its module's name is read from there; `jaxsens` shows those of `measuring`.
        owner = "jaxsens.measuring" if module == "jaxsens" else module
        assert places & {f"{owner}.{name}", f"{owner}.{name}.{name}"}, f"{module}.{name}"


def test_signatures_keep_shapes_as_they_are_written(site):
    page = (site / "api" / "metrics" / "sensitivity" / "index.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    assert 'xs: Float[Array, "n *shape"]' in text.replace("&#34;", '"').replace("&quot;", '"')
    assert "n * shape" not in text


def test_nothing_is_loaded_from_another_host(pages, site):
    loads = [load for page in pages.values() for load in page.loads]
    assert len(loads) > len(pages)
    assert not [load for load in loads if urlsplit(load).netloc]
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", sheet.read_text(encoding="utf-8"))


def test_links_and_pictures_lead_somewhere(pages, site):
    """Those to our own files and their sections; the theme's 404 page is relative to the root."""
    for file, page in pages.items():
        if file.name == "404.html":
            continue
        for target in (*page.links, *page.loads):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            linked = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            linked = linked / "index.html" if linked.is_dir() else linked
            assert linked.is_file(), f"{file.relative_to(site)}: {target}"
            if parts.fragment and linked.suffix == ".html":
                assert unquote(parts.fragment) in pages[linked].places, f"{file.relative_to(site)}: {target}"


def test_the_search_index_has_the_docs_and_no_tables_of_numbers(site):
    index = (site / "search" / "search_index.json").read_text(encoding="utf-8")
    assert "api/metrics/sensitivity/#jaxsens.metrics.output_sensitivity" in index
    assert '"location":"experiments/#' in index
    assert '"location":"figures/' not in index


def test_the_design_page_has_the_table_of_imports():
    text = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]*)\|$", text, flags=re.MULTILINE)
    everything = {name for name, _ in rows} - {"__main__"}
    written = {
        module: everything if "all of these" in imports else set(re.findall(r"`(\w+)`", imports))
        for module, imports in rows
    }
    assert written == MAY_IMPORT
