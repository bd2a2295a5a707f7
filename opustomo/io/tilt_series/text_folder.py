"""Tilt series in folders of text files: IMOD, AreTomo, SerialEM, WARP's .tomostar.

Files are found by the name of the tomogram. Tilts are read from the first of these that exists: .tlt with .xf or an
aligned stack, .aln, .tlt alone, .tomostar, .mdoc. Doses are read from .order, further columns of .tlt, .tomostar or
.mdoc.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry, rotation_y, rotation_z
from opustomo.io.mrc import MrcHeader, read_header
from opustomo.io.tilt_series.aretomo import read_aln_tilts
from opustomo.io.tilt_series.defocus_files import TiltDefoci, count_ctffind_rows, read_defoci
from opustomo.io.tilt_series.imod import (
    ImodFiles,
    ImodSettings,
    imod_optics,
    is_number,
    read_dose,
    read_imod_series,
    read_tlt,
    read_tlt_dose,
)
from opustomo.io.tilt_series.serialem import read_mdoc, read_mdoc_tilts
from opustomo.io.tilt_series.series import RawStack, TextTilts, TiltImage, TiltSeries, match_tilts
from opustomo.io.tilt_series.warp import read_tomostar_tilts

if TYPE_CHECKING:
    from opustomo.io.tilt_series.discovery import SeriesSource

DEFOCUS_NAMES = (
    "{stem}.defocus",
    "{stem}_ctfplotter.defocus",
    "{stem}ctfplotter.defocus",
    "{stem}.ctfplotter.defocus",
    "{stem}_ctffind.txt",
    "{stem}_ctf.txt",
    "{stem}_CTF.txt",
    "ctfplotter.defocus",
)
STACK_SUFFIXES = (".ali", "_ali.mrc", ".st", "_st.mrc", ".mrcs")
RAW_SUFFIXES = (".st", "_st.mrc", ".mrcs", ".mrc")
TOMOGRAM_SUFFIXES = (".mrc", ".rec", "_full.rec", "_rec.mrc", "_Vol.mrc")
UNKNOWN_APIX = 1.0
"""Pixel size in Å that many programs write into headers if it is unknown."""


@dataclass(frozen=True)
class _Files:
    """Files of a series; None means that a file does not exist."""

    folders: tuple[Path, ...]
    stem: str
    tlt: Path | None
    xf: Path | None
    aln: Path | None
    tomostar: Path | None
    mdoc: Path | None
    order: Path | None

    @classmethod
    def find(cls, folder: Path, stem: str) -> _Files:
        # AreTomo appends _st to names and _Imod to the folder.
        folders = (folder, folder / stem, folder / f"{stem}_Imod")

        def named(*names: str) -> Path | None:
            return first_file(folders, [name.format(stem=stem) for name in names])

        return cls(
            folders,
            stem,
            tlt=named("{stem}.tlt", "{stem}_st.tlt", "{stem}.rawtlt", "{stem}_TLT.txt"),
            xf=named("{stem}.xf", "{stem}_st.xf"),
            aln=named("{stem}.aln", "{stem}_st.aln", "{stem}.st.aln", "{stem}.mrc.aln"),
            tomostar=named("{stem}.tomostar"),
            mdoc=named("{stem}.mdoc", "{stem}.mrc.mdoc", "{stem}.st.mdoc", "{stem}_st.mdoc", "{stem}.mrcs.mdoc"),
            order=named("{stem}.order", "{stem}_order.csv", "{stem}_order_list.csv"),
        )

    def first(self, suffixes: Iterable[str]) -> Path | None:
        return first_file(self.folders, [self.stem + suffix for suffix in suffixes])

    @property
    def home(self) -> Path:
        """Folder of the file with the tilts."""
        found = next((path for path in (self.tlt, self.aln, self.tomostar, self.mdoc) if path is not None), None)
        return self.folders[0] if found is None else found.parent


def first_file(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    """Return the first existing file; the order of names has precedence over the order of folders."""
    places = list(folders)
    return next((folder / name for name in names for folder in places if (folder / name).is_file()), None)


def read_text_series(source: SeriesSource, folder: Path, stem: str) -> TiltSeries:
    """Read a series from the text files of its name in a folder, or in its subfolder of that name.

    Raises
    ------
    UserError
        No file states the tilts, the defoci or the pixel size, or a file is damaged or inconsistent with the others.
    """
    files = _Files.find(folder, stem)
    stack = files.first(STACK_SUFFIXES)
    aligned = stack is not None and (stack.suffix == ".ali" or stack.stem.endswith("_ali"))
    imod = files.tlt is not None and (files.aln is None or files.xf is not None or aligned)
    listed = _listed_tilts(files, source) if not imod else None
    if not imod and listed is None:
        raise UserError(
            f"{folder}: there is no {stem}.tlt, {stem}.aln, {stem}.tomostar or {stem}.mdoc with the tilt angles of "
            f"{stem}. Put one of them there."
        )
    notes = []
    if imod and files.aln is not None:
        notes.append(f"{files.aln}: the file is ignored, because {(files.xf or stack)} has an alignment of IMOD")
    if imod:
        series = _imod_series(files, stack, aligned, source)
    else:
        assert listed is not None
        series = _listed_series(listed, files, source)
    return replace(series, notes=(*series.notes, *notes, *_contradictions(files, series, source)))


def _contradictions(files: _Files, series: TiltSeries, source: SeriesSource) -> tuple[str, ...]:
    """Describe contradictions between files, and between files and options."""
    notes = []
    stated = None if files.mdoc is None else read_mdoc(files.mdoc).header.get("Voltage")
    if stated is not None and is_number(stated) and abs(float(stated) - source.microscope.voltage_kv) > 1:
        notes.append(
            f"{files.mdoc}: Voltage is {float(stated):g} kV, but {source.microscope.voltage_kv:g} kV is used; give "
            f"--voltage {float(stated):g} if the file is right"
        )
    stack = Path(series.images[0].name) if series.images else None
    header = _header_apix(stack if stack is not None and stack.is_file() else None)
    follows = files.aln is not None or files.xf is not None
    if header is not None and follows and not source.depth_only and abs(header / (series.apix or header) - 1) > 0.01:
        notes.append(
            f"{stack}: the shifts of the alignment are in pixels of {header:g} Å, as the header states, but the pixel "
            f"size of the series is {series.apix:g} Å"
        )
    return tuple(notes)


def _imod_series(files: _Files, stack: Path | None, aligned: bool, source: SeriesSource) -> TiltSeries:
    assert files.tlt is not None
    tilt = read_tlt(files.tlt)
    tilts = TextTilts(files.tlt, tilt, np.zeros(len(tilt)))
    dose, notes = _doses(tilts, files, source)
    imod = ImodFiles(
        tlt=files.tlt,
        defocus=_defocus_file(files, source.defocus_name),
        # An aligned stack is already transformed.
        xf=None if aligned or stack is None else files.xf,
        com=first_file(files.folders, (f"{files.stem}_tilt.com", f"{files.stem}_st_tilt.com", "tilt.com")),
        stack=stack,
    )
    scale = _scale(files, stack, None, source)
    settings = ImodSettings(
        scale.apix,
        shift_apix=_header_apix(stack),
        microscope=source.microscope,
        volume_px=scale.size,
        hand=source.hand or -1,
        sign=-source.tilt_sign,
    )
    series = read_imod_series(files.stem, imod, settings, dose)
    return replace(series, notes=(*series.notes, *notes, *scale.notes))


def _listed_tilts(files: _Files, source: SeriesSource) -> TextTilts | None:
    """Return the tilts of .aln, .tomostar or .mdoc; None if none of them exists."""
    if files.aln is not None:
        return read_aln_tilts(files.aln)
    if files.tomostar is not None:
        return read_tomostar_tilts(files.tomostar)
    return None if files.mdoc is None else read_mdoc_tilts(files.mdoc, source.microscope.dose_per_tilt)


def _listed_series(tilts: TextTilts, files: _Files, source: SeriesSource) -> TiltSeries:
    """Return the series of an .aln, .tomostar or .mdoc file."""
    if tilts.shifts is None and not source.depth_only:
        raise UserError(
            f"{tilts.source}: the file has the tilts of {files.stem} but no alignment. Put {files.stem}.aln of "
            f"AreTomo, or {files.stem}.tlt and {files.stem}.xf of IMOD beside it, or give WARP's XML files (--warp)."
        )
    # The sign of the angles in .aln files is that of the input of AreTomo.
    sign = -source.tilt_sign if tilts.source == files.aln else 1
    stack = _raw_stack(files, tilts)
    scale = _scale(files, stack, tilts, source)
    dose, notes = _doses(tilts, files, source)
    defoci = _defoci_of(tilts, _defocus_file(files, source.defocus_name))
    rotations = rotation_z(tilts.axis_deg) @ rotation_y(sign * tilts.tilt_deg)
    sections = np.arange(len(tilts)) if tilts.sections is None else tilts.sections
    if stack is not None:
        images = tuple(TiltImage(str(stack), section) for section in sections.tolist())
    else:
        images = tuple(TiltImage(name) for name in tilts.images)
    return TiltSeries(
        name=files.stem,
        source=tilts.source,
        geometry=TiltGeometry(rotations, _shifts_A(tilts, files, stack, source), source.hand or -1),
        optics=imod_optics(tilts.tilt_deg, defoci, dose, source.microscope),
        used=np.ones(len(tilts), dtype=bool),
        images=images,
        apix=scale.apix,
        volume_px=scale.size,
        raw_stack=None if tilts.sections is None else RawStack(tilts.sections, tilts.stack_size),
        notes=(*tilts.notes, *notes, *scale.notes),
    )


def _shifts_A(tilts: TextTilts, files: _Files, stack: Path | None, source: SeriesSource) -> np.ndarray:
    """Return the positions of the center of the tomogram in the raw images, (T, 2) Å; 0 if only depths are needed."""
    if tilts.shifts is None or source.depth_only:
        return np.zeros((len(tilts), 2))
    if tilts.shifts_in_A:
        return tilts.shifts
    stated = _header_apix(stack)
    if stated is None and files.mdoc is not None:
        stated = read_mdoc_tilts(files.mdoc, source.microscope.dose_per_tilt).apix
    apix = stated or source.apix
    if apix is None:
        raise UserError(
            f"{tilts.source}: the shifts are in pixels of the raw images of {files.stem}, whose pixel size neither the "
            "images nor an .mdoc file state. Give it with --series-apix."
        )
    return np.asarray(tilts.shifts * apix)


def _raw_stack(files: _Files, tilts: TextTilts) -> Path | None:
    """Return the raw stack of a list of tilts, which can only be distinguished from a tomogram by its size."""
    if tilts.sections is None:
        return None
    for suffix in RAW_SUFFIXES:
        path = files.first((suffix,))
        if path is None:
            continue
        shape = read_header(path).shape
        if tilts.stack_size is None and suffix != ".mrc" and tilts.sections.max() < shape[0]:
            return path
        if tilts.stack_size is not None and shape == tilts.stack_size[::-1]:
            return path
    return None


def _doses(tilts: TextTilts, files: _Files, source: SeriesSource) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return accumulated doses, (T,) e/Å², and notes."""
    per_tilt = source.microscope.dose_per_tilt
    nominal = tilts.tilt_deg if tilts.nominal_deg is None else tilts.nominal_deg
    if files.order is not None:
        return read_dose(files.order, nominal, per_tilt), ()
    listed_dose = None if files.tlt is None else read_tlt_dose(files.tlt, per_tilt)
    if listed_dose is not None and files.tlt is not None:
        return listed_dose[match_tilts(tilts, read_tlt(files.tlt), files.tlt)], ()
    others = (
        (files.tomostar, lambda path: read_tomostar_tilts(path)),
        (files.mdoc, lambda path: read_mdoc_tilts(path, per_tilt)),
    )
    for path, read in others:
        if path is None:
            continue
        other = tilts if path == tilts.source else read(path)
        if other.dose is None:
            continue
        if other is tilts:
            return other.dose, ()
        # The angles in .tlt and .aln files of WARP's stacks have the opposite sign.
        sign = 1.0 if source.tilt_sign < 0 else -1.0
        listed = np.arange(len(other)) if other.sections is None else np.argsort(other.sections)
        same = match_tilts(tilts, sign * other.tilt_deg[listed], path)
        return other.dose[listed][same], other.notes
    return np.zeros(len(tilts)), (
        f"{files.home}: no file states the doses of {files.stem} (.order, .mdoc or .tomostar), so B factors are 0",
    )


def _defocus_file(files: _Files, asked: str | None) -> Path:
    names = DEFOCUS_NAMES if asked is None else (asked,)
    found = first_file(files.folders, [name.format(stem=files.stem) for name in names])
    if found is None:
        tried = " or ".join(name.format(stem=files.stem) for name in (names[0], names[-1]))
        raise UserError(
            f"{files.home}: there is no {tried} with the defoci of {files.stem}. Give its name with --defocus-name."
        )
    return found


def _defoci_of(tilts: TextTilts, path: Path) -> TiltDefoci:
    """Return the defoci of tilts: a file of AreTomo has a line for each tilt, others have one for each section."""
    whole = len(tilts) if tilts.stack_size is None else tilts.stack_size[2]
    lines = count_ctffind_rows(path)
    by_tilt = tilts.sections is None or (
        lines == len(tilts) and (whole != len(tilts) or path.name.endswith("_CTF.txt"))
    )
    if by_tilt or tilts.sections is None:
        return read_defoci(path, tilts.tilt_deg)
    order = np.argsort(tilts.sections)
    count = max(whole, int(tilts.sections.max()) + 1)
    every = np.interp(np.arange(count), tilts.sections[order], tilts.tilt_deg[order])
    return read_defoci(path, every).take(tilts.sections)


@dataclass(frozen=True)
class _Scale:
    """Pixel size in Å and size in pixels of a tomogram, and notes on their origin."""

    apix: float
    size: tuple[int, int, int] | None
    notes: tuple[str, ...]


def _scale(files: _Files, stack: Path | None, tilts: TextTilts | None, source: SeriesSource) -> _Scale:
    """Return the scale that the user gave, else that of the header of the tomogram, else that of the tilt images."""
    apix, size = source.apix, source.tomo_size
    notes = []
    if size is None or apix is None:
        header = _tomogram(files, stack)
        if header is not None and size is None:
            size = (header.shape[2], header.shape[1], header.shape[0])
            if size[1] < size[2]:
                notes.append(
                    f"{header.path}: the third axis is longer than the second; if the second is the thickness, as in "
                    "volumes that were not rotated, give --tomo-size NX NY NZ"
                )
        if header is not None and apix is None:
            apix = header.apix
    if apix is None and tilts is not None and tilts.apix is not None:
        apix = tilts.apix
        notes.append(f"{tilts.source}: PixelSpacing, {apix:g} Å, is used as the pixel size of the tomogram")
    if apix is None and (apix := _header_apix(stack)) is not None:
        notes.append(f"{stack}: the pixel size of the tilt images, {apix:g} Å, is used as that of the tomogram")
    if apix is None:
        raise UserError(
            f"{files.home}: the pixel size of the tomogram {files.stem} is unknown. Give it with "
            "--series-apix (dsd extract_subtomos) or --apix (dsd prepare_ctf)."
        )
    return _Scale(apix, size, tuple(notes))


def _tomogram(files: _Files, stack: Path | None) -> MrcHeader | None:
    for suffix in TOMOGRAM_SUFFIXES:
        path = files.first((suffix,))
        if path is not None and path != stack:
            return read_header(path)
    return None


def _header_apix(stack: Path | None) -> float | None:
    """Return the pixel size in the header of a stack in Å; None if it is missing."""
    apix = None if stack is None else read_header(stack).apix
    return None if apix is None or abs(apix - UNKNOWN_APIX) < 1e-6 else apix
