"""Division of the particles into training and held-out particles, and into batches that are read ahead.

The particles of a batch have similar viewing directions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.data.voxels import BrokenSubtomogramError, VoxelSource
from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch


def split_particles(count: int, valfrac: float, rng: np.random.Generator) -> np.ndarray:
    """Return a permutation of the particles, (N,), whose first fraction of 1 - ``valfrac`` is the training set."""
    if not 0 <= valfrac < 1:
        raise ValueError(f"valfrac must lie in [0, 1), got {valfrac}")
    return rng.permutation(count)


def training_count(count: int, valfrac: float) -> int:
    """Return the number of training particles among ``count`` particles, at least one."""
    return max(1, count - int(count * valfrac))


def write_split(path: Path, permutation: np.ndarray) -> None:
    """Write a permutation as a torch file."""
    dump_torch(path, torch.from_numpy(permutation.astype(np.int64)))


def read_split(path: Path, count: int) -> np.ndarray:
    """Read a permutation; raise ``UserError`` if it is not a permutation of ``count`` particles."""
    content = load_torch(path)
    try:
        values = np.asarray(content, dtype=np.float64).ravel()
    except (TypeError, ValueError):  # not numeric
        values = np.empty(0)
    if not np.array_equal(np.sort(values), np.arange(count)):
        raise UserError(
            f"{path} is not a permutation of 0…{count - 1}, so it belongs to another particle set. Omit --split."
        )
    return values.astype(np.int64)


def viewing_batches(
    members: np.ndarray, groups: np.ndarray, batch_size: int, rng: np.random.Generator, smallest: int = 1
) -> list[np.ndarray]:
    """Divide particles into batches, each from one group of viewing directions if possible.

    Particles that do not fill a batch of their group are combined with those of neighboring groups in the order of the
    nested HEALPix index. Only one batch can be smaller than ``batch_size``.

    Parameters
    ----------
    members
        Indices of the particles to visit, (M,).
    groups
        Viewing-direction group of each particle of the set, (N,).
    batch_size
        Number of particles per batch.
    rng
        Generator that shuffles the particles within groups, and the batches.
    smallest
        Minimum size of the last batch; a smaller one is merged with the previous batch.

    Returns
    -------
    list of ndarray
        Index arrays that contain each member exactly once.
    """
    if batch_size < 1:
        raise ValueError(f"batch size must be at least 1, got {batch_size}")
    batches: list[np.ndarray] = []
    leftovers: list[np.ndarray] = []
    shuffled = rng.permutation(members)
    for group in np.unique(groups[members]):
        inside = shuffled[groups[shuffled] == group]
        full = len(inside) // batch_size * batch_size
        batches += list(inside[:full].reshape(-1, batch_size))
        leftovers.append(inside[full:])
    rest = np.concatenate(leftovers) if leftovers else shuffled[:0]
    batches += [rest[i : i + batch_size] for i in range(0, len(rest), batch_size)]
    if len(batches) > 1 and len(batches[-1]) < smallest:
        last = batches.pop()
        batches[-1] = np.concatenate([batches[-1], last])
    return [batches[i] for i in rng.permutation(len(batches))]


AHEAD = 4
"""Number of batches that are prefetched."""


@lru_cache
def _copy_stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream on which voxels are copied; one for all passes, because each stream keeps memory of its own."""
    return torch.cuda.Stream(device)


def load_batches(
    source: VoxelSource,
    batches: Sequence[np.ndarray],
    device: torch.device,
    norm: tuple[float, float],
    workers: int = 2,
    leave_out: Callable[[int, str], None] | None = None,
) -> Iterator[tuple[np.ndarray, Tensor]]:
    """Read batches with prefetching and yield them in order.

    Parameters
    ----------
    source
        Source of the voxels.
    batches
        Particle indices of each batch.
    device
        Device of the yielded voxels.
    norm
        Normalization (shift, scale): voxels become (value - shift) / scale.
    workers
        Number of reading threads.
    leave_out
        Function that is called with the index of each broken subtomogram and the reason. Broken subtomograms are then
        excluded from their batches, which may become empty. Without it they raise an error.

    Yields
    ------
    indices, voxels : ndarray, (B,), and Tensor, float32, (B, D, D, D)

    Raises
    ------
    BrokenSubtomogramError
        If a subtomogram is broken and ``leave_out`` is None.
    """
    shift, scale = norm
    pinned = device.type == "cuda"
    voxel_type = torch.float16 if source.half else torch.float32

    def fetch(indices: np.ndarray) -> tuple[Tensor, dict[int, str]]:
        buffer = torch.empty((len(indices), *(source.box,) * 3), dtype=voxel_type, pin_memory=pinned)
        return buffer, source.read_batch(indices, buffer.numpy())

    side = _copy_stream(device) if pinned else None

    def deliver(indices: np.ndarray, future: Future[tuple[Tensor, dict[int, str]]]) -> tuple[np.ndarray, Tensor]:
        buffer, broken = future.result()
        for place, reason in broken.items():
            if leave_out is None:
                raise BrokenSubtomogramError(reason)
            leave_out(int(indices[place]), reason)
        if broken:
            usable = [place for place in range(len(indices)) if place not in broken]
            indices, buffer = indices[usable], buffer[usable]
        if side is None:
            return indices, (buffer.float() - shift) / scale
        with torch.cuda.stream(side):  # overlaps with the previous step
            return indices, (buffer.to(device, non_blocking=True).float() - shift) / scale

    def hand_over(delivered: tuple[np.ndarray, Tensor]) -> tuple[np.ndarray, Tensor]:
        if side is not None:
            torch.cuda.current_stream(device).wait_stream(side)
            delivered[1].record_stream(torch.cuda.current_stream(device))
        return delivered

    with ThreadPoolExecutor(max_workers=max(1, workers)) as pool:
        pending: deque[tuple[np.ndarray, Future[tuple[Tensor, dict[int, str]]]]] = deque()
        waiting = iter(batches)
        try:
            ready: tuple[np.ndarray, Tensor] | None = None
            for indices in waiting:
                pending.append((indices, pool.submit(fetch, indices)))
                if len(pending) >= AHEAD:
                    if ready is not None:
                        yield hand_over(ready)
                    ready = deliver(*pending.popleft())
            while pending:
                if ready is not None:
                    yield hand_over(ready)
                ready = deliver(*pending.popleft())
            if ready is not None:
                yield hand_over(ready)
        finally:
            for _, future in pending:
                future.cancel()
