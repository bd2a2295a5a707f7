"""Pictures of motion: axes over projections, and the series as frames to play."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.dynamics.screws import ComponentMotion
from opustomo.geometry.screw import Array
from opustomo.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = (("z", 0, 1), ("y", 0, 2), ("x", 1, 2))
"""Axis looked along, and which of x, y, z are drawn to the right and upwards."""
DPI = 130
COLOURS = ("tab:orange", "tab:green", "tab:purple", "tab:olive", "tab:cyan")
OUTLINE = 0.35


def projection(volume: np.ndarray, view: str) -> np.ndarray:
    """Projection along x, y or z with the first drawn axis to the right."""
    return volume.sum("zyx".index(view))


def draw_motion(path: Path, volumes: np.ndarray, apix: float, motion: ComponentMotion, centres_A: Array) -> None:
    """Draw the middle volume in three views, outlines of first and last, and the axes of the bodies that move.

    Parameters
    ----------
    volumes
        (n, D, D, D) along the component.
    apix
        Their voxels in Å.
    centres_A
        (B, 3) centres of the bodies from the middle of the box, Å.
    """
    from matplotlib.figure import Figure

    half = volumes.shape[-1] / 2 * apix
    at = np.arange(volumes.shape[-1]) * apix - half
    edges = (-half - apix / 2, half - apix / 2) * 2
    figure = Figure(figsize=(12.5, 5.0), layout="constrained")
    for axes, (view, right, up) in zip(figure.subplots(1, 3), VIEWS, strict=True):
        axes.imshow(projection(volumes[len(volumes) // 2], view), cmap="gray_r", extent=edges, origin="lower")
        for volume, colour in ((volumes[0], "tab:blue"), (volumes[-1], "tab:red")):
            flat = projection(volume, view)
            axes.contour(at, at, flat, levels=[OUTLINE * flat.max()], colors=colour, linewidths=1.2)
        for body, centre in enumerate(centres_A):
            place, colour = (centre[right], centre[up]), _colour(body)
            axes.plot(*place, "o", color=colour, markersize=6)
            axes.annotate(f"{body + 1}", place, textcoords="offset points", xytext=(6, 4), color=colour)
        for one in motion.screws:
            if one.turns:
                _axis(axes, one.screw.point, one.screw.axis, (right, up), 0.92 * half, _colour(one.body))
            if one.moves:
                start, end = one.centre_A, one.centre_A + one.centre_move_A
                axes.plot([start[right], end[right]], [start[up], end[up]], color=_colour(one.body), linewidth=2.5)
        axes.set(title=f"along {view}", xlabel=f"{'xyz'[right]} (Å)", ylabel=f"{'xyz'[up]} (Å)")
        axes.set(xlim=(-half, half), ylim=(-half, half))
    lines = [
        f"conformation PC{motion.number} ({motion.variance_ratio:.0%} of the variance); outlines: first blue, last red"
    ]
    for one in motion.screws:
        lines.append(
            f"body {one.body + 1} relative to {one.parent + 1}: {one.screw.angle_deg:.1f}°, its centre moves "
            f"{one.centre_shift_A:.1f} Å"
            if one.moves
            else f"body {one.body + 1} relative to {one.parent + 1}: does not move"
        )
    figure.suptitle("\n".join(lines), fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def _colour(body: int) -> str:
    return COLOURS[body % len(COLOURS)]


def _axis(axes: Axes, point: Array, axis: Array, shown: tuple[int, int], reach: float, colour: str) -> None:
    """An arrow along the axis; a circled dot or cross where one looks along it."""
    right, up = shown
    flat = np.array([axis[right], axis[up]])
    at = np.array([point[right], point[up]])
    length = np.linalg.norm(flat)
    if length < 0.2:
        depth = next(i for i in range(3) if i not in shown)
        towards = axis[depth] * (-1.0 if depth == 1 else 1.0) > 0  # x to the right, z up: y points away
        axes.plot(*at, "o", markersize=15, markerfacecolor="none", color=colour, markeredgewidth=2)
        axes.plot(*at, "." if towards else "x", color=colour, markersize=7)
        return
    # as far as the frame allows on either side, for arrows that leave it are not drawn
    with np.errstate(divide="ignore"):
        ends = np.sort([(-reach - at) / flat, (reach - at) / flat], axis=0)
    (x0, y0), (x1, y1) = at + ends[0].max() * flat, at + ends[1].min() * flat
    arrow = {"arrowstyle": "-|>", "color": colour, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)


def write_movie(path: Path, volumes: np.ndarray, milliseconds: int = 80) -> None:
    """Write the series as an animated picture (GIF) of its three projections, forth and back."""
    from PIL import Image

    size = volumes.shape[-1]
    scale = max(1, round(240 / size))
    frames = []
    flat = [[projection(volume, view)[::-1] for view, _, _ in VIEWS] for volume in volumes]
    low, high = np.percentile(flat, 1), np.max(flat)
    for views in [*flat, *flat[-2:0:-1]]:
        grey = np.clip((np.concatenate(views, axis=1) - low) / max(high - low, 1e-12), 0.0, 1.0)
        image = Image.fromarray((255 * grey).astype(np.uint8))
        frames.append(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))
    with atomic_path(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def write_chimerax(folder: Path, motion: ComponentMotion, count: int, middle_A: float) -> None:
    """Write ``axes.bild`` (arrows) and ``movie.cxc``, which opens the series and the axes in ChimeraX and plays it.

    ``middle_A`` is where the centre of the box lies along each axis, Å.
    """
    lines = []
    for one in motion.screws:
        if one.turns:
            ends = [one.screw.point + side * 0.8 * middle_A * one.screw.axis + middle_A for side in (-1.0, 1.0)]
            numbers = " ".join(f"{value:.2f}" for value in np.concatenate(ends))
            colour = _colour(one.body).removeprefix("tab:")
            lines += [f".comment body {one.body + 1}", f".color {colour}", f".arrow {numbers} 1.5 4.5 0.85"]
    with atomic_path(folder / "axes.bild") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    names = " ".join(f"reference{i}.mrc" for i in range(count))
    script = [f"open {names} vseries true", "volume #1 capFaces false", "lighting soft", "view"]
    script += ["open axes.bild"] if lines else []
    script += [
        "# to record: movie record; vseries play #1 direction oscillate; wait 200; movie encode motion.mp4",
        "vseries play #1 direction oscillate maxFrameRate 12",
    ]
    with atomic_path(folder / "movie.cxc") as temporary:
        temporary.write_text("\n".join(script) + "\n")
