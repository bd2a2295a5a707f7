"""Which latents an analysis decodes to volumes, and where the volumes go."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import load_labels
from opustomo.errors import UserError
from opustomo.io.tables import read_latent_rows

MODES = ("kmeans", "gmm", "pc", "dpc", "joint")
JOINT_TABLE = "centers_joint.txt"
JOINT_MARK = "with its conformation"
"""Part of the names that ChimeraX shows for the volumes of ``joint``."""


@dataclass(frozen=True)
class VolumeSet:
    """Latents of a set of volumes.

    Attributes
    ----------
    latents
        Compositions, shape (K, zdim), or composition ⊕ conformation (K, zdim + zaffinedim) for ``dpc`` and
        ``joint``.
    outdir
        Folder of the volumes, where the latents were found.
    deform
        Whether a decoder without bodies is to be refused.
    prefix
        Start of the volumes' names.
    names
        What the volumes are called when they are classes; None for the steps of a path.
    """

    latents: np.ndarray
    outdir: Path
    deform: bool
    prefix: str = "reference"
    names: tuple[str, ...] | None = None


def volume_set(
    results: ResultDir, which: Round, mode: str, number: int, kmeans: int | None = None, center: int = 0
) -> VolumeSet:
    """Collect the latents of one set of volumes from an analysis.

    Parameters
    ----------
    results, which
        The run and the round of analysis.
    mode
        ``kmeans``, ``gmm``: centres of k-means or of the Gaussian mixture with ``number`` classes; ``pc``:
        traversal along component ``number`` of the
        composition; ``dpc``: along component ``number`` of the conformation with the composition of one
        k-means centre; ``joint``: the centres of k-means ``number`` with the conformations of the same
        particles.
    number
        K, or the component from 1.
    kmeans, center
        For ``dpc``: K and the number of the centre. Without K the only k-means of the analysis is taken.

    Raises
    ------
    UserError
        The analysis was not made, or has no such centre.
    """
    if mode in ("kmeans", "gmm", "joint"):
        name = JOINT_TABLE if mode == "joint" else "centers.txt"
        stem = f"gmm{number}" if mode == "gmm" else f"kmeans{number}"
        folder = results.analysis(which) / stem
        if mode == "joint" and (folder / "centers.txt").is_file() and not (folder / name).is_file():
            raise UserError(f"{folder / name} does not exist; run the analysis with --joint.")
        path = results.analysed_file(which, stem, name)
        return class_set(path)
    if mode == "pc":
        path = results.analysed_file(which, f"pc{number}", "z_pc.txt")
        return VolumeSet(read_latent_rows(path), path.parent, deform=False)
    if mode == "dpc":
        path = results.analysed_file(which, f"pc{number}", "z_pc.txt", dynamics=True)
        dynamics = read_latent_rows(path)
        centers_path = _dpc_centers(results, which, kmeans)
        centers = read_latent_rows(centers_path)
        if not 0 <= center < len(centers):
            raise UserError(f"--dfk {center}: {centers_path.parent} has centres 0 to {len(centers) - 1}.")
        latents = np.concatenate([np.tile(centers[center], (len(dynamics), 1)), dynamics], axis=1)
        return VolumeSet(latents, path.parent, deform=True)
    raise ValueError(f"mode {mode!r}")


def class_set(table: Path) -> VolumeSet:
    """Return the centres of a clustering, from its ``centers.txt`` or ``centers_joint.txt``."""
    joint = table.name == JOINT_TABLE
    latents = read_latent_rows(table)
    names = tuple(f"cluster {i}" for i in range(len(latents)))
    labels = table.with_name("labels.pkl")
    if labels.is_file():
        sizes = np.bincount(load_labels(labels), minlength=len(latents))
        names = tuple(f"{name} ({size} particles)" for name, size in zip(names, sizes, strict=False))
    if joint:
        names = tuple(f"{name} {JOINT_MARK}" for name in names)
    # without bodies there is nothing to move, and the volumes of the compositions are what is asked for
    return VolumeSet(latents, table.parent, deform=False, names=names)


def holds_joint_volumes(folder: Path) -> bool:
    """Return whether the volumes in a folder of clusters were decoded by ``joint``, which gives them the same names."""
    script = folder / "reference.cxc"
    return script.is_file() and JOINT_MARK in script.read_text(encoding="utf-8")


def decode_volume_set(
    results: ResultDir,
    which: Round,
    chosen: VolumeSet,
    apix: float | None,
    flip: bool = False,
    full_box: bool = False,
    masked: bool = True,
) -> list[Path]:
    """Decode a set with the weights of its epoch to ``{prefix}{i}.mrc`` in the set's folder.

    Parameters
    ----------
    results, which
        The run and the round.
    chosen
        The latents.
    apix
        Wanted pixel size in Å; the network's own when None.
    flip
        Reverse z.
    full_box
        Volumes in the box of the subtomograms instead of the crop around the mask.
    masked
        Multiply by the solvent mask in the weights.

    Raises
    ------
    UserError
        Weights or configuration are missing, the pixel size is not positive, or the set needs bodies and has none.
    """
    if apix is not None and not (np.isfinite(apix) and apix > 0):
        raise UserError(f"The pixel size {apix} is not a positive number of Å.")
    weights, config = results.epoch_file("weights", which.epoch), results.config()
    from opustomo.analysis.decoding import EvalRequest, evaluate_volumes

    request = EvalRequest(
        weights=weights,
        config=config,
        outdir=chosen.outdir,
        latents=chosen.latents,
        apix=apix,
        prefix=chosen.prefix,
        flip=flip,
        full_box=full_box,
        names=chosen.names,
        deform=chosen.deform,
        masked=masked,
    )
    return evaluate_volumes(request)


def pixel_size_for_box(config: Path, box: int) -> float:
    """Pixel size in Å at which ``box`` voxels a side span the crop that is decoded.

    Raises
    ------
    UserError
        The configuration cannot be read, or the number is not even.
    """
    if box < 2 or box % 2:
        raise UserError(f"Volumes of {box} voxels a side cannot be made; give an even number to -d.")
    from opustomo.checkpoint.config import read_config

    boxes = read_config(config)[1]
    return boxes.crop * boxes.render_apix / box


def _dpc_centers(results: ResultDir, which: Round, kmeans: int | None) -> Path:
    if kmeans is not None:
        return results.analysed_file(which, f"kmeans{kmeans}", "centers.txt")
    found = [
        path
        for path in sorted(results.analysis(which).glob("kmeans*/centers.txt"))
        if re.fullmatch(r"kmeans\d+", path.parent.name)
    ]
    if len(found) != 1:
        names = ", ".join(path.parent.name for path in found) or "none"
        raise UserError(f"dpc needs a composition: name its k-means with --kmeans K (present: {names}).")
    return found[0]
