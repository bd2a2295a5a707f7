"""Inspection of a particle set before training, and the verdict on whether it can be trained on."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.data.voxels import ScaleReport, VoxelSource, examine_scale
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes
from opustomo.quality.checks.ctf_parameters import OpticsSummary, summarize_optics
from opustomo.quality.checks.gpu_memory import MemorySummary, estimate_memory, free_gpu_bytes
from opustomo.quality.checks.reconstruction_kind import ReconstructionKind
from opustomo.quality.checks.set_contents import (
    MaskSummary,
    ScaleSummary,
    SetSummary,
    ViewSummary,
    summarize_mask,
    summarize_scale,
    summarize_set,
    summarize_views,
)
from opustomo.quality.checks.tilt_scheme import TiltSummary, summarize_tilts
from opustomo.quality.checks.wedge_comparison import WedgePlanes, WedgeSummary, summarize_wedge, wedge_planes

Section = (
    SetSummary | ScaleSummary | MaskSummary | TiltSummary | OpticsSummary | WedgeSummary | ViewSummary | MemorySummary
)
NAME_WIDTH = 11


@dataclass(frozen=True)
class Preflight:
    """Findings by subject; ``notes`` are messages from reading the set."""

    contents: SetSummary
    scale: ScaleSummary
    mask: MaskSummary
    tilts: TiltSummary
    optics: OpticsSummary
    wedge: WedgeSummary
    views: ViewSummary
    memory: MemorySummary
    notes: tuple[str, ...] = ()

    @property
    def warnings(self) -> tuple[str, ...]:
        """All warnings, in the order of the text."""
        return tuple(warning for _, section in self._sections() for warning in section.warnings)

    def as_text(self, warnings: bool = True) -> str:
        """Return a block of lines: one or more for each subject, then the notes and, on request, the warnings."""
        lines = ["Pre-flight"]
        for name, section in self._sections():
            first, *more = section.line.split("\n")
            lines.append(f"  {name:<{NAME_WIDTH}}{first}")
            lines += [f"  {'':<{NAME_WIDTH}}{line}" for line in more]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  warning: {warning}" for warning in self.warnings] if warnings else []
        return "\n".join(lines)

    def as_json(self) -> str:
        """Return all numbers as JSON; NaN becomes null."""
        content = {**asdict(self), "warnings": self.warnings}
        content["wedge"]["verdict"] = self.wedge.verdict
        return json.dumps(_plain(content), indent=2, ensure_ascii=False) + "\n"

    def _sections(
        self,
    ) -> tuple[tuple[str, Section], ...]:
        return (
            ("particles", self.contents),
            ("scale", self.scale),
            ("mask", self.mask),
            ("tilts", self.tilts),
            ("CTF", self.optics),
            ("wedge", self.wedge),
            ("views", self.views),
            ("memory", self.memory),
        )


def _plain(value: object) -> object:
    """Replace numbers that are not finite, which JSON does not support, by None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@dataclass(frozen=True)
class PlannedRun:
    """Settings of a training that a set is inspected for.

    Attributes
    ----------
    boxes, mask
        Boxes and mask (N, N, N) of the run.
    physics, model, batch_size
        Settings of the run.
    tilt_range_deg, tilt_step_deg
        ``--tilt-range`` and ``--tilt-step``; None if the user did not give them.
    """

    boxes: Boxes
    mask: np.ndarray | None
    physics: PhysicsConfig
    model: ModelConfig
    batch_size: int
    tilt_range_deg: float | None = None
    tilt_step_deg: float | None = None


def inspect_particles(
    particles: ParticleSet,
    source: VoxelSource,
    run: PlannedRun,
    planes: WedgePlanes | None = None,
    scale: ScaleReport | None = None,
) -> Preflight:
    """Inspect a particle set, which takes a few seconds.

    Parameters
    ----------
    particles, source
        The set and its voxels.
    run
        Settings of the training.
    planes
        Result of :func:`wedge_planes`; None computes it.
    scale
        Result of :func:`opustomo.data.voxels.examine_scale`; None computes it.

    Raises
    ------
    UserError
        If none of the inspected subtomograms can be used.
    """
    if scale is None:
        scale = examine_scale(source, len(particles))
    if planes is None:
        planes = wedge_planes(particles, source, run.physics.ctf_normalized)
    optics = summarize_optics(particles.tables, run.boxes)
    # Without a CTF, the given range and step have made the table.
    asked = (run.tilt_range_deg, run.tilt_step_deg) if optics.modeled else (None, None)
    return Preflight(
        contents=summarize_set(particles, run.boxes, list(planes.broken)),
        scale=summarize_scale(scale),
        mask=summarize_mask(run.mask),
        tilts=summarize_tilts(particles, *asked),
        optics=optics,
        wedge=summarize_wedge(planes),
        views=summarize_views(particles.poses.eulers_deg),
        memory=estimate_memory(run.boxes, run.model, run.batch_size, free_gpu_bytes()),
        notes=particles.notes,
    )


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
        Limitations of the result, and properties that could not be checked.
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


def judge_particle_set(
    report: Preflight, kind: ReconstructionKind, missing: tuple[str, ...], normalizectf: bool | None
) -> Verdict:
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
    if kind.ctf_multiplied or kind.phase_flipped:
        faults.append(kind.warnings_for(True)[0])
    if contrast_of(kind) == "dark":
        faults.append(
            "the particles are darker than their surroundings, but density must be bright: invert the contrast of the "
            "subtomograms in the program that made them, or of each file with IMOD (newstack -multadd -1,0 IN OUT)"
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
            f"{report.contents.particles} particles are few, so only large differences between classes can be found"
        )
    word = "not usable" if faults else "usable with reservations" if reservations else "usable"
    return Verdict(word, tuple(faults), tuple(reservations))


def contrast_of(kind: ReconstructionKind) -> str:
    """Return ``bright``, ``dark`` or ``unknown``."""
    if kind.signal is None or abs(kind.signal.contrast) < CLEAR_CONTRAST:
        return "unknown"
    return "bright" if kind.signal.contrast > 0 else "dark"
