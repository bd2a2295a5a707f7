"""Output files of ``fuzz.py``: digests without times, and detection of incomplete or non-finite files."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

TIMED = (".log", ".csv", ".png", ".html", ".json")
"""Suffixes of files with times or pictures, which are not compared."""


def digests(target: Path) -> dict[str, str]:
    """Return digests of the contents of a file or of the files in a folder, without times."""
    files = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
    return {
        str(path.relative_to(target)): hashlib.sha256(_lasting(path)).hexdigest()
        for path in files
        if path.suffix not in TIMED and path.name != "config.pkl"
    }


def _lasting(path: Path) -> bytes:
    """Return the content of a file without comments, labels of an MRC header and times of a state."""
    data = path.read_bytes()
    if path.name == "state.pkl":
        return _state_without_times(path) or data
    if path.suffix == ".star":
        return b"\n".join(line for line in data.split(b"\n") if not line.startswith(b"#"))
    return data[:220] + data[1024:] if path.suffix == ".mrc" else data


def _state_without_times(path: Path) -> bytes | None:
    """Return the values of a state of a run without times; None if it cannot be read."""
    from opustomo.io.pickles import load_torch

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if "second" not in str(key)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value.numpy().tobytes() if hasattr(value, "numpy") else value

    try:
        return repr(plain(load_torch(path))).encode()
    except Exception:
        return None


def unsound(path: Path) -> str | None:
    """Return the reason why an output file is incomplete or not finite; None for a valid file."""
    import mrcfile
    import numpy as np
    import torch

    from opustomo.io.pickles import load_pickles, load_torch

    def numbers(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.numpy()
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from numbers(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, float):
            yield np.array(value)

    try:
        if path.suffix == ".mrc":
            with mrcfile.open(path, permissive=False) as handle:
                return None if np.isfinite(handle.data).all() else "not finite"
        if path.suffix == ".pkl":
            content = load_pickles(path) if path.name == "config.pkl" else load_torch(path)
            for array in numbers(content):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    return "not finite"
                if path.name.startswith(("pose", "z.")) and array.size and np.abs(array).max() > 1e5:
                    return "beyond 1e5"
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".txt" and re.search(r"\b(nan|inf)\b", path.read_text()):
            return "not finite"
        if path.suffix == ".star":
            text = path.read_text()
            if not text.endswith("\n") or "data_" not in text:
                return "cut short"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None
