"""The latents of all particles by one and the same encoder, for the files of an epoch.

The memory of latents averages over visits, that is over the encoder's course: particles visited early in an epoch lag
behind those visited late, held-out ones come last, and draws of the start linger. Clusters of small sets followed that
(docs/quality.md). So what is written is encoded anew; the memory stays what the prior compares with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor

from opustomo.data.loader import load_batches
from opustomo.data.source import VoxelSource
from opustomo.model.latent_step import own_precision
from opustomo.training.engine import Engine
from opustomo.training.progress import Progress
from opustomo.training.schedules import bfactor_at

LAST_STEPS = 2
"""Newton steps of the compositions with the last decoder of a run."""


def encode_epoch(
    engine: Engine,
    source: VoxelSource,
    members: Iterable[np.ndarray],
    norm: tuple[float, float],
    workers: int,
    progress: Progress,
) -> np.ndarray:
    """Latent means (N, L) of the particles ``members`` once an epoch has passed, see :func:`encode_all`.

    While compositions have offsets these are added. Those remembered are of decoders of the whole epoch; at the end of
    a run that leaves them in use they are found anew, with the last decoder.
    """
    members = list(members)
    used, offsets = engine.offsets_used(progress.epoch, progress.particles_seen), engine.offsets.values.clone()
    if not used:
        return encode_all(engine, source, members, norm, workers)
    if progress.epoch < engine.config.epochs:
        return encode_all(engine, source, members, norm, workers, lambda index, volumes: used * offsets[index])
    precision = own_precision(engine.latents.values[:, : engine.model.config.zdim])
    bfactor_A2 = bfactor_at(engine.model.physics.bfactor_A2, progress.epoch - 1)

    def moved(index: Tensor, volumes: Tensor) -> Tensor:
        start = offsets[index]
        offsets[index] = engine.likeliest_offsets(index, volumes, start, precision, used, bfactor_A2)
        return used * offsets[index]

    for _ in range(LAST_STEPS):  # every process keeps the offsets of its own particles, which are the same every time
        latents = encode_all(engine, source, members, norm, workers, moved)
    return latents


@torch.no_grad()
def encode_all(
    engine: Engine,
    source: VoxelSource,
    members: Iterable[np.ndarray],
    norm: tuple[float, float],
    workers: int,
    move: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> np.ndarray:
    """Latent means (N, L) of the particles ``members``, without draws; others, and unreadable ones, as remembered.

    Compositions are moved by what ``move`` gives for indices (B,) and voxels: (B, zdim).
    Every process encodes its part of each batch and gets all of it.
    """
    model, ranks = engine.model, engine.ranks
    values = engine.latents.values.clone()
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
                encoded = model.encode(volumes, *engine.poses.current(index)).to(rows)
                if move is not None:
                    encoded[:, : model.config.zdim] += move(index, volumes)
                rows[read] = encoded
            if ranks.size > 1:
                ranks.prepare(len(batch))
                rows, mine = ranks.gather(rows), torch.from_numpy(batch).to(engine.device)
            values[mine] = rows
    return values.cpu().numpy()
