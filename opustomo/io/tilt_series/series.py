"""Description of a tilt series, independent of the program: images, geometry and CTF of each tilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry


@dataclass(frozen=True)
class TiltImage:
    """Image of a tilt: its file name in the metadata, and its section in a stack (from 0)."""

    name: str
    section: int = 0


@dataclass(frozen=True, eq=False)
class RawStack:
    """Raw stack of a tilt series whose sections are not in the order of the tilts.

    Attributes
    ----------
    sections
        (T,) section of each tilt, from 0.
    size
        x, y and number of sections; None if unknown.
    """

    sections: np.ndarray
    size: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class TiltOptics:
    """CTF parameters of each tilt at the center of the tomogram; arrays are (T,).

    Attributes
    ----------
    defocus_u_A, defocus_v_A, astigmatism_deg, phase_shift_deg
        Defocus in Å, positive for underfocus; azimuth of u from the x axis of the image, and phase shift, in degrees.
    bfactor_A2, scale
        B factor in Å², which damps as exp(-B s²/4), and weight.
    voltage_kv, cs_mm, amplitude_contrast
        Constants of all tilts.
    """

    defocus_u_A: np.ndarray
    defocus_v_A: np.ndarray
    astigmatism_deg: np.ndarray
    phase_shift_deg: np.ndarray
    bfactor_A2: np.ndarray
    scale: np.ndarray
    voltage_kv: float
    cs_mm: float
    amplitude_contrast: float

    def __len__(self) -> int:
        return len(self.scale)

    def take(self, tilts: np.ndarray) -> TiltOptics:
        """Return the parameters of the selected tilts."""
        names = ("defocus_u_A", "defocus_v_A", "astigmatism_deg", "phase_shift_deg", "bfactor_A2", "scale")
        return replace(self, **{name: getattr(self, name)[tilts] for name in names})


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """One tilt series.

    Attributes
    ----------
    name
        Name of the tomogram in particle tables.
    source
        File of metadata, for messages.
    geometry, optics
        Geometry and CTF parameters of all tilts, in the order of the metadata.
    used
        (T,) False for excluded tilts.
    images
        Image of each tilt; empty if the metadata state none.
    apix
        Pixel size in Å of the images and of coordinates in pixels, before binning.
    volume_px
        Size x, y, z of the tomogram in these pixels; None if unknown.
    notes
        Metadata that are ignored.
    raw_stack
        Raw stack; None if the stack has the tilts in the order of the metadata.
    """

    name: str
    source: Path
    geometry: TiltGeometry
    optics: TiltOptics
    used: np.ndarray
    images: tuple[TiltImage, ...]
    apix: float | None
    volume_px: tuple[int, int, int] | None = None
    notes: tuple[str, ...] = ()
    raw_stack: RawStack | None = None

    def __post_init__(self) -> None:
        lengths = {len(self.geometry), len(self.optics), len(self.used), len(self.images) or len(self.geometry)}
        if len(lengths) > 1:
            raise ValueError(f"geometry, optics, used and images have different numbers of tilts: {sorted(lengths)}")

    def __len__(self) -> int:
        return len(self.geometry)


MATCH_DEG = 1.0
"""Largest difference between the angles of one tilt in two files."""


@dataclass(frozen=True, eq=False)
class TextTilts:
    """Tilts of one series in the order of a text file.

    A point x of the tomogram appears at `Rz(axis) Ry(tilt) x + shift` of the raw image, with right-handed rotations;
    both points count from the centers.

    Attributes
    ----------
    source
        The file.
    tilt_deg
        (T,) tilt angles with the sign of IMOD.
    axis_deg
        (T,) azimuth of the tilt axis in the raw images, counter-clockwise from y.
    shifts
        (T, 2) shifts in pixels of the raw images, or in Å; None if the file has no alignment.
    shifts_in_A
        Whether shifts are in Å.
    sections
        (T,) section of each image in the raw stack, from 0; None if there is no stack.
    stack_size
        x, y and number of sections of the raw stack; None if unknown.
    dose
        (T,) accumulated dose, e/Å²; None if unknown.
    images
        Names of single images; empty if there are none.
    apix
        Pixel size of the raw images, Å; None if unknown.
    nominal_deg
        (T,) angles of the microscope, before an offset was added.
    notes
        Content of the file that is ignored.
    """

    source: Path
    tilt_deg: np.ndarray
    axis_deg: np.ndarray
    shifts: np.ndarray | None = None
    shifts_in_A: bool = False
    sections: np.ndarray | None = None
    stack_size: tuple[int, int, int] | None = None
    dose: np.ndarray | None = None
    images: tuple[str, ...] = ()
    apix: float | None = None
    nominal_deg: np.ndarray | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tilt_deg)


def check_angles(path: Path, tilt_deg: np.ndarray) -> None:
    """Raise an error if a list of tilts is empty or has an invalid angle.

    Raises
    ------
    UserError
        There are no tilts, or an angle is 90° or more.
    """
    if not len(tilt_deg):
        raise UserError(f"{path}: the file lists no tilts. Export it again.")
    if not np.abs(tilt_deg).max() < 90:
        row = int(np.argmax(~(np.abs(tilt_deg) < 90)))
        raise UserError(
            f"{path}: the angle of tilt {row + 1} is {tilt_deg[row]:g}, which is not between -90 and 90 degrees; "
            "correct it."
        )


def match_tilts(tilts: TextTilts, other_deg: np.ndarray, other: Path) -> np.ndarray:
    """Return for each tilt the index of the same tilt in another list, (T,).

    Tilts are matched by their sections in the raw stack if all angles then differ by the same offset, and otherwise by
    the nearest angle.

    Parameters
    ----------
    tilts
        T tilts.
    other_deg
        Angles of the other list with the same sign, one for each section of the raw stack or in any order.
    other
        File of the other list.

    Raises
    ------
    UserError
        A tilt has no match within 1°, two tilts have the same match, or the angles have the opposite sign.
    """
    nominal = tilts.tilt_deg if tilts.nominal_deg is None else tilts.nominal_deg
    places = np.arange(len(tilts)) if tilts.sections is None else tilts.sections
    whole = len(tilts) if tilts.stack_size is None else tilts.stack_size[2]
    if len(other_deg) == whole and places.max() < len(other_deg):
        if _differ_by_offset(nominal, other_deg[places]):
            return places
        if np.ptp(nominal) > MATCH_DEG and np.abs(nominal + other_deg[places]).max() <= MATCH_DEG:
            raise UserError(
                f"{tilts.source}: the angles have the opposite sign to those of {other}. Give the other --tilt-sign, "
                "or the doses in an .order file."
            )
    distance = np.abs(nominal[:, None] - other_deg[None])
    nearest = distance.argmin(axis=1)
    if distance.min(axis=1).max() > MATCH_DEG:
        lost = nominal[distance.min(axis=1).argmax()]
        raise UserError(
            f"{other}: no angle is within {MATCH_DEG:g} degree of the tilt {lost:g} of {tilts.source}. Give the file "
            "that belongs to this series."
        )
    taken, counts = np.unique(nearest, return_counts=True)
    if (counts > 1).any():
        twice = other_deg[taken[counts.argmax()]]
        raise UserError(
            f"{other}: the tilt at {twice:g} degrees is the nearest one to {counts.max()} tilts of {tilts.source}; "
            "give the file that belongs to this series."
        )
    return nearest


def _differ_by_offset(one_deg: np.ndarray, other_deg: np.ndarray) -> bool:
    offset = one_deg - other_deg
    return bool(np.abs(offset - np.median(offset)).max() <= MATCH_DEG)


def finite_number(path: Path, name: str, text: str) -> float:
    """Return the number of the entry `name` of a file; raise ``UserError`` if it is not finite."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise UserError(f"{path}: {name} is {text!r}, but it must be a finite number. Correct it.")
    return value
