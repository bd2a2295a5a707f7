"""From a particle table to maps on disk: the work of ``dsd reconstruct``."""

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
    """What to reconstruct and where to write.

    Attributes
    ----------
    data
        The particles; ``data.mask`` is the mask of the FSC.
    output
        Map; half maps, curve and picture lie beside it.
    halves
        Also half maps and their FSC.
    ctf_normalised
        Subtomograms were divided by their sampling weights.
    device, workers
        Where to compute; threads that read ahead.
    """

    data: DataConfig
    output: Path
    halves: bool = False
    ctf_normalised: bool = False
    device: str = "cpu"
    workers: int = 2


@dataclass(frozen=True)
class Reconstruction:
    """What was written.

    ``written`` lists the files; ``counts`` the particles of each half (of the map, when there are no halves);
    ``origin`` says in words how particles came into their halves; ``curve`` is None without halves.
    """

    written: list[Path]
    counts: list[int]
    notes: tuple[str, ...]
    origin: str = ""
    curve: ShellCorrelation | None = None


def reconstruct(request: ReconstructionRequest) -> Reconstruction:
    """Back-project all particles of a set and write the map, with ``halves`` also half maps, FSC curve and picture.

    Raises
    ------
    UserError
        An input is missing, broken or disagrees with another, or a half would be empty.
    """
    particles = load_particles(request.data)
    mask = load_mask(request.data.mask, particles.box, particles.apix, request.data.force)
    if request.halves:
        members, origin = half_sets(particles.star)
        counts = np.bincount(members, minlength=2).tolist()
        if min(counts) < 1:
            raise UserError(f"{request.data.star} has {len(particles)} particle(s), too few for two half maps")
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
        soft = None if mask is None else torch.from_numpy(mask)
        curve = half_map_correlation(halves[0], halves[1], particles.apix, soft)
    for path, volume in maps.items():
        write_volume(path, volume.numpy(), particles.apix)
    written = list(maps)
    if curve is not None:
        table, picture = beside(output, "fsc.csv"), beside(output, "fsc.png")
        write_curve(table, curve)
        draw_curve(picture, curve, f"{output.name}: {counts[0]:,} + {counts[1]:,} particles")
        written += [table, picture]
    return Reconstruction(written, counts, notes, origin, curve)


def beside(output: Path, ending: str) -> Path:
    """``map.mrc`` → ``map_{ending}``."""
    return output.with_name(f"{output.stem}_{ending}")
