"""Result directory of a run: paths and contents.

Errors list the available files."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.latents import read_coordinates, read_latents
from opustomo.io.pickles import load_torch
from opustomo.io.poses import Poses, read_poses
from opustomo.io.saved_epochs import saved_epochs

if TYPE_CHECKING:
    from opustomo.io.star_tables import ParticleStar

_ROUND = re.compile(r"(focus\.)?((?:filter\.)*)(\d+|latest)")
_STEP = "filter."
LATEST = "latest"
"""Name of the last saved epoch on the command line, or of the best one if the training overfits."""


@dataclass(frozen=True)
class Round:
    """Round of analysis of an epoch.

    ``16`` denotes the first round, which comprises all particles. ``filter.16`` denotes the second round, on selected
    clusters of the first, ``filter.filter.16`` the third, on selected clusters of the second, and so on. ``focus.16``
    denotes the analysis of decoded volumes inside a mask.

    Attributes
    ----------
    epoch
        Epoch of the latents.
    filtered
        Number of times that clusters were selected; 0 for the first round.
    focused
        Whether decoded volumes inside a mask are analyzed (``--focus``).
    """

    epoch: int
    filtered: int = 0
    focused: bool = False

    @property
    def label(self) -> str:
        """Name of the round on the command line and in folder names."""
        return "focus." * self.focused + _STEP * self.filtered + str(self.epoch)

    @property
    def next(self) -> Round:
        """Round on selected clusters of this one."""
        return Round(self.epoch, self.filtered + 1)

    def first_epoch(self) -> int:
        """Return the epoch; raise ``UserError`` for a later round such as ``filter.16``."""
        if self.filtered:
            raise UserError(
                f"{self.label} denotes a later round of analysis, but an epoch is required. Give {self.epoch}."
            )
        return self.epoch


def parse_round(text: str | int, latest: int | None = None) -> Round:
    """Parse the name of a round such as ``16``, ``latest``, ``filter.16`` or ``filter.filter.16``.

    Parameters
    ----------
    text
        Name of the round.
    latest
        Epoch that ``latest`` denotes; None if it is unknown.

    Raises
    ------
    UserError
        If `text` is not of this form.
    """
    match = _ROUND.fullmatch(str(text).strip())
    if match is None or (match[3] == LATEST and latest is None):
        raise UserError(
            f"{text!r} is not an epoch. Give a number such as 16, latest for the last saved epoch, or filter.16 for a "
            "second round."
        )
    epoch = latest if match[3] == LATEST and latest is not None else int(match[3])
    return Round(epoch, len(match[2]) // len(_STEP), match[1] is not None)


@dataclass(frozen=True)
class ResultDir:
    """Output folder of ``dsd train_tomo``."""

    root: Path

    @classmethod
    def open(cls, path: str | Path) -> ResultDir:
        """Open a result directory and raise ``UserError`` unless it contains at least one epoch."""
        results = cls(Path(path))
        if not results.root.is_dir():
            raise UserError(f"The result directory {path} does not exist.")
        if not results.epochs():
            raise UserError(f"{path} contains no z.N.pkl. Give the output folder (-o) of dsd train_tomo.")
        return results

    def epochs(self) -> list[int]:
        """Return the epochs whose latents are present, in ascending order."""
        return saved_epochs(self.root)

    def epoch_file(self, kind: str, epoch: int) -> Path:
        """Return the path of ``{kind}.{epoch}.pkl``, where `kind` is ``z``, ``pose`` or ``weights``.

        Raises
        ------
        UserError
            If the file is absent; the message lists the epochs that are present.
        """
        path = self.root / f"{kind}.{epoch}.pkl"
        if path.is_file():
            return path
        epochs = saved_epochs(self.root, kind)
        available = f"The available epochs are {_ranges(epochs)}" if epochs else f"There is no {kind}.N.pkl"
        raise UserError(f"{path} does not exist. {available} (epochs are counted from 0).")

    def config(self) -> Path:
        """Return the path of ``config.pkl``; raise ``UserError`` if it is absent."""
        path = self.root / "config.pkl"
        if not path.is_file():
            raise UserError(f"{path} does not exist. The training configuration is required to decode volumes.")
        return path

    def load_latents(self, epoch: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read the latents of an epoch.

        Returns
        -------
        mu : numpy.ndarray
            Composition latents, shape (N, zdim), float32.
        multi_mu : numpy.ndarray or None
            Conformation latents, shape (N, zaffinedim), float32; None if the run has none.

        Raises
        ------
        UserError
            If the epoch is missing or its latents are not finite.
        """
        return read_latents(self.epoch_file("z", epoch))

    def load_coordinates(self, epoch: int, count: int) -> np.ndarray | None:
        """Read the coordinates (N, K) of compositions in units of their standard errors; None if the run has none."""
        return read_coordinates(self.root / f"coordinates.{epoch}.npy", count)

    def load_plain_latents(self, epoch: int) -> np.ndarray:
        """Read the composition latents (N, zdim), float32; ``z.N.pkl`` may be a plain array as written by cryoDRGN."""
        path = self.epoch_file("z", epoch)
        content = load_torch(path)
        if isinstance(content, dict):
            return read_latents(path)[0]
        values = np.asarray(content)
        if values.ndim != 2 or 0 in values.shape or values.dtype.kind != "f" or not np.isfinite(values).all():
            raise UserError(f"{path} is not an array of finite latents with one row per particle.")
        return values.astype(np.float32)

    def load_poses(self, epoch: int, count: int, path: Path | None = None) -> Poses:
        """Read the poses of an epoch, or of the file `path`; raise ``UserError`` unless there are `count` poses."""
        path = self.epoch_file("pose", epoch) if path is None else Path(path)
        if not path.is_file():
            raise UserError(f"The pose file {path} does not exist.")
        poses = read_poses(path)
        if len(poses) != count:
            raise UserError(
                f"{path} has {len(poses)} poses, but z.{epoch}.pkl has {count} particles. "
                "Both files must come from the same run."
            )
        return poses

    def box_of_run(self, box: int | None = None, apix: float | None = None) -> tuple[int, float]:
        """Return the box length (pixels) and pixel size (Å) of the run, against which given ones are checked.

        Scripts written for OPUS-TOMO may give an odd box length, which differs by one from that of the subtomograms.

        Raises
        ------
        UserError
            If the values differ, because refined origins are fractions of the box and would be scaled; or if a value
            is neither given nor known because the run has no ``config.pkl``.
        """
        from opustomo.checkpoint.config import read_config

        if not (self.root / "config.pkl").is_file():
            if box is None or apix is None:
                raise UserError(
                    f"{self.root} has no config.pkl, so box and pixel size of the training are unknown. Give both."
                )
            return box + box % 2, apix
        boxes = read_config(self.config(), box)[1]
        if box is not None and box != boxes.box and not (box % 2 and abs(box - boxes.box) == 1):
            raise UserError(
                f"{self.config()}: the run was trained on subtomograms of {boxes.box} pixels, but the given box is "
                f"{box} pixels, which would scale the refined origins by {box}/{boxes.box}. Give {boxes.box}."
            )
        if apix is not None and abs(apix / boxes.apix - 1.0) > 0.01:
            raise UserError(
                f"{self.config()}: the run was trained at {boxes.apix:g} Å per pixel, but the given pixel size is "
                f"{apix:g} Å. Give {boxes.apix:g}."
            )
        return boxes.box, boxes.apix if apix is None else apix

    def with_refined_poses(
        self, star: ParticleStar, epoch: int, box: int | None = None, apix: float | None = None
    ) -> ParticleStar:
        """Return the particle table with the refined poses of an epoch.

        Parameters
        ----------
        star
            Particle table with all particles of the run.
        epoch
            Epoch of the poses.
        box, apix
            Box of the subtomograms in pixels and their pixel size in Å; read from ``config.pkl`` if None.

        Raises
        ------
        UserError
            If the epoch has no poses or a different number of poses.
        """
        if box is None or apix is None:
            box, apix = self.box_of_run(box, apix)
        poses = self.load_poses(epoch, len(star))
        return star.with_poses(poses.eulers_deg, poses.origins * box, apix)

    def particle_table(self, star: Path | None = None) -> Path:
        """Return the particle table with one row per latent.

        It is `star` if given, that of the selected particles of a run with ``--ind``, or that in ``config.pkl``.

        Raises
        ------
        UserError
            If none is given and there is none in the run.
        """
        from opustomo.checkpoint.config import SELECTED_STAR, read_config, stored_path

        if star is not None:
            return star
        selected = self.root / SELECTED_STAR
        if selected.is_file():
            return selected
        entries = read_config(self.config())[2].get("dataset_args", {})
        name = entries.get("star") or entries.get("particles")  # OPUS-TOMO stores `particles`
        advice = "Give the STAR file used for training."
        if not name:
            raise UserError(f"{self.config()} does not contain the STAR file used for training. {advice}")
        # a moved run is often accompanied by its table
        candidates = (stored_path(Path(str(name)), self.config()), self.root.parent / Path(str(name)).name)
        path = next((candidate for candidate in candidates if candidate.is_file()), None)
        if path is None:
            raise UserError(f"The STAR file {name} of {self.root} does not exist. {advice}")
        return path

    def require_same_particles(self, star: ParticleStar, count: int, source: Path) -> None:
        """Raise ``UserError`` unless a particle table has the `count` rows of the result file `source`."""
        if len(star) == count:
            return
        from opustomo.checkpoint.config import SELECTED_STAR

        selected = self.root / SELECTED_STAR
        # The results of a run with --ind contain only the selected particles.
        expected = f"{selected}, the selected particles" if selected.is_file() else "the STAR file used for training"
        raise UserError(f"{star.path} has {len(star)} particles, but {source} has {count}. Give {expected}.")

    def analysis(self, which: Round, dynamics: bool = False) -> Path:
        """Return the folder of an analysis: ``analyze.N``, or ``defanalyze.N`` for the conformation latents."""
        return self.root / f"{'def' if dynamics else ''}analyze.{which.label}"

    def clusterings(self, which: Round | None = None, method: str = "kmeans|gmm|hdbscan") -> list[Path]:
        """Return the folders of clusterings such as ``analyze.9/kmeans3``, the latest last.

        Parameters
        ----------
        which
            Round of analysis; None for all.
        method
            Clustering method, or several separated by ``|``.
        """
        analyses = "analyze.*" if which is None else self.analysis(which).name
        labels = [
            path
            for path in self.root.glob(f"{analyses}/*/labels.pkl")
            if re.fullmatch(rf"({method})\d+", path.parent.name)
        ]
        return [path.parent for path in sorted(labels, key=lambda path: path.stat().st_mtime)]

    def representatives(self, epoch: int, count: int) -> np.ndarray:
        """Return the representative particles of all clusterings of an epoch, ascending, among `count` particles."""
        paths = sorted(self.analysis(Round(epoch)).glob("*/centers_ind.txt"))
        indices = [np.loadtxt(path, dtype=np.int64, ndmin=1) for path in paths]
        chosen = np.unique(np.concatenate([np.empty(0, dtype=np.int64), *indices]))
        return chosen[(chosen >= 0) & (chosen < count)]

    def analyzed_file(self, which: Round, *parts: str, dynamics: bool = False) -> Path:
        """Return the path of a file in an analysis folder.

        Raises
        ------
        UserError
            If the file is absent; the message names the command that writes it.
        """
        folder = self.analysis(which, dynamics)
        path = folder.joinpath(*parts)
        if path.is_file():
            return path
        stem = re.sub(r"\d+$", "", parts[0])
        if len(parts) > 1 and stem in ("kmeans", "gmm", "hdbscan", "pc"):
            others = sorted(
                (sub.name for sub in folder.glob(f"{stem}*") if (sub / parts[-1]).is_file()),
                key=lambda name: (len(name), name),
            )
            if others:
                raise UserError(
                    f"{path} does not exist. {folder.name} contains {', '.join(others)}. Give one of these, or run "
                    f"{self._analysis_command(which, parts[0])} first."
                )
        if which.focused and not folder.is_dir():
            raise UserError(f"{path} does not exist. Run dsdsh analyze {self.root} {which.epoch} with --focus first.")
        if which.filtered and not folder.is_dir():
            before = Round(which.epoch, which.filtered - 1).label
            raise UserError(f"{path} does not exist. Run dsdsh analyze {self.root} {before} with --kpc first.")
        analyzed = sorted(
            int(match[1])
            for sub in self.root.glob(f"{'def' if dynamics else ''}analyze.*")
            if (match := re.fullmatch(r"(?:def)?analyze\.(\d+)", sub.name)) is not None
        )
        instead = f", or give an analyzed epoch ({_ranges(analyzed)})" if analyzed and not folder.is_dir() else ""
        raise UserError(f"{path} does not exist. Run {self._analysis_command(which, parts[0])} first{instead}.")

    def _analysis_command(self, which: Round, wanted: str) -> str:
        """Return the command that makes the folder `wanted` of an analysis, such as ``kmeans4`` or ``pc1``."""
        found = re.fullmatch(r"(kmeans|gmm|hdbscan|pc)(\d+)", wanted)
        method, number = ("", "") if found is None else (found[1], found[2])
        words = ["dsdsh", "analyze", str(self.root), which.label, str(max(2, int(number))) if method == "pc" else "2"]
        words += [number] if method in ("kmeans", "gmm") else [] if method == "hdbscan" else ["--k", "auto"]
        words += ["--cluster", method] if method in ("gmm", "hdbscan") else []
        return shlex.join(words)


def _ranges(numbers: list[int]) -> str:
    """Format ascending numbers as ranges such as ``0-3, 7``."""
    ranges: list[list[int]] = []
    for number in numbers:
        if ranges and number == ranges[-1][-1] + 1:
            ranges[-1] = [ranges[-1][0], number]
        else:
            ranges.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)
