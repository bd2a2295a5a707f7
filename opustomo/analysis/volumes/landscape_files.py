"""Files and figures of a volume landscape, ``analyze.N/landscape`` (see docs/files.md)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.analysis.clusters.cluster_stars import write_cluster_stars
from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.analysis.figures.volume_display import (
    contour_level,
    draw_views,
    view_of,
    write_series_script,
    write_set_script,
)
from opustomo.analysis.volumes.decoding import decode_batches, first_voxel, write_series
from opustomo.analysis.volumes.focused_volumes import MaskedVolumes
from opustomo.analysis.volumes.volume_landscape import LandscapeSettings, VolumeLandscape
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path, write_figure
from opustomo.io.latents import write_table
from opustomo.io.mrc import write_volume
from opustomo.io.pickles import dump_pickle

if TYPE_CHECKING:
    from matplotlib.artist import Artist

    from opustomo.io.star_tables import ParticleStar

DPI = 150
FRAMES_PER_SECOND = 4


def draw_landscape(path: Path, result: VolumeLandscape) -> None:
    """Draw the energy over the first two components, with basins, paths and classes of the particles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    landscape, basins = result.landscape, result.basins
    figure = Figure(figsize=(12.5, 5.4), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharex=True, sharey=True)
    shown = np.where(landscape.energy < landscape.ceiling, landscape.energy, np.nan)
    image = left.contourf(*landscape.axes, shown.T, levels=20, cmap="viridis")
    left.contour(*landscape.axes, shown.T, levels=10, colors="white", linewidths=0.4, alpha=0.6)
    figure.colorbar(image, ax=left, label="-ln(density / maximum) (kT at equilibrium)")
    for route in result.paths:
        style = ":" if route.crosses_gap else "-"
        left.plot(*route.points.T, style, color="black", lw=1.6, marker=".", ms=4)
    minima = landscape.positions(basins.minima)
    for number, point in enumerate(minima):
        left.annotate(
            str(number),
            tuple(point),
            ha="center",
            va="center",
            fontsize=8,
            fontweight="bold",
            bbox={"boxstyle": "circle,pad=0.2", "fc": "white", "ec": "black", "lw": 1.2},
        )
    left.set_title(f"{len(basins)} basins and the minimum paths between them (dotted: across a gap)")
    number_of_classes = int(result.classes.max()) + 1
    colors = cluster_colors(number_of_classes)
    plane = result.scores[:, :2] if result.scores.shape[1] > 1 else np.column_stack([result.scores, 0 * result.scores])
    order = np.random.default_rng(0).permutation(len(plane))
    size = float(np.clip(9000 / len(plane), 0.8, 20))
    right.scatter(*plane[order].T, c=colors[result.classes[order]], s=size, linewidths=0, rasterized=True)
    for number in range(number_of_classes):
        count = int((result.classes == number).sum())
        right.scatter([], [], color=colors[number], s=25, label=f"{number}: {count:,}")
    right.legend(
        title="class: particles", fontsize=8, title_fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1)
    )
    right.set_title(f"{number_of_classes} agglomerative classes of {len(plane):,} particles")
    ratio = result.components.variance_ratio
    for axes in (left, right):
        axes.set_xlabel(f"volume component 1 ({100 * ratio[0]:.1f} % of variance)")
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel(f"volume component 2 ({100 * ratio[1]:.1f} % of variance)" if len(ratio) > 1 else "")
    write_figure(path, figure, DPI)


def draw_tree(path: Path, tree: np.ndarray, number: int) -> None:
    """Draw the Ward tree of the decoded volumes, colored below the cut into `number` classes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from scipy.cluster.hierarchy import dendrogram

    figure = Figure(figsize=(9.0, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    cut = (tree[-number, 2] + tree[-number + 1, 2]) / 2 if 1 < number <= len(tree) else tree[-1, 2] * 1.1
    dendrogram(tree, ax=axes, no_labels=True, color_threshold=cut, above_threshold_color="0.4")
    axes.axhline(cut, color="0.6", ls="--", lw=1)
    axes.set(ylabel="distance between volumes (Ward)", title=f"Tree of {len(tree) + 1:,} decoded volumes")
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    write_figure(path, figure, DPI)


def write_movie(path: Path, volumes: Sequence[np.ndarray], title: str) -> None:
    """Write an animated GIF of the central slices and projections of volumes (n, n, n), forth and back."""
    from matplotlib.animation import FuncAnimation, PillowWriter
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.3), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    slices = [volume[len(volume) // 2] for volume in volumes]
    projections = [volume.sum(axis=0) for volume in volumes]
    images = []
    for axes, frames, name in zip(panels, (slices, projections), ("central slice", "projection"), strict=True):
        low, high = min(f.min() for f in frames), max(f.max() for f in frames)
        images.append(axes.imshow(frames[0], cmap="gray", origin="lower", vmin=low, vmax=max(high, low + 1e-6)))
        axes.set_axis_off()
        axes.set_title(name, fontsize=9)
    order = [*range(len(volumes)), *range(len(volumes) - 2, 0, -1)]

    def show(step: int) -> list[Artist]:
        images[0].set_data(slices[step])
        images[1].set_data(projections[step])
        figure.suptitle(f"{title}, step {step}", fontsize=10)
        return list(images)

    animation = FuncAnimation(figure, show, frames=order)
    with atomic_path(path) as partial:
        animation.save(partial, writer=PillowWriter(FRAMES_PER_SECOND), dpi=90)


SETTINGS = "landscape.json"


def write_landscape(
    folder: Path,
    result: VolumeLandscape,
    volumes: MaskedVolumes,
    latents: np.ndarray,
    star: ParticleStar | None,
    settings: LandscapeSettings,
) -> None:
    """Write the arrays, tables, volumes, STAR files and figures of a landscape.

    An earlier landscape in `folder` is replaced when all files of the new one are complete.

    Parameters
    ----------
    folder
        Output folder.
    result
        Landscape to write.
    volumes
        Decoder and mask with which it was computed.
    latents
        Composition latents of all particles, shape (N, zdim).
    star
        Particle table; None writes no STAR files.
    settings
        Settings of the landscape, which are written to ``landscape.json``.

    Raises
    ------
    UserError
        If `folder` contains other files than those of a landscape.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise UserError(f"{folder} contains files that are not those of a landscape. Give another folder with -o.")
    with atomic_path(folder) as partial:
        partial.mkdir()
        _write_arrays(partial, result, volumes)
        _write_components(partial, result, volumes)
        _write_basins(partial / "basins", result, volumes, latents, star)
        _write_classes(partial, result, volumes, star)
        for path, path_latents in zip(result.paths, result.path_latents, strict=True):
            _write_path(partial / f"path{path.ends[0]}-{path.ends[1]}", path_latents, volumes)
        draw_landscape(partial / "landscape.png", result)
        with atomic_path(partial / SETTINGS) as text:
            content = asdict(settings) | {"apix": volumes.apix, "decoded": len(result.sampled)}
            text.write_text(json.dumps(content, indent=2) + "\n")
        if folder.is_dir():
            shutil.rmtree(folder)


def _write_arrays(folder: Path, result: VolumeLandscape, volumes: MaskedVolumes) -> None:
    landscape = result.landscape
    dump_pickle(folder / "scores.pkl", result.scores.astype(np.float32))
    dump_pickle(folder / "decoded.pkl", result.sampled)
    grid = {"x": landscape.axes[0], "y": landscape.axes[1], "density": landscape.density, "energy": landscape.energy}
    dump_pickle(folder / "density.pkl", grid)
    _table(
        folder / "basins.csv",
        "basin,component1,component2,energy,depth,particles,nearest_particle",
        [
            f"{i},{point[0]:.6g},{point[1]:.6g},{landscape.energy.ravel()[cell]:.4f},{depth:.4f},"
            f"{int((result.basin_labels == i).sum())},{center}"
            for i, (point, cell, depth, center) in enumerate(
                zip(
                    landscape.positions(result.basins.minima),
                    result.basins.minima,
                    result.basins.depth,
                    result.centers,
                    strict=True,
                )
            )
        ],
    )
    _table(
        folder / "paths.csv",
        "from,to,highest_energy,crosses_gap",
        [f"{p.ends[0]},{p.ends[1]},{p.barrier:.4f},{int(p.crosses_gap)}" for p in result.paths],
    )
    write_volume(folder / "mask.mrc", volumes.mask, volumes.apix, volumes.origin_A)


def _write_components(folder: Path, result: VolumeLandscape, volumes: MaskedVolumes) -> None:
    components = result.components
    write_volume(folder / "mean.mrc", volumes.as_volume(components.mean), volumes.apix, volumes.origin_A)
    for number, axis in enumerate(components.components, start=1):
        # One standard deviation along the component, in the unit of the volumes.
        scaled = axis * np.sqrt(components.variance[number - 1])
        write_volume(folder / f"component{number}.mrc", volumes.as_volume(scaled), volumes.apix, volumes.origin_A)
    table = np.column_stack([components.variance_ratio, result.explained])
    _table(
        folder / "components.csv",
        "component,variance_ratio,explained_by_latents",
        [f"{i},{ratio:.6f},{explained:.4f}" for i, (ratio, explained) in enumerate(table, start=1)],
    )


def _write_basins(
    folder: Path, result: VolumeLandscape, volumes: MaskedVolumes, latents: np.ndarray, star: ParticleStar | None
) -> None:
    folder.mkdir()
    counts = np.bincount(result.basin_labels, minlength=len(result.basins))
    names = [f"basin {i} ({count} particles)" for i, count in enumerate(counts)]
    centers = latents[result.centers]
    dump_pickle(folder / "labels.pkl", result.basin_labels)
    write_table(folder / "centers.txt", centers)
    write_table(folder / "centers_ind.txt", result.centers)
    decoded = list(decode_batches(volumes.decoder, centers, volumes.apix, full_box=False))
    _write_set(folder, decoded, volumes, names)
    if star is not None:
        write_cluster_stars(star, result.basin_labels, folder)


def _write_classes(folder: Path, result: VolumeLandscape, volumes: MaskedVolumes, star: ParticleStar | None) -> None:
    number = int(result.classes.max()) + 1
    folder /= f"classes{number}"
    folder.mkdir()
    dump_pickle(folder / "labels.pkl", result.classes)
    dump_pickle(folder / "tree.pkl", result.tree)
    draw_tree(folder / "tree.png", result.tree, number)
    sampled = result.classes[result.sampled]
    means = [volumes.as_volume(result.voxels[sampled == i].mean(axis=0)) for i in range(number)]
    counts = np.bincount(result.classes, minlength=number)
    _write_set(folder, means, volumes, [f"class {i} ({count} particles)" for i, count in enumerate(counts)])
    if star is not None:
        write_cluster_stars(star, result.classes, folder)


def _write_path(folder: Path, latents: np.ndarray, volumes: MaskedVolumes) -> None:
    folder.mkdir()
    write_table(folder / "z.txt", latents)
    decoded = list(decode_batches(volumes.decoder, latents, volumes.apix, full_box=False))
    paths = _write_volumes(folder, decoded, volumes)
    write_series_script(folder / "reference.cxc", paths, float(np.median([contour_level(v) for v in decoded])))
    draw_views(folder / "reference.png", [view_of(volume, str(i)) for i, volume in enumerate(decoded)])
    write_movie(folder / "movie.gif", decoded, folder.name)


def _write_set(folder: Path, decoded: list[np.ndarray], volumes: MaskedVolumes, names: list[str]) -> None:
    paths = _write_volumes(folder, decoded, volumes)
    level = float(np.median([contour_level(volume) for volume in decoded]))
    write_set_script(folder / "reference.cxc", paths, level, names)
    draw_views(folder / "reference.png", [view_of(v, str(i)) for i, v in enumerate(decoded)])


def _write_volumes(folder: Path, decoded: list[np.ndarray], volumes: MaskedVolumes) -> list[Path]:
    origin = first_voxel(volumes.decoder.boxes, volumes.apix, len(decoded[0]))
    return write_series(folder, decoded, volumes.apix, origin)


def _table(path: Path, head: str, rows: list[str]) -> None:
    with atomic_path(path) as partial:
        partial.write_text("\n".join([head, *rows]) + "\n")
