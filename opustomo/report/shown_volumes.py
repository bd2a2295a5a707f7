"""Volumes of the report: cluster centers, traversals of composition and motion, and sampled particles."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.analysis.volumes.volume_sets import volume_set
from opustomo.errors import UserError
from opustomo.model.device import choose_device
from opustomo.report.packed_volumes import (
    VolumeGroup,
    decode_sample,
    describe_surfaces,
    image_pixel_size,
    sample_particles,
    stored_or_decoded,
    volume_images,
)
from opustomo.report.particle_points import Analyzed


@dataclass(frozen=True)
class ShownVolumes:
    """Volumes for the page.

    Attributes
    ----------
    images, pixel
        Slices and projections of the cluster centers (K, 6, s, s), uint8, and their pixel size in Å.
    surfaces
        Volumes that are drawn as isosurfaces, see :func:`opustomo.report.packed_volumes.describe_surfaces`.
    nearest
        Per-particle columns: the nearest sampled particle and its distance; None without sampled particles.
    notes
        Reasons for missing volumes.
    """

    images: np.ndarray | None = None
    pixel: float | None = None
    surfaces: dict[str, Any] | None = None
    nearest: dict[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()


def collect_volumes(
    results: ResultDir,
    which: Round,
    folder: Path,
    analyzed: Analyzed,
    num_sampled: int,
    budget: int,
) -> ShownVolumes:
    """Read or decode the volumes of the page; a note states the reason for each volume that is missing.

    Parameters
    ----------
    results, which
        Result directory of the run and the round of analysis.
    folder
        Folder of the clustering.
    analyzed
        Results of the analysis.
    num_sampled
        Number of particles whose own volumes are decoded; 0 for none.
    budget
        Size of all volumes in bytes, above which they are downsampled.
    """
    try:
        volumes, apix = stored_or_decoded(
            results, which.epoch, results.analyzed_file(which, folder.name, "centers.txt")
        )
        groups = {"cluster": VolumeGroup(volumes, apix, {})}
        groups |= _traversals(results, which, analyzed)
    except UserError as error:
        return ShownVolumes(notes=(f"Volumes are not shown. {error}",))
    nearest: dict[str, np.ndarray] | None = None
    notes: tuple[str, ...] = ()
    try:
        groups |= _motions(results, which, folder, analyzed)
        if num_sampled:
            sampled, nearest = _sampled(results, which, analyzed, num_sampled)
            groups |= sampled
    except UserError as error:
        notes = (f"Volumes of single particles and of motions are not shown. {error}",)
    surfaces = describe_surfaces(groups, budget)
    return ShownVolumes(volume_images(volumes), image_pixel_size(volumes, apix), surfaces, nearest, notes)


def _component(path: Path) -> int:
    return int(re.sub(r"\D", "", path.parent.name))


def _traversals(results: ResultDir, which: Round, analyzed: Analyzed) -> dict[str, VolumeGroup]:
    """Return the volumes along each principal component of the composition that was analyzed."""
    groups = {}
    for path in sorted(results.analysis(which).glob("pc*/z_pc.txt"), key=_component):
        component = _component(path)
        volumes, apix = stored_or_decoded(results, which.epoch, path)
        low, high = np.percentile(analyzed.scores[:, component - 1], (1, 99))
        about = f"{100 * analyzed.variance_ratio[component - 1]:.1f} % of variance"
        positions = np.linspace(low, high, len(volumes)).tolist()
        groups[f"PC{component}"] = VolumeGroup(volumes, apix, {"about": about, "scores": positions})
    return groups


def _motions(results: ResultDir, which: Round, folder: Path, analyzed: Analyzed) -> dict[str, VolumeGroup]:
    """Decode the volumes along each principal component of the conformation, for the composition of one cluster."""
    paths = sorted(results.analysis(which, dynamics=True).glob("pc*/z_pc.txt"), key=_component)
    match = re.fullmatch(r"kmeans(\d+)", folder.name)
    if not paths or match is None or analyzed.conformation is None:
        return {}
    decoder = _decoder(results, which)
    if decoder.bodies is None:
        return {}
    counts = np.bincount(analyzed.labels, minlength=analyzed.num_clusters)[: analyzed.num_clusters]
    center = int(counts.argmax())
    groups = {}
    for path in paths:
        component = _component(path)
        chosen = volume_set(results, which, "dpc", component, int(match[1]), center)
        volumes, apix = decode_sample(decoder, chosen.latents.astype(np.float32))
        low, high = np.percentile(analyzed.conformation[:, component - 1], (1, 99))
        positions = np.linspace(low, high, len(volumes)).tolist()
        about = f"motion of the bodies, composition of cluster {center}"
        groups[f"motion PC{component}"] = VolumeGroup(volumes, apix, {"about": about, "scores": positions})
    return groups


def _sampled(
    results: ResultDir, which: Round, analyzed: Analyzed, number: int
) -> tuple[dict[str, VolumeGroup], dict[str, np.ndarray]]:
    latents = results.load_latents(which.epoch)[0][analyzed.indices]
    sample = sample_particles(latents, number)
    volumes, apix = decode_sample(_decoder(results, which), latents[sample.rows])
    group = VolumeGroup(volumes, apix, {"particles": sample.rows})
    return {"sampled": group}, {"nearest": sample.nearest, "distance": sample.distance}


def _decoder(results: ResultDir, which: Round) -> VolumeDecoder:
    weights = results.epoch_file("weights", which.epoch)
    return VolumeDecoder(weights, results.config(), choose_device(None))
