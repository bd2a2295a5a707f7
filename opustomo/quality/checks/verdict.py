"""Verdict on a particle set: can it be trained on, and what speaks against it?"""

from __future__ import annotations

from dataclasses import dataclass

from opustomo.quality.checks.preflight import Preflight
from opustomo.quality.checks.reconstruction_kind import ReconstructionKind

FEW_PARTICLES = 100
CLEAR_CONTRAST = 0.15
"""Correlation of both half-set averages with the particle's region from which the contrast is clear."""


@dataclass(frozen=True)
class Verdict:
    """Verdict with reasons.

    Attributes
    ----------
    word
        ``usable``, ``usable with reservations`` or ``not usable``.
    faults
        What must be corrected before training.
    reservations
        What may limit the result, or what could not be checked.
    """

    word: str
    faults: tuple[str, ...]
    reservations: tuple[str, ...]

    def as_text(self) -> str:
        """Return the verdict and one line per reason."""
        lines = [f"Verdict: {self.word}."]
        lines += [f"  must be corrected: {fault}" for fault in self.faults]
        lines += [f"  warning: {text}" for text in self.reservations]
        return "\n".join(lines)


def judge(report: Preflight, kind: ReconstructionKind, missing: tuple[str, ...], normalizectf: bool | None) -> Verdict:
    """Judge a set.

    Parameters
    ----------
    report, kind
        Findings about the set.
    missing
        What training requires and is absent.
    normalizectf
        Whether the user gave ``--normalizectf``; None if the proposed command decides.
    """
    faults = list(missing)
    if report.wedge.verdict == "mirrored":
        faults.append(report.wedge.warnings[0])
    if kind.ctf_multiplied:
        faults.append(kind.warnings_for(True)[0])
    if contrast_of(kind) == "dark":
        faults.append(
            "the particles are darker than their surroundings, but density must be bright: invert the contrast of the "
            "subtomograms"
        )
    reservations = [
        text for text in report.warnings if text not in report.wedge.warnings or report.wedge.verdict != "mirrored"
    ]
    if normalizectf is not None:
        reservations += [text for text in kind.warnings_for(normalizectf) if text not in faults]
    elif kind.weighting == "unknown":
        reservations.append(kind.warnings_for(True)[-1])
    elif kind.reservation:
        reservations.append(kind.reservation)
    if contrast_of(kind) == "unknown":
        reservations.append("the contrast could not be determined; density must be bright")
    if report.contents.particles < FEW_PARTICLES:
        reservations.append(
            f"{report.contents.particles} particles are few: only large differences between classes can be found"
        )
    word = "not usable" if faults else "usable with reservations" if reservations else "usable"
    return Verdict(word, tuple(faults), tuple(reservations))


def contrast_of(kind: ReconstructionKind) -> str:
    """Return ``bright``, ``dark`` or ``unknown``."""
    if kind.signal is None or abs(kind.signal.contrast) < CLEAR_CONTRAST:
        return "unknown"
    return "bright" if kind.signal.contrast > 0 else "dark"
