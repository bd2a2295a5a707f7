"""Volumes of the HTML report: cluster centers, traversals and sampled particles, packed as surfaces and images."""

from __future__ import annotations

import base64
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.analysis.figures.volume_display import contour_level
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.volumes.decoding import VolumeDecoder, series_paths
from opustomo.analysis.volumes.volume_sets import JOINT_TABLE, holds_joint_volumes, volume_set
from opustomo.errors import UserError
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import read_volume
from opustomo.io.progress_bar import progress
from opustomo.model.device import choose_device
from opustomo.physics.fourier import crop_in_fourier_space
from opustomo.report.particle_points import Analyzed

SIDES = (64, 48, 32)
"""Sides in voxels of the volumes, of which the first is used that fits the budget; smaller volumes are interpolated."""
BUDGET_BYTES = 14_000_000
"""Maximum size of all volumes in the page; together with those of the particles, it keeps the file below 25 MB."""
BATCH = 4


@dataclass(frozen=True)
class VolumeGroup:
    """Volumes (n, n, n) of one kind, with their pixel size in Å (None if unknown) and their description on the page."""

    volumes: Sequence[np.ndarray]
    apix: float | None
    about: dict[str, Any]


@dataclass(frozen=True)
class SampledParticles:
    """Particles whose volumes are decoded, and the nearest of them for each particle.

    Attributes
    ----------
    rows
        Sampled particles, shape (S,), as rows of the latents.
    nearest
        Index into `rows` of the sampled particle that is nearest in latent space, shape (N,).
    distance
        Distance to it in units of the root-mean-square distance of all latents from their mean, shape (N,).
    """

    rows: np.ndarray
    nearest: np.ndarray
    distance: np.ndarray


def downsample(volume: np.ndarray, side: int) -> np.ndarray:
    """Crop a volume (n, n, n) in Fourier space to `side` voxels; a smaller or odd one is returned as it is."""
    if len(set(volume.shape)) != 1 or volume.shape[0] % 2 or volume.shape[0] <= side:
        return volume
    return crop_in_fourier_space(torch.from_numpy(np.ascontiguousarray(volume)), side).numpy()


def resized(volume: np.ndarray, side: int) -> np.ndarray:
    """Return a volume (n, n, n) with `side` voxels along each axis, cropped or padded in Fourier space.

    Voxel n/2 becomes voxel side/2. Padding interpolates, which makes isosurfaces of small volumes smooth.
    """
    if volume.shape[0] >= side or len(set(volume.shape)) != 1 or volume.shape[0] % 2:
        return downsample(volume, side)
    from scipy.signal import resample

    for axis in range(3):
        volume = resample(volume, side, axis=axis)
    return np.asarray(volume)


def sample_particles(latents: np.ndarray, number: int) -> SampledParticles:
    """Choose particles that cover the latents (N, d): those nearest to the centers of a k-means with `number` centers.

    The choice is the same in every call.
    """
    from sklearn.cluster import MiniBatchKMeans
    from sklearn.metrics import pairwise_distances_argmin_min

    values = np.asarray(latents, dtype=np.float64)
    number = min(number, len(values))
    model = MiniBatchKMeans(number, random_state=0, n_init=1, batch_size=4096).fit(values)
    rows = np.unique(pairwise_distances_argmin_min(model.cluster_centers_, values)[0])
    nearest, distance = pairwise_distances_argmin_min(values, values[rows])
    spread = float(np.sqrt(((values - values.mean(0)) ** 2).sum(1).mean())) or 1.0
    return SampledParticles(rows, nearest.astype(np.int64), (distance / spread).astype(np.float32))


def decode_sample(decoder: VolumeDecoder, latents: np.ndarray) -> tuple[list[np.ndarray], float]:
    """Decode latents (S, zdim) to volumes of at most ``SIDES[0]`` voxels; return them and their pixel size in Å."""
    boxes = decoder.boxes
    apix = max(boxes.render_apix, boxes.crop * boxes.render_apix / SIDES[0])
    volumes: list[np.ndarray] = []
    with progress(len(latents), "volumes of sampled particles decoded") as advance:
        for first in range(0, len(latents), BATCH):
            batch = latents[first : first + BATCH]
            volumes += list(decoder.volumes(batch, apix).cpu().numpy())
            advance(len(batch))
    return volumes, apix


def describe_surfaces(groups: dict[str, VolumeGroup], budget: int = BUDGET_BYTES) -> dict[str, Any] | None:
    """Return the volumes of all groups for the page, with one scale of densities; None without volumes.

    Densities from 0 to the highest value are stored as 0 to 255, so that one contour level means the same density in
    all volumes. Negative densities are stored as 0.

    Parameters
    ----------
    groups
        Volumes by kind.
    budget
        Size of all compressed volumes in bytes, above which they are downsampled further.
    """
    groups = {name: group for name, group in groups.items() if len(group.volumes)}
    if not groups:
        return None
    top = max(float(np.percentile(volume, 99.97)) for group in groups.values() for volume in group.volumes)
    top = top if top > 0 else 1.0
    packed: dict[str, Any] = {}
    for side in SIDES:
        packed = {name: _pack_group(group, side, top) for name, group in groups.items()}
        if sum(len(entry["grids"]["data"]) for entry in packed.values()) <= budget:
            break
    first = next(iter(groups.values()))
    levels = [contour_level(volume) / top for volume in first.volumes]
    return {"groups": packed, "level": float(np.clip(np.median(levels), 0.05, 0.95)), "top": top}


def _pack_group(group: VolumeGroup, side: int, top: float) -> dict[str, Any]:
    small = [resized(volume, side) for volume in group.volumes]
    size = small[0].shape[0]
    grids = np.stack([np.round(255 * np.clip(volume / top, 0, 1)).astype(np.uint8) for volume in small])
    original = group.volumes[0].shape[0]
    apix = group.apix * original / size if group.apix else None
    return group.about | {"grids": _compress(grids), "apix": apix, "original": original}


def _compress(grids: np.ndarray) -> dict[str, Any]:
    """Compress grids (V, n, n, n) of bytes as differences (modulo 256) from the preceding grid, which are small."""
    differences = grids.copy()
    differences[1:] -= grids[:-1]
    data = zlib.compress(np.ascontiguousarray(differences).tobytes(), 6)
    return {"dtype": "differences", "shape": list(grids.shape), "data": base64.b64encode(data).decode("ascii")}


LARGEST = 96
"""Maximum image size in pixels; larger volumes are downsampled by Fourier cropping."""


def volume_images(volumes: Sequence[np.ndarray]) -> np.ndarray:
    """Return images of volumes (n, n, n) with a common gray scale, (K, 6, s, s), uint8.

    The images are the central slices z, y, x and the projections along z, y, x; their rows are y, z, z.
    """
    downsampled = [downsample(volume, LARGEST) for volume in volumes]
    views = np.stack([np.stack([*_slices(volume), *_projections(volume)]) for volume in downsampled])
    scaled = np.empty(views.shape, dtype=np.uint8)
    for view_range in (slice(0, 3), slice(3, 6)):
        images = views[:, view_range]
        high = float(np.percentile(images, 99.7))
        high = high if high > 0 else float(images.max()) or 1.0
        low = -0.08 * high
        scaled[:, view_range] = np.round(255 * np.clip((images - low) / (high - low), 0, 1))
    return scaled


def stored_or_decoded(results: ResultDir, epoch: int, table: Path) -> tuple[list[np.ndarray], float | None]:
    """Return the volumes of the latents in a text file and their pixel size in Å (None if a header lacks it).

    The volumes are read from ``reference{i}.mrc`` in the same folder if they belong to these latents, and decoded
    otherwise.

    Raises
    ------
    UserError
        If volumes must be decoded and the weights or the configuration are missing.
    """
    latents = read_latent_rows(table)
    paths = series_paths(table.parent, len(latents))
    joint = table.name != JOINT_TABLE and holds_joint_volumes(table.parent)
    if not joint and all(path.is_file() and path.stat().st_mtime >= table.stat().st_mtime for path in paths):
        read = [read_volume(path) for path in paths]
        return [volume for volume, _ in read], read[0][1]
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), "cpu")
    apix = max(decoder.boxes.render_apix, decoder.boxes.crop * decoder.boxes.render_apix / LARGEST)
    volumes: list[np.ndarray] = []
    for first in range(0, len(latents), BATCH):
        volumes += list(decoder.volumes(latents[first : first + BATCH], apix).numpy())
    return volumes, apix


def image_pixel_size(volumes: Sequence[np.ndarray], apix: float | None) -> float | None:
    """Return the pixel size in Å of the images of volumes (n, n, n) with pixel size `apix`; None if it is unknown."""
    if not apix:
        return None
    size = volumes[0].shape[0]
    return apix * size / downsample(volumes[0], LARGEST).shape[0]


def _slices(volume: np.ndarray) -> list[np.ndarray]:
    middle = volume.shape[0] // 2
    return [volume[middle], volume[:, middle], volume[:, :, middle]]


def _projections(volume: np.ndarray) -> list[np.ndarray]:
    return [volume.mean(axis) for axis in (0, 1, 2)]


@dataclass(frozen=True)
class ShownVolumes:
    """Volumes for the page.

    Attributes
    ----------
    images, pixel
        Slices and projections of the cluster centers (K, 6, s, s), uint8, and their pixel size in Å.
    surfaces
        Volumes that are drawn as isosurfaces, see :func:`opustomo.report.report_volumes.describe_surfaces`.
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
