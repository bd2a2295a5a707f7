"""Commands that create missing inputs of training, and errors for files that are no particle tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from opustomo.errors import UserError
from opustomo.io.image_paths import folders_above
from opustomo.io.star import read_blocks
from opustomo.io.star_conventions import counts_in_image_pixels
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tilt_series.text_folder import TOMOGRAM_SUFFIXES

_MAX_FILES = 200
"""Number of files per folder that are searched for tilt-series metadata."""


def refuse_other_inputs(path: Path) -> None:
    """Raise an error for files from which particle tables are made.

    Raises
    ------
    UserError
        If the file is one of them; the message names the command that makes the table.
    """
    suffix = path.suffix.lower()
    if suffix == ".coords":
        raise UserError(
            f"{path} contains only coordinates. Make a particle table with dsd prepare_ctf {_quoted(path)} -o ctf."
        )
    if suffix == ".xml":
        if path.is_file() and b"<TiltSeries" in path.read_bytes()[:2000]:
            raise UserError(
                f"{path} describes a WARP tilt series. Give the particle table of dsd extract_subtomos particles.star "
                f"--warp {_quoted(path.parent)} --box D --apix Å -o subtomos."
            )
        raise UserError(f"{path} is not a STAR file. Convert particle lists of PyTom with dsdsh convert_pytom_to_star.")
    if suffix in (".aln", ".mdoc", ".tomostar", ".tlt"):
        raise UserError(
            f"{path} describes a tilt series, not particles. Give the particle table of dsd extract_subtomos "
            f"particles.star --tilts {_quoted(path.parent)} --box D --apix Å -o subtomos."
        )
    if suffix == ".tbl":
        raise UserError(f"{path} is a Dynamo table. Convert it with dsdsh convert_dynamo.")
    if suffix == ".star" and path.is_file() and _lists_tomograms(path):
        raise UserError(
            f"{path} lists tomograms, not particles. Give the particle table of dsd extract_subtomos "
            f"particles.star --tomograms {_quoted(path)} --box D --apix Å -o subtomos."
        )


def _lists_tomograms(path: Path) -> bool:
    try:
        blocks = read_blocks(path)
    except UserError:
        return False  # reported when the table is read
    return any("rlnTomoName" in block and "rlnTomoTiltSeriesStarFile" in block for block in blocks.values())


@dataclass(frozen=True)
class Remedies:
    """Commands that create missing inputs of one particle table.

    Attributes
    ----------
    star
        The table.
    box, apix
        Box (voxels) and pixel size (Å) of its subtomograms; None if they are unknown.
    """

    star: ParticleStar
    box: int | None = None
    apix: float | None = None

    @property
    def extract(self) -> str:
        """Command that reconstructs subtomograms and CTF tables from the tilt series."""
        sizes = f"--box {self._box} --apix {self._apix}"
        return f"dsd extract_subtomos {self._path} {self._series} {sizes} -o subtomos"

    @property
    def images(self) -> str:
        """Advice for subtomograms that are not found."""
        return f"give the folder that rlnImageName is relative to with --datadir, or reconstruct them: {self.extract}"

    @property
    def series(self) -> str:
        """Command that reconstructs subtomograms from 2D particle series of M."""
        return f"dsd prepare_subtomos {self._path} -o subtomos"

    @property
    def ctf(self) -> str:
        """Command that writes CTF tables of existing subtomograms."""
        return f"dsd prepare_ctf {self._path} {self._series} -o ctf, then ctf/all.star"

    @property
    def mask(self) -> str:
        """Commands that create a mask in the box of the subtomograms from their average."""
        sizes = f"--box {self._box} --apix {self._apix}"
        return (
            f"dsd reconstruct {self._path} -o average.mrc, then dsdsh create_mask average.mrc -o mask.mrc {sizes} "
            "--dilate 2 --soft-edge 4 (or the same with the template of the search), then -r mask.mrc"
        )

    @property
    def poses(self) -> str:
        """Command that writes a pose pickle."""
        apix = f"{self.apix:.4g}" if self.apix else "APIX"
        return f"dsdsh prepare {self._path} {self.box or 'BOX'} {apix}, then --poses"

    @property
    def _path(self) -> str:
        return "particles.star" if self.star.path is None else _quoted(self.star.path)

    @property
    def _box(self) -> str:
        return str(self.box or "D")

    @property
    def _apix(self) -> str:
        return f"{self.apix:.4g}" if self.apix else "Å"

    def _tomograms(self) -> set[str]:
        """Return the names of the tomograms without folders, complete and up to the first dot or WARP's pixel size."""
        column = next((name for name in ("rlnTomoName", "rlnMicrographName") if name in self.star), None)
        names = {PureWindowsPath(name).name for name in self.star.strings(column)} if column else set()
        return names | {re.split(r"\.|_\d+\.\d+Apx", name)[0] for name in names}

    @property
    def _series(self) -> str:
        """Option that names the tilt series found in or above the folder of the table; otherwise a placeholder."""
        names = self._tomograms()
        for folder in _folders(self.star.path):
            files = sorted(folder.iterdir())[:_MAX_FILES] if folder.is_dir() else []
            for path in files:
                if path.suffix == ".star" and "tomogram" in path.name and _lists_tomograms(path):
                    return f"--tomograms {_quoted(path)}"
            if any(path.suffix == ".xml" and path.stem in names and _is_warp(path) for path in files):
                return f"--warp {_quoted(folder)}"
            if any(path.suffix in (".tlt", ".aln") and path.stem in names for path in files):
                return f"--tilts {_quoted(folder)}{'' if self._knows_sizes(files, names) else ' --tomo-size NX NY NZ'}"
        if "rlnCenteredCoordinateXAngst" in self.star:
            return "--tomograms tomograms.star"
        if counts_in_image_pixels(self.star):
            return "--warp DIR"
        return "--tomograms tomograms.star (or --warp DIR, --tilts DIR)"

    def _knows_sizes(self, files: list[Path], names: set[str]) -> bool:
        """Return whether coordinates count from the center, or the tomograms are beside the tilt angles."""
        found = {path.name for path in files}
        volumes = any(f"{name}{suffix}" in found for name in names for suffix in TOMOGRAM_SUFFIXES)
        return volumes or "rlnCenteredCoordinateXAngst" in self.star


def _folders(path: Path | None) -> Iterator[Path]:
    """Yield the folder of a file, some folders above, and subfolders of both that usually hold tilt series."""
    home = Path() if path is None else path.parent
    for folder in (home, *folders_above(home)):
        yield folder
        yield from (folder / name for name in ("warp_tiltseries", "tiltseries", "tomograms", "tilts"))


def _is_warp(path: Path) -> bool:
    try:
        with path.open("rb") as handle:
            return b"<TiltSeries" in handle.read(2000)
    except OSError:
        return False


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
