"""Reader of the page of the report: elements, scripts and packed arrays."""

from __future__ import annotations

import base64
import json
import zlib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

VOID = {"meta", "input", "br", "img", "link"}


class Outline(HTMLParser):
    """Identifiers, links and contents of scripts of a page; fails if an element is not closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.identifiers: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        given = dict(attributes)
        if given.get("id"):
            self.identifiers.append(str(given["id"]))
        self.links += [str(given[name]) for name in ("src", "href", "action") if given.get(name)]
        if tag == "script":
            self.scripts.append((given, ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            given, text = self.scripts[-1]
            self.scripts[-1] = (given, text + data)


def outline(path: Path) -> Outline:
    found = Outline()
    found.feed(path.read_text(encoding="utf-8"))
    found.close()
    assert not found.open
    return found


def content_of(path: Path) -> dict[str, Any]:
    text = next(text for given, text in outline(path).scripts if given.get("type") == "application/json")
    return dict(json.loads(text))


def unpacked(packed: dict[str, Any]) -> np.ndarray:
    data = base64.b64decode(packed["data"])
    return np.frombuffer(data, dtype=f"<{packed['dtype']}").reshape(packed["shape"])


def inflated(packed: dict[str, Any]) -> np.ndarray:
    """Return the bytes of volumes that are stored as differences."""
    data = zlib.decompress(base64.b64decode(packed["data"]))
    return np.cumsum(np.frombuffer(data, dtype=np.uint8).reshape(packed["shape"]), axis=0, dtype=np.uint8)
