"""Maps and half maps of a particle set by back-projection, with their FSC (``dsd reconstruct``)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from opustomo.analysis.figures.figure_style import INK, PALE, style_axes
from opustomo.data.batches import load_batches
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles, max_broken
from opustomo.data.voxels import VoxelSource, examine_scale
from opustomo.errors import UserError
from opustomo.io.atomic import write_csv, write_figure
from opustomo.io.masks import load_mask
from opustomo.io.mrc import write_volume
from opustomo.io.poses import Poses
from opustomo.io.progress_bar import progress
from opustomo.io.star_tables import ParticleStar
from opustomo.physics.backprojection import PADDING, Backprojection
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fsc import CONSERVATIVE_THRESHOLD, FSC_THRESHOLD, ShellCorrelation, half_map_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = (FSC_THRESHOLD, CONSERVATIVE_THRESHOLD)
_STYLES = {
    "corrected": ("#0072B2", 2.2, "-"),
    "masked": ("#E69F00", 1.3, "-"),
    "unmasked": ("#009E73", 1.3, "-"),
    "phase-randomized, masked": ("#CC79A7", 1.3, "--"),
}


def resolution_text(value_A: float) -> str:
    """Format a resolution such as ``17.3 Å``; a dash means that the curve never exceeds the threshold."""
    return f"{value_A:.1f} Å" if math.isfinite(value_A) else "—"


def write_curve(path: Path, curve: ShellCorrelation) -> None:
    """Write one row per shell: shell, frequency (1/Å), resolution (Å), and the available FSC curves."""
    columns: dict[str, np.ndarray] = {"fsc_unmasked": curve.unmasked.numpy()}
    if curve.masked is not None and curve.randomized is not None:
        columns["fsc_masked"] = curve.masked.numpy()
        columns["fsc_randomized"] = curve.randomized.numpy()
        columns["fsc_true"] = curve.corrected.numpy()
    rows: list[list[object]] = [["shell", "frequency_per_A", "resolution_A", *columns]]
    for shell, frequency in enumerate(curve.frequencies.numpy()):
        length = f"{1 / frequency:.4f}" if frequency > 0 else "inf"
        rows.append([shell, f"{frequency:.8f}", length, *(f"{values[shell]:.6f}" for values in columns.values())])
    write_csv(path, rows)


def draw_curve(path: Path, curve: ShellCorrelation, title: str) -> None:
    """Draw the FSC curves of two half maps with the resolution at both thresholds."""
    from matplotlib.figure import Figure

    curves = {"unmasked": curve.unmasked.numpy()}
    if curve.masked is not None and curve.randomized is not None:
        curves = {
            "corrected": curve.corrected.numpy(),
            "masked": curve.masked.numpy(),
            **curves,
            "phase-randomized, masked": curve.randomized.numpy(),
        }
    figure = Figure(figsize=(6.6, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    resolutions = {threshold: resolution_text(curve.resolution_A(threshold)) for threshold in THRESHOLDS}
    draw_axes(axes, curve.frequencies.numpy(), curves, resolutions)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    write_figure(path, figure, 150)


def draw_axes(
    axes: Axes, frequencies: np.ndarray, curves: Mapping[str, np.ndarray], resolutions: Mapping[float, str]
) -> None:
    """Draw FSC curves, with ticks in Å and the resolution at each threshold.

    Parameters
    ----------
    axes
        Axes to draw into.
    frequencies
        Frequency of each shell in 1/Å, (S,).
    curves
        Curves by name, each (S,).
    resolutions
        Text of the resolution by threshold.
    """
    for name, values in curves.items():
        color, width, dashes = _STYLES.get(name, ("#0072B2", 1.8, "-"))
        axes.plot(frequencies[1:], values[1:], color=color, lw=width, ls=dashes, label=name)
    last = float(frequencies[-1])
    for threshold, text in resolutions.items():
        axes.axhline(threshold, color="0.55", lw=0.8, ls=":")
        axes.text(last, threshold + 0.015, f"{threshold:g}: {text}", ha="right", fontsize=8.5, color=PALE)
    axes.axhline(0.0, color="0.8", lw=0.8)
    ticks = np.linspace(0.0, last, 7)[1:]
    axes.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    axes.set_xlim(0.0, last)
    axes.set_ylim(min(-0.1, *(float(values[1:].min()) - 0.05 for values in curves.values())), 1.03)
    axes.set_xlabel("resolution (Å)", fontsize=9, color=PALE)
    axes.set_ylabel("Fourier shell correlation", fontsize=9, color=PALE)
    style_axes(axes)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5, loc="upper right")


SUBSET_COLUMN = "rlnRandomSubset"


def half_sets(star: ParticleStar) -> tuple[np.ndarray, str]:
    """Return the half set of each particle, 0 or 1, (N,), and a description of its origin.

    The half sets follow ``rlnRandomSubset`` if it contains both 1 and 2 and no other values. Otherwise, particles are
    assigned to the half sets alternately.
    """
    if SUBSET_COLUMN in star:
        subset = star.numbers(SUBSET_COLUMN)
        if set(np.unique(subset)) == {1.0, 2.0}:
            return subset.astype(np.int64) - 1, SUBSET_COLUMN
        return np.arange(len(star)) % 2, f"odd and even rows ({SUBSET_COLUMN} does not contain 1 and 2)"
    return np.arange(len(star)) % 2, f"odd and even rows (no {SUBSET_COLUMN})"


BATCH_BYTES = 2**28
PADDED_COPIES = 6
"""Number of padded complex boxes that one particle requires in memory."""


@dataclass(frozen=True)
class Assignment:
    """Assignment of particles to sums.

    Attributes
    ----------
    members
        Index of the sum that each particle is added to, or -1 for none, (S, n). A particle can be added to several
        sums, one per row.
    sums
        Number of sums.
    """

    members: np.ndarray
    sums: int


@dataclass(frozen=True)
class ReadOptions:
    """How subtomograms are read and processed.

    Attributes
    ----------
    ctf_normalized
        Whether the subtomograms were divided by their sampling weights (``--normalizectf``).
    device, workers
        Device of the computation and number of prefetching threads.
    """

    ctf_normalized: bool = False
    device: torch.device | str = "cpu"
    workers: int = 2


DEFAULT_READING = ReadOptions()


def batch_size_for(box: int) -> int:
    """Return the number of particles per batch for a given box size and memory limit."""
    return max(1, min(16, BATCH_BYTES // (PADDED_COPIES * 8 * (2 * box) ** 2 * (box + 1))))


def back_project(
    particles: ParticleSet,
    assignment: Assignment,
    poses: Poses | None = None,
    *,
    reading: ReadOptions = DEFAULT_READING,
    padding: int = PADDING,
) -> Backprojection:
    """Back-project the subtomograms of a particle set into their assigned sums.

    Parameters
    ----------
    particles
        Particle set, n particles.
    assignment
        Assignment of the particles to sums.
    poses
        Poses that replace those of the particle set; None keeps them.
    reading
        How subtomograms are read.
    padding
        Padding factor, see ``PADDING``.

    Raises
    ------
    UserError
        If too many subtomograms cannot be used.
    """
    poses = particles.poses if poses is None else poses
    device = torch.device(reading.device)
    tilts = TiltBatch.pad(particles.tables).to(device)
    result = Backprojection(particles.box, assignment.sums, device, padding)
    rotations, origins = poses.rotations, (poses.origins * particles.box).astype(np.float32)
    assigned = np.flatnonzero((assignment.members >= 0).any(0))
    # Sort the particles by CTF table so that each 3D CTF is evaluated once.
    assigned = assigned[np.argsort(particles.table[assigned], kind="stable")]
    size = batch_size_for(particles.box)
    batches = [assigned[i : i + size] for i in range(0, len(assigned), size)]
    cached_ctf: tuple[np.ndarray, Tensor] | None = None
    source = VoxelSource(particles.images, cache_bytes=0)
    examine_scale(source, len(particles))

    def leave_out(index: int, reason: str) -> None:
        result.left_out[index] = reason
        if len(result.left_out) > max_broken(len(particles)):
            raise UserError(
                f"{len(result.left_out)} of {len(particles)} subtomograms cannot be used, the last because {reason}. "
                "Repair them or remove them from the STAR file."
            )

    with progress(len(assigned), "back-projected") as advance:
        for indices, volumes in load_batches(source, batches, device, (0.0, 1.0), reading.workers, leave_out):
            if not len(indices):
                continue
            distinct, table = np.unique(particles.table[indices], return_inverse=True)
            if cached_ctf is None or not np.array_equal(cached_ctf[0], distinct):
                selected = tilts[torch.from_numpy(distinct).to(device)]
                ctf = ctf_volume(selected, particles.box, particles.apix, normalized=reading.ctf_normalized)
                cached_ctf = distinct, ctf
            result.add(
                volumes,
                cached_ctf[1][torch.from_numpy(table).to(device)],
                torch.from_numpy(rotations[indices]).to(device),
                torch.from_numpy(origins[indices]).to(device),
                torch.from_numpy(assignment.members[:, indices]).to(device),
            )
            advance(len(indices))
    return result


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
    ctf_normalized
        Whether the subtomograms were divided by their sampling weights.
    device, workers
        Device of the computation and number of prefetching threads.
    """

    data: DataConfig
    output: Path
    halves: bool = False
    ctf_normalized: bool = False
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
        reading=ReadOptions(request.ctf_normalized, request.device, request.workers),
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
        maps |= {companion_path(output, f"half{i + 1}.mrc"): half for i, half in enumerate(halves)}
        soft_mask = None if mask is None else torch.from_numpy(mask)
        curve = half_map_correlation(halves[0], halves[1], particles.apix, soft_mask)
    for path, volume in maps.items():
        write_volume(path, volume.numpy(), particles.apix)
    written = list(maps)
    if curve is not None:
        table, figure = companion_path(output, "fsc.csv"), companion_path(output, "fsc.png")
        write_curve(table, curve)
        draw_curve(figure, curve, f"{output.name}: {counts[0]:,} + {counts[1]:,} particles")
        written += [table, figure]
    return Reconstruction(written, counts, notes, origin, curve)


def companion_path(output: Path, ending: str) -> Path:
    """Return the path ``map_{ending}`` for the output ``map.mrc``."""
    return output.with_name(f"{output.stem}_{ending}")
