"""Serialization of arrays to JSON as base64-encoded little-endian bytes, which browsers decode to typed arrays."""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np


def pack(values: np.ndarray) -> dict[str, Any]:
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
        return pack(content)
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, float) and not np.isfinite(content):
        return None
    return content
