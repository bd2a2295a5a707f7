"""Decoded volumes inside a mask: their components, coordinates of all particles, and the analysis with ``--focus``.

With ``--focus``, the volume of every particle is decoded. Its coordinates are the scores along the principal components
of the volumes inside the mask, so that differences outside of the mask do not affect distances between particles.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import map_coordinates

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import BATCH, VolumeDecoder, first_voxel, on_pixels, volume_size
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.host_memory import require_memory
from opustomo.io.masks import load_mask
from opustomo.io.mrc import write_volume
from opustomo.io.progress_bar import progress
from opustomo.model.device import choose_device

EDGE = 0.01
"""Mask value above which a voxel is compared."""


@dataclass(frozen=True)
class MaskedVolumes:
    """Decoder whose volumes are compared inside a mask.

    Attributes
    ----------
    decoder
        Decoder of a trained model.
    apix
        Pixel size of the volumes in Å.
    mask
        Weight of each voxel, shape (n, n, n), axes z, y, x, from 0 to 1.
    """

    decoder: VolumeDecoder
    apix: float
    mask: np.ndarray

    @property
    def inside(self) -> np.ndarray:
        """Boolean mask of the voxels that are compared, shape (n, n, n)."""
        return self.mask > EDGE

    @property
    def origin_A(self) -> tuple[float, float, float]:
        """Coordinates of the first voxel in Å, relative to the first voxel of the subtomograms."""
        return first_voxel(self.decoder.boxes, self.apix, len(self.mask))

    def voxels(self, latents: np.ndarray, label: str = "volumes decoded") -> np.ndarray:
        """Decode latents (K, zdim) and return the weighted densities inside the mask, shape (K, V), float32."""
        inside, weights = self.inside, self.mask[self.inside]
        require_memory(4 * len(latents) * len(weights), f"{len(latents)} decoded volumes", "compare fewer volumes")
        table = np.empty((len(latents), len(weights)), dtype=np.float32)
        with progress(len(latents), label) as advance:
            for first in range(0, len(latents), BATCH):
                table[first : first + BATCH] = self._batch(latents[first : first + BATCH])[:, inside] * weights
                advance(len(latents[first : first + BATCH]))
        return table

    def scores(self, latents: np.ndarray, components: VolumeComponents) -> np.ndarray:
        """Decode latents (K, zdim) and return their scores along components, shape (K, C); volumes are not kept."""
        inside, weights = self.inside, self.mask[self.inside]
        scores = np.empty((len(latents), len(components.variance)))
        with progress(len(latents), "volumes decoded") as advance:
            for first in range(0, len(latents), BATCH):
                batch = self._batch(latents[first : first + BATCH])[:, inside] * weights
                scores[first : first + BATCH] = components.scores(batch)
                advance(len(batch))
        return scores

    def _batch(self, latents: np.ndarray) -> np.ndarray:
        volumes = self.decoder.volumes(latents, self.apix, masked=False)
        return np.asarray(volumes.cpu().numpy())

    def as_volume(self, voxels: np.ndarray) -> np.ndarray:
        """Return voxels (V,) inside the mask as a volume (n, n, n), zero outside."""
        volume = np.zeros(self.mask.shape, dtype=np.float32)
        volume[self.inside] = voxels
        return volume


@dataclass(frozen=True)
class VolumeComponents:
    """Principal components of volumes.

    Attributes
    ----------
    mean
        Mean densities, shape (V,).
    components
        Principal axes as rows of unit length, shape (C, V).
    variance, variance_ratio
        Variance along each axis and its fraction of the total variance, shape (C,).
    """

    mean: np.ndarray
    components: np.ndarray
    variance: np.ndarray
    variance_ratio: np.ndarray

    def scores(self, voxels: np.ndarray) -> np.ndarray:
        """Return the scores of densities (K, V), shape (K, C)."""
        return np.asarray((voxels - self.mean) @ self.components.T)


def masked_volumes(decoder: VolumeDecoder, mask: Path | None, apix: float | None) -> MaskedVolumes:
    """Prepare the comparison of decoded volumes inside a mask.

    Parameters
    ----------
    decoder
        Decoder of a trained model.
    mask
        MRC file in the box and pixel size of the subtomograms; None for the solvent mask of the weights, or all voxels
        if they contain none.
    apix
        Pixel size of the volumes in Å; None for that of the template.

    Raises
    ------
    UserError
        If the mask does not match the subtomograms or does not overlap the decoded volumes.
    """
    boxes = decoder.boxes
    apix = boxes.render_apix if apix is None else apix
    size = volume_size(boxes, apix, full_box=False)
    if mask is None:
        weights = np.ones((size,) * 3, dtype=np.float32)
        if decoder.mask is not None:
            weights = on_pixels(decoder.mask[None], boxes, apix, size)[0].cpu().numpy()
    else:
        loaded = load_mask(mask, boxes.box, boxes.apix)
        assert loaded is not None
        # Voxel n/2 of the volumes and voxel D/2 of the subtomograms are the center of rotation.
        at = boxes.box / 2 + (np.arange(size) - size // 2) * apix / boxes.apix
        weights = map_coordinates(loaded, np.meshgrid(at, at, at, indexing="ij"), order=1, mode="constant")
        weights = np.clip(weights, 0.0, 1.0).astype(np.float32)
    if not (weights > EDGE).any():
        raise UserError(
            f"{mask} has no voxel inside the decoded volumes, which span the solvent mask of the training. "
            "Give a mask that overlaps the particle."
        )
    return MaskedVolumes(decoder, apix, weights)


def fit_volume_components(voxels: np.ndarray, number: int) -> VolumeComponents:
    """Compute the principal components of densities (K, V); at most K - 1 components have variance.

    The entry of largest magnitude of each axis is positive, so repeated runs agree in sign.
    """
    from sklearn.decomposition import PCA

    number = max(1, min(number, len(voxels) - 1, voxels.shape[1]))
    model = PCA(number, svd_solver="full" if min(voxels.shape) <= 1000 else "randomized", random_state=0).fit(voxels)
    axes = model.components_
    signs = np.sign(axes[np.arange(number), np.abs(axes).argmax(axis=1)])
    ratio = np.nan_to_num(model.explained_variance_ratio_)
    return VolumeComponents(model.mean_, axes * signs[:, None], model.explained_variance_, ratio)


SAMPLES = 500
"""Largest number of particles to which the principal components are fitted."""
COMPONENTS_FOLDER = "focus"


def focus_scores(
    volumes: MaskedVolumes, latents: np.ndarray, num_components: int, seed: int = 0
) -> tuple[np.ndarray, VolumeComponents]:
    """Compute the coordinates of all particles inside the mask.

    Parameters
    ----------
    volumes
        Decoder and mask.
    latents
        Composition latents of all particles, shape (N, zdim).
    num_components
        Number of principal components.
    seed
        Random seed of the particles to which the components are fitted.

    Returns
    -------
    scores : numpy.ndarray
        Scores of all particles, shape (N, C), float32.
    components : VolumeComponents
        Principal components of the volumes inside the mask.

    Raises
    ------
    UserError
        If all volumes are equal inside the mask.
    """
    rng = np.random.default_rng(seed)
    sampled = np.sort(rng.choice(len(latents), min(SAMPLES, len(latents)), replace=False))
    components = fit_volume_components(volumes.voxels(latents[sampled], "volumes for components"), num_components)
    if not components.variance[0] > 0:
        raise UserError("The decoded volumes are all equal inside the mask of --focus. Give another mask.")
    return volumes.scores(latents, components).astype(np.float32), components


def coordinates_inside(coordinates: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the part of the coordinates of compositions that changes the volumes inside the mask.

    A regression of the scores inside the mask on the coordinates, of which they are linear functions, gives the
    directions that change them. Errors are 1 along the direction of the largest change, and less along others in
    proportion to the change.

    Parameters
    ----------
    coordinates
        Coordinates in units of their standard errors, shape (N, K), with NaN for particles without coordinates.
    scores
        Scores of all particles along the principal components of the volumes inside the mask, shape (N, C).

    Returns
    -------
    numpy.ndarray
        Shape (N, C), or (N, K) if K < C, with NaN for the same particles.
    """
    known = np.isfinite(coordinates).all(axis=1)
    centered = (coordinates[known] - coordinates[known].mean(axis=0)).astype(np.float64)
    slope = np.linalg.lstsq(centered, scores[known] - scores[known].mean(axis=0), rcond=None)[0]
    directions, change, _ = np.linalg.svd(slope, full_matrices=False)
    inside = np.full((len(coordinates), len(change)), np.nan)
    inside[known] = centered @ (directions * (change / max(change[0], np.finfo(float).tiny)))
    return inside


def write_focus(
    results: ResultDir, epoch: int, mask: Path, latents: np.ndarray, outdir: Path, say: Callable[[str], None]
) -> np.ndarray:
    """Compute the coordinates of all particles inside a mask, and write the mask and components to ``focus``.

    Parameters
    ----------
    results, epoch
        Result directory of the run and epoch.
    mask
        MRC mask in the box of the subtomograms.
    latents
        Composition latents of all particles, shape (N, zdim).
    outdir
        Output folder of the analysis.
    say
        Callback that receives progress messages.

    Returns
    -------
    numpy.ndarray
        Scores along the principal components, shape (N, C), float32.
    """
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), choose_device(None))
    volumes = masked_volumes(decoder, mask, None)
    say(f"{outdir.name}: decoding {len(latents):,} particles; {int(volumes.inside.sum()):,} voxels lie inside {mask}.")
    scores, components = focus_scores(volumes, latents, latents.shape[1])
    folder = outdir / COMPONENTS_FOLDER
    with atomic_path(folder) as partial:
        partial.mkdir()
        write_volume(partial / "mask.mrc", volumes.mask, volumes.apix, volumes.origin_A)
        write_volume(partial / "mean.mrc", volumes.as_volume(components.mean), volumes.apix, volumes.origin_A)
        for number, axis in enumerate(components.components, start=1):
            scaled = axis * np.sqrt(components.variance[number - 1])
            write_volume(partial / f"component{number}.mrc", volumes.as_volume(scaled), volumes.apix, volumes.origin_A)
        if folder.is_dir():
            shutil.rmtree(folder)
    return scores
