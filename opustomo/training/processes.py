"""Processes of a run: start of one per GPU, communication between them, and the end on request."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from types import FrameType

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from opustomo.errors import UserError
from opustomo.model.collective import Alone


class StopRequest:
    """Request to stop a run; true once a signal has arrived."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Turn SIGTERM and the first SIGINT into a request; a second SIGINT interrupts at once.

    Outside the main thread (where Python takes no handlers) nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def note(number: int, frame: FrameType | None) -> None:
        request.signal = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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


GRACE_SECONDS = 20.0
MOST_PER_CORE = 8
"""Processes per CPU core beyond which a run would only exhaust the machine."""
PATIENCE_SECONDS = 120.0
"""Time in seconds within which processes must save and end on request; SLURM allows less."""


def launch(count: int, command: Sequence[str]) -> int:
    """Run a command in ``count`` communicating processes on this machine, and return their exit code.

    Signals are passed on. If one process fails, it reports the reason, and the others are terminated.
    """
    room = MOST_PER_CORE * (os.cpu_count() or 1)
    if count > room:
        raise UserError(
            f"--num-gpus {count} processes are too many for this machine with {os.cpu_count()} CPU cores. Give at most "
            f"{room}."
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // count)))
    processes = [
        subprocess.Popen(list(command), env=environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]

    asked: list[float] = []

    def pass_on(number: int, frame: FrameType | None) -> None:
        asked.append(time.monotonic())
        for process in processes:
            if process.poll() is None:
                process.send_signal(number)

    # Ctrl-C in a terminal reaches the children by itself
    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, pass_on),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN),
    }
    try:
        return _wait(processes, asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(processes: list[subprocess.Popen[bytes]], asked: list[float]) -> int:
    """Return the exit code once all processes have ended, one has failed, or the time to end on request is over."""
    while True:
        codes = [process.poll() for process in processes]
        failed = [code for code in codes if code]
        if all(code == 0 for code in codes):
            return 0
        late = bool(asked) and time.monotonic() - asked[0] > PATIENCE_SECONDS
        if failed or late:
            break
        time.sleep(0.1)
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            print(
                f"process {rank} was terminated by {name}; the others are terminated as well",
                file=sys.stderr,
                flush=True,
            )
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
    return abs(failed[0]) if failed else 1
