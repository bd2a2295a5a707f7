"""Prefetching of batches: a few threads fill (pinned) buffers ahead of the training step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from opustomo.data.source import VoxelSource

AHEAD = 4


def load_batches(
    source: VoxelSource,
    batches: Sequence[np.ndarray],
    device: torch.device,
    norm: tuple[float, float],
    workers: int = 2,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Yield (particle indices, voxels (B, D, D, D) float32 on ``device``) in order, reading ahead.

    Values become (value - shift) / scale for ``norm`` = (shift, scale).
    """
    shift, scale = norm
    pinned = device.type == "cuda"
    voxel_type = torch.float16 if source.half else torch.float32

    def fetch(indices: np.ndarray) -> Tensor:
        buffer = torch.empty((len(indices), *(source.box,) * 3), dtype=voxel_type, pin_memory=pinned)
        source.read_batch(indices, buffer.numpy())
        return buffer

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        pending: deque[tuple[np.ndarray, Future[Tensor]]] = deque()
        waiting = iter(batches)
        try:
            for indices in waiting:
                pending.append((indices, pool.submit(fetch, indices)))
                if len(pending) > AHEAD:
                    yield _deliver(*pending.popleft(), device, shift, scale)
            while pending:
                yield _deliver(*pending.popleft(), device, shift, scale)
        finally:
            for _, future in pending:
                future.cancel()


def _deliver(
    indices: np.ndarray, future: Future[Tensor], device: torch.device, shift: float, scale: float
) -> tuple[np.ndarray, Tensor]:
    volumes = future.result().to(device, non_blocking=True).float()
    return indices, (volumes - shift) / scale
