"""Snapshots of a run in progress: current template, and projections of a particle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.io.mrc import write_volume
from opustomo.model.autoencoder import Autoencoder, StepState
from opustomo.training.engine import Engine, Visit
from opustomo.training.monitors.records import Projections


@torch.no_grad()
def template_of(model: Autoencoder, latent: Tensor) -> np.ndarray:
    """Return the template (T, T, T) of the composition in ``latent`` (1, L)."""
    return model.decoder(latent[:, : model.config.zdim])[0].cpu().numpy()


def projections_of(engine: Engine, visit: Visit, bfactor_A2: float) -> Projections:
    """Return projections of the first particle of a batch, of its model and of its target, along z."""
    one = replace(visit, index=visit.index[:1], volumes=visit.volumes[:1])
    state = StepState(bfactor_A2, 0.0, 0.0, 0.0, engine.snr, None)
    pictures = engine.model.pictures(engine.assemble(one), state)
    return Projections(*(volume[0].sum(0).cpu().numpy() for volume in pictures))


def write_template(path: Path, model: Autoencoder, latent: Tensor, say: Callable[[str], None]) -> None:
    """Write the template of a latent (1, L) with its voxel size; errors are reported through ``say``."""
    template, boxes = template_of(model, latent), model.boxes
    if not np.isfinite(template).all():
        say("# warning: the current template is not written, because it is not finite")
        return
    # the grid of the template spans the crop from the center of its first voxel to that of its last
    spacing = (boxes.crop - 1) * boxes.render_apix / (len(template) - 1)
    try:
        write_volume(path, template, spacing)
    except OSError as error:
        say(f"# warning: the current template is not written: {error}")
