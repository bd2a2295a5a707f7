"""Run configuration (config.pkl) with the entries of OPUS-TOMO and of opustomo (docs/files.md)."""

from __future__ import annotations

from collections.abc import Mapping
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

SELECTED_STAR = "particles.selected.star"
"""Particle table that training writes for a run with ``--ind``."""


def dataset_settings(data: dict[str, Any], norm: tuple[float, float] | None) -> dict[str, Any]:
    """Return the entries of the input data, with paths as text, and the normalization (shift, scale) of voxels.

    ``norm`` is None, and has no entry, until the scale has been measured.
    """
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in data.items() if key != "norm"}
    return plain if norm is None else plain | {"norm": [norm[0], np.float32(norm[1])]}


def run_settings(
    model: ModelConfig, physics: PhysicsConfig, boxes: Boxes, dataset: dict[str, Any], seed: int
) -> dict[str, Any]:
    """Return all settings of a run under the keys of OPUS-TOMO, and those of opustomo under ``opustomo``."""
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
    """Write config.pkl, which consists of two pickles: the settings, and the time, command and version."""
    dump_pickles(path, settings, {"time": datetime.now(), "cmd": list(command), "version": __version__})


def with_present_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings in a config.pkl with the present names of entries that earlier versions named differently."""
    own = settings.get("opustomo") or {}
    physics = own.get("physics") or {}
    if "ctf_normalised" not in physics:
        return dict(settings)
    renamed = {"ctf_normalized" if name == "ctf_normalised" else name: value for name, value in physics.items()}
    return {**settings, "opustomo": {**own, "physics": renamed}}


def stored_path(path: Path, config: Path) -> Path:
    """Return where a file or folder that is named in a config.pkl is now.

    Training may have been started in any folder above the run. The path is returned unchanged if nothing is found.
    """
    if path.is_absolute() or path.exists():
        return path
    return next((folder / path for folder in config.resolve().parents if (folder / path).exists()), path)


def read_config(path: Path, box: int | None = None) -> tuple[ModelConfig, Boxes, dict[str, Any]]:
    """Read the configuration of a run of opustomo or OPUS-TOMO.

    Parameters
    ----------
    path
        config.pkl of the run.
    box
        Box size of the subtomograms in voxels, if known. OPUS-TOMO stores the odd size of its grid, which is one more
        than the box or, in some versions, one less. Without ``box`` it is assumed to be one more.

    Returns
    -------
    model : ModelConfig
    boxes : Boxes
    settings : dict
        All settings.

    Raises
    ------
    UserError
        If the file is missing or unsafe, or lacks an entry.
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
            f"{path} is not the config.pkl of a training run ({error!r}). Give the one in the folder of the weights."
        ) from error
    return model, boxes, settings
