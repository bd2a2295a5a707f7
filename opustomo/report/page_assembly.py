"""HTML page of the report, assembled from the template, style sheet, scripts and data.

Arrays are serialized as base64-encoded little-endian bytes, which browsers decode to typed arrays."""

from __future__ import annotations

import base64
import html
import json
from importlib import resources
from typing import Any

import numpy as np


def pack_array(values: np.ndarray) -> dict[str, Any]:
    """Encode an array of floats (as float32), bytes, or integers (as uint16 if possible, otherwise int32)."""
    values = np.asarray(values)
    if values.dtype.kind == "f":
        name = "f4"
    elif values.dtype == np.uint8:
        name = "u1"
    elif values.dtype.kind in "iub":
        name = "u2" if not values.size or (values.min() >= 0 and values.max() < 2**16) else "i4"
    else:
        raise ValueError(f"an array of type {values.dtype} cannot be packed")
    data = np.ascontiguousarray(values, dtype=f"<{name}").tobytes()
    return {"dtype": name, "shape": list(values.shape), "data": base64.b64encode(data).decode("ascii")}


def packed_size(content: Any) -> int:
    """Return the approximate size in bytes of all arrays in `content` once they are encoded."""
    if isinstance(content, dict):
        return sum(packed_size(value) for value in content.values())
    if isinstance(content, (list, tuple)):
        return sum(packed_size(value) for value in content)
    return len(pack_array(content)["data"]) if isinstance(content, np.ndarray) else 0


def script_json(content: Any) -> str:
    """Return JSON that is safe inside a script element; non-finite values become null."""
    text = json.dumps(_finite(content), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    if isinstance(content, np.ndarray):
        return pack_array(content)
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not np.isfinite(content):
        return None
    return content


SCRIPTS = ("data", "scatter", "charts", "view3d", "volumes", "verdict", "explorer", "tomograms", "main")
"""Scripts in the order in which the page must load them."""


LIBRARIES = "libraries.min.js"
"""Bundle of the libraries that the scripts use; ``make report-assets`` makes it from the lock file in ``vendor``."""


def read_asset(name: str) -> str:
    """Read a text file from the folder ``assets`` of the package."""
    return (resources.files("opustomo.report") / "assets" / name).read_text(encoding="utf-8")


def render(content: dict[str, Any], words: dict[str, str]) -> str:
    """Return the page for `content`; `words` are the texts of TITLE, HEADING, VOLUMES, CLUSTERS and FOOTER."""
    parts = {
        "STYLE": read_asset("style.css"),
        "LIBRARIES": read_asset(LIBRARIES),
        "SCRIPT": "\n".join(read_asset(f"{name}.js") for name in SCRIPTS),
        "DATA": script_json(content),
        **{place: html.escape(text) for place, text in words.items()},
    }
    pieces = read_asset("page.html").split("@")
    # The template contains @ only around placeholders, so these are the odd pieces.
    return "".join(parts[piece] if i % 2 else piece for i, piece in enumerate(pieces))
