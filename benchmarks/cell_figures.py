#!/usr/bin/env python3
"""Draw the figures of docs/from-cell-to-map.md from a finished folder of `benchmarks/cell.py`.

usage: python benchmarks/cell_figures.py FOLDER -o docs/img

Writes cell-picks.png, cell-latents.png, cell-volumes.png and cell-curves.png.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.ndimage import gaussian_filter

from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import read_particles

CHOSEN, OTHER = "#d95f02", "#4c78a8"
SLICES = 24
"""Number of tomogram slices that are averaged for the picture of the picks."""
SHOWN = (
    ("all_refined", "all picks", "0.6"),
    ("best_refined", "best-scoring, same number", OTHER),
    ("filtered_refined", "filtered", CHOSEN),
    ("filtered", "filtered, poses of the matching", "#1b7837"),
)


def bare(axes: Any) -> None:
    """Remove the ticks of a picture."""
    axes.set_xticks([])
    axes.set_yticks([])


def draw_picks(folder: Path, out: Path, name: str = "TS_01") -> None:
    """Draw the picks of one tomogram before and after the selection on an average of slices."""
    volume, apix = read_volume(folder / f"tilts/{name}_rec.mrc")
    assert apix is not None
    middle = len(volume) // 2
    slab = gaussian_filter(volume[middle - SLICES // 2 : middle + SLICES // 2].mean(0), 1.0)
    low, high = np.percentile(slab, (1, 99))
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.6), layout="constrained")
    tables = (("all picks", "subtomos/particles.star", OTHER), ("after the selection", "clean.star", CHOSEN))
    for axes, (title, table, color) in zip(panels, tables, strict=True):
        star = read_particles(folder / table)
        here = np.array([Path(text).stem == name for text in star.strings("rlnMicrographName")])
        x, y, z = (star.numbers(f"rlnCoordinate{axis}")[here] for axis in "XYZ")
        shown = np.abs(z - middle) <= SLICES / 2
        axes.imshow(slab, cmap="gray", vmin=low, vmax=high)
        axes.scatter(x[shown], y[shown], s=240, facecolors="none", edgecolors=color, linewidths=1.3)
        axes.set_title(f"{title}: {shown.sum()} in {SLICES * apix / 10:.0f} nm, {here.sum()} in {name}", fontsize=10)
        bare(axes)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def draw_latents(folder: Path, clusters: Path, results: dict[str, Any], out: Path) -> None:
    """Draw the UMAP with clusters, as the program shows it, and with the true classes."""
    from cell_scores import true_classes

    places = np.asarray(load_pickle(clusters.parent / "umap.pkl"))
    labels = np.asarray(load_pickle(clusters / "labels.pkl"))
    star = read_particles(folder / "subtomos/particles.star")
    classes = true_classes(star, folder / "simulated", results["size"]["apix"]).classes
    figure, panels = plt.subplots(1, 2, figsize=(9, 4), layout="constrained")
    for number in np.unique(labels):
        at = places[labels == number]
        panels[0].scatter(at[:, 0], at[:, 1], s=6, color=plt.get_cmap("tab10")(number % 10))
        middle = at[np.linalg.norm(at - np.median(at, axis=0), axis=1).argmin()]
        panels[0].annotate(str(number), middle, fontsize=12, weight="bold")
    panels[0].set_title("clusters of k-means", fontsize=10)
    names = [name for name in results["classes"] if name != "no molecule"]
    for number, name in [(-1, "no molecule"), *enumerate(names)]:
        at = places[classes == number]
        if len(at):
            color = "0.75" if number < 0 else plt.get_cmap("tab10")(number)
            panels[1].scatter(at[:, 0], at[:, 1], s=6, color=color, label=f"{name} ({len(at)})")
    panels[1].set_title("what they are", fontsize=10)
    panels[1].legend(fontsize=7, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=2)
    for axes in panels:
        bare(axes)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def draw_volumes(folder: Path, clusters: Path, results: dict[str, Any], out: Path) -> None:
    """Draw central slices of the search template and of the back-projection of each cluster, the chosen ones framed."""
    rows = results["clusters"]
    figure, panels = plt.subplots(1, len(rows) + 1, figsize=(1.45 * (len(rows) + 1), 2.1), layout="constrained")
    paths = [folder / "template.mrc", *(clusters / f"backprojection{row['cluster']}.mrc" for row in rows)]
    titles = ["template", *(f"{row['cluster']}: {row['particles']}\n{row['resemblance']:.3f}" for row in rows)]
    chosen = [False, *(row["chosen"] for row in rows)]
    for axes, path, title, mark in zip(panels, paths, titles, chosen, strict=True):
        volume, _ = read_volume(path)
        axes.imshow(volume[len(volume) // 2], cmap="gray")
        axes.set_title(title, fontsize=9, color=CHOSEN if mark else "black")
        for side in axes.spines.values():
            side.set_color(CHOSEN if mark else "0.7")
            side.set_linewidth(3 if mark else 1)
        bare(axes)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def draw_curves(results: dict[str, Any], out: Path) -> None:
    """Draw the FSC of the half maps and with the true density."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for axes, key, title in zip(panels, ("half_maps", "truth"), ("half maps", "with the true density"), strict=True):
        for name, label, color in SHOWN:
            curve = results["maps"][name][key]
            frequency = np.arange(len(curve)) / (2 * (len(curve) - 1) * results["size"]["apix"])
            axes.plot(frequency, curve, color=color, label=label)
        axes.axhline(0.143 if key == "half_maps" else 0.5, color="0.8", linewidth=0.8)
        axes.set(title=title, xlabel="spatial frequency (1/Å)", ylim=(-0.05, 1.02))
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("FSC")
    panels[1].legend(fontsize=8, frameon=False)
    figure.savefig(out, dpi=80)
    plt.close(figure)


def main() -> None:
    """Draw all figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("-o", "--output", type=Path, default=Path())
    args = parser.parse_args()
    results = json.loads((args.folder / "results.json").read_text())
    clusters = next(args.folder.glob(f"run/analyze.[0-9]*/kmeans{results['size']['clusters']}"))
    draw_picks(args.folder, args.output / "cell-picks.png")
    draw_latents(args.folder, clusters, results, args.output / "cell-latents.png")
    draw_volumes(args.folder, clusters, results, args.output / "cell-volumes.png")
    draw_curves(results, args.output / "cell-curves.png")


if __name__ == "__main__":
    main()
