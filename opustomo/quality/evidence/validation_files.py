"""Output files of the cluster validation: tables, verdicts, ``validation.png`` and back-projections."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opustomo.analysis.figures.figure_style import INK, PALE, cluster_colors, style_axes
from opustomo.analysis.figures.volume_display import contour_level, write_difference_script
from opustomo.io.atomic import atomic_path, write_csv, write_figure
from opustomo.io.mrc import read_volume, write_volume
from opustomo.physics.fsc import FSC_THRESHOLD, ShellCorrelation
from opustomo.quality.evidence.cluster_evidence import ClusterEvidence, Validation
from opustomo.quality.evidence.difference_maps import DifferenceMap
from opustomo.quality.evidence.half_maps import THRESHOLDS, resolution_text
from opustomo.quality.evidence.motion_verdict import MotionVerdict
from opustomo.quality.evidence.verdicts import RunVerdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

CLASS_TABLE = "validation.csv"
FSC_TABLE = "validation_fsc.csv"
PAIR_TABLE = "validation_pairs.csv"
DIFFERENCE_TABLE = "validation_differences.csv"
VERDICT_FILE = "validation_verdict.json"
MOST_TOMOGRAMS = 40
"""Maximum number of tomograms in the figure; the table contains all."""


def write_validation(folder: Path, validation: Validation, apix: float) -> list[Path]:
    """Write the tables, the figure and ``backprojection{i}.mrc``, and return their paths."""
    written = [folder / CLASS_TABLE]
    write_csv(written[0], _summary(validation))
    if validation.tomograms is not None:
        written.append(folder / "validation_tomograms.csv")
        write_csv(written[-1], _tomogram_rows(validation))
    if any(evidence.curve is not None for evidence in validation.clusters):
        written.append(folder / FSC_TABLE)
        write_csv(written[-1], _curve_rows(validation))
    for number, evidence in enumerate(validation.clusters):
        if evidence.volume is not None:
            written.append(folder / f"backprojection{number}.mrc")
            write_volume(written[-1], evidence.volume.numpy(), apix)
    written.append(folder / "validation.png")
    draw_validation(written[-1], validation)
    return written


def number_text(value: float) -> str:
    """Return a number with six digits, or nothing if it is not finite."""
    return f"{value:.6g}" if math.isfinite(value) else ""


def _resolution(curve: ShellCorrelation | None, threshold: float) -> str:
    return "" if curve is None else number_text(curve.resolution_A(threshold))


def _summary(validation: Validation) -> Iterable[Sequence[object]]:
    yield (
        *("cluster", "particles", "share", "half1", "half2", "resolution_0.143_A", "resolution_0.5_A"),
        *("control_0.143_A", "control_0.5_A", "held_out", "held_out_loss", "held_out_loss_error"),
        *("tomograms", "largest_tomogram", "largest_tomogram_share"),
    )
    total = max(1, sum(evidence.particles for evidence in validation.clusters))
    for number, evidence in enumerate(validation.clusters):
        curves = (evidence.curve, evidence.control)
        resolutions = [_resolution(curve, threshold) for curve in curves for threshold in THRESHOLDS]
        shares = evidence.per_tomogram / max(1, evidence.particles)
        tomograms: tuple[object, ...] = ("", "", "")
        if validation.tomograms is not None and evidence.particles:
            largest = int(shares.argmax())
            name = validation.tomograms.names[largest]
            tomograms = (int((shares > 0).sum()), name, number_text(float(shares[largest])))
        loss = (evidence.held_out, number_text(evidence.loss), number_text(evidence.loss_error))
        yield (number, evidence.particles, number_text(evidence.particles / total), *evidence.halves, *resolutions) + (
            *loss,
            *tomograms,
        )


def _tomogram_rows(validation: Validation) -> Iterable[Sequence[object]]:
    assert validation.tomograms is not None
    yield ("tomogram", "particles", *(f"cluster{i}" for i in range(len(validation.clusters))))
    table = np.stack([evidence.per_tomogram for evidence in validation.clusters], 1)
    for name, row in zip(validation.tomograms.names, table, strict=True):
        yield (name, int(row.sum()), *map(int, row))


def _curve_rows(validation: Validation) -> Iterable[Sequence[object]]:
    first_curve = next(e.curve for e in validation.clusters if e.curve is not None)
    columns = {}
    for number, evidence in enumerate(validation.clusters):
        for name, curve in ((f"cluster{number}", evidence.curve), (f"control{number}", evidence.control)):
            if curve is not None:
                columns[name] = curve.corrected.numpy()
    yield ("shell", "frequency_per_A", "resolution_A", *columns)
    for shell, frequency in enumerate(first_curve.frequencies.tolist()):
        length = f"{1 / frequency:.4f}" if frequency > 0 else "inf"
        yield (shell, f"{frequency:.8f}", length, *(f"{values[shell]:.6f}" for values in columns.values()))


def draw_validation(path: Path, validation: Validation) -> None:
    """Draw the half-map FSC of each cluster with its control, the held-out loss and the tomogram fractions."""
    from matplotlib.figure import Figure

    clusters = validation.clusters
    colors = cluster_colors(len(clusters))
    columns = min(5, len(clusters))
    rows = -(-len(clusters) // columns)
    figure = Figure(figsize=(12.5, 2.3 * rows + 3.6), facecolor="white", layout="constrained")
    parts = figure.subfigures(2, 1, squeeze=False, height_ratios=[2.3 * rows, 3.4], hspace=0.04)
    upper, lower = parts[0, 0], parts[1, 0]
    upper.suptitle(
        "FSC between half maps of each cluster (solid) and of equally many particles from all clusters (dashed)",
        fontsize=11,
        color=INK,
        ha="left",
        x=0.02,
    )
    panels = np.atleast_1d(upper.subplots(rows, columns, sharex=True, sharey=True)).ravel()
    for number, axes in enumerate(panels):
        if number < len(clusters):
            _draw_fsc(axes, clusters[number], number, colors[number])
        else:
            axes.set_visible(False)
    _draw_losses_and_tomograms(lower, validation, colors)
    write_figure(path, figure, 130)


def _draw_fsc(axes: Axes, evidence: ClusterEvidence, number: int, color: np.ndarray) -> None:
    if evidence.control is not None:
        axes.plot(evidence.control.frequencies[1:], evidence.control.corrected[1:], color="0.55", ls="--", lw=1.2)
    if evidence.curve is not None:
        axes.plot(evidence.curve.frequencies[1:], evidence.curve.corrected[1:], color=color, lw=2.0)
    axes.axhline(FSC_THRESHOLD, color="0.6", lw=0.8, ls=":")
    axes.set_title(f"{number}", fontsize=12, fontweight="bold", color=color, loc="left", pad=3)
    axes.set_title(f"{evidence.particles:,} particles", fontsize=9, color=PALE, loc="right", pad=3)
    if evidence.curve is None:
        text = "too few particles"
    else:
        text = f"{resolution_text(evidence.curve.resolution_A())} (control {_control_text(evidence)})"
        last = float(evidence.curve.frequencies[-1])
        axes.set_xticks([last / 3, 2 * last / 3, last], [f"{3 / last:.3g}", f"{1.5 / last:.3g}", f"{1 / last:.3g} Å"])
        axes.set_xlim(0, last)
    axes.text(0.03, 0.17, text, transform=axes.transAxes, fontsize=8.5, color=INK)
    axes.set_ylim(-0.12, 1.05)
    style_axes(axes)


def _control_text(evidence: ClusterEvidence) -> str:
    return "—" if evidence.control is None else resolution_text(evidence.control.resolution_A())


def _draw_losses_and_tomograms(figure: Figure | SubFigure, validation: Validation, colors: np.ndarray) -> None:
    clusters = validation.clusters
    left, right = figure.subplots(1, 2, width_ratios=[1.0, 1.5])
    numbers = np.arange(len(clusters))
    left.bar(
        numbers,
        [evidence.loss for evidence in clusters],
        yerr=[evidence.loss_error for evidence in clusters],
        color=colors,
        ecolor="0.3",
        capsize=2,
    )
    left.set_title("held-out generative loss (lower is better)", fontsize=11, color=INK, loc="left")
    left.set_xticks(numbers, [str(i) for i in numbers], fontsize=8 if len(numbers) <= 25 else 5)
    if not any(math.isfinite(evidence.loss) for evidence in clusters):
        left.text(0.5, 0.5, "no held-out particles", transform=left.transAxes, ha="center", color=PALE)
    # a bar of few particles, or a bar that is absent, must not be read as a result
    for number, evidence in enumerate(clusters):
        spread = evidence.loss_error if math.isfinite(evidence.loss_error) else 0.0
        low = evidence.loss + (spread if evidence.loss > 0 else -spread) if math.isfinite(evidence.loss) else 0.0
        left.annotate(
            f"n = {evidence.held_out}",
            (number, low),
            xytext=(0, -3 if low <= 0 else 3),
            textcoords="offset points",
            ha="center",
            va="top" if low <= 0 else "bottom",
            fontsize=7.5 if len(numbers) <= 12 else 4.5,
            color=PALE,
        )
    left.margins(y=0.1)
    style_axes(left)
    right.set_title("fraction of each cluster per tomogram", fontsize=11, color=INK, loc="left")
    if validation.tomograms is None:
        right.text(0.5, 0.5, "no tomogram names in the table", transform=right.transAxes, ha="center", color=PALE)
        right.set_axis_off()
        return
    table = np.stack([evidence.per_tomogram for evidence in clusters]).astype(np.float64)
    counts = table.sum(0)
    shown = np.sort(np.argsort(-counts, kind="stable")[:MOST_TOMOGRAMS])
    fractions = table[:, shown] / np.maximum(counts[shown], 1)
    positions, base = np.arange(len(shown)), np.zeros(len(shown))
    for number, fraction in enumerate(fractions):
        right.bar(positions, fraction, bottom=base, color=colors[number], width=0.85)
        base += fraction
    names = [Path(validation.tomograms.names[i]).name for i in shown]
    right.set_xticks(positions, names, rotation=60, ha="right", fontsize=8 if len(names) <= 15 else 6)
    right.set_ylim(0, 1)
    style_axes(right)


def write_verdict(folder: Path, verdict: RunVerdict, motion: MotionVerdict | None, collapsed: bool) -> list[Path]:
    """Write the verdicts, whether latents have collapsed, and the tables with the evidence; return their paths."""
    written = [folder / VERDICT_FILE, folder / PAIR_TABLE, folder / "validation_imaging.csv"]
    content: dict[str, Any] = {
        "verdict": verdict.verdict,
        "summary": verdict.summary,
        "collapsed": collapsed,
        "reasons": list(verdict.reasons),
        "classes": [
            {
                "class": one.number,
                "particles": one.particles,
                "verdict": one.verdict,
                "reasons": list(one.reasons),
                "fsc": None if one.fsc is None else asdict(one.fsc),
            }
            for one in verdict.classes
        ],
        "groups": verdict.groups,
        "groups_differ": verdict.groups_differ,
        "stability": None
        if verdict.stability is None
        else {
            "ari": {str(number): round(value, 4) for number, value in verdict.stability.ari.items()},
            "most_stable": verdict.stability.most_stable,
            "agreement": [round(float(value), 4) for value in verdict.stability.agreement],
            "comes_back": [verdict.stability.comes_back(number) for number in range(verdict.stability.num_clusters)],
        },
        "motion": None
        if motion is None
        else {"coordinate": motion.name, "verdict": motion.verdict, "reason": motion.sentence},
    }
    with atomic_path(written[0]) as partial:
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_csv(written[1], _pair_rows(verdict))
    write_csv(written[2], _imaging_rows(verdict))
    return written


def write_differences(folder: Path, differences: Sequence[DifferenceMap], num_clusters: int) -> list[Path]:
    """Write ``difference{i}.mrc``, scripts that show them in ChimeraX, and their table; return their paths.

    Files of an earlier validation are removed where a class has no difference map any more.
    """
    table = folder / DIFFERENCE_TABLE
    for number in range(num_clusters):
        for ending in ("mrc", "cxc"):
            (folder / f"difference{number}.{ending}").unlink(missing_ok=True)
    written = [table]
    write_csv(table, _difference_rows(differences))
    for one in differences:
        path = folder / f"difference{one.number}.mrc"
        write_volume(path, one.deviations, one.apix)
        written.append(path)
        names = (f"reference{one.number}.mrc", f"backprojection{one.number}.mrc")
        shown = next((folder / name for name in names if (folder / name).is_file()), None)
        if shown is not None:
            level = contour_level(read_volume(shown)[0])
            write_difference_script(path.with_suffix(".cxc"), (shown, level), (path, one.threshold))
            written.append(path.with_suffix(".cxc"))
    return written


def _difference_rows(differences: Sequence[DifferenceMap]) -> Iterable[Sequence[object]]:
    yield ("class", "threshold", "fraction_beyond", "lowest", "highest", "half_set_correlation")
    for one in differences:
        values = (one.threshold, one.fraction, one.deviations.min(), one.deviations.max(), one.half_correlation)
        yield (one.number, *(number_text(float(value)) for value in values))


def _pair_rows(verdict: RunVerdict) -> Iterable[Sequence[object]]:
    yield (
        *("class1", "class2", "outcome", "difference", "difference_error", "p_value"),
        *("gain_nats", "gain_error", "confirmed", "confirmed_low", "confirmed_high", "contrast_ratio", "p_contrast"),
        "matched",
    )
    for pair in verdict.pairs:
        split = pair.split
        numbers = (
            *(split.change, split.change_error, split.p_value, pair.gain.mean, pair.gain.error),
            *(split.confirmed, split.confirmed_low, split.confirmed_high, pair.contrast_ratio, pair.p_contrast),
            split.movable,
        )
        yield (pair.first, pair.second, pair.outcome, *map(number_text, numbers))


def _imaging_rows(verdict: RunVerdict) -> Iterable[Sequence[object]]:
    yield ("covariate", "effect_size", "p_value_corrected")
    for effect in verdict.effects:
        yield (effect.name, number_text(effect.size), number_text(effect.p_value))
