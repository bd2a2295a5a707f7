"""Sets of volumes of an analysis: the latents to decode and the output folder."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.results import ResultDir, Round
from opustomo.errors import UserError
from opustomo.io.latents import read_latent_rows

JOINT_TABLE = "centers_joint.txt"
JOINT_MARK = "with its conformation"
"""Text in the ChimeraX model names that identifies volumes of mode ``joint``."""


@dataclass(frozen=True)
class VolumeSet:
    """Latents and file names of a set of volumes.

    Attributes
    ----------
    latents
        Compositions, shape (K, zdim), or concatenated compositions and conformations, shape (K, zdim + zaffinedim),
        for ``dpc`` and ``joint``.
    outdir
        Output folder of the volumes, which is the folder of the latents.
    deform
        Require a decoder with bodies.
    prefix
        Prefix of the file names.
    names
        Model names of cluster volumes; None for the steps of a traversal.
    """

    latents: np.ndarray
    outdir: Path
    deform: bool
    prefix: str = "reference"
    names: tuple[str, ...] | None = None


@dataclass(frozen=True)
class VolumeOutput:
    """How volumes are written.

    Attributes
    ----------
    apix
        Pixel size of the volumes in Å; None for that of the template.
    flip
        Reverse the z axis.
    full_box
        Write volumes in the box of the subtomograms instead of the crop around the mask.
    masked
        Multiply the volumes by the solvent mask stored with the weights.
    """

    apix: float | None = None
    flip: bool = False
    full_box: bool = False
    masked: bool = True


def volume_set(
    results: ResultDir, which: Round, mode: str, number: int, kmeans: int | None = None, center: int = 0
) -> VolumeSet:
    """Read the latents of one set of volumes from an analysis.

    Parameters
    ----------
    results, which
        Result directory of the run and the round of analysis.
    mode
        ``kmeans``, ``gmm`` and ``hdbscan`` select the cluster centers of that method with `number` clusters.
        ``pc`` selects the traversal along component `number` of the composition. ``dpc`` selects the traversal along
        component `number` of the conformation with the composition of one k-means center. ``joint`` selects the
        centers of k-means `number` with the conformations of the same particles.
    number
        Number of clusters, K, or number of the component, counted from 1.
    kmeans, center
        For ``dpc``: K and the number of the center. Without K, the analysis must contain exactly one k-means.

    Raises
    ------
    UserError
        If the analysis or the center does not exist.
    """
    if mode in ("kmeans", "gmm", "hdbscan", "joint"):
        name = JOINT_TABLE if mode == "joint" else "centers.txt"
        stem = f"kmeans{number}" if mode == "joint" else f"{mode}{number}"
        folder = results.analysis(which) / stem
        if mode == "joint" and (folder / "centers.txt").is_file() and not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist. Run the analysis with --joint.")
        path = results.analyzed_file(which, stem, name)
        return cluster_volume_set(path)
    if mode == "pc":
        path = results.analyzed_file(which, f"pc{number}", "z_pc.txt")
        return VolumeSet(read_latent_rows(path), path.parent, deform=False)
    if mode == "dpc":
        path = results.analyzed_file(which, f"pc{number}", "z_pc.txt", dynamics=True)
        dynamics = read_latent_rows(path)
        centers_path = _dpc_centers(results, which, kmeans)
        centers = read_latent_rows(centers_path)
        if not 0 <= center < len(centers):
            raise UserError(
                f"--dfk is {center}, but the centers of {centers_path.parent} are numbered 0 to {len(centers) - 1}."
            )
        latents = np.concatenate([np.tile(centers[center], (len(dynamics), 1)), dynamics], axis=1)
        return VolumeSet(latents, path.parent, deform=True)
    raise ValueError(f"unknown mode {mode!r}")


def cluster_volume_set(table: Path) -> VolumeSet:
    """Return the centers of a clustering, read from ``centers.txt`` or ``centers_joint.txt``."""
    joint = table.name == JOINT_TABLE
    latents = read_latent_rows(table)
    names = tuple(f"cluster {i}" for i in range(len(latents)))
    labels = table.with_name("labels.pkl")
    if labels.is_file():
        sizes = np.bincount(load_labels(labels), minlength=len(latents))
        names = tuple(f"{name} ({size} particles)" for name, size in zip(names, sizes, strict=False))
    if joint:
        names = tuple(f"{name} {JOINT_MARK}" for name in names)
    # Without bodies, the conformations have no effect and the volumes of the compositions are decoded.
    return VolumeSet(latents, table.parent, deform=False, names=names)


def holds_joint_volumes(folder: Path) -> bool:
    """Return whether the volumes in a cluster folder were decoded with mode ``joint``, which uses the same names."""
    script = folder / "reference.cxc"
    return script.is_file() and JOINT_MARK in script.read_text(encoding="utf-8")


def decode_volume_set(
    results: ResultDir,
    which: Round,
    chosen: VolumeSet,
    output: VolumeOutput | None = None,
) -> list[Path]:
    """Decode a set of latents to ``{prefix}{i}.mrc`` with the weights of its epoch.

    Parameters
    ----------
    results, which
        Result directory of the run and the round of analysis.
    chosen
        Set of volumes to decode.
    output
        How the volumes are written; None for the defaults.

    Raises
    ------
    UserError
        If the weights or the configuration are missing, the pixel size is not positive, or the set requires bodies
        and the decoder has none.
    """
    output = output or VolumeOutput()
    if output.apix is not None and not (np.isfinite(output.apix) and output.apix > 0):
        raise UserError(f"The pixel size is {output.apix} Å, but it must be positive.")
    weights, config = results.epoch_file("weights", which.epoch), results.config()
    from opustomo.analysis.volumes.decoding import EvalRequest, evaluate_volumes

    request = EvalRequest(
        weights=weights,
        config=config,
        outdir=chosen.outdir,
        latents=chosen.latents,
        apix=output.apix,
        prefix=chosen.prefix,
        flip=output.flip,
        full_box=output.full_box,
        names=chosen.names,
        deform=chosen.deform,
        masked=output.masked,
    )
    return evaluate_volumes(request)


def pixel_size_for_box(config: Path, box: int) -> float:
    """Return the pixel size in Å at which `box` voxels span the decoded crop.

    Raises
    ------
    UserError
        If the configuration cannot be read or `box` is not even.
    """
    if box < 2 or box % 2:
        raise UserError(f"The box size -d is {box} voxels, but it must be even and at least 2.")
    from opustomo.checkpoint.config import read_config

    boxes = read_config(config)[1]
    return boxes.crop * boxes.render_apix / box


def _dpc_centers(results: ResultDir, which: Round, kmeans: int | None) -> Path:
    if kmeans is not None:
        return results.analyzed_file(which, f"kmeans{kmeans}", "centers.txt")
    candidates = [
        path
        for path in sorted(results.analysis(which).glob("kmeans*/centers.txt"))
        if re.fullmatch(r"kmeans\d+", path.parent.name)
    ]
    if len(candidates) != 1:
        names = ", ".join(path.parent.name for path in candidates) or "none"
        raise UserError(
            "dpc requires the composition of a k-means center. "
            f"Select the k-means with --kmeans K (available: {names})."
        )
    return candidates[0]
