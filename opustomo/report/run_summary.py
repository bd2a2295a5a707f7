"""Summary of a run for the HTML report: settings, losses, validation, pose corrections, and FSC of decoded maps."""

from __future__ import annotations

import csv
import json
import math
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import VolumeDecoder, decode_batches
from opustomo.checkpoint.config import read_config
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_poses
from opustomo.errors import UserError
from opustomo.io.indices import read_indices
from opustomo.io.latents import read_latent_rows
from opustomo.io.log_files import read_training_log
from opustomo.io.masks import load_mask
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import load_pickles
from opustomo.io.poses import Poses
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.physics.fsc import half_map_correlation
from opustomo.quality.evidence.validation_files import (
    CLASS_TABLE,
    DIFFERENCE_TABLE,
    FSC_TABLE,
    PAIR_TABLE,
    VERDICT_FILE,
)

Rows = list[tuple[str, str]]


def describe_losses(results: ResultDir) -> dict[str, Any]:
    """Read the loss curves of training and validation from ``run.log``."""
    log = results.root / "run.log"
    curves = read_training_log(log) if log.is_file() else {}
    return {
        part: {
            "epochs": curve.epochs.tolist(),
            "gen_loss": curve.gen_loss.tolist(),
            "total_loss": curve.total_loss.tolist(),
            "snr": curve.snr.tolist(),
        }
        for part, curve in curves.items()
    }


def describe_settings(results: ResultDir) -> tuple[list[tuple[str, Rows]], str | None]:
    """Read the settings, grouped by heading, and the command line from ``config.pkl``; empty if it is absent."""
    path = results.root / "config.pkl"
    if not path.is_file():
        return [], None
    sizes, boxes, settings = read_config(path)
    parts = load_pickles(path)
    opustomo_settings = settings.get("opustomo") or {}
    groups = [
        (
            "boxes",
            [
                ("subtomograms", f"{boxes.box}³ voxels of {boxes.apix:g} Å"),
                ("render box", f"{boxes.render}³ voxels of {boxes.render_apix:g} Å"),
                ("crop", f"{boxes.crop}³ voxels"),
            ],
        ),
        ("model", _rows(opustomo_settings.get("model", {"zdim": sizes.zdim, "templateres": sizes.templateres}))),
        ("physics", _rows(opustomo_settings.get("physics", {}))),
        ("data", _rows(settings.get("dataset_args", {}))),
    ]
    command = None
    if len(parts) > 1 and isinstance(parts[1], dict):
        words = [str(word) for word in parts[1].get("cmd", [])]
        command = shlex.join(words) if words else None
        about = {"started": str(parts[1].get("time", ""))[:19], "version": parts[1].get("version")}
        groups.append(("run", _rows(about | {"seed": settings.get("seed")})))
    return [(title, rows) for title, rows in groups if rows], command


def _rows(values: Mapping[str, Any]) -> Rows:
    return [(str(name), _text(value)) for name, value in values.items() if value not in (None, "")]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value)
    try:
        return f"{float(value):g}" if not isinstance(value, (str, int)) else str(value)
    except (TypeError, ValueError):
        return str(value)


Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Read the rows of a CSV file; return an empty list if it is absent."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parse_number(text: str | None) -> float:
    """Parse a number of a table; return NaN if it is empty or invalid."""
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan


def describe_clusters(folder: Path, counts: list[int], colors: list[str]) -> list[dict[str, Any]]:
    """Return the number, color, fraction of particles and evidence of each cluster in a clustering folder."""
    validated = {row["cluster"]: row for row in read_rows(folder / CLASS_TABLE) if "cluster" in row}
    stale = any(
        int(parse_number(row.get("particles")) or 0) != counts[int(name)] for name, row in _known(validated, counts)
    )
    curves = [] if stale else read_rows(folder / FSC_TABLE)
    differences = {row.get("class"): row for row in read_rows(folder / DIFFERENCE_TABLE)}
    total = max(1, sum(counts))
    clusters = []
    for i, (count, color) in enumerate(zip(counts, colors, strict=True)):
        row = None if stale else validated.get(str(i))
        clusters.append(
            {
                "number": i,
                "count": count,
                "share": count / total,
                "color": color,
                "evidence": [] if row is None else [*_evidence(row), *_difference(i, differences.get(str(i)))],
                "curve": _curve(curves, i),
            }
        )
    return clusters


def read_verdict(folder: Path, counts: list[int]) -> dict[str, Any] | None:
    """Read the verdicts of ``dsdsh validate``; return None if they are absent or belong to other clusters."""
    path = folder / VERDICT_FILE
    if not path.is_file():
        return None
    try:
        verdict = json.loads(path.read_text(encoding="utf-8"))
        found = [int(one["particles"]) for one in verdict["classes"]]
        texts = [verdict["verdict"], verdict["summary"], *verdict["reasons"]]
        texts += [text for one in verdict["classes"] for text in (one["verdict"], *one["reasons"])]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a verdict of dsdsh validate. Run dsdsh validate again.") from error
    if not all(isinstance(text, str) for text in texts):
        raise UserError(f"{path} is not a verdict of dsdsh validate. Run dsdsh validate again.")
    return verdict if found == counts else None


def _known(validated: dict[str, Row], counts: list[int]) -> list[tuple[str, Row]]:
    return [(name, row) for name, row in validated.items() if name.isdigit() and int(name) < len(counts)]


def _evidence(row: Row) -> list[tuple[str, str]]:
    lines = []
    for threshold in ("0.143", "0.5"):
        resolution, control = (parse_number(row.get(f"{column}_{threshold}_A")) for column in ("resolution", "control"))
        if math.isfinite(resolution):
            comparison = f" (control {control:.1f} Å)" if math.isfinite(control) else ""
            lines.append((f"FSC {threshold}", f"{resolution:.1f} Å{comparison}"))
    loss, error = parse_number(row.get("held_out_loss")), parse_number(row.get("held_out_loss_error"))
    if math.isfinite(loss):
        spread = f" ± {error:.2g}" if math.isfinite(error) else ""
        lines.append((f"loss ({row.get('held_out')} held out)", f"{loss:.4g}{spread}".replace("-", "−")))
    else:
        lines.append(("loss", "no held-out particles" if row.get("held_out") == "0" else "not computed"))
    fraction = parse_number(row.get("largest_tomogram_share"))
    if math.isfinite(fraction):
        largest = f", at most {100 * fraction:.0f} % in one" if row.get("tomograms") != "1" else ""
        lines.append(("tomograms", f"{row.get('tomograms')}{largest}"))
    return lines


def _difference(cluster: int, row: Row | None) -> list[tuple[str, str]]:
    """Return the line on the difference map of a cluster from the others."""
    fraction = math.nan if row is None else parse_number(row.get("fraction_beyond"))
    if row is None or not math.isfinite(fraction):
        return []
    threshold = parse_number(row.get("threshold"))
    return [(f"difference{cluster}.mrc", f"{100 * fraction:.1f} % of the mask beyond ±{threshold:.1f} σ")]


def _curve(rows: list[Row], cluster: int) -> dict[str, Any] | None:
    if not rows or f"cluster{cluster}" not in rows[0]:
        return None
    control = f"control{cluster}"
    return {
        "frequency": [parse_number(row["frequency_per_A"]) for row in rows],
        "own": [parse_number(row[f"cluster{cluster}"]) for row in rows],
        "control": [parse_number(row[control]) for row in rows] if control in rows[0] else None,
    }


def read_convergence(path: Path) -> dict[str, list[float]] | None:
    """Read the columns of ``convergence.csv``; return None if it is absent.

    Raises
    ------
    UserError
        If a column is missing.
    """
    rows = read_rows(path)
    columns = ("epoch", "ari_previous", "ari_last", "displacement")
    if not rows:
        return None
    if any(column not in rows[0] for column in columns):
        raise UserError(f"{path} is not a table of dsdsh convergence. Run dsdsh convergence again.")
    return {column: [parse_number(row[column]) for row in rows] for column in columns}


BINS = 40
OUTCOMES = "class1 class2 outcome difference difference_error".split()


def describe_kl(results: ResultDir) -> dict[str, Any]:
    """Read the KL divergence per epoch of training and held-out particles from ``epochs.csv``; empty if absent."""
    rows = [row for row in read_rows(results.root / "epochs.csv") if row.get("epoch", "").isdigit()]
    parts = {}
    for part in ("training", "validation"):
        values = [(int(row["epoch"]), parse_number(row.get(f"{part}_kl"))) for row in rows]
        finite = [(epoch, value) for epoch, value in values if np.isfinite(value)]
        if finite:
            parts[part] = {"epochs": [epoch for epoch, _ in finite], "kl": [value for _, value in finite]}
    return parts


def describe_variance(path: Path) -> list[float]:
    """Read the fraction of variance of each principal component from ``explained_variance_ratio.txt``."""
    return np.loadtxt(path, ndmin=1).tolist() if path.is_file() else []


def describe_pairs(folder: Path, num_clusters: int) -> list[dict[str, Any]]:
    """Read the comparison of each pair of classes from ``validation_pairs.csv``; empty for other clusters."""
    pairs = []
    for row in read_rows(folder / PAIR_TABLE):
        if any(name not in row for name in OUTCOMES):
            raise UserError(f"{folder / PAIR_TABLE} is not a table of dsdsh validate. Run it again.")
        first, second = (int(parse_number(row[name])) for name in ("class1", "class2"))
        if max(first, second) >= num_clusters:
            return []
        difference, error = parse_number(row["difference"]), parse_number(row["difference_error"])
        pairs.append(
            {"first": first, "second": second, "outcome": row["outcome"], "difference": difference, "error": error}
        )
    return pairs


def describe_pose_corrections(
    refined: Poses, star: ParticleStar | None, data: DataConfig | None, config: Path
) -> dict[str, Any] | None:
    """Return histograms of the rotations (degrees) and shifts (Å) from the input poses to the refined ones.

    Parameters
    ----------
    refined
        Poses of an epoch, one per particle of the run.
    star, data
        Particle table of the run and its inputs; None if they are not available.
    config
        ``config.pkl`` of the run.

    Returns
    -------
    dict or None
        Entries ``angle`` and ``shift``, each with ``edges`` (n + 1), ``counts`` (n), ``median`` and ``largest``, and
        ``estimated``, whether any pose differs; None if the input poses are not available.
    """
    if star is None or data is None or not config.is_file():
        return None
    boxes = read_config(config)[1]
    whole, selected = len(star), None
    if data.ind is not None:
        whole = len(read_particles(data.star))
        selected = read_indices(data.ind, whole)
    given = load_poses(data, star, boxes.box, boxes.apix, whole, selected)
    if len(given) != len(refined):
        return None
    traces = np.einsum("nij,nij->n", refined.rotations.astype(np.float64), given.rotations.astype(np.float64))
    angles = np.degrees(np.arccos(np.clip((traces - 1.0) / 2.0, -1.0, 1.0)))
    # the rotations are of single precision, in which smaller angles are not resolved
    angles[angles < 0.05] = 0.0
    shifts = np.linalg.norm(refined.origins - given.origins, axis=1) * boxes.box * boxes.apix
    return {"angle": _histogram(angles), "shift": _histogram(shifts), "estimated": bool(angles.any() or shifts.any())}


def _histogram(values: np.ndarray) -> dict[str, Any]:
    top = float(np.percentile(values, 99.5)) or 1.0
    counts, edges = np.histogram(np.minimum(values, top), BINS, (0.0, top))
    return {
        "edges": edges.tolist(),
        "counts": counts.tolist(),
        "median": float(np.median(values)),
        "largest": float(values.max()),
    }


def map_correlations(results: ResultDir, epoch: int, folder: Path, data: DataConfig | None) -> dict[int, list[float]]:
    """Return the FSC between the decoded map and the back-projection of each cluster, by cluster.

    The back-projections are those of ``dsdsh validate``. They are computed from the subtomograms without the network,
    so the FSC shows to which resolution the data confirm the decoded map. Phases are randomized to correct for the
    mask.

    Raises
    ------
    UserError
        If the weights or an input is missing or damaged.
    """
    centers = read_latent_rows(folder / "centers.txt")
    paths = {i: folder / f"backprojection{i}.mrc" for i in range(len(centers))}
    paths = {i: path for i, path in paths.items() if path.is_file() and path.stat().st_mtime >= _time(folder)}
    if not paths:
        return {}
    decoder = VolumeDecoder(results.epoch_file("weights", epoch), results.config(), "cpu")
    boxes = decoder.boxes
    mask = None if data is None else load_mask(data.mask, boxes.box, boxes.apix, data.force)
    soft = None if mask is None else torch.from_numpy(np.asarray(mask, dtype=np.float32))
    curves = {}
    for cluster, decoded in zip(paths, _decoded(decoder, centers[list(paths)]), strict=True):
        measured = read_volume(paths[cluster])[0]
        if measured.shape == decoded.shape:
            correlation = half_map_correlation(
                torch.from_numpy(np.array(decoded)), torch.from_numpy(np.array(measured)), boxes.apix, soft
            )
            curves[cluster] = correlation.corrected.tolist()
    return curves


def _time(folder: Path) -> float:
    return (folder / "labels.pkl").stat().st_mtime


def _decoded(decoder: VolumeDecoder, latents: np.ndarray) -> Sequence[np.ndarray]:
    return list(decode_batches(decoder, latents.astype(np.float32), decoder.boxes.apix, True, False))
