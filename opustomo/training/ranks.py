"""The processes of a data-parallel run: each holds a part of every batch, all hold the same weights and memories."""

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
"""How long a process waits for the others before it gives up."""

_OTHER_LAUNCHERS = {"horovodrun": "HOROVOD_SIZE", "mpirun": "OMPI_COMM_WORLD_SIZE"}
"""Programs that start several processes, and the variable in which each says how many."""


@dataclass(frozen=True)
class Place:
    """Which process this is: rank of ``size``, and which of its machine."""

    rank: int
    size: int
    local_rank: int


def place_from_environment(environment: Mapping[str, str] = os.environ) -> Place | None:
    """Place that torchrun (RANK, WORLD_SIZE, LOCAL_RANK) or srun (SLURM_PROCID, …) gives this process, None for one.

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
                f"{launcher} started {size} processes, but they cannot meet without its library; start them with: "
                f"torchrun --nproc_per_node={size} $(which dsd) train_tomo, followed by the same options"
            )
    size = int(environment.get("SLURM_NTASKS", "1"))
    if size > 1 and "SLURM_PROCID" in environment and "SLURM_STEP_ID" in environment:
        if "MASTER_ADDR" not in environment or "MASTER_PORT" not in environment:
            raise UserError(
                "srun started several processes but MASTER_ADDR and MASTER_PORT are not set; "
                "export them as docs/cluster.md shows"
            )
        return Place(int(environment["SLURM_PROCID"]), size, int(environment.get("SLURM_LOCALID", "0")))
    return None


class OneProcess(Alone):
    """A run in one process."""

    rank = 0

    def part_of(self, batch: np.ndarray) -> np.ndarray:
        """This process's particles of a batch: all."""
        return batch

    def prepare(self, count: int) -> slice:
        """Say how many particles the next batch has; this process's rows of it."""
        return slice(0, count)

    def any(self, value: bool) -> bool:
        """Whether the value is true in any process."""
        return value

    def close(self) -> None:
        """Nothing to end."""


class Ranks:
    """Several processes joined by torch.distributed.

    Parameters
    ----------
    place
        Which of them this is.
    device
        Where its tensors are.
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
        """This process's particles of a batch."""
        return np.array_split(batch, self.size)[self.rank]

    def prepare(self, count: int) -> slice:
        """Say how many particles the next batch has; this process's rows of it."""
        self._sizes = [len(part) for part in np.array_split(np.empty(count), self.size)]
        start = sum(self._sizes[: self.rank])
        return slice(start, start + self._sizes[self.rank])

    def total(self, value: Tensor) -> Tensor:
        """Sum over the processes, without gradient."""
        summed = value.detach().clone()
        dist.all_reduce(summed)
        return summed

    def gather(self, rows: Tensor) -> Tensor:
        """Rows of all processes in their order; this process's own keep their gradient."""
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
        """Whether the value is true in any process."""
        word = torch.tensor([int(value)])
        dist.all_reduce(word, op=dist.ReduceOp.MAX, group=self._words)
        return bool(word)

    def close(self) -> None:
        """Wait for the others and part."""
        dist.barrier(group=self._words)
        dist.destroy_process_group()


def join(place: Place | None, device: torch.device) -> OneProcess | Ranks:
    """The processes of this run."""
    return OneProcess() if place is None else Ranks(place, device)


def lost_contact(error: RuntimeError) -> bool:
    """Whether an error means that another process can no longer be reached."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo", "NCCL"))
