"""HTML page of the report, assembled from the template, style sheet, scripts and data."""

from __future__ import annotations

import html
from importlib import resources
from typing import Any

from opustomo.report.packing import script_json

SCRIPTS = ("data", "scatter", "charts", "volumes", "explorer", "tomograms", "main")
"""Scripts in the order in which the page must load them."""


def asset(name: str) -> str:
    """Read a text file from the folder ``assets`` of the package."""
    return (resources.files("opustomo.report") / "assets" / name).read_text(encoding="utf-8")


def render(content: dict[str, Any], words: dict[str, str]) -> str:
    """Return the page for `content`; `words` are the texts of TITLE, HEADING, SELECT, CLUSTERS and FOOTER."""
    parts = {
        "STYLE": asset("style.css"),
        "SCRIPT": "\n".join(asset(f"{name}.js") for name in SCRIPTS),
        "DATA": script_json(content),
        **{place: html.escape(text) for place, text in words.items()},
    }
    pieces = asset("page.html").split("@")
    # The template contains @ only around placeholders, so these are the odd pieces.
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
