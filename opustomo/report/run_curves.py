"""Curves of a run for the HTML report: KL divergence, variance of components, pose corrections, FSC of decoded maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import VolumeDecoder, decode_batches
from opustomo.checkpoint.config import read_config
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_mask, load_poses
from opustomo.errors import UserError
from opustomo.io.indices import read_indices
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import read_volume
from opustomo.io.poses import Poses
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.physics.fsc import half_map_correlation
from opustomo.report.run_facts import number, read_rows

BINS = 40
OUTCOMES = "class1 class2 outcome difference difference_error".split()


def describe_kl(results: ResultDir) -> dict[str, Any]:
    """Read the KL divergence per epoch of training and held-out particles from ``epochs.csv``; empty if absent."""
    rows = [row for row in read_rows(results.root / "epochs.csv") if row.get("epoch", "").isdigit()]
    parts = {}
    for part in ("training", "validation"):
        values = [(int(row["epoch"]), number(row.get(f"{part}_kl"))) for row in rows]
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
    for row in read_rows(folder / "validation_pairs.csv"):
        if any(name not in row for name in OUTCOMES):
            raise UserError(f"{folder / 'validation_pairs.csv'} is not a table of dsdsh validate. Run it again.")
        first, second = (int(number(row[name])) for name in ("class1", "class2"))
        if max(first, second) >= num_clusters:
            return []
        difference, error = number(row["difference"]), number(row["difference_error"])
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
