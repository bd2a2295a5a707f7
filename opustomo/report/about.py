"""Settings and losses of a run for the HTML report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from opustomo.analysis.results import ResultDir
from opustomo.analysis.training_log import read_training_log
from opustomo.checkpoint.config import read_config
from opustomo.io.pickles import load_pickles

Rows = list[tuple[str, str]]


def describe_losses(results: ResultDir) -> dict[str, Any]:
    """Read the loss curves of training and validation from ``run.log``."""
    log = results.root / "run.log"
    curves = read_training_log(log) if log.is_file() else {}
    return {
        part: {
            "epochs": curve.epochs.tolist(),
            "gen_loss": curve.gen_loss.tolist(),
            "total_loss": curve.total_loss.tolist(),
            "snr": curve.snr.tolist(),
        }
        for part, curve in curves.items()
    }


def describe_settings(results: ResultDir) -> tuple[list[tuple[str, Rows]], str | None]:
    """Read the settings, grouped by heading, and the command line from ``config.pkl``; empty if it is absent."""
    path = results.root / "config.pkl"
    if not path.is_file():
        return [], None
    sizes, boxes, settings = read_config(path)
    parts = load_pickles(path)
    opustomo_settings = settings.get("opustomo") or {}
    groups = [
        (
            "boxes",
            [
                ("subtomograms", f"{boxes.box}³ voxels of {boxes.apix:g} Å"),
                ("render box", f"{boxes.render}³ voxels of {boxes.render_apix:g} Å"),
                ("crop", f"{boxes.crop}³ voxels"),
            ],
        ),
        ("model", _rows(opustomo_settings.get("model", {"zdim": sizes.zdim, "templateres": sizes.templateres}))),
        ("physics", _rows(opustomo_settings.get("physics", {}))),
        ("data", _rows(settings.get("dataset_args", {}))),
    ]
    command = None
    if len(parts) > 1 and isinstance(parts[1], dict):
        words = [str(word) for word in parts[1].get("cmd", [])]
        command = shlex.join(words) if words else None
        about = {"started": str(parts[1].get("time", ""))[:19], "version": parts[1].get("version")}
        groups.append(("run", _rows(about | {"seed": settings.get("seed")})))
    return [(title, rows) for title, rows in groups if rows], command


def _rows(values: Mapping[str, Any]) -> Rows:
    return [(str(name), _text(value)) for name, value in values.items() if value not in (None, "")]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    try:
        return f"{float(value):g}" if not isinstance(value, (str, int)) else str(value)
    except (TypeError, ValueError):
        return str(value)
