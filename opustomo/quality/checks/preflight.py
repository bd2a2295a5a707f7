"""Inspection of a particle set before training, and its report as text and JSON."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.data.scale import ScaleReport, examine_scale
from opustomo.data.voxels import VoxelSource
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes
from opustomo.quality.checks.contents import (
    MaskSummary,
    ScaleSummary,
    SetSummary,
    ViewSummary,
    summarise_mask,
    summarise_scale,
    summarise_set,
    summarise_views,
)
from opustomo.quality.checks.gpu_memory import MemorySummary, estimate_memory, free_gpu_bytes
from opustomo.quality.checks.optics import OpticsSummary, summarise_optics
from opustomo.quality.checks.tilt_scheme import TiltSummary, summarise_tilts
from opustomo.quality.checks.wedge import WedgePlanes, WedgeSummary, summarise_wedge, wedge_planes

Section = (
    SetSummary | ScaleSummary | MaskSummary | TiltSummary | OpticsSummary | WedgeSummary | ViewSummary | MemorySummary
)
NAME_WIDTH = 11


@dataclass(frozen=True)
class Preflight:
    """Findings by subject; ``notes`` are what reading the set had to say."""

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
        """Everything that looks wrong, in the order of the text."""
        return tuple(warning for _, section in self._sections() for warning in section.warnings)

    def as_text(self, warnings: bool = True) -> str:
        """Return a block of lines: one or more for each subject, then the notes and, if asked for, the warnings."""
        lines = ["Pre-flight"]
        for name, section in self._sections():
            first, *more = section.line.split("\n")
            lines.append(f"  {name:<{NAME_WIDTH}}{first}")
            lines += [f"  {'':<{NAME_WIDTH}}{line}" for line in more]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  warning: {warning}" for warning in self.warnings] if warnings else []
        return "\n".join(lines)

    def as_json(self) -> str:
        """All numbers as JSON; what is no number (nothing to correlate) becomes null."""
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
    """JSON knows no NaN."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def inspect_particles(
    particles: ParticleSet,
    source: VoxelSource,
    boxes: Boxes,
    mask: np.ndarray | None,
    physics: PhysicsConfig,
    model: ModelConfig,
    batch_size: int,
    sample: int = 64,
    *,
    asked_range_deg: float | None = None,
    asked_step_deg: float | None = None,
    planes: WedgePlanes | None = None,
    scale: ScaleReport | None = None,
) -> Preflight:
    """Sum up a set and say what looks wrong; a few seconds.

    Parameters
    ----------
    particles, source, boxes, mask
        The set, its voxels, the boxes of the run, the mask (N, N, N).
    physics, model, batch_size
        Settings of the run.
    sample
        Subtomograms whose power is looked at.
    asked_range_deg, asked_step_deg
        ``--tilt-range`` and ``--tilt-step`` only if the user gave them.
    planes
        Of :func:`wedge_planes`, if they are there already.
    scale
        Of :func:`opustomo.data.scale.examine_scale`, if it is there already.

    Raises
    ------
    UserError
        None of the subtomograms of the sample can be used.
    """
    if scale is None:
        scale = examine_scale(source, len(particles))
    if planes is None:
        planes = wedge_planes(particles, source, physics.ctf_normalised, sample)
    optics = summarise_optics(particles.tables, boxes)
    if not optics.modelled:
        asked_range_deg = asked_step_deg = None  # they made the table
    return Preflight(
        contents=summarise_set(particles, boxes, list(planes.broken)),
        scale=summarise_scale(scale),
        mask=summarise_mask(mask),
        tilts=summarise_tilts(particles, asked_range_deg, asked_step_deg),
        optics=optics,
        wedge=summarise_wedge(planes),
        views=summarise_views(particles.poses.eulers_deg),
        memory=estimate_memory(boxes, model, batch_size, free_gpu_bytes()),
        notes=particles.notes,
    )
