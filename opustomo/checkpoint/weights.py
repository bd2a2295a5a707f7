"""weights.N.pkl: networks under the original's key names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from opustomo.checkpoint.bodies import body_buffers
from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.model.autoencoder import Autoencoder


def write_weights(path: Path, model: Autoencoder, epoch: int) -> None:
    """Write weights.N.pkl: networks and bodies under the original's key names, the crop's mask, the shared latent."""
    bodies = model.config.bodies
    geometry = {} if bodies is None else body_buffers(bodies, model.boxes)
    content: dict[str, Any] = {
        "epoch": epoch,
        "decoder_state_dict": {**model.decoder.state_dict(), **geometry},
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
