"""Figure of ``dsd check``: missing wedge, 3D CTF, average and shape of the signal, each with a caption."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.io.atomic import write_figure
from opustomo.quality.checks.inspection import Verdict, contrast_of
from opustomo.quality.checks.reconstruction_kind import NAMES, ReconstructionKind
from opustomo.quality.checks.wedge_comparison import WedgePlanes, WedgeSummary, full_plane

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DPI = 110
CAPTION_WIDTH = 44
INK, PALE = "0.15", "0.4"
COLORS = {"usable": "#2a7f3f", "usable with reservations": "#b06a00", "not usable": "#b02020"}


def draw_check(
    path: Path, verdict: Verdict, kind: ReconstructionKind, planes: WedgePlanes, summary: WedgeSummary, apix: float
) -> None:
    """Draw the findings.

    Parameters
    ----------
    path
        Output image, written atomically.
    verdict, kind
        Verdict on the set, and how it was reconstructed.
    planes, summary
        Power of the data and 3D CTF in the plane of the missing wedge, and their correlation.
    apix
        Pixel size in Å of the average that `kind` contains.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16.5, 5.2), facecolor="white")
    figure.text(0.03, 0.93, f"Verdict: {verdict.word}", fontsize=16, fontweight="bold", color=COLORS[verdict.word])
    reasons = [*verdict.faults, *verdict.reservations]
    if reasons:
        more = f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""
        text = textwrap.fill(reasons[0] + more, 190, max_lines=2, placeholder=" …")
        figure.text(0.03, 0.91, text, fontsize=9.5, color=PALE, va="top")
    panels = [figure.add_axes((0.045 + 0.248 * column, 0.285, 0.155, 0.49)) for column in range(4)]
    sign = {
        "right": "The dark wedges agree, so the sign of the tilts is right",
        "mirrored": "The dark wedges are mirror images, so the sign of the tilts is wrong",
        "symmetric": "The tilts are symmetric, so their sign cannot be determined",
        "unclear": "The sign of the tilts cannot be determined",
    }[summary.verdict]
    _plane(figure, panels[0], full_plane(planes.data), f"power of {planes.particles} subtomograms", "power / mean")
    _caption(figure, panels[0], "The dark wedge is the part of Fourier space that no tilt image covers.")
    _plane(figure, panels[1], full_plane(planes.model), "3D CTF from the tables", "|CTF| / mean")
    _caption(figure, panels[1], f"{sign} (correlation {summary.correlation:.2f}, mirrored {summary.mirrored:.2f}).")
    _average(figure, panels[2], kind, apix)
    _shape(panels[3], kind)
    _caption(figure, panels[3], f"The subtomograms: {NAMES[kind.weighting]}.")
    write_figure(path, figure, DPI)


def _caption(figure: Figure, axes: Axes, sentence: str) -> None:
    left, bottom = axes.get_position().x0, 0.145
    figure.text(left - 0.01, bottom, textwrap.fill(sentence, CAPTION_WIDTH), fontsize=9.5, color=INK, va="top")


def _plane(figure: Figure, axes: Axes, plane: np.ndarray, title: str, unit: str) -> None:
    half = plane.shape[0] / 2
    image = axes.imshow(
        plane,
        origin="lower",
        extent=(-half - 0.5, half + 0.5, -half - 0.5, half - 0.5),
        cmap="magma",
        vmin=0.0,
        vmax=float(np.quantile(plane, 0.99)),
        interpolation="nearest",
    )
    axes.set_xlabel("kx (Fourier voxels)", fontsize=9, color=PALE)
    axes.set_ylabel("kz (Fourier voxels)", fontsize=9, color=PALE, labelpad=0)
    _finish(figure, axes, image, title, unit)


def _average(figure: Figure, axes: Axes, kind: ReconstructionKind, apix: float) -> None:
    contrast = contrast_of(kind)
    if kind.signal is None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, "no average:\nfew particles or views", ha="center", color=PALE, transform=axes.transAxes)
        return
    average = kind.signal.average
    size = len(average)
    extent = (-size / 2 * apix, size / 2 * apix) * 2
    central = average[size // 2] / max(float(average.std()), 1e-30)
    limit = float(np.abs(central).max())
    image = axes.imshow(central, cmap="gray", vmin=-limit, vmax=limit, origin="lower", extent=extent)
    axes.set_xlabel("x (Å)", fontsize=9, color=PALE)
    axes.set_ylabel("y (Å)", fontsize=9, color=PALE, labelpad=0)
    _finish(figure, axes, image, f"average of {kind.signal.particles} particles", "density / SD")
    said = {
        "bright": "The particle is bright, as training requires.",
        "dark": "The particle is dark; invert the contrast of the subtomograms.",
        "unknown": "The contrast cannot be determined; the particle must be bright.",
    }
    _caption(figure, axes, f"{said[contrast]} A blurred average means wrong poses, pixel size or CTF.")


def _finish(figure: Figure, axes: Axes, image: object, title: str, unit: str) -> None:
    place = axes.get_position()
    bar = figure.colorbar(image, cax=figure.add_axes((place.x1 + 0.006, place.y0, 0.007, place.height)))  # type: ignore[arg-type]
    bar.set_label(unit, fontsize=8.5, color=PALE, labelpad=1)
    bar.ax.tick_params(labelsize=8, colors=PALE)
    axes.set_title(title, fontsize=11, color=INK, loc="left")
    axes.tick_params(labelsize=8, colors=PALE)


def _shape(axes: Axes, kind: ReconstructionKind) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_title("signal against slices per voxel", fontsize=11, color=INK, loc="left")
    axes.set_xlabel("slices per voxel, w", fontsize=9, color=PALE)
    axes.set_ylabel("signal / CTF of weighted data", fontsize=9, color=PALE)
    axes.tick_params(labelsize=8, colors=PALE)
    axes.spines[["top", "right"]].set_visible(False)
    signal = kind.signal
    if signal is None or not (signal.gain > 0).any():
        axes.text(0.5, 0.5, "not measurable", ha="center", color=PALE, transform=axes.transAxes)
        return
    held = signal.gain > 0
    weights, gain = signal.weights[held], signal.gain[held]
    gain = gain / np.exp(np.log(gain).mean())
    at = np.geomspace(weights.min(), weights.max(), 50)
    middle = np.exp(np.log(weights).mean())
    axes.loglog(at, np.ones_like(at), "-", color="#33548c", lw=1.3, label="weighted: w⁰")
    axes.loglog(at, at / middle, "--", color="#d9822b", lw=1.3, label="plain: w¹")
    label = f"data: w^{signal.exponent + 0.0:.1f} ± {signal.error:.2f}"
    axes.loglog(weights, gain, "o", color=INK, ms=5, label=label)
    axes.legend(frameon=False, fontsize=8.5, loc="upper left")
    low, high = min(gain.min(), (at / middle).min()), max(gain.max(), (at / middle).max())
    axes.set_ylim(0.7 * low, 5.0 * high)
    ticks = [tick for tick in (1, 2, 5, 10, 20, 50) if weights.min() * 0.8 < tick < weights.max() * 1.25]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.xaxis.set_minor_locator(NullLocator())
