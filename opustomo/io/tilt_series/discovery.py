"""Discovery of the tilt series of tomograms in files of RELION, WARP, IMOD, AreTomo or SerialEM."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

from opustomo.errors import UserError
from opustomo.io.mrc import read_header
from opustomo.io.tilt_series.imod import Microscope
from opustomo.io.tilt_series.relion import find_beside, read_relion_series
from opustomo.io.tilt_series.series import TiltSeries
from opustomo.io.tilt_series.text_folder import first_file, read_text_series
from opustomo.io.tilt_series.warp import read_warp_series
from opustomo.io.tomograms import tomogram_stem


@dataclass(frozen=True)
class SeriesSource:
    """Files of tilt series, and values that the files may not state. One of the first three attributes is given.

    Attributes
    ----------
    relion
        tomograms.star of RELION 4 or 5.
    warp
        Folder of WARP's XML files.
    text
        Folder with .tlt, .aln, .tomostar or .mdoc, .order, defocus files and the like, one set per tomogram.
    apix
        Pixel size of coordinates and `tomo_size`, Å; None uses the value of the files.
    tomo_size
        Size x, y, z of the tomograms in these pixels.
    image_size
        Width and height of WARP's images in these pixels. If it is None and the XML files do not state the size, it is
        read from a stack or average in `images` or beside the XML files.
    images
        Folder of tilt images.
    hand
        Sign of the depth; None uses the value of the files.
    tilt_sign
        -1 if .tlt angles have the sign of IMOD, 1 if they have that of RELION and WARP.
    defocus_name
        Name of defocus files, in which `{stem}` is the name of the tomogram; None tries the usual names.
    microscope
        Constants for `text`.
    depth_only
        Whether only depths are needed, not positions in the tilt images; images and alignments may then be missing.
    """

    relion: Path | None = None
    warp: Path | None = None
    text: Path | None = None
    apix: float | None = None
    tomo_size: tuple[int, int, int] | None = None
    image_size: tuple[int, int] | None = None
    images: Path | None = None
    hand: int | None = None
    tilt_sign: int = -1
    defocus_name: str | None = None
    microscope: Microscope = field(default_factory=Microscope)
    depth_only: bool = False

    def find(self, names: Iterable[str]) -> dict[str, TiltSeries]:
        """Return the tilt series of tomograms by name; names have no folders and suffixes.

        Raises
        ------
        UserError
            A series is missing or damaged.
        """
        if self.relion is not None:
            return self._from_relion(self.relion, list(names))
        if self.warp is not None:
            return {name: self._from_warp(self.warp, name) for name in names}
        if self.text is not None:
            return {name: self.from_text(self.text, name) for name in names}
        raise UserError("no tilt series are given. Give one of --tomograms, --warp and --tilts.")

    def _from_relion(self, path: Path, names: list[str]) -> dict[str, TiltSeries]:
        def image_size(name: str) -> tuple[int, int]:
            shape = read_header(find_beside(name, path)).shape
            return shape[2], shape[1]

        every = read_relion_series(path, image_size, depth_only=self.depth_only, wanted=names)
        found = {tomogram_stem(series.name): series for series in every}
        lost = [name for name in names if name not in found]
        if lost:
            raise UserError(
                f"{path}: {len(lost)} of the {len(names)} tomograms of the particles are missing, the first is "
                f"{lost[0]}. Give the tomograms.star that belongs to the particles."
            )
        return {name: self._with_options(found[name]) for name in names}

    def _from_warp(self, folder: Path, name: str) -> TiltSeries:
        path = folder if folder.is_file() else folder / f"{name}.xml"
        if not path.is_file():
            raise UserError(f"{folder}: there is no {name}.xml. Give the folder of WARP's tilt-series XML files.")
        volume_A = None
        if self.tomo_size is not None and self.apix is not None:
            x, y, z = self.tomo_size
            volume_A = (x * self.apix, y * self.apix, z * self.apix)
        series = read_warp_series(
            path,
            apix=self.apix,
            image_px=self.image_size,
            image_A=self._image_A(path.parent, name),
            volume_A=volume_A,
        )
        return self._with_options(series)

    def _image_A(self, home: Path, name: str) -> tuple[float, float] | None:
        """Return the size of a stack or average of a WARP series in Å; None if it or its pixel size is missing."""
        folders = [home / "tiltstack", home / "average", *([self.images] if self.images is not None else [])]
        stack = first_file(
            folders, (f"{name}/{name}.st", f"{name}.st", f"{name}/{name}.mrc", f"{name}.mrc", f"{name}.mrcs")
        )
        if stack is None:
            stack = next((path for folder in folders for path in sorted(folder.glob("*.mrc"))), None)
        if stack is None:
            return None
        header = read_header(stack)
        return None if header.apix is None else (header.shape[2] * header.apix, header.shape[1] * header.apix)

    def _with_options(self, series: TiltSeries) -> TiltSeries:
        """Return the series with the values that the user gave."""
        if self.hand is not None:
            series = replace(series, geometry=replace(series.geometry, hand=self.hand))
        if self.tomo_size is not None:
            series = replace(series, volume_px=self.tomo_size)
        return series

    def from_text(self, folder: Path, stem: str) -> TiltSeries:
        """Read a series from text files, see :func:`opustomo.io.tilt_series.text_folder.read_text_series`."""
        return read_text_series(self, folder, stem)
