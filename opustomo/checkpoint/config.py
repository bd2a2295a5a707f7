"""config.pkl: what rebuilds a run's model, in the original's entries and in ours (docs/files.md)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from opustomo import __version__
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.io.pickles import dump_pickles, load_pickles
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes


def dataset_settings(data: dict[str, Any], norm: tuple[float, float] | None) -> dict[str, Any]:
    """Return entries on the inputs: ``data`` with paths as text, and the (shift, scale) that normalizes voxels.

    While the scale is not known yet, ``norm`` is None and there is no entry for it.
    """
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in data.items() if key != "norm"}
    return plain if norm is None else plain | {"norm": [norm[0], np.float32(norm[1])]}


def run_settings(
    model: ModelConfig, physics: PhysicsConfig, boxes: Boxes, dataset: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Return all settings of a run under the names of the original's config.pkl, and ours under ``opustomo``."""
    return {
        "dataset_args": dataset | {"downfrac": boxes.render / boxes.box, "angpix": boxes.apix},
        "lattice_args": {"D": boxes.box + 1},
        "model_args": {
            "zdim": model.zdim,
            "z_affine_dim": model.zaffinedim,
            "encode_mode": model.encode_mode,
            "templateres": model.templateres,
            "encoderres": model.encoderres,
            "down_vol_size": boxes.crop,
            "Apix": boxes.render_apix,
        },
        "seed": seed,
        "opustomo": {"model": asdict(model), "physics": asdict(physics), "boxes": asdict(boxes)},
    }


def write_config(path: Path, settings: dict[str, Any], command: tuple[str, ...]) -> None:
    """Write config.pkl: two pickles in a row, the settings and then time, command and version."""
    dump_pickles(path, settings, {"time": datetime.now(), "cmd": list(command), "version": __version__})


def read_config(path: Path, box: int | None = None) -> tuple[ModelConfig, Boxes, dict[str, Any]]:
    """Read model sizes, boxes and all settings of a run, of ours or of the original.

    Parameters
    ----------
    path
        config.pkl of the run.
    box
        Side of the subtomograms in voxels, where it is known. The original keeps the size of its grid, which is odd:
        one more than the box or, in some versions, one less. Without ``box`` it is taken for one more.

    Raises
    ------
    UserError
        The file is missing, unsafe, or lacks an entry.
    """
    settings = load_pickles(path)[0]
    try:
        own = settings.get("opustomo")
        if own is not None:
            entries = dict(own["model"])
            if entries.get("bodies") is not None:
                entries["bodies"] = BodyGeometry(**entries["bodies"])
            return ModelConfig(**entries), Boxes(**own["boxes"]), settings
        sizes = settings["model_args"]
        grid = int(settings["lattice_args"]["D"])
        if box is None or abs(box - grid) != 1:
            box = grid - grid % 2
        downfrac = float(settings["dataset_args"].get("downfrac") or 1.0)
        render = 2 * int(box * downfrac / 2 + 1e-9)
        boxes = Boxes(box, float(sizes["Apix"]) * render / box, render, int(sizes["down_vol_size"]))
        model = ModelConfig(
            zdim=int(sizes["zdim"]),
            zaffinedim=int(sizes.get("z_affine_dim") or 0),
            templateres=int(sizes["templateres"]),
            encoderres=int(sizes.get("encoderres") or 12),
            encode_mode="fixed" if sizes.get("encode_mode") == "fixed" else "grad",
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path}: not the config.pkl of a training run ({error!r}); give the one beside the weights"
        ) from error
    return model, boxes, settings
