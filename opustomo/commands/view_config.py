"""`dsd view_config`: print the settings of a run."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "print the settings of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd view_config``."""
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="output folder of dsd train_tomo, or config.pkl")
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")


def run(args: argparse.Namespace) -> None:
    """Print the settings."""
    import json

    from opustomo.io.pickles import load_pickles

    path = args.workdir / "config.pkl" if args.workdir.is_dir() else args.workdir
    merged = {key: value for part in load_pickles(path) if isinstance(part, dict) for key, value in part.items()}
    if args.json:
        print(json.dumps(merged, indent=2, default=_plain))
        return
    for line in _lines(merged, 0):
        print(line)


def _lines(settings: dict, depth: int) -> list[str]:
    """Format one setting per line, with aligned values and indented nested settings."""
    width = max((len(str(key)) for key, value in settings.items() if not isinstance(value, dict)), default=0)
    lines = []
    for key, value in settings.items():
        indent = "  " * depth
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, depth + 1)]
        else:
            shown = " ".join(map(str, value)) if key == "cmd" and isinstance(value, (list, tuple)) else _plain(value)
            lines.append(f"{indent}{key:<{width}}  {shown}")
    return lines


def _plain(value: object) -> object:
    """Convert NumPy scalars and arrays to Python numbers and lists, and other objects to text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
