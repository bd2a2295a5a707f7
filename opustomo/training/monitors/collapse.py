"""Detection of latent collapse: identical latents or unused latent dimensions.

The information of a latent dimension about the particles is that of a Gaussian channel, ½ log₂(1 + V/S) bits, where V
is the variance of the posterior means between particles and S the mean posterior variance. Unlike the variance of the
means, it is invariant to a rescaling of the dimension.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from opustomo.training.monitors.records import EpochRecord, IntervalRecord

FIRST_EPOCH = 2
"""First epoch, counted from 0, at which latents are checked for collapse."""
LEAST_BITS = 0.01
"""Minimum information of a used dimension; below it, the means vary by less than 12 % of the posterior width."""


@dataclass(frozen=True)
class Finding:
    """Problem found in the loss or the latents.

    Attributes
    ----------
    kind
        ``loss`` or ``latents`` for non-finite values, ``point`` if no dimension is informative, ``dead`` if some
        dimensions are not.
    sentence
        Description of the problem with suggestions.
    columns
        Affected composition columns, counted from 0.
    """

    kind: str
    sentence: str
    columns: tuple[int, ...] = ()


class CollapseMonitor:
    """Training monitor that reports each kind of problem once.

    Parameters
    ----------
    say
        Callback that receives messages for the log.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self.findings: list[Finding] = []
        """Problems reported so far."""

    def interval(self, record: IntervalRecord) -> None:
        """Do nothing."""

    def epoch(self, record: EpochRecord) -> None:
        """Check the loss and the latents of the epoch."""
        for finding in diagnose(record):
            if finding.kind not in {reported.kind for reported in self.findings}:
                self.findings.append(finding)
                self._say(f"# warning: after epoch {record.epoch} {finding.sentence}")

    def close(self) -> None:
        """Do nothing."""


def diagnose(record: EpochRecord) -> list[Finding]:
    """Return the problems found after an epoch."""
    findings = _non_finite_loss(record)
    seen, zdim = np.asarray(record.seen, dtype=bool), record.zdim
    composition = np.asarray(record.latents, dtype=np.float64)[seen, :zdim]
    finite = np.all(np.isfinite(composition), axis=1)
    if not finite.all():
        first = int(np.flatnonzero(record.seen)[np.argmin(finite)])
        findings.append(
            Finding(
                "latents",
                f"{np.count_nonzero(~finite)} of {len(finite)} particles have latents that are not finite, the first "
                f"is particle {first} (counted from 0); try a lower --lr, omit --amp, and inspect its subtomogram",
            )
        )
    # Without an encoder, the KL term is 0 and the latents are not informative; with an encoder it is at least 0.5.
    if record.encoded is None or record.epoch < FIRST_EPOCH or record.training.get("kl", 1.0) == 0.0:
        return findings
    bits = information(record.encoded.means[seen, :zdim], record.encoded.deviations[seen, :zdim])
    return findings + _collapsed(bits)


def information(means: np.ndarray, deviations: np.ndarray) -> np.ndarray:
    """Compute the information about the particles in each latent dimension.

    Parameters
    ----------
    means, deviations
        Posterior means and standard deviations, (N, zdim). Particles with non-finite values are ignored.

    Returns
    -------
    ndarray, (zdim,)
        Information ½ log₂(1 + V/S) in bits; empty if there are fewer than two particles.
    """
    means, deviations = (np.asarray(values, dtype=np.float64) for values in (means, deviations))
    used = np.isfinite(means).all(1) & np.isfinite(deviations).all(1)
    if used.sum() < 2:
        return np.empty(0)
    # Latents are stored in single precision, so the rounding error is not counted as variance.
    rounding = np.finfo(np.float32).eps * np.abs(means[used]).max(0)
    between = np.clip(means[used].var(0, ddof=1) - rounding**2, 0.0, None)
    within = np.square(deviations[used]).mean(0)
    return 0.5 * np.log2(1.0 + between / np.maximum(within, np.finfo(np.float32).tiny))


def _non_finite_loss(record: EpochRecord) -> list[Finding]:
    non_finite = [name for name, value in record.training.items() if not np.isfinite(value)]
    if not non_finite:
        return []
    return [
        Finding(
            "loss",
            f"the training loss is not finite ({', '.join(non_finite)}); stop the run, resume from an earlier "
            "checkpoint with a lower --lr, omit --amp, and check the voxels and CTF tables of the input",
        )
    ]


def _collapsed(bits: np.ndarray) -> list[Finding]:
    unused = bits < LEAST_BITS
    if not unused.any():
        return []
    if unused.all():
        return [
            Finding(
                "point",
                f"the latents have collapsed: their {len(bits)} dimensions together carry only {bits.sum():.2g} bits "
                "of information about a particle; particles of one structure need no more, but otherwise no classes "
                "can be found; check poses, CTF, --angpix and mask with dsd check, because errors in these hide "
                "differences between particles, and try a lower --beta-control: dsd train_tomo --load latest "
                "--beta-control 0.05 -n N -o DIR continues the run, whose latents recover within a few epochs if the "
                "KL divergence has removed them",
                tuple(range(len(bits))),
            )
        ]
    columns = tuple(int(column) for column in np.flatnonzero(unused))
    names = f"column{'s' * (len(columns) > 1)} {_listed(columns)} of mu, counted from 0"
    return [
        Finding(
            "dead",
            f"{len(columns)} of {len(bits)} latent dimensions carry less than {LEAST_BITS:g} bits of information about "
            f"a particle ({names}; all dimensions together carry {bits.sum():.2g} bits); this is harmless if the other "
            f"dimensions resolve the heterogeneity; otherwise try --zdim {len(bits) - len(columns)}, a lower "
            "--beta-control or a higher --lamb",
            columns,
        )
    ]


def _listed(columns: tuple[int, ...], limit: int = 8) -> str:
    text = ", ".join(str(column) for column in columns[:limit])
    return text if len(columns) <= limit else f"{text}, …"
