"""Hooks of MkDocs: links to files beside docs/ work in the site as they do on a code-hosting page.

Every file of the repository that a page links to or that the navigation names joins the site, and Markdown
among them brings what it links to itself. A file of docs/ has its place there, any other one that of its path
in the repository: `../figures/fig1/fig1.png` in docs/index.md is `figures/fig1/fig1.png` in the site.
"""

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
DOCS = "docs/"
# Names that would have another meaning in the site: that of its home page, and of a file to download.
RENAMED = {"README.md": "readme.md", "LICENSE": "LICENSE.txt"}
NAMES = {place: path for path, place in RENAMED.items()}

_FENCED = re.compile(r"^(```.*?^```|~~~.*?^~~~)", flags=re.MULTILINE | re.DOTALL)
_TARGET = re.compile(r"(?<=\]\()([^)#\s]+)")
_TITLE = re.compile(r"^(?=# )", flags=re.MULTILINE)
_HEADING = re.compile(r"^(?=#{1,5} )", flags=re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the files outside docs/ that the navigation and the pages lead to."""
    named = [NAMES.get(place, place) for place in places_in(config.nav)]
    wanted = [path for path in named if (ROOT / path).is_file()]
    for file in files.documentation_pages():
        wanted += linked_files(DOCS + file.src_uri, file.content_string)
    while wanted:
        path = wanted.pop()
        if files.get_file_from_path(place_of(path)) is None:
            files.append(outside_file(path, config))
            if path.endswith(".md"):
                wanted += linked_files(path, (ROOT / path).read_text(encoding="utf-8"))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turns links into those of the site; a file of several titles gets one above them."""
    outside = page.file.generated_by is not None
    place = page.file.src_uri
    path = NAMES.get(place, place) if outside else DOCS + place

    def in_site(target: re.Match[str]) -> str:
        linked = resolve(path, target[1])
        return target[1] if linked is None else posixpath.relpath(place_of(linked), posixpath.dirname(place))

    markdown = outside_code(markdown, lambda prose: _TARGET.sub(in_site, prose))
    if outside and sum(len(_TITLE.findall(prose)) for prose in _FENCED.split(markdown)[::2]) > 1:
        title = posixpath.basename(posixpath.dirname(path)).capitalize()
        markdown = f"# {title}\n\n" + outside_code(markdown, lambda prose: _HEADING.sub("#", prose))
    return markdown


def places_in(nav: Any) -> Iterator[str]:
    """The places that a navigation names, whatever it is nested in."""
    if isinstance(nav, str):
        yield nav
    for item in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        yield from places_in(item)


def outside_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with everything but its fenced code changed."""
    parts = _FENCED.split(markdown)
    parts[::2] = [change(prose) for prose in parts[::2]]
    return "".join(parts)


def linked_files(page: str, text: str) -> Iterator[str]:
    """Paths in the repository, of the files that a page at this path links to."""
    for prose in _FENCED.split(text)[::2]:
        for target in _TARGET.findall(prose):
            path = resolve(page, target)
            if path is not None:
                yield path


def resolve(page: str, target: str) -> str | None:
    """The path in the repository of a link's target; None where no file of it is meant."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), target))
    return path if not path.startswith("..") and (ROOT / path).is_file() else None


def place_of(path: str) -> str:
    """Where the site has a file of the repository."""
    return path.removeprefix(DOCS) if path.startswith(DOCS) else RENAMED.get(path, path)


def outside_file(path: str, config: MkDocsConfig) -> File:
    """A file of the repository as one of the site; tables of numbers are left out of the search."""
    place = place_of(path)
    if not path.endswith(".md"):
        return File.generated(config, place, abs_src_path=str(ROOT / path))
    text = (ROOT / path).read_text(encoding="utf-8")
    if path.startswith("figures/"):
        text = f"---\nsearch:\n  exclude: true\n---\n\n# {Path(path).stem}\n\n{text}"
    return File.generated(config, place, content=text, inclusion=InclusionLevel.NOT_IN_NAV)
