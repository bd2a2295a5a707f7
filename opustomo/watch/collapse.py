"""Says when latents collapse: all particles at one point, or dimensions that no particle uses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opustomo.training.records import EpochRecord, IntervalRecord

FIRST_EPOCH = 2
"""Epoch, counted from 0, before which latents are not judged."""
OLD_SHARE = 0.7
"""What a visit leaves of a remembered latent (spec 3); memories start as draws from the prior, N(0, 1)."""
DEAD_STD = 0.01
"""A dimension that varies less between particles, against a prior of 1, carries nothing that a decoder could use."""
RESOLVED_STD = 0.05
"""Epochs in which chance could hide or feign this much variation are not judged."""
FAR_BELOW = 0.1
"""A dead dimension varies less than this share of the liveliest."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with the latents.

    Attributes
    ----------
    kind
        ``loss`` or ``latents`` (not finite), ``point`` (all particles at one point), ``dead`` (unused dimensions).
    sentence
        What is wrong and what to try.
    columns
        The composition columns that it is about, counted from 0.
    """

    kind: str
    sentence: str
    columns: tuple[int, ...] = ()


class CollapseWatcher:
    """Watcher that says each kind of finding once.

    Parameters
    ----------
    say
        Takes a sentence, without a full stop, for the log.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.findings: list[Finding] = []
        """What has been said."""

    def interval(self, record: IntervalRecord) -> None:
        """Nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Look at the latents of the epoch."""
        for finding in diagnose(record):
            if finding.kind not in {said.kind for said in self.findings}:
                self.findings.append(finding)
                self._say(f"# warning: after epoch {record.epoch + 1} {finding.sentence}")

    def close(self) -> None:
        """Nothing."""


def diagnose(record: EpochRecord) -> list[Finding]:
    """What is wrong after an epoch; nothing found: empty."""
    found = _not_finite_loss(record)
    composition = np.asarray(record.latents, dtype=np.float64)[np.asarray(record.seen, dtype=bool), : record.zdim]
    finite = np.all(np.isfinite(composition), axis=1)
    if not finite.all():
        first = int(np.flatnonzero(record.seen)[np.argmin(finite)])
        found.append(
            Finding(
                "latents",
                f"{np.count_nonzero(~finite)} of {len(finite)} particles have latents that are not finite, the first "
                f"is particle {first} (counted from 0); try a lower --lr, leave out --amp and look at its subtomogram",
            )
        )
    # without an encoder there is no KL, and latents mean nothing (an encoder's is at least 0.5 per dimension)
    if record.epoch >= FIRST_EPOCH and record.training.get("kl", 1.0) != 0.0:
        found += _collapsed(composition[finite], record.epoch + 1)
    return found


def _not_finite_loss(record: EpochRecord) -> list[Finding]:
    bad = [name for name, value in record.training.items() if not np.isfinite(value)]
    if not bad:
        return []
    return [
        Finding(
            "loss",
            f"the training loss is not finite ({', '.join(bad)}); stop, go back to an earlier checkpoint with a lower "
            "--lr, leave out --amp, and check the voxels and CTF tables of the input",
        )
    ]


def _collapsed(composition: np.ndarray, visits: int) -> list[Finding]:
    count, zdim = composition.shape
    if count < 2 or zdim == 0:
        return []
    # The memory still holds a rest of the noise it started from. Its variance is known and is taken off; what chance
    # does to it (three standard errors) cannot be told from signal, so early epochs of small sets are not judged.
    rest = OLD_SHARE ** (2 * visits)
    error = 3.0 * rest * np.sqrt(2.0 / (count - 1))
    if error > RESOLVED_STD**2:
        return []
    # latents are kept in single precision
    rounding = np.finfo(np.float32).eps * np.abs(composition).max(axis=0)
    std = np.sqrt(np.clip(composition.var(axis=0, ddof=1) - rest, 0.0, None))
    dead = std < np.sqrt(DEAD_STD**2 + error) + rounding
    if dead.all():
        return [
            Finding(
                "point",
                f"the latents of all {count} particles lie at one point (standard deviation {std.max():.2g}, the "
                "prior's is 1), so the model sees no difference between them; try a lower --beta-control, a higher "
                "--lamb or more epochs, and check poses, CTF, --angpix and mask, which hide differences when wrong",
                tuple(range(zdim)),
            )
        ]
    dead &= np.sqrt(std**2 + error) < FAR_BELOW * std.max()
    if not dead.any():
        return []
    columns = tuple(int(column) for column in np.flatnonzero(dead))
    which = f"column{'s' * (len(columns) > 1)} {_listed(columns)} of mu, counted from 0"
    return [
        Finding(
            "dead",
            f"{len(columns)} of {zdim} latent dimensions are the same for all particles ({which}); they do no harm "
            f"when the others separate what you look for, else try --zdim {zdim - len(columns)}, or a lower "
            "--beta-control or a higher --lamb to use them",
            columns,
        )
    ]


def _listed(columns: tuple[int, ...], most: int = 8) -> str:
    shown = ", ".join(str(column) for column in columns[:most])
    return shown if len(columns) <= most else f"{shown}, …"
