"""How the subtomograms were reconstructed, decided from the power of the data and the shape of the signal.

Training (``--divide``) and ``dsd check`` use the same decision. The rules:

1. If the signal is measurable, it decides. Its amplitude follows ``w^q`` (w: number of slices per voxel): q = 1 for
   plain back-projections, q = 0 for weighted ones. The likelihood must prefer one by three standard errors.
2. Weighted subtomograms are called divided or ramp-filtered if the likelihood of both differs by three standard errors
   (and they were not multiplied by their CTF).
3. Without a measurable signal, the power decides: ``w^p`` with p < -0.3 is weighted and 0.6 < p < 1.4, as white noise
   requires, is plain. Anything else remains undecided, because filters along x raise p of weighted data.
4. The subtomograms were multiplied by their CTF if their noise follows the squared CTF between particles.
5. Their phases were flipped, or they were multiplied, if averages and predictions made with |CTF| explain other
   particles better than those made with the CTF, by three standard errors. Without a change of sign of the CTF at
   frequencies with signal, this cannot be determined and does not matter."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import VoxelSource
from opustomo.physics.ctf import TiltBatch, division_filters, sampling_weights
from opustomo.physics.fourier import frequencies, irfft3, rfft3, squared_radius
from opustomo.quality.checks.signal_shape import SignalShape, measure_signal
from opustomo.quality.checks.wedge_comparison import mean_power, sample_of

BAND = (0.5, 0.9)
"""Shells of the comparison, as fractions of Nyquist; most of their power is noise."""


def power_exponent(particles: ParticleSet, source: VoxelSource, sample: int = 64) -> float:
    """Return the exponent p of ``power ~ w^p`` within shells where slices overlap (w ≥ 1); NaN if they do not overlap.

    Parameters
    ----------
    particles, source
        The set.
    sample
        Maximum number of subtomograms, which are evenly spread over the set.

    Raises
    ------
    UserError
        If none of the subtomograms can be read.
    """
    size, chosen = sample_of(particles, sample)
    power, read, _ = mean_power(source, chosen, size)
    tables = TiltBatch.pad([particles.tables[table] for table in particles.table[read]])
    weights = sampling_weights(tables, size).mean(0).expand_as(power)
    shell = (squared_radius(size).sqrt() * size).round().long()
    overlap = (weights >= 1.0) & (power > 0) & (frequencies(size)[2] > 0)
    slopes = scale = 0.0
    for radius in range(math.ceil(BAND[0] * size / 2), int(BAND[1] * size / 2) + 1):
        inside = overlap & (shell == radius)
        if inside.any():
            x, y = (torch.log(values[inside]) for values in (weights, power))
            x = x - x.mean()
            slopes, scale = slopes + float((x * y).sum()), scale + float(x.square().sum())
    return slopes / scale if scale > 0 else math.nan


class Divided:
    """Voxels of plain back-projections after division by their sampling weights.

    Parameters
    ----------
    particles, source
        The set, and its voxels as stored.
    """

    def __init__(self, particles: ParticleSet, source: VoxelSource) -> None:
        self.box = source.box
        self._particles, self._source = particles, source

    def read(self, index: int) -> np.ndarray:
        """Return the voxels of a subtomogram, (D, D, D); errors are those of the source."""
        tilts = TiltBatch.pad([self._particles.tables[self._particles.table[index]]])
        voxels = torch.from_numpy(self._source.read(index).astype(np.float32))
        return irfft3(rfft3(voxels) * division_filters(tilts, self.box)[0]).numpy()


DECISIVE = 3.0
"""Standard errors between hypotheses."""
BETWEEN = (0.3, 0.7)
"""Exponents q of the signal that agree neither with weighted (0) nor with plain (1) subtomograms."""
WEIGHTED_POWER = -0.3
PLAIN_POWER = (0.6, 1.4)
MULTIPLIED, NOT_MULTIPLIED = 0.6, 0.3
"""Exponents e of the noise, ``|CTF|^(2e)``, above and below which the data were multiplied and not multiplied."""
NOISY = 0.2
"""Largest fraction of explained power at which the power is that of the noise."""
ONE_VIEW = 0.8
"""Largest eigenvalue of the orientation tensor of the tilt axes, above which the average shares one missing wedge."""
NAMES = {
    "plain": "plain back-projections",
    "divided": "divided by their sampling weights (as WARP, M and dsd extract_subtomos do)",
    "ramp-filtered": "weighted by a ramp filter (as IMOD and AreTomo do)",
    "weighted": "weighted, by division or by a ramp filter",
    "unknown": "cannot be determined from these data",
}


@dataclass(frozen=True, eq=False)
class ReconstructionKind:
    """How the subtomograms were reconstructed.

    Attributes
    ----------
    weighting
        ``plain``, ``divided``, ``ramp-filtered``, ``weighted`` (one of the last two), or ``unknown``.
    ctf_multiplied
        Whether the images were multiplied by their CTF; None if this cannot be determined.
    power
        Exponent p of the power within shells, ``w^p``; NaN if slices do not overlap.
    signal
        Shape of the signal; None if it could not be measured.
    basis
        ``signal``, ``power`` or ``nothing``: what decided the weighting.
    """

    weighting: str
    ctf_multiplied: bool | None
    power: float
    signal: SignalShape | None
    basis: str

    @property
    def unsigned(self) -> bool | None:
        """Whether the signal follows |CTF|: phases were flipped or multiplied; None if this cannot be determined."""
        if self.signal is None or abs(self.signal.phase_z) < DECISIVE:
            return None
        return self.signal.phase_z > 0

    @property
    def phase_flipped(self) -> bool:
        """Whether the phases were flipped and the images, as far as is known, were not multiplied by their CTF."""
        return bool(self.unsigned) and not self.ctf_multiplied

    @property
    def plain(self) -> bool:
        """Whether the subtomograms are plain back-projections, which training divides by their sampling weights."""
        return self.weighting == "plain"

    @property
    def weighted(self) -> bool:
        """Whether ``--normalizectf`` is right for these subtomograms."""
        return self.weighting in ("divided", "ramp-filtered", "weighted")

    @property
    def line(self) -> str:
        """One sentence with the decision and one with its evidence."""
        match (self.ctf_multiplied, self.unsigned):
            case (True, _):
                corrected = "their images were multiplied by the CTF"
            case (False, True):
                corrected = "the phases of their images were flipped"
            case (None, True):
                corrected = "their images were multiplied by the CTF or their phases were flipped"
            case (_, False):
                corrected = "their images were neither multiplied by the CTF nor were their phases flipped"
            case (False, None):
                corrected = "their images were not multiplied by the CTF; a flip of their phases cannot be excluded"
            case _:
                corrected = "whether their images were multiplied by the CTF or phase-flipped cannot be determined"
        return f"{NAMES[self.weighting]}; {corrected}\n{self.evidence}"

    @property
    def evidence(self) -> str:
        """One sentence with the numbers behind the decision."""
        if math.isnan(self.power):
            power = "slices do not overlap, so that the power of the data is not informative"
        else:
            power = f"the power of the data scales with the number of slices w as w^{self.power:.2f}"
        if self.signal is None:
            return f"{power}; the signal could not be measured (too few particles, no poses, or a single view)"
        signal = f"the signal as w^{self.signal.exponent:.2f} ± {self.signal.error:.2f} (plain: 1, weighted: 0)"
        extra = "" if self.basis == "signal" else ", which is not decisive"
        return f"{power}, {signal}{extra}"

    @property
    def reservation(self) -> str:
        """One sentence about a signal between the models for which one of them is chosen; else an empty string."""
        if self.signal is None or self.basis != "signal" or not BETWEEN[0] < self.signal.exponent < BETWEEN[1]:
            return ""
        chosen, flag = ("plain", "--divide") if self.plain else ("weighted", "--normalizectf")
        return (
            f"the signal scales as w^{self.signal.exponent:.2f}, which lies between the exponents of weighted (0) and "
            f"plain (1) subtomograms; {chosen} ones fit better, so {flag} is proposed; look up whether the program "
            "that made them weights its back-projections"
        )

    def warnings_for(self, normalizectf: bool) -> tuple[str, ...]:
        """Return what is wrong with the data, or with training them with or without ``--normalizectf``."""
        found = []
        if self.ctf_multiplied:
            found.append(
                "the noise of the subtomograms follows their squared CTF, so they were multiplied by it, but training "
                "models the CTF only once: reconstruct them without CTF correction"
            )
        if self.phase_flipped:
            found.append(
                "the signal of the subtomograms keeps its sign where the CTF is negative, so their phases were flipped "
                "(or they were multiplied by their CTF), but training models the CTF with its sign: reconstruct them "
                "without CTF correction"
            )
        if self.weighted and not normalizectf:
            found.append("these subtomograms are weighted, so train with --normalizectf")
        if self.plain and normalizectf:
            found.append("these subtomograms are plain back-projections, so train without --normalizectf")
        if self.weighting == "unknown":
            found.append(
                "how the subtomograms were reconstructed cannot be determined: give --normalizectf if the program that "
                "made them weights them (WARP, M, RELION, IMOD, AreTomo and dsd extract_subtomos do), else --divide"
            )
        return tuple(found)


def decide_kind(power: float, signal: SignalShape | None) -> ReconstructionKind:
    """Apply the rules of this module to the exponent of the power and the shape of the signal."""
    multiplied: bool | None = None
    if signal is not None and math.isfinite(signal.ctf_exponent):
        margin = 2.0 * signal.ctf_error
        if signal.ctf_exponent - margin > MULTIPLIED and signal.explained < NOISY:
            multiplied = True
        elif signal.ctf_exponent + margin < NOT_MULTIPLIED:
            multiplied = False
    if signal is not None and abs(signal.plain_z) >= DECISIVE and (signal.exponent > 0.5) == (signal.plain_z > 0):
        if signal.plain_z > 0:
            return ReconstructionKind("plain", multiplied, power, signal, "signal")
        if multiplied or abs(signal.ramp_z) < DECISIVE:  # the models of both contain the CTF once
            return ReconstructionKind("weighted", multiplied, power, signal, "signal")
        return ReconstructionKind(
            "ramp-filtered" if signal.ramp_z > 0 else "divided", multiplied, power, signal, "signal"
        )
    if power < WEIGHTED_POWER:
        return ReconstructionKind("weighted", multiplied, power, signal, "power")
    if PLAIN_POWER[0] < power < PLAIN_POWER[1]:
        return ReconstructionKind("plain", multiplied, power, signal, "power")
    return ReconstructionKind("unknown", multiplied, power, signal, "nothing")


def examine_reconstruction(
    particles: ParticleSet,
    source: VoxelSource,
    mask: np.ndarray | None = None,
    device: torch.device | str = "cpu",
) -> ReconstructionKind:
    """Measure power and signal of a sample of particles and decide how they were reconstructed.

    Parameters
    ----------
    particles, source
        Particle set and its voxels.
    mask
        Solvent mask (N, N, N), which only serves to find the contrast; None for a ball.
    device
        Device that compares particles with averages.

    Raises
    ------
    UserError
        If none of the subtomograms can be read.
    """
    signal = measure_signal(particles, source, mask, device=device) if _many_views(particles) else None
    return decide_kind(power_exponent(particles, source), signal)


def _many_views(particles: ParticleSet) -> bool:
    """Return whether the tilt axes differ between particles in the reference frame."""
    axes = particles.poses.rotations[:, 1, :]  # Aᵀ e_y
    tensor = np.einsum("ni,nj->ij", axes, axes) / len(axes)
    return bool(np.linalg.eigvalsh(tensor)[-1] < ONE_VIEW)


def training_lines(kind: ReconstructionKind, divide: bool) -> list[str]:
    """Return the lines of the log about subtomograms that are trained without ``--normalizectf``."""
    found = f"subtomograms: {NAMES[kind.weighting]}; {kind.evidence}"
    if divide:
        return [f"{found}; they are divided by w and compared as with --normalizectf; --no-divide disables this"]
    if kind.weighted:
        return [
            found,
            "warning: the subtomograms are weighted, but they are compared with the CTF of plain back-projections. "
            "Train with --normalizectf instead",
        ]
    return [
        found,
        "warning: the subtomograms are compared as plain back-projections that are not divided. Give --normalizectf if "
        "the program that made them weights them, else --divide",
    ]
