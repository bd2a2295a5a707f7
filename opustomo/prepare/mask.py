"""Solvent masks from density maps, with an automatic threshold between density and solvent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BLUR_VOXELS = 1.0
"""Deviation of the Gaussian: noise of single voxels must not fill the valley between solvent and particle."""
BINS = 256
NOISE_DEVIATIONS = 3.0


def blurred(density: np.ndarray) -> np.ndarray:
    """Density without the noise of single voxels, float64: what `automatic_threshold` is meant for."""
    return ndimage.gaussian_filter(np.asarray(density, dtype=np.float64), BLUR_VOXELS, mode="nearest")


def automatic_threshold(density: np.ndarray) -> float:
    """Threshold between solvent and particle of a blurred map.

    Half of Otsu's threshold above the solvent's level, so that weak rims belong to the particle, but at least three
    deviations of the solvent's noise above it. Level and noise are median and 1.4826 · median absolute deviation of
    what Otsu calls solvent (N. Otsu, IEEE Trans. Syst. Man Cybern. 9, 1979).

    Parameters
    ----------
    density
        Map of any shape, particle bright; see `blurred`.

    Raises
    ------
    ValueError
        All voxels are equal.
    """
    if np.ptp(density) <= 1e-9 * max(1.0, np.abs(density).max()):
        raise ValueError("a search for a threshold in a map whose voxels are all equal")
    split = otsu_threshold(density)
    solvent = density[density <= split]
    level = float(np.median(solvent))
    noise = 1.4826 * float(np.median(np.abs(solvent - level)))
    return max(level + 0.5 * (split - level), level + NOISE_DEVIATIONS * noise)


def otsu_threshold(values: np.ndarray) -> float:
    """Threshold that separates two classes of values with the largest variance between them (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=BINS)
    centres = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centres)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_above - mean_below) ** 2))])


@dataclass(frozen=True)
class MaskRecipe:
    """How a mask is made; the steps run in the order of the attributes. Lengths are voxels.

    Attributes
    ----------
    threshold
        Density from which voxels belong to the mask.
    percentile
        The same as a percentile of the voxels. Without either the threshold is found from the map, blurred by one
        voxel, and applied to that.
    use_abs
        Compare absolute values.
    open, close, dilate, erode
        Radii of balls.
    fill_holes
        Fill cavities that no path connects with the outside.
    largest_component
        Keep only the largest connected part.
    sphere_radius, sphere_center
        Ball (centre x, y, z; box/2 by default). With a threshold or percentile the mask is what lies in the ball, else
        the ball itself.
    soft_edge
        Width of the raised cosine added around it.
    """

    threshold: float | None = None
    percentile: float | None = None
    use_abs: bool = False
    open: float = 0.0
    close: float = 0.0
    dilate: float = 0.0
    erode: float = 0.0
    fill_holes: bool = False
    largest_component: bool = False
    sphere_radius: float | None = None
    sphere_center: tuple[float, float, float] | None = None
    soft_edge: float = 0.0


@dataclass(frozen=True)
class Mask:
    """A mask and what it was made with: values (z, y, x) in [0, 1], its hard core, the threshold used (None: ball)."""

    values: np.ndarray
    core: np.ndarray
    threshold: float | None

    @property
    def touches_rim(self) -> bool:
        """Whether the mask is not zero everywhere on the faces of its box."""
        return any(self.values.take(end, axis).any() for axis in range(3) for end in (0, -1))


def make_mask(density: np.ndarray, recipe: MaskRecipe) -> Mask:
    """Make a mask.

    Parameters
    ----------
    density
        (nz, ny, nx).
    recipe
        The steps.

    Raises
    ------
    ValueError
        No voxel is left; the message says after which step.
    """
    ball = None if recipe.sphere_radius is None else _ball(density.shape, recipe.sphere_radius, recipe.sphere_center)
    by_density = recipe.threshold is not None or recipe.percentile is not None or ball is None
    threshold = None
    if by_density:
        values, threshold = _threshold(np.abs(density) if recipe.use_abs else np.asarray(density), recipe)
        core = _shaped(values >= threshold, recipe, threshold)
        if ball is not None:
            core &= ball
            _not_empty(core, "the ball")
    else:
        assert ball is not None
        core = _shaped(ball, recipe, None)
    return Mask(soften(core, recipe.soft_edge), core, threshold)


def soften(core: np.ndarray, width: float) -> np.ndarray:
    """Surround a mask by a raised cosine: ½(1 + cos(π d/width)) at the distance d < width from it; float32."""
    if width <= 0:
        return core.astype(np.float32)
    distance = ndimage.distance_transform_edt(~core)
    edge = 0.5 * (1.0 + np.cos(np.pi * np.minimum(distance / width, 1.0)))
    return edge.astype(np.float32)


def _threshold(values: np.ndarray, recipe: MaskRecipe) -> tuple[np.ndarray, float]:
    """Values to compare, and with what."""
    if recipe.threshold is not None:
        return values, recipe.threshold
    if recipe.percentile is not None:
        return values, float(np.percentile(values, recipe.percentile))
    values = blurred(values)
    try:
        return values, automatic_threshold(values)
    except ValueError as error:
        raise ValueError(f"{error} leaves no voxel") from error


def _shaped(core: np.ndarray, recipe: MaskRecipe, threshold: float | None) -> np.ndarray:
    """Steps between threshold and soft edge."""
    _not_empty(core, "the ball" if threshold is None else f"the threshold {threshold:g}")
    if recipe.open > 0:
        core = _grown(_shrunk(core, recipe.open), recipe.open)
        _not_empty(core, "opening")
    if recipe.close > 0:
        # room around the box, so that closing does not stick to its faces
        room = int(np.ceil(recipe.close)) + 1
        padded = np.pad(core, room)
        inner = tuple(slice(room, -room) for _ in range(3))
        core = _shrunk(_grown(padded, recipe.close), recipe.close)[inner]
    if recipe.dilate > 0:
        core = _grown(core, recipe.dilate)
    if recipe.erode > 0:
        core = _shrunk(core, recipe.erode)
        _not_empty(core, "eroding")
    if recipe.fill_holes:
        core = ndimage.binary_fill_holes(core)
    if recipe.largest_component:
        labels, count = ndimage.label(core)
        if count > 1:
            sizes = np.bincount(labels.ravel())
            core = labels == 1 + int(np.argmax(sizes[1:]))
    return core


def _grown(core: np.ndarray, radius: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~core) <= radius if core.any() else core


def _shrunk(core: np.ndarray, radius: float) -> np.ndarray:
    # what lies beyond the box counts as solvent
    return ndimage.distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1, 1:-1] > radius


def _ball(shape: tuple[int, ...], radius: float, centre: tuple[float, float, float] | None) -> np.ndarray:
    x, y, z = centre if centre is not None else tuple(n // 2 for n in reversed(shape))
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return (grid[0] - z) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2 <= radius**2


def _not_empty(core: np.ndarray, step: str) -> None:
    if not core.any():
        raise ValueError(f"{step} leaves no voxel")
