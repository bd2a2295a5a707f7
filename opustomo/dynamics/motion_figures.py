"""Figures and movies of body motion: projections with rotation axes, animated GIFs and ChimeraX scripts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.dynamics.motion import ComponentMotion
from opustomo.geometry.rigid_bodies import Array
from opustomo.io.atomic import atomic_path

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = (("z", 0, 1), ("y", 0, 2), ("x", 1, 2))
"""Projection axis, and the indices of the coordinates drawn horizontally and vertically."""
DPI = 130
COLORS = ("tab:orange", "tab:green", "tab:purple", "tab:olive", "tab:cyan")
OUTLINE = 0.35


def projection(volume: np.ndarray, view: str) -> np.ndarray:
    """Return the projection of a volume along x, y or z."""
    return volume.sum("zyx".index(view))


def draw_motion(path: Path, volumes: np.ndarray, apix: float, motion: ComponentMotion, centers_A: Array) -> None:
    """Draw three projections of the middle volume with outlines of the first and last and the axes of moving bodies.

    Parameters
    ----------
    path
        Output image.
    volumes
        Volumes along the component, (n, D, D, D).
    apix
        Pixel size of the volumes in Å.
    motion
        Motion of the bodies along the component.
    centers_A
        Centers of the bodies relative to the center of the box in Å, (B, 3).
    """
    from matplotlib.figure import Figure

    half = volumes.shape[-1] / 2 * apix
    coordinates = np.arange(volumes.shape[-1]) * apix - half
    edges = (-half - apix / 2, half - apix / 2) * 2
    figure = Figure(figsize=(12.5, 5.0), layout="constrained")
    for axes, (view, right, up) in zip(figure.subplots(1, 3), VIEWS, strict=True):
        axes.imshow(projection(volumes[len(volumes) // 2], view), cmap="gray_r", extent=edges, origin="lower")
        for volume, color in ((volumes[0], "tab:blue"), (volumes[-1], "tab:red")):
            image = projection(volume, view)
            axes.contour(coordinates, coordinates, image, levels=[OUTLINE * image.max()], colors=color, linewidths=1.2)
        for body, center in enumerate(centers_A):
            position, color = (center[right], center[up]), _color(body)
            axes.plot(*position, "o", color=color, markersize=6)
            axes.annotate(f"{body + 1}", position, textcoords="offset points", xytext=(6, 4), color=color)
        for body_screw in motion.screws:
            color = _color(body_screw.body)
            if body_screw.rotates:
                _draw_axis(axes, body_screw.screw.point, body_screw.screw.axis, (right, up), 0.92 * half, color)
            if body_screw.moves:
                start, end = body_screw.center_A, body_screw.center_A + body_screw.center_move_A
                axes.plot([start[right], end[right]], [start[up], end[up]], color=color, linewidth=2.5)
        axes.set(title=f"Projection along {view}", xlabel=f"{'xyz'[right]} (Å)", ylabel=f"{'xyz'[up]} (Å)")
        axes.set(xlim=(-half, half), ylim=(-half, half))
    lines = [
        f"Conformation PC{motion.number} ({motion.variance_ratio:.0%} of the variance). "
        "Outlines: first volume (blue) and last volume (red)."
    ]
    for body_screw in motion.screws:
        name = f"Body {body_screw.body + 1} relative to body {body_screw.parent + 1}"
        lines.append(
            f"{name}: rotation {body_screw.screw.angle_deg:.1f}°, displacement of its center "
            f"{body_screw.center_shift_A:.1f} Å"
            if body_screw.moves
            else f"{name}: no motion"
        )
    figure.suptitle("\n".join(lines), fontsize=10)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DPI)


def _color(body: int) -> str:
    return COLORS[body % len(COLORS)]


def _draw_axis(axes: Axes, point: Array, axis: Array, plane: tuple[int, int], reach: float, color: str) -> None:
    """Draw an arrow along a rotation axis, or a circled dot or cross if the axis is parallel to the view."""
    right, up = plane
    direction = np.array([axis[right], axis[up]])
    position = np.array([point[right], point[up]])
    length = np.linalg.norm(direction)
    if length < 0.2:
        depth = next(i for i in range(3) if i not in plane)
        towards_viewer = axis[depth] * (-1.0 if depth == 1 else 1.0) > 0  # with x right and z up, y points away
        axes.plot(*position, "o", markersize=15, markerfacecolor="none", color=color, markeredgewidth=2)
        axes.plot(*position, "." if towards_viewer else "x", color=color, markersize=7)
        return
    # Clip the arrow to the frame because matplotlib does not draw arrows that end outside of it.
    with np.errstate(divide="ignore"):
        ends = np.sort([(-reach - position) / direction, (reach - position) / direction], axis=0)
    (x0, y0), (x1, y1) = position + ends[0].max() * direction, position + ends[1].min() * direction
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)


def write_movie(path: Path, volumes: np.ndarray, milliseconds: int = 80) -> None:
    """Write an animated GIF of the three projections of a series, played forward and backward."""
    from PIL import Image

    size = volumes.shape[-1]
    scale = max(1, round(240 / size))
    frames = []
    projections = [[projection(volume, view)[::-1] for view, _, _ in VIEWS] for volume in volumes]
    low, high = np.percentile(projections, 1), np.max(projections)
    for views in [*projections, *projections[-2:0:-1]]:
        gray = np.clip((np.concatenate(views, axis=1) - low) / max(high - low, 1e-12), 0.0, 1.0)
        image = Image.fromarray((255 * gray).astype(np.uint8))
        frames.append(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))
    with atomic_path(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def write_chimerax(folder: Path, motion: ComponentMotion, count: int, middle_A: float) -> None:
    """Write the rotation axes, ``axes.bild``, and a ChimeraX script, ``movie.cxc``, that plays the series with them.

    Parameters
    ----------
    folder
        Folder of the volumes.
    motion
        Motion of the bodies along the component.
    count
        Number of volumes.
    middle_A
        Coordinate of the center of the box along each axis in Å.
    """
    lines = []
    for body_screw in motion.screws:
        if body_screw.rotates:
            screw = body_screw.screw
            ends = [screw.point + side * 0.8 * middle_A * screw.axis + middle_A for side in (-1.0, 1.0)]
            numbers = " ".join(f"{value:.2f}" for value in np.concatenate(ends))
            color = _color(body_screw.body).removeprefix("tab:")
            lines += [f".comment body {body_screw.body + 1}", f".color {color}", f".arrow {numbers} 1.5 4.5 0.85"]
    with atomic_path(folder / "axes.bild") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    names = " ".join(f"reference{i}.mrc" for i in range(count))
    script = [f"open {names} vseries true", "volume #1 capFaces false", "lighting soft", "view"]
    script += ["open axes.bild"] if lines else []
    script += [
        "# To record a movie: movie record; vseries play #1 direction oscillate; wait 200; movie encode motion.mp4",
        "vseries play #1 direction oscillate maxFrameRate 12",
    ]
    with atomic_path(folder / "movie.cxc") as temporary:
        temporary.write_text("\n".join(script) + "\n")
