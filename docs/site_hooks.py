"""MkDocs hook: add pages from outside docs/ to the site, translate their links, and generate the API reference.

Links in the sources are relative to the repository, so that they also work where it is browsed. MkDocs only knows files
below docs/; this hook therefore gives the other pages a place in the site and rewrites the links between them.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "LICENSE": "LICENSE.txt",
    "examples/README.md": "examples/index.md",
}
"""Files outside docs/ and their places in the site."""
LINK = re.compile(r"(\]\()(?!https?:|mailto:|#)([^)#\s]+)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add one page per package of opustomo to the navigation."""
    pages = [{"Overview": "api/index.md"}, *({f"opustomo.{name}": f"api/{name}.md"} for name in _packages())]
    for entry in config.nav or []:
        if entry.get("API reference") == "api/index.md":
            entry["API reference"] = pages
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages from outside docs/, the examples and the API reference."""
    for source, place in _places().items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    for place, text in _api_pages().items():
        files.append(File.generated(config, place, content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Translate links that are relative to the repository into links between pages of the site."""
    places = _places()
    sources = {place: source for source, place in places.items()}
    here = sources.get(page.file.src_uri, f"docs/{page.file.src_uri}")

    def translated(match: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), match[2]))
        place = places.get(target, target.removeprefix("docs/"))
        return match[1] + posixpath.relpath(place, posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(translated, markdown)


def _places() -> dict[str, str]:
    examples = (path.name for path in sorted((ROOT / "examples").iterdir()) if path.is_file())
    return {**{f"examples/{name}": f"examples/{name}" for name in examples}, **OUTSIDE}


def _packages() -> list[str]:
    return sorted(path.parent.name for path in (ROOT / "opustomo").glob("*/__init__.py"))


def _api_pages() -> dict[str, str]:
    overview = "# API reference\n\n::: opustomo\n    options:\n      heading_level: 2\n\n::: opustomo.run\n"
    pages: dict[str, Any] = {"api/index.md": overview}
    for name in _packages():
        folder = ROOT / "opustomo" / name
        modules = sorted(
            ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for path in folder.rglob("*.py")
            if path.name != "__init__.py"
        )
        pages[f"api/{name}.md"] = f"# opustomo.{name}\n\n" + "".join(f"::: {module}\n\n" for module in modules)
    return pages
