"""Looking at a set before its first step."""

from __future__ import annotations

import numpy as np

from opustomo.data.particles import ParticleSet
from opustomo.data.scale import ScaleReport, examine_scale
from opustomo.data.source import VoxelSource
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes
from opustomo.preflight.contents import summarise_mask, summarise_set, summarise_views
from opustomo.preflight.memory import estimate_memory, free_gpu_bytes
from opustomo.preflight.optics import summarise_optics
from opustomo.preflight.report import Preflight
from opustomo.preflight.scale import summarise_scale
from opustomo.preflight.tilts import summarise_tilts
from opustomo.preflight.wedge import WedgePlanes, summarise_wedge, wedge_planes


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
