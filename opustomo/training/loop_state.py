"""Position of a run: epoch, pass, step, and what has been summed since the pass began."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from opustomo.data.particles import max_broken
from opustomo.errors import UserError
from opustomo.training.monitors.records import compared_loss

TRAINING, VALIDATION = "training", "validation"


@dataclass
class LoopState:
    """Position of a run, saved with its state.

    Attributes
    ----------
    epoch, kind, step
        Next batch: epoch counted from 0, ``training`` or ``validation``, and index in that pass.
    particles_seen, updates
        Number of training visits and of optimizer updates.
    consensus_updates
        Number of updates of the consensus volume after the first.
    sums
        Sums of the loss terms over the particles of the pass.
    counted
        Number of particles in the sums; batches with terms that are not finite are omitted.
    seconds
        Wall time of the pass.
    training_seconds, training_means
        Wall time and mean loss terms of the training pass, during the validation of the same epoch.
    broken
        Reason for each particle that is left out, by index.
    best_epoch, best_loss
        Written epoch of lowest held-out loss, and this loss; None if there is none.
    """

    epoch: int = 0
    kind: str = TRAINING
    step: int = 0
    particles_seen: int = 0
    updates: int = 0
    consensus_updates: int = 0
    sums: list[float] = field(default_factory=list)
    counted: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    training_means: dict[str, float] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)
    best_epoch: int | None = None
    best_loss: float | None = None

    def start_pass(self, kind: str) -> None:
        """Begin a pass over the training or the validation particles."""
        self.kind, self.step, self.sums, self.counted, self.seconds = kind, 0, [], 0, 0.0

    def note_written(self, epoch: int, held_out: Mapping[str, float] | None) -> None:
        """Remember a written epoch if no earlier one has a lower loss, given the terms of the held-out particles."""
        loss = None if held_out is None else held_out[compared_loss([held_out])]
        if loss is not None and (self.best_loss is None or loss < self.best_loss):
            self.best_epoch, self.best_loss = epoch, loss

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for a state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> LoopState:
        """Return the state that :meth:`as_dict` described."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def note_broken(broken: dict[int, str], count: int, say: Callable[[str], None], index: int, reason: str) -> None:
    """Record that a subtomogram cannot be used, and report it once.

    Parameters
    ----------
    broken
        Reasons by particle index; the new one is added.
    count
        Number of particles of the set.
    say
        Callback that receives the line for the log.
    index, reason
        Particle and reason.

    Raises
    ------
    UserError
        If more than 5 % of the particles, and more than one, cannot be used.
    """
    if index in broken:
        return
    broken[index] = reason
    say(f"# warning: particle {index + 1} is left out: {reason} ({len(broken)} left out so far)")
    if len(broken) > max_broken(count):
        raise UserError(
            f"{len(broken)} of {count} subtomograms cannot be used, the last because {reason}. "
            "Repair them, or remove them from the STAR file."
        )
