"""The page: template, style and scripts of the package, and the data, in one file."""

from __future__ import annotations

import html
from importlib import resources
from typing import Any

from opustomo.report.packing import script_json

SCRIPTS = ("data", "scatter", "charts", "volumes", "explorer", "tomograms", "main")
"""In the order in which they must be read."""


def asset(name: str) -> str:
    """Text of a file of the package's ``assets``."""
    return (resources.files("opustomo.report") / "assets" / name).read_text(encoding="utf-8")


def render(content: dict[str, Any], words: dict[str, str]) -> str:
    """The page of ``content``; ``words`` (plain text) go to the places TITLE, HEADING, SELECT, CLUSTERS, FOOTER."""
    parts = {
        "STYLE": asset("style.css"),
        "SCRIPT": "\n".join(asset(f"{name}.js") for name in SCRIPTS),
        "DATA": script_json(content),
        **{place: html.escape(text) for place, text in words.items()},
    }
    pieces = asset("page.html").split("@")
    # the template has no other @, so places are the odd pieces
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
