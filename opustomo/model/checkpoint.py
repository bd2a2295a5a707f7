"""Files of a run: config.pkl, weights.N.pkl, z.N.pkl, pose.N.pkl (spec 2, "Checkpoint compatibility"; spec 5)."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo import __version__
from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickles, dump_torch, load_pickles, load_torch
from opustomo.io.poses import Poses, write_poses
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig
from opustomo.physics.boxes import Boxes


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def write_config(
    path: Path, model: Autoencoder, data: DataConfig, norm: tuple[float, float], seed: int, command: tuple[str, ...]
) -> None:
    """Write config.pkl: the original's entries, and under ``opustomo`` what rebuilds this run's model exactly."""
    boxes, sizes = model.boxes, model.config
    settings = {
        "dataset_args": {
            "particles": str(data.star),
            "poses": None if data.poses is None else str(data.poses),
            "datadir": None if data.datadir is None else str(data.datadir),
            "norm": [norm[0], np.float32(norm[1])],
            "downfrac": boxes.render / boxes.box,
            "angpix": boxes.apix,
            "mask": None if data.mask is None else str(data.mask),
        },
        "lattice_args": {"D": boxes.box + 1},
        "model_args": {
            "zdim": sizes.zdim,
            "z_affine_dim": sizes.zaffinedim,
            "encode_mode": sizes.encode_mode,
            "templateres": sizes.templateres,
            "encoderres": sizes.encoderres,
            "down_vol_size": boxes.crop,
            "Apix": boxes.render_apix,
        },
        "seed": seed,
        "opustomo": {
            "model": asdict(sizes),
            "physics": asdict(model.physics),
            "boxes": asdict(boxes),
            "data": _plain(asdict(data)),
        },
    }
    dump_pickles(path, settings, {"time": datetime.now(), "cmd": list(command), "version": __version__})


def read_config(path: Path) -> tuple[ModelConfig, Boxes, dict[str, Any]]:
    """Model sizes, boxes and all settings of a run, of ours or of the original.

    Raises
    ------
    UserError
        The file is missing, unsafe, or lacks an entry.
    """
    settings = load_pickles(path)[0]
    try:
        own = settings.get("opustomo")
        if own is not None:
            return ModelConfig(**own["model"]), Boxes(**own["boxes"]), settings
        sizes = settings["model_args"]
        box = int(settings["lattice_args"]["D"]) - 1
        downfrac = float(settings["dataset_args"].get("downfrac") or 1.0)
        render = 2 * int(box * downfrac / 2 + 1e-9)
        boxes = Boxes(box, float(sizes["Apix"]) * render / box, render, int(sizes["down_vol_size"]))
        model = ModelConfig(
            zdim=int(sizes["zdim"]),
            zaffinedim=int(sizes.get("z_affine_dim") or 0),
            templateres=int(sizes["templateres"]),
            encoderres=int(sizes.get("encoderres") or 12),
            encode_mode=str(sizes.get("encode_mode") or "grad"),
        )
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise UserError(f"{path}: not the config.pkl of a training run ({error!r}); give the one beside the weights")
    return model, boxes, settings


def write_weights(path: Path, model: Autoencoder, epoch: int) -> None:
    """Write weights.N.pkl: networks under the original's key names, the crop's mask, the shared latent if there is one."""
    content: dict[str, Any] = {
        "epoch": epoch,
        "decoder_state_dict": model.decoder.state_dict(),
        "mask": model.mask.to(torch.float16).cpu(),
    }
    if model.encoder is None:
        content["fixed_latent"] = model.fixed_latent.cpu()
    else:
        content["encoder_state_dict"] = model.encoder.state_dict()
    dump_torch(path, content)


def read_weights(path: Path) -> dict[str, Any]:
    """Content of a weights.N.pkl, of ours or of the original."""
    content = load_torch(path)
    if not isinstance(content, dict) or "decoder_state_dict" not in content:
        raise UserError(f"{path}: holds no decoder; give the weights.N.pkl of a training run")
    return content


def write_epoch(outdir: Path, epoch: int, model: Autoencoder, latents: np.ndarray, poses: Poses) -> None:
    """Write the files of one epoch; the weights come last, so that an epoch with weights is complete."""
    zdim = model.config.zdim
    multi = latents[:, zdim:] if model.config.zaffinedim else None
    write_latents(outdir / f"z.{epoch}.pkl", latents[:, :zdim], multi)
    write_poses(outdir / f"pose.{epoch}.pkl", poses)
    write_weights(outdir / f"weights.{epoch}.pkl", model, epoch)
