"""Output of FSC curves as CSV files and figures."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.io.atomic import atomic_path
from opustomo.physics.fsc import ShellCorrelation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

THRESHOLDS = (0.143, 0.5)
INK, PALE = "0.15", "0.4"
_STYLES = {
    "corrected": ("#0072B2", 2.2, "-"),
    "masked": ("#E69F00", 1.3, "-"),
    "unmasked": ("#009E73", 1.3, "-"),
    "phase-randomized, masked": ("#CC79A7", 1.3, "--"),
}


def resolution_text(value_A: float) -> str:
    """Format a resolution such as ``17.3 Å``; a dash means that the curve never exceeds the threshold."""
    return f"{value_A:.1f} Å" if math.isfinite(value_A) else "—"


def write_curve(path: Path, curve: ShellCorrelation) -> None:
    """Write one row per shell: shell, frequency (1/Å), resolution (Å), and the available FSC curves."""
    columns: dict[str, np.ndarray] = {"fsc_unmasked": curve.unmasked.numpy()}
    if curve.masked is not None and curve.randomized is not None:
        columns["fsc_masked"] = curve.masked.numpy()
        columns["fsc_randomised"] = curve.randomized.numpy()
        columns["fsc_true"] = curve.corrected.numpy()
    frequencies = curve.frequencies.numpy()
    with atomic_path(path) as partial, partial.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["shell", "frequency_per_A", "resolution_A", *columns])
        for shell, frequency in enumerate(frequencies):
            length = f"{1 / frequency:.4f}" if frequency > 0 else "inf"
            writer.writerow(
                [shell, f"{frequency:.8f}", length, *(f"{values[shell]:.6f}" for values in columns.values())]
            )


def draw_curve(path: Path, curve: ShellCorrelation, title: str) -> None:
    """Draw the FSC curves of two half maps with the resolution at both thresholds."""
    from matplotlib.figure import Figure

    curves = {"unmasked": curve.unmasked.numpy()}
    if curve.masked is not None and curve.randomized is not None:
        curves = {
            "corrected": curve.corrected.numpy(),
            "masked": curve.masked.numpy(),
            **curves,
            "phase-randomized, masked": curve.randomized.numpy(),
        }
    figure = Figure(figsize=(6.6, 4.2), facecolor="white", layout="constrained")
    axes = figure.add_subplot()
    resolutions = {threshold: resolution_text(curve.resolution_A(threshold)) for threshold in THRESHOLDS}
    draw_axes(axes, curve.frequencies.numpy(), curves, resolutions)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    with atomic_path(path) as partial:
        figure.savefig(partial, dpi=150)


def draw_axes(
    axes: Axes, frequencies: np.ndarray, curves: Mapping[str, np.ndarray], resolutions: Mapping[float, str]
) -> None:
    """Draw curves (S,) over frequencies (S,) in 1/Å, with ticks in Å and the resolution at each threshold."""
    for name, values in curves.items():
        color, width, dashes = _STYLES.get(name, ("#0072B2", 1.8, "-"))
        axes.plot(frequencies[1:], values[1:], color=color, lw=width, ls=dashes, label=name)
    last = float(frequencies[-1])
    for threshold, text in resolutions.items():
        axes.axhline(threshold, color="0.55", lw=0.8, ls=":")
        axes.text(last, threshold + 0.015, f"{threshold:g}: {text}", ha="right", fontsize=8.5, color=PALE)
    axes.axhline(0.0, color="0.8", lw=0.8)
    ticks = np.linspace(0.0, last, 7)[1:]
    axes.set_xticks(ticks, [f"{1 / tick:.3g}" for tick in ticks])
    axes.set_xlim(0.0, last)
    axes.set_ylim(min(-0.1, *(float(values[1:].min()) - 0.05 for values in curves.values())), 1.03)
    axes.set_xlabel("resolution (Å)", fontsize=9, color=PALE)
    axes.set_ylabel("Fourier shell correlation", fontsize=9, color=PALE)
    axes.tick_params(labelsize=8, colors=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.7")
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8.5, loc="upper right")
