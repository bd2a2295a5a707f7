"""Processes of a data-parallel run: each has a part of every batch; weights and particle state are equal in all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from opustomo.errors import UserError
from opustomo.model.collective import Alone

PATIENCE = timedelta(minutes=30)
"""Time after which a process stops waiting for the others."""

_OTHER_LAUNCHERS = {"horovodrun": "HOROVOD_SIZE", "mpirun": "OMPI_COMM_WORLD_SIZE"}
"""Launchers of several processes, and the environment variable with their number."""


@dataclass(frozen=True)
class Place:
    """Place of a process: its rank among ``size`` processes, and its rank on its machine."""

    rank: int
    size: int
    local_rank: int


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Return the place that torchrun (RANK, …) or srun (SLURM_PROCID, …) assigns to this process; None for one process.

    Raises
    ------
    UserError
        Several processes were started by srun but nothing says where they meet, or by another launcher (horovodrun,
        mpirun), so that each would train the whole run in the same folder.
    """
    if int(environment.get("WORLD_SIZE", "1")) > 1 and "RANK" in environment:
        return Place(int(environment["RANK"]), int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_RANK", "0")))
    for launcher, variable in _OTHER_LAUNCHERS.items():
        if (size := int(environment.get(variable, "1"))) > 1:
            raise UserError(
                f"{launcher} started {size} processes, but they cannot communicate without its library. Start them "
                f"with torchrun --nproc_per_node={size} $(which dsd) train_tomo, followed by the same options."
            )
    size = int(environment.get("SLURM_NTASKS", "1"))
    if size > 1 and "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
            raise UserError(
                "srun started several processes, but MASTER_ADDR and MASTER_PORT are not set. "
                "Export them as docs/cluster.md shows."
            )
        return Place(int(environment["SLURM_PROCID"]), size, int(environment.get("SLURM_LOCALID", "0")))
    return None


class OneProcess(Alone):
    """Run in one process."""

    rank = 0

    def part_of(self, batch: np.ndarray) -> np.ndarray:
        """Return the particles of a batch in this process: all."""
        return batch

    def prepare(self, count: int) -> slice:
        """Set the number of particles of the next batch and return the rows of this process."""
        return slice(0, count)

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return value

    def close(self) -> None:
        """Do nothing."""


class Ranks:
    """Several processes connected by torch.distributed.

    Parameters
    ----------
    place
        Place of this process.
    device
        Device of its tensors.
    """

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.size = place.rank, place.size
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0")  # as CUDA graphs with NCCL need it
        if device.type == "cuda":
            torch.cuda.set_device(device)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=place.rank, world_size=place.size, timeout=PATIENCE)
        self._words = dist.new_group(backend="gloo", timeout=PATIENCE) if backend == "nccl" else None
        self._sizes: list[int] = []

    def part_of(self, batch: np.ndarray) -> np.ndarray:
        """Return the particles of a batch in this process."""
        return np.array_split(batch, self.size)[self.rank]

    def prepare(self, count: int) -> slice:
        """Set the number of particles of the next batch and return the rows of this process."""
        self._sizes = [len(part) for part in np.array_split(np.empty(count), self.size)]
        start = sum(self._sizes[: self.rank])
        return slice(start, start + self._sizes[self.rank])

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over the processes, without gradient."""
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, rows: Tensor) -> Tensor:
        """Return the rows of all processes in their order; those of this process keep their gradient."""
        largest = max(self._sizes)
        held = rows.detach()
        if len(held) < largest:
            held = torch.cat([held, held.new_zeros(largest - len(held), *held.shape[1:])])
        parts = [torch.empty_like(held) for _ in range(self.size)]
        dist.all_gather(parts, held.contiguous())
        pieces = [part[:size] for part, size in zip(parts, self._sizes, strict=True)]
        pieces[self.rank] = rows
        return torch.cat(pieces)

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        word = torch.tensor([int(value)])
        dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self._words)
        return bool(word)

    def close(self) -> None:
        """Wait for the other processes and disconnect."""
        dist.barrier(group=self._words)
        dist.destroy_process_group()


def join(place: Place | None, device: torch.device) -> OneProcess | Ranks:
    """Return the processes of this run."""
    return OneProcess() if place is None else Ranks(place, device)


def lost_contact(error: RuntimeError) -> bool:
    """Return whether an error means that another process cannot be reached."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))
