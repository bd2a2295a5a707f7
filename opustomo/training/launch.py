"""Starting one process per GPU on this machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from opustomo.errors import UserError

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
    """Exit code once all have ended, or one has failed, or they have not ended long after they were asked to."""
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
