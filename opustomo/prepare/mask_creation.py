"""Solvent masks from density maps, with an automatic threshold between density and solvent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

BLUR_VOXELS = 1.0
"""Standard deviation of the Gaussian blur, which removes the noise of single voxels from the histogram."""
BINS = 256
NOISE_DEVIATIONS = 3.0


def blurred(density: np.ndarray) -> np.ndarray:
    """Return the blurred density (float64), which is the input of `automatic_threshold`."""
    return ndimage.gaussian_filter(np.asarray(density, dtype=np.float64), BLUR_VOXELS, mode="nearest")


def automatic_threshold(density: np.ndarray) -> float:
    """Compute a threshold between solvent and particle of a blurred map.

    The threshold is halfway between the level of the solvent and Otsu's threshold, so that weak edges belong to the
    particle, but at least three standard deviations of the solvent noise above its level. Level and noise are the
    median and 1.4826 · median absolute deviation of the voxels below Otsu's threshold (N. Otsu, IEEE Trans. Syst. Man
    Cybern. 9, 1979).

    Parameters
    ----------
    density
        Map of any shape with bright particle, see `blurred`.

    Raises
    ------
    ValueError
        All voxels are equal.
    """
    if np.ptp(density) <= 1e-9 * max(1.0, np.abs(density).max()):
        raise ValueError("the automatic threshold of a map with equal voxels")
    split = otsu_threshold(density)
    solvent = density[density <= split]
    level = float(np.median(solvent))
    noise = 1.4826 * float(np.median(np.abs(solvent - level)))
    return max(level + 0.5 * (split - level), level + NOISE_DEVIATIONS * noise)


def otsu_threshold(values: np.ndarray) -> float:
    """Return the threshold that maximizes the variance between two classes of values (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=BINS)
    centers = 0.5 * (edges[:-1] + edges[1:])
    below = np.cumsum(counts)[:-1].astype(np.float64)
    above = values.size - below
    sums = np.cumsum(counts * centers)
    mean_below = sums[:-1] / np.maximum(below, 1)
    mean_above = (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * (mean_above - mean_below) ** 2))])


@dataclass(frozen=True)
class MaskRecipe:
    """Steps of the creation of a mask in the order of the attributes. Lengths are in voxels.

    Attributes
    ----------
    threshold
        Minimum density of the mask.
    percentile
        The threshold as a percentile of the voxels. Without threshold and percentile, the threshold is determined from
        the blurred map and applied to it.
    use_abs
        Whether absolute values are compared.
    open, close, dilate, erode
        Radii of the structuring balls.
    fill_holes
        Whether cavities are filled.
    largest_component
        Whether only the largest connected component is kept.
    sphere_radius, sphere_center
        Ball (center x, y, z; box/2 by default). With a threshold or percentile, the mask is limited to the ball,
        otherwise it is the ball.
    soft_edge
        Width of the raised cosine that is added around the mask.
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
    """Mask with values (z, y, x) in [0, 1], its core without soft edge, and the threshold (None for a ball)."""

    values: np.ndarray
    core: np.ndarray
    threshold: float | None

    @property
    def touches_faces(self) -> bool:
        """Whether the mask is nonzero anywhere on the faces of its box."""
        return any(self.values.take(end, axis).any() for axis in range(3) for end in (0, -1))


def make_mask(density: np.ndarray, recipe: MaskRecipe) -> Mask:
    """Create a mask.

    Parameters
    ----------
    density
        Map (nz, ny, nx).
    recipe
        Steps.

    Raises
    ------
    ValueError
        A step, which the message names, leaves no voxel.
    """
    ball = None if recipe.sphere_radius is None else _ball(density.shape, recipe.sphere_radius, recipe.sphere_center)
    by_density = recipe.threshold is not None or recipe.percentile is not None or ball is None
    threshold = None
    if by_density:
        values, threshold = _threshold(np.abs(density) if recipe.use_abs else np.asarray(density), recipe)
        core = _apply_steps(values >= threshold, recipe, threshold)
        if ball is not None:
            core &= ball
            _require_voxels(core, "the ball")
    else:
        assert ball is not None
        core = _apply_steps(ball, recipe, None)
    return Mask(soften(core, recipe.soft_edge), core, threshold)


def soften(core: np.ndarray, width: float) -> np.ndarray:
    """Add a raised cosine around a mask, ½(1 + cos(π d/width)) at the distance d < width; the result is float32."""
    if width <= 0:
        return core.astype(np.float32)
    distance = ndimage.distance_transform_edt(~core)
    edge = 0.5 * (1.0 + np.cos(np.pi * np.minimum(distance / width, 1.0)))
    return edge.astype(np.float32)


def _threshold(values: np.ndarray, recipe: MaskRecipe) -> tuple[np.ndarray, float]:
    """Return the values to compare and the threshold."""
    if recipe.threshold is not None:
        return values, recipe.threshold
    if recipe.percentile is not None:
        return values, float(np.percentile(values, recipe.percentile))
    values = blurred(values)
    try:
        return values, automatic_threshold(values)
    except ValueError as error:
        raise ValueError(f"{error} leaves no voxel") from error


def _apply_steps(core: np.ndarray, recipe: MaskRecipe, threshold: float | None) -> np.ndarray:
    """Apply the steps between threshold and soft edge."""
    _require_voxels(core, "the ball" if threshold is None else f"the threshold {threshold:g}")
    if recipe.open > 0:
        core = _dilated(_eroded(core, recipe.open), recipe.open)
        _require_voxels(core, "opening")
    if recipe.close > 0:
        # Padding keeps the closing from adhering to the faces of the box.
        room = int(np.ceil(recipe.close)) + 1
        padded = np.pad(core, room)
        inner = tuple(slice(room, -room) for _ in range(3))
        core = _eroded(_dilated(padded, recipe.close), recipe.close)[inner]
    if recipe.dilate > 0:
        core = _dilated(core, recipe.dilate)
    if recipe.erode > 0:
        core = _eroded(core, recipe.erode)
        _require_voxels(core, "eroding")
    if recipe.fill_holes:
        core = ndimage.binary_fill_holes(core)
    if recipe.largest_component:
        labels, count = ndimage.label(core)
        if count > 1:
            sizes = np.bincount(labels.ravel())
            core = labels == 1 + int(np.argmax(sizes[1:]))
    return core


def _dilated(core: np.ndarray, radius: float) -> np.ndarray:
    return ndimage.distance_transform_edt(~core) <= radius if core.any() else core


def _eroded(core: np.ndarray, radius: float) -> np.ndarray:
    # The region beyond the box is solvent.
    return ndimage.distance_transform_edt(np.pad(core, 1))[1:-1, 1:-1, 1:-1] > radius


def _ball(shape: tuple[int, ...], radius: float, center: tuple[float, float, float] | None) -> np.ndarray:
    x, y, z = center if center is not None else tuple(n // 2 for n in reversed(shape))
    grid = np.ogrid[tuple(slice(n) for n in shape)]
    return (grid[0] - z) ** 2 + (grid[1] - y) ** 2 + (grid[2] - x) ** 2 <= radius**2


def _require_voxels(core: np.ndarray, step: str) -> None:
    if not core.any():
        raise ValueError(f"{step} leaves no voxel")
