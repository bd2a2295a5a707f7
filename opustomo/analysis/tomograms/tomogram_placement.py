"""Placement of the volumes of a run in one of its tomograms (`dsdsh place`)."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.analysis.figures.volume_display import contour_level
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.tomograms.neighbor_statistics import Chains, Neighbors, find_chains, nearest_neighbors
from opustomo.analysis.tomograms.placed_volumes import (
    PlacedCluster,
    TomogramGrid,
    draw_neighbors,
    draw_placement,
    place_volumes,
    write_neighbor_table,
    write_placement_script,
)
from opustomo.analysis.volumes.decoding import VolumeDecoder, decode_batches
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.host_memory import require_memory
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import read_header, read_volume, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tomograms import TomogramScale, particle_centers, rows_of_tomogram, tomogram_names

SCRIPT = "place.cxc"
CHAIN_DISTANCE = 1.5
"""Default of the largest distance between consecutive particles in a chain, in diameters of the particle."""


@dataclass(frozen=True)
class PlacementRequest:
    """Particles to place, and the tomogram.

    Attributes
    ----------
    results, which
        Result directory of the run and round of analysis.
    star
        Particle table with all particles of the run, with the poses to be used.
    tomogram
        MRC file of the tomogram, or its name in the particle table.
    clustering
        Clustering whose volumes are placed.
    chosen
        Numbers of the clusters to place; None for all.
    particle_volumes
        Place the volume of each particle instead of that of its cluster.
    coordinate_apix
        Pixel size of the coordinates in Å; None as in `TomogramScale`.
    tomogram_apix, size
        Pixel size in Å and size x, y, z in voxels of the tomogram; required if `tomogram` is a name.
    apix
        Pixel size of the placed maps in Å; None for that of the tomogram.
    chain_distance_A
        Largest distance between consecutive particles in a chain in Å; None for 1.5 diameters of the particle.
    outdir
        Output folder; None for ``place_{tomogram}`` in the folder of the clusters.
    """

    results: ResultDir
    which: Round
    star: ParticleStar
    tomogram: str
    clustering: Clustering
    chosen: tuple[int, ...] | None = None
    particle_volumes: bool = False
    coordinate_apix: float | None = None
    tomogram_apix: float | None = None
    size: tuple[int, int, int] | None = None
    apix: float | None = None
    chain_distance_A: float | None = None
    outdir: Path | None = None


@dataclass(frozen=True)
class Placement:
    """Placed particles and their neighbors.

    Attributes
    ----------
    rows
        Rows of the placed particles in the particle table, shape (n,).
    labels
        Cluster of each placed particle, shape (n,).
    centers_A
        Positions relative to the first voxel of the tomogram in Å, shape (n, 3).
    neighbors, chains
        Statistics of the placed particles.
    folder
        Folder with all files.
    """

    rows: np.ndarray
    labels: np.ndarray
    centers_A: np.ndarray
    neighbors: Neighbors
    chains: Chains
    folder: Path


def place_run(request: PlacementRequest, decoder: VolumeDecoder, say: Callable[[str], None] = print) -> Placement:
    """Place the volumes of a run in a tomogram and write all files.

    Raises
    ------
    UserError
        If the tomogram, the clusters or the positions do not fit, or no particle is left.
    """
    results, which, star = request.results, request.which, request.star
    path = results.analyzed_file(which, request.clustering.folder, "labels.pkl")
    labels = load_labels(path)
    results.require_same_particles(star, len(labels), path)
    file = Path(request.tomogram) if Path(request.tomogram).is_file() else None
    rows = rows_of_tomogram(tomogram_names(star), request.tomogram, star.path or "the particle table")
    grid = _grid(request, file)
    chosen = range(request.clustering.number or 0) if request.chosen is None else request.chosen
    rows = rows[np.isin(labels[rows], list(chosen))]
    if not len(rows):
        raise UserError(f"No particle of the chosen clusters lies in the tomogram {request.tomogram}.")
    size = (grid.shape[2], grid.shape[1], grid.shape[0])
    centers, view_apix = particle_centers(star.subset(rows), TomogramScale(request.coordinate_apix, grid.apix, size))
    centers_A = centers * view_apix[:, None]
    outside = int(((centers_A < 0) | (centers_A > np.array(size) * grid.apix)).any(axis=1).sum())
    if outside == len(rows):
        raise UserError(
            f"All {len(rows)} particles lie outside of the tomogram of {size[0]}×{size[1]}×{size[2]} voxels of "
            f"{grid.apix:g} Å. Check --coord-angpix and --tomo-angpix."
        )
    if outside:
        say(f"{outside} of {len(rows)} particles have their center outside of the tomogram.")
    rotations = _rotations(star, rows)
    own_labels = labels[rows]
    if request.apix is not None:
        grid = grid.resampled(request.apix)
    require_memory(12 * int(np.prod(grid.shape)), "the map of the tomogram", "give a larger --angpix")

    latents = results.load_latents(which.epoch)[0]
    center_latents = read_latent_rows(path.with_name("centers.txt")).astype(np.float32)
    apix = max(decoder.boxes.render_apix, grid.apix / 2)
    references = list(decode_batches(decoder, center_latents, apix, full_box=False))
    level = {i: contour_level(references[i]) for i in np.unique(own_labels)}
    neighbors = nearest_neighbors(centers_A, rotations)
    diameter = _diameter(references, level, apix)
    distance = CHAIN_DISTANCE * diameter if request.chain_distance_A is None else request.chain_distance_A
    chains = find_chains(centers_A, rotations, distance)

    colors = cluster_colors(len(center_latents))
    stem = Path(request.tomogram).name.split(".")[0] or "tomogram"
    folder = path.parent / f"place_{stem}" if request.outdir is None else request.outdir
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SCRIPT).is_file():
        raise UserError(f"{folder} contains files that are not those of placed volumes. Give another folder with -o.")
    background = None if file is None else read_volume(file)[0]
    whole = np.zeros(grid.shape, dtype=np.float32)
    clusters = []
    with progress(len(rows), "volumes placed") as advance:
        for number in np.unique(own_labels):
            members = np.flatnonzero(own_labels == number)
            own = latents[rows[members]] if request.particle_volumes else None
            volumes = _counted(decoder, references[number], own, len(members), apix, advance)
            placed = place_volumes(grid, centers_A[members], rotations[members], volumes, apix)
            clusters.append(PlacedCluster(int(number), colors[number], placed, level[number], f"cluster{number}.mrc"))
            part = tuple(slice(a, a + n) for a, n in zip(placed.first, placed.voxels.shape, strict=True))
            np.maximum(whole[part], placed.voxels, out=whole[part])
    with atomic_path(folder) as partial:
        partial.mkdir()
        for cluster in clusters:
            z, y, x = (float(first * grid.apix) for first in cluster.placed.first)
            write_volume(partial / cluster.file, cluster.placed.voxels, grid.apix, (x, y, z))
        write_volume(partial / "particles.mrc", whole, grid.apix)
        write_placement_script(partial / SCRIPT, clusters, file)
        write_neighbor_table(partial / "neighbors.csv", rows, own_labels, neighbors, chains)
        draw_placement(partial / "place.png", grid, clusters, background)
        draw_neighbors(partial / "neighbors.png", own_labels, colors, neighbors, chains)
        if folder.is_dir():
            shutil.rmtree(folder)  # an earlier placement is replaced when the new one is complete
    _report(say, neighbors, chains, own_labels, distance)
    return Placement(rows, own_labels, centers_A, neighbors, chains, folder)


def _grid(request: PlacementRequest, file: Path | None) -> TomogramGrid:
    if file is not None:
        header = read_header(file)
        apix = request.tomogram_apix or header.apix
        if apix is None:
            raise UserError(f"The MRC header of {file} has no pixel size. Give it with --tomo-angpix.")
        return TomogramGrid(header.shape, apix)
    if request.size is None or request.tomogram_apix is None:
        raise UserError(
            f"{request.tomogram} is not a file. Give the MRC file of the tomogram, or its size in voxels with "
            "--tomo-size X Y Z and its pixel size with --tomo-angpix."
        )
    x, y, z = request.size
    return TomogramGrid((z, y, x), request.tomogram_apix)


def _rotations(star: ParticleStar, rows: np.ndarray) -> np.ndarray:
    from opustomo.geometry.eulers import euler_matrices

    return euler_matrices(star.eulers_deg()[rows])


def _counted(
    decoder: VolumeDecoder,
    reference: np.ndarray,
    own: np.ndarray | None,
    count: int,
    apix: float,
    advance: Callable[[int], object],
) -> Iterator[np.ndarray]:
    """Yield the volume of each particle, its own or that of its cluster."""
    own_volumes = None if own is None else decode_batches(decoder, own, apix, full_box=False)
    for _ in range(count):
        yield reference if own_volumes is None else next(own_volumes)
        advance(1)


def _diameter(references: list[np.ndarray], level: dict[int, float], apix: float) -> float:
    """Return the diameter in Å of the ball with the volume of the largest cluster above its contour level."""
    voxels = max(int((references[i] > threshold).sum()) for i, threshold in level.items())
    return float(2 * apix * (3 * max(voxels, 1) / (4 * np.pi)) ** (1 / 3))


def _report(
    say: Callable[[str], None], neighbors: Neighbors, chains: Chains, labels: np.ndarray, distance_A: float
) -> None:
    for number in np.unique(labels):
        values = neighbors.distance_A[(labels == number) & (neighbors.nearest >= 0)]
        if len(values):
            say(
                f"Cluster {number}: {(labels == number).sum()} particles, median distance to the nearest neighbor "
                f"{np.median(values):.0f} Å."
            )
    if not chains.links:
        say(f"No two particles are closer than {distance_A:.0f} Å, so there are no chains.")
        return
    long = chains.lengths[chains.lengths > 2]
    chains_of_three = (
        f"{len(long)} chain{'s' if len(long) > 1 else ''} of three or more particles, the longest with {long.max()}."
        if len(long)
        else "no chain of three or more particles."
    )
    say(
        f"{chains.links} pairs closer than {distance_A:.0f} Å have a common relative pose; {chains.expected:.1f} are "
        f"expected for random orientations (p = {chains.p_value:.2g}). They form {chains_of_three}"
    )
