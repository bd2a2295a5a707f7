"""Latent collapse: compositions, or single dimensions of them, that carry no information about the particles.

The information of a dimension is that of a Gaussian channel from particles to samples: with the variance V of the
posterior means between particles and the mean posterior variance S, ½ log₂(1 + V/S) bits. It does not change when a
dimension is rescaled, whereas the spread of the means alone may be small or large for any information.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opustomo.training.records import EpochRecord, IntervalRecord

FIRST_EPOCH = 2
"""Epoch, counted from 0, before which latents are not judged."""
LEAST_BITS = 0.01
"""A dimension with less information tells nothing apart: its means spread by less than 12 % of a posterior's width."""


@dataclass(frozen=True)
class Finding:
    """Something wrong with the latents.

    Attributes
    ----------
    kind
        ``loss`` or ``latents`` (not finite), ``point`` (no dimension carries information), ``dead`` (some carry none).
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
                self._say(f"# warning: after epoch {record.epoch} {finding.sentence}")

    def close(self) -> None:
        """Nothing."""


def diagnose(record: EpochRecord) -> list[Finding]:
    """What is wrong after an epoch; nothing found: empty."""
    found = _not_finite_loss(record)
    seen, zdim = np.asarray(record.seen, dtype=bool), record.zdim
    composition = np.asarray(record.latents, dtype=np.float64)[seen, :zdim]
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
    if record.encoded is None or record.epoch < FIRST_EPOCH or record.training.get("kl", 1.0) == 0.0:
        return found
    bits = information(record.encoded.means[seen, :zdim], record.encoded.deviations[seen, :zdim])
    return found + _collapsed(bits)


def information(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Return the information about particles in each latent dimension, in bits.

    Parameters
    ----------
    means, deviations
        (N, zdim) of the posteriors; particles with values that are not finite do not count.

    Returns
    -------
    ndarray
        (zdim,), ½ log₂(1 + V/S); empty when fewer than two particles count.
    """
    means, deviations = (np.asarray(values, dtype=np.float64) for values in (means, deviations))
    used = np.isfinite(means).all(1) & np.isfinite(deviations).all(1)
    if used.sum() < 2:
        return np.empty(0)
    # latents are kept in single precision: far from 0 their last digits are no information
    rounding = np.finfo(np.float32).eps * np.abs(means[used]).max(0)
    between = np.clip(means[used].var(0, ddof=1) - rounding**2, 0.0, None)
    within = np.square(deviations[used]).mean(0)
    return 0.5 * np.log2(1.0 + between / np.maximum(within, np.finfo(np.float32).tiny))


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


def _collapsed(bits: np.ndarray) -> list[Finding]:
    dead = bits < LEAST_BITS
    if not dead.any():
        return []
    if dead.all():
        return [
            Finding(
                "point",
                f"the latents tell no particles apart: their {len(bits)} dimensions together carry {bits.sum():.2g} "
                "bits about a particle; try a lower --beta-control, a higher --lamb or more epochs, and check poses, "
                "CTF, --angpix and mask, which hide differences when wrong",
                tuple(range(len(bits))),
            )
        ]
    columns = tuple(int(column) for column in np.flatnonzero(dead))
    which = f"column{'s' * (len(columns) > 1)} {_listed(columns)} of mu, counted from 0"
    return [
        Finding(
            "dead",
            f"{len(columns)} of {len(bits)} latent dimensions carry less than {LEAST_BITS:g} bits about a particle "
            f"({which}; all together carry {bits.sum():.2g}); they do no harm when the others separate what you "
            f"look for, else try --zdim {len(bits) - len(columns)}, or a lower --beta-control or a higher --lamb "
            "to use them",
            columns,
        )
    ]


def _listed(columns: tuple[int, ...], most: int = 8) -> str:
    shown = ", ".join(str(column) for column in columns[:most])
    return shown if len(columns) <= most else f"{shown}, …"
