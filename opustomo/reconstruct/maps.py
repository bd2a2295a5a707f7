"""Reconstruction of maps from a particle table (``dsd reconstruct``)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_mask, load_particles
from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.physics.fsc import ShellCorrelation, half_map_correlation
from opustomo.reconstruct.backprojection import Assignment, back_project
from opustomo.reconstruct.curves import draw_curve, write_curve
from opustomo.reconstruct.halves import half_sets


@dataclass(frozen=True)
class ReconstructionRequest:
    """Input and output of a reconstruction.

    Attributes
    ----------
    data
        Particles; ``data.mask`` is the mask for the FSC.
    output
        Output map; half maps, FSC table and FSC figure are written to the same folder.
    halves
        Also reconstruct half maps and compute their FSC.
    ctf_normalised
        Whether the subtomograms were divided by their sampling weights.
    device, workers
        Device of the computation and number of prefetching threads.
    """

    data: DataConfig
    output: Path
    halves: bool = False
    ctf_normalised: bool = False
    device: str = "cpu"
    workers: int = 2


@dataclass(frozen=True)
class Reconstruction:
    """Result of a reconstruction.

    Attributes
    ----------
    written
        Written files.
    counts
        Number of particles in each half map, or in the map if no half maps were reconstructed.
    notes
        Notes for the user, for example about excluded particles.
    origin
        Description of how particles were assigned to the half sets.
    curve
        FSC between the half maps; None without half maps.
    """

    written: list[Path]
    counts: list[int]
    notes: tuple[str, ...]
    origin: str = ""
    curve: ShellCorrelation | None = None


def reconstruct(request: ReconstructionRequest) -> Reconstruction:
    """Reconstruct and write the map of a particle set and, on request, half maps and their FSC.

    Raises
    ------
    UserError
        If an input is missing, damaged or inconsistent with another, or if a half set would be empty.
    """
    particles = load_particles(request.data)
    mask = load_mask(request.data.mask, particles.box, particles.apix, request.data.force)
    if request.halves:
        members, origin = half_sets(particles.star)
        counts = np.bincount(members, minlength=2).tolist()
        if min(counts) < 1:
            raise UserError(
                f"{request.data.star} has {len(particles)} particle(s), which is too few for two half maps."
            )
    else:
        members, origin, counts = np.zeros(len(particles), dtype=np.int64), "", [len(particles)]
    sums = back_project(
        particles,
        Assignment(members[None], len(counts)),
        ctf_normalised=request.ctf_normalised,
        device=request.device,
        workers=request.workers,
    )
    notes, counts = particles.notes, [sums.count(number) for number in range(len(counts))]
    if sums.left_out:
        first = next(iter(sums.left_out.values()))
        notes += (f"{len(sums.left_out)} subtomograms are left out, the first because {first}",)
    output = request.output
    maps = {output: sums.volume(*range(len(counts)))}
    curve = None
    if request.halves:
        halves = [sums.volume(0), sums.volume(1)]
        maps |= {beside(output, f"half{i + 1}.mrc"): half for i, half in enumerate(halves)}
        soft_mask = None if mask is None else torch.from_numpy(mask)
        curve = half_map_correlation(halves[0], halves[1], particles.apix, soft_mask)
    for path, volume in maps.items():
        write_volume(path, volume.numpy(), particles.apix)
    written = list(maps)
    if curve is not None:
        table, figure = beside(output, "fsc.csv"), beside(output, "fsc.png")
        write_curve(table, curve)
        draw_curve(figure, curve, f"{output.name}: {counts[0]:,} + {counts[1]:,} particles")
        written += [table, figure]
    return Reconstruction(written, counts, notes, origin, curve)


def beside(output: Path, ending: str) -> Path:
    """Return the path ``map_{ending}`` for the output ``map.mrc``."""
    return output.with_name(f"{output.stem}_{ending}")
