"""TensorBoard scalars (requires the extra ``tensorboard``)."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

from opustomo.training.monitors.records import EpochRecord, IntervalRecord


def tensorboard_available() -> bool:
    """Return whether the package ``tensorboard`` is installed."""
    return importlib.util.find_spec("tensorboard") is not None


class TensorBoardMonitor:
    """Training monitor that writes TensorBoard event files.

    Loss terms of batches are written to ``training/TERM`` and the state of the run to ``run/…``, as functions of the
    number of particles processed. Means over epochs are written to ``training_epoch/TERM`` and ``validation/TERM``, as
    functions of the epoch, counted from 0 as in file names.

    Parameters
    ----------
    logdir
        Folder of the event files.
    resumed_at
        Number of particles processed before the run was resumed; later events of the interrupted run are hidden.

    Raises
    ------
    ImportError
        If TensorBoard is not installed.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, logdir: Path, resumed_at: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        purge = None if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(logdir), purge_step=purge)

    def interval(self, record: IntervalRecord) -> None:
        """Write the terms of a batch and the state of the run."""
        self._write("training", record.terms, record.particles_seen)
        state = {
            "running_snr": record.running_snr,
            "lr": record.lr,
            "beta": record.beta,
            "visits_per_second": record.visits_per_second,
            "memory_gb": record.memory_gb,
        }
        self._write("run", state, record.particles_seen)

    def epoch(self, record: EpochRecord) -> None:
        """Write the means of an epoch."""
        self._write("training_epoch", record.training, record.epoch)
        if record.validation is not None:
            self._write("validation", record.validation, record.epoch)
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def _write(self, group: str, values: Mapping[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{group}/{name}", value, step)
