"""Where things lie in a result directory, and errors that say what is there when something is not."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.latents import read_latents
from opustomo.io.pickles import load_torch
from opustomo.io.poses import Poses, read_poses

if TYPE_CHECKING:
    from opustomo.io.star import ParticleStar

_ROUND = re.compile(r"((?:filter\.)*)(\d+)")
_STEP = "filter."
SELECTED_STAR = "particles.selected.star"
"""Particle table of a run with ``--ind``, as the trainer writes it."""


@dataclass(frozen=True)
class Round:
    """A round of analysis of an epoch.

    ``16`` is the first round, on all particles; ``filter.16`` the second, on chosen clusters of the first;
    ``filter.filter.16`` the third, on chosen clusters of the second; and so on.

    Attributes
    ----------
    epoch
        The epoch.
    filtered
        How many times clusters were chosen, 0 for the first round.
    """

    epoch: int
    filtered: int = 0

    @property
    def label(self) -> str:
        """The round as users type it and as folders are named."""
        return _STEP * self.filtered + str(self.epoch)

    @property
    def next(self) -> Round:
        """The round on chosen clusters of this one."""
        return Round(self.epoch, self.filtered + 1)


def parse_round(text: str | int) -> Round:
    """Read ``16``, ``filter.16``, ``filter.filter.16`` …

    Raises
    ------
    UserError
        Anything else.
    """
    match = _ROUND.fullmatch(str(text).strip())
    if match is None:
        raise UserError(f"{text!r} is not an epoch; give a number such as 16, or filter.16 for a second round.")
    return Round(int(match[2]), len(match[1]) // len(_STEP))


def parse_first_round(text: str | int) -> int:
    """Read an epoch where ``filter.16`` has no place (``UserError``)."""
    which = parse_round(text)
    if which.filtered:
        raise UserError(f"{text} names chosen clusters of an epoch; give the epoch {which.epoch} alone.")
    return which.epoch


@dataclass(frozen=True)
class ResultDir:
    """The output folder of ``dsd train_tomo``."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> ResultDir:
        """Check that ``path`` is a folder with at least one epoch in it (``UserError`` otherwise)."""
        results = cls(Path(path))
        if not results.root.is_dir():
            raise UserError(f"The result directory {path} does not exist.")
        if not results.epochs():
            raise UserError(f"{path} holds no z.N.pkl; give the output folder (-o) of dsd train_tomo.")
        return results

    def epochs(self) -> list[int]:
        """Epochs whose latents are present, ascending."""
        names = (re.fullmatch(r"z\.(\d+)\.pkl", path.name) for path in self.root.glob("z.*.pkl"))
        return sorted(int(name[1]) for name in names if name is not None)

    def epoch_file(self, kind: str, epoch: int) -> Path:
        """Path of ``{kind}.{epoch}.pkl`` (kind ``z``, ``pose`` or ``weights``).

        Raises
        ------
        UserError
            It is absent; the message lists the epochs that are present.
        """
        path = self.root / f"{kind}.{epoch}.pkl"
        if path.is_file():
            return path
        pattern = re.compile(rf"{kind}\.(\d+)\.pkl")
        found = sorted(
            int(match[1]) for file in self.root.iterdir() if (match := pattern.fullmatch(file.name)) is not None
        )
        present = f"epochs present: {_ranges(found)}" if found else f"there is no {kind}.N.pkl at all"
        raise UserError(f"{path} does not exist; {present} (epochs count from 0).")

    def config(self) -> Path:
        """Path of ``config.pkl`` (``UserError`` when absent)."""
        path = self.root / "config.pkl"
        if not path.is_file():
            raise UserError(f"{path} does not exist; volumes cannot be decoded without the training configuration.")
        return path

    def load_latents(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Latents of an epoch: mu (N, zdim) float32 and multi_mu (N, zaffinedim) float32 or None.

        Raises
        ------
        UserError
            The epoch is missing, or its latents are not finite.
        """
        return read_latents(self.epoch_file("z", epoch))

    def load_plain_latents(self, epoch: int) -> np.ndarray:
        """Composition (N, zdim) float32 of a ``z.N.pkl`` that may be a bare array, as cryoDRGN writes it."""
        path = self.epoch_file("z", epoch)
        content = load_torch(path)
        if isinstance(content, dict):
            return read_latents(path)[0]
        values = np.asarray(content)
        if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise UserError(f"{path} is not a table of finite latents; expected one row per particle.")
        return values.astype(np.float32)

    def load_poses(self, epoch: int, count: int, path: Path | None = None) -> Poses:
        """Poses of an epoch (or of the file ``path``); ``UserError`` unless there are ``count`` of them."""
        path = self.epoch_file("pose", epoch) if path is None else Path(path)
        if not path.is_file():
            raise UserError(f"The pose file {path} does not exist.")
        poses = read_poses(path)
        if len(poses) != count:
            raise UserError(
                f"{path} holds {len(poses)} poses but z.{epoch}.pkl has {count} particles; both must come from one run."
            )
        return poses

    def box_of_run(self, box: int, apix: float) -> int:
        """Compare a box length in pixels and a pixel size in Å with those of the run, and return the run's box length.

        Scripts for the original may give an odd box length, one more or less than that of the subtomograms.

        Raises
        ------
        UserError
            They differ: refined origins, which are fractions of the box, would be scaled.
        """
        from opustomo.checkpoint.config import read_config

        if not (self.root / "config.pkl").is_file():  # nothing tells the box of the run
            return box + box % 2
        boxes = read_config(self.config(), box)[1]
        if box != boxes.box and not (box % 2 and abs(box - boxes.box) == 1):
            raise UserError(
                f"{self.config()}: the run was trained on subtomograms of {boxes.box} pixels, but the box given is "
                f"{box} pixels, which would scale the refined origins by {box}/{boxes.box}; give {boxes.box}."
            )
        if abs(apix / boxes.apix - 1.0) > 0.01:
            raise UserError(
                f"{self.config()}: the run was trained at {boxes.apix:g} Å per pixel, but the pixel size given is "
                f"{apix:g} Å; give {boxes.apix:g}."
            )
        return boxes.box

    def with_refined_poses(
        self, star: ParticleStar, epoch: int, box: int | None = None, apix: float | None = None
    ) -> ParticleStar:
        """Particle table with the refined poses of an epoch.

        Parameters
        ----------
        star
            All particles of the run.
        epoch
            The epoch.
        box, apix
            Box of the subtomograms in pixels and their pixel size in Å; from ``config.pkl`` when None.

        Raises
        ------
        UserError
            There are no poses of the epoch, or another number of them.
        """
        if box is None or apix is None:
            from opustomo.checkpoint.config import read_config

            boxes = read_config(self.config())[1]
            box, apix = boxes.box, boxes.apix
        poses = self.load_poses(epoch, len(star))
        return star.with_poses(poses.eulers_deg, poses.origins * box, apix)

    def require_same_particles(self, star: ParticleStar, count: int, source: Path) -> None:
        """Check that a particle table has the ``count`` rows of a result file (``UserError`` otherwise)."""
        if len(star) == count:
            return
        selected = self.root / SELECTED_STAR
        # of a run with --ind the results count the particles that were taken
        right = f"{selected}, the particles that were taken" if selected.is_file() else "the STAR file of the training"
        raise UserError(f"{star.path} has {len(star)} particles but {source} has {count}; give {right}.")

    def analysis(self, which: Round, dynamics: bool = False) -> Path:
        """Folder of an analysis: ``analyze.N``, or ``defanalyze.N`` of the conformation latents."""
        return self.root / f"{'def' if dynamics else ''}analyze.{which.label}"

    def analysed_file(self, which: Round, *parts: str, dynamics: bool = False) -> Path:
        """Path of a file inside an analysis folder (``UserError`` naming the command to run when absent)."""
        folder = self.analysis(which, dynamics)
        path = folder.joinpath(*parts)
        if path.is_file():
            return path
        stem = re.sub(r"\d+$", "", parts[0])
        if len(parts) > 1 and stem in ("kmeans", "gmm", "pc"):
            others = sorted(
                (sub.name for sub in folder.glob(f"{stem}*") if (sub / parts[-1]).is_file()),
                key=lambda name: (len(name), name),
            )
            if others:
                raise UserError(f"{path} does not exist; {folder.name} has {', '.join(others)}.")
        if which.filtered and not folder.is_dir():
            before = Round(which.epoch, which.filtered - 1).label
            raise UserError(f"{path} does not exist; run dsdsh analyze {self.root} {before} with --kpc first.")
        raise UserError(f"{path} does not exist; run dsdsh analyze {self.root} {which.label} first.")


def _ranges(numbers: list[int]) -> str:
    """``0-3, 7``: short even for hundreds of epochs."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
