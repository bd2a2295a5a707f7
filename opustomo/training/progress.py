"""Where in its course a run is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from opustomo.data.particles import max_broken
from opustomo.errors import UserError

TRAINING, VALIDATION = "training", "validation"


@dataclass
class Progress:
    """Position of a run, saved with its state.

    Attributes
    ----------
    epoch, kind, step
        The next batch to visit: epoch from 0, ``training`` or ``validation``, index in that pass.
    particles_seen, updates
        Training visits and optimiser updates so far.
    sums
        Loss terms times particles, summed over the pass so far.
    counted
        Particles in those sums; batches with terms that are not finite are left out.
    seconds
        Wall time spent in the pass so far.
    training_seconds
        Wall time of the training pass of this epoch, while its validation runs.
    training_means
        Means of the training pass of this epoch, while its validation runs.
    broken
        Why particles were left out, by index.
    """

    epoch: int = 0
    kind: str = TRAINING
    step: int = 0
    particles_seen: int = 0
    updates: int = 0
    sums: list[float] = field(default_factory=list)
    counted: int = 0
    seconds: float = 0.0
    training_seconds: float = 0.0
    training_means: dict[str, float] = field(default_factory=dict)
    broken: dict[int, str] = field(default_factory=dict)

    def start_pass(self, kind: str) -> None:
        """Begin a pass over the training or the validation particles."""
        self.kind, self.step, self.sums, self.counted, self.seconds = kind, 0, [], 0, 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for a state file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Progress:
        """Inverse of :meth:`as_dict`."""
        return cls(**{f.name: values[f.name] for f in fields(cls) if f.name in values})


def note_broken(broken: dict[int, str], count: int, say: Callable[[str], None], index: int, reason: str) -> None:
    """Note a subtomogram of ``count`` that cannot be used, and say it once.

    Raises
    ------
    UserError
        More than 5 % of them (and more than one) are broken.
    """
    if index in broken:
        return
    broken[index] = reason
    say(f"# warning: particle {index + 1} is left out: {reason} ({len(broken)} left out so far)")
    if len(broken) > max_broken(count):
        raise UserError(
            f"{len(broken)} of {count} subtomograms cannot be used, the last because {reason}; "
            "repair them or take them out of the STAR file"
        )
