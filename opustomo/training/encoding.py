"""Latents of all particles from the encoder at the end of an epoch, for the files of this epoch.

Running averages of latents lag behind the encoder: particles visited early in an epoch differ from those visited late
and from held-out particles, and clusters of small sets reflect this. Therefore all particles are encoded anew. The
running averages remain what the disentanglement prior compares with.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch

from opustomo.data.batches import load_batches
from opustomo.data.voxels import VoxelSource
from opustomo.training.engine import Engine
from opustomo.training.monitors.records import Encoded


@torch.no_grad()
def encode_all(
    engine: Engine,
    source: VoxelSource,
    members: Iterable[np.ndarray],
    norm: tuple[float, float],
    workers: int,
) -> np.ndarray:
    """Return the latent means (N, L) of the particles ``members``, and running averages for all other particles.

    Every process encodes its part of each batch and receives all of it. ``engine.latents.encoded`` keeps means and
    standard deviations.
    """
    model, ranks = engine.model, engine.ranks
    dim = engine.latents.values.shape[1]
    values = torch.cat([engine.latents.values, torch.full_like(engine.latents.values, torch.nan)], 1)
    every = np.sort(np.concatenate(list(members)))
    if model.encoder is not None and len(every):
        model.eval()
        count = -(-len(every) // (engine.config.batch_size * ranks.size))
        batches = np.array_split(every, count)
        parts = [ranks.part_of(batch) for batch in batches]
        loaded = load_batches(source, parts, engine.device, norm, workers, lambda index, reason: None)
        for batch, part, (indices, volumes) in zip(batches, parts, loaded, strict=True):
            mine = torch.from_numpy(part).to(engine.device)
            rows = values[mine]
            if len(indices):
                index = torch.from_numpy(indices).to(engine.device)
                read = torch.from_numpy(np.isin(part, indices)).to(engine.device)
                found = model.posterior(volumes, *engine.poses.current(index), *engine.tilts_of(index))
                rows[read] = torch.cat(found, 1).to(rows)
            if ranks.size > 1:
                ranks.prepare(len(batch))
                rows, mine = ranks.gather(rows), torch.from_numpy(batch).to(engine.device)
            values[mine] = rows
    means, deviations = values.cpu().numpy()[:, :dim], values.cpu().numpy()[:, dim:]
    engine.latents.encoded = Encoded(means, deviations)
    return means.copy()
