"""The template of one particle, for those who look at a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder


@torch.no_grad()
def template_of(model: Autoencoder, latent: Tensor) -> np.ndarray:
    """Return the template (T, T, T) that the decoder makes of the composition in ``latent`` (1, L)."""
    return model.decoder(latent[:, : model.config.zdim])[0].cpu().numpy()


def write_template(path: Path, model: Autoencoder, latent: Tensor, say: Callable[[str], None]) -> None:
    """Write the template of a latent (1, L) with its true voxel size; no run ends because it cannot be written."""
    template, boxes = template_of(model, latent), model.boxes
    if not np.isfinite(template).all():
        say("# warning: the current template is not written, because it is not finite")
        return
    # it spans the crop from the centre of its first voxel to that of its last
    spacing = (boxes.crop - 1) * boxes.render_apix / (len(template) - 1)
    try:
        write_volume(path, template, spacing)
    except OSError as error:
        say(f"# warning: the current template is not written: {error}")
