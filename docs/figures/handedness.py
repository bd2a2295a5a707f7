"""Draw docs/figures/handedness.png: ``python docs/figures/handedness.py``."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from opustomo.geometry.tilt_geometry import TiltGeometry, rotation_y
from opustomo.prepare.ctf_preparation import original_depth

TILTS = np.arange(-60.0, 61.0, 2.0)
ALONG_X, ALONG_Z = np.array([[3000.0, 0.0, 0.0]]), np.array([[0.0, 0.0, 1000.0]])
SHOWN_TILT = 35.0


def sketch(axes: plt.Axes) -> None:
    """The specimen at one tilt, seen along the tilt axis."""
    t = np.deg2rad(SHOWN_TILT)
    x_axis, z_axis = np.array([np.cos(t), -np.sin(t)]), np.array([np.sin(t), np.cos(t)])
    corners = np.array([-2.6 * x_axis - 0.4 * z_axis, 2.6 * x_axis - 0.4 * z_axis])
    corners = np.vstack([corners, corners[::-1] + 0.8 * z_axis])
    axes.fill(*corners.T, color="0.88")
    for direction, name, length in ((x_axis, "x", 2.9), (z_axis, "z", 1.3)):
        axes.annotate("", length * direction, (0, 0), arrowprops={"arrowstyle": "-|>", "color": "0.35"})
        axes.text(*((length + 0.2) * direction), name, color="0.35", ha="center", va="center")
    particle = 1.8 * x_axis
    axes.plot(*particle, "o", color="C3", ms=9)
    axes.plot([particle[0], particle[0]], [particle[1], 0], ":", color="C3")
    axes.text(particle[0] + 0.12, particle[1] / 2, "−x sin t", color="C3", va="center")
    axes.axhline(0, color="0.6", lw=0.8)
    axes.text(-2.9, 0.1, "focal plane of the series", color="0.5", fontsize=8)
    axes.annotate("", (0, 1.7), (0, 2.6), arrowprops={"arrowstyle": "-|>", "color": "k"})
    axes.text(0.12, 2.3, "beam", va="center")
    axes.text(0.55, -0.12, "t", va="top", color="0.35")
    axes.set(xlim=(-3.1, 3.1), ylim=(-2.2, 2.8), aspect="equal", title=f"IMOD tilt t = {SHOWN_TILT:g}°")
    axes.axis("off")


def curves(axes: plt.Axes, position_A: np.ndarray, title: str) -> None:
    """What each choice of --hand adds to the defocus over the tilts."""
    for hand, style in ((1, "C0-"), (-1, "C1-")):
        geometry = TiltGeometry(rotation_y(TILTS), np.zeros((len(TILTS), 2)), hand)
        axes.plot(TILTS, geometry.project(position_A)[1][0] / 10, style, label=f"--hand {hand}")
    axes.plot(TILTS, original_depth(position_A, TILTS)[0] / 10, "k:", lw=2, label="--hand original")
    axes.set(title=title, xlabel="angle in .tlt (°)", ylabel="added to the defocus (nm)", xticks=[-60, -30, 0, 30, 60])
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    axes.legend(fontsize=8, frameon=False)


def main() -> None:
    """Draw the figure."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(11, 3.6))
    sketch(left)
    curves(middle, ALONG_X, "particle at x = 300 nm")
    curves(right, ALONG_Z, "particle at z = 100 nm")
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".png"), dpi=75)


if __name__ == "__main__":
    main()
