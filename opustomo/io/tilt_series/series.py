"""Tilt series as described by the metadata of any program: images, geometry and CTF of each tilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry


@dataclass(frozen=True)
class TiltImage:
    """Where the image of a tilt is: a name as written in the metadata, and the section in a stack (from 0)."""

    name: str
    section: int = 0


@dataclass(frozen=True, eq=False)
class RawStack:
    """The stack that tilts are sections of, where its order is not that of the tilts.

    Attributes
    ----------
    sections
        (T,) section of each tilt, from 0.
    size
        x, y and number of sections; None when it is not told.
    """

    sections: np.ndarray
    size: tuple[int, int, int] | None = None


@dataclass(frozen=True, eq=False)
class TiltOptics:
    """CTF of each tilt at the centre of the tomogram, each (T,).

    Attributes
    ----------
    defocus_u_A, defocus_v_A, astigmatism_deg, phase_shift_deg
        Underfocus positive; azimuth of u from the image's x axis.
    bfactor_A2, scale
        Damping exp(-B s²/4) by dose, and weight.
    voltage_kv, cs_mm, amplitude_contrast
        Common to all.
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
        """Some of the tilts."""
        names = ("defocus_u_A", "defocus_v_A", "astigmatism_deg", "phase_shift_deg", "bfactor_A2", "scale")
        return replace(self, **{name: getattr(self, name)[tilts] for name in names})


@dataclass(frozen=True, eq=False)
class TiltSeries:
    """One tilt series.

    Attributes
    ----------
    name
        Of the tomogram, as particle tables give it.
    source
        File that tells of it, for messages.
    geometry, optics
        Of all tilts, in the order of the metadata.
    used
        (T,) False for tilts that were excluded.
    images
        Of each tilt; empty when the metadata name none.
    apix
        Pixel size in Å of the images and of coordinates in pixels, before any binning.
    volume_px
        Size x, y, z of the tomogram in such pixels; None when it is not told.
    notes
        What the metadata say that is not followed.
    raw_stack
        The stack that tilts are sections of; None when a stack has the tilts in the order of the metadata.
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
            raise ValueError(f"geometry, optics, use and images are of {sorted(lengths)} tilts")

    def __len__(self) -> int:
        return len(self.geometry)


MATCH_DEG = 1.0
"""Angles of two lists that differ by more are not of the same tilt."""


@dataclass(frozen=True, eq=False)
class TextTilts:
    """Tilts of one series in the order of their file.

    A point x of the tomogram appears at `Rz(axis) Ry(tilt) x + shift` of the raw image, with right-handed turns, both
    counted from the centres.

    Attributes
    ----------
    source
        The file.
    tilt_deg
        (T,) angles in IMOD's sense.
    axis_deg
        (T,) azimuth of the tilt axis in the raw images, from y, counter-clockwise.
    shifts
        (T, 2) in pixels of the raw images, or Å; None when the file tells of no alignment.
    shifts_in_A
        Whether shifts are in Å.
    sections
        (T,) section of each image in the raw stack, from 0; None when there is no stack.
    stack_size
        x, y and number of sections of the raw stack; None when it is not told.
    dose
        (T,) accumulated dose, e/Å²; None when it is not told.
    images
        Names of single images; empty when there are none.
    apix
        Pixel size of the raw images, Å; None when it is not told.
    nominal_deg
        (T,) angles before any offset was added, as the microscope told them.
    notes
        What the file says that is not followed.
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
    """Raise when a list of tilts is empty or holds an angle that is none.

    Raises
    ------
    UserError
        There are no tilts, or an angle is 90° or more.
    """
    if not len(tilt_deg):
        raise UserError(f"{path}: lists no tilts; export it again.")
    if not np.abs(tilt_deg).max() < 90:
        row = int(np.argmax(~(np.abs(tilt_deg) < 90)))
        raise UserError(
            f"{path}: the angle of tilt {row + 1} is {tilt_deg[row]:g}, which is not between -90 and 90 degrees; "
            "correct it."
        )


def same_tilts(tilts: TextTilts, other_deg: np.ndarray, other: Path) -> np.ndarray:
    """Return the entry of another list that each tilt is, (T,).

    Sections of the raw stack are compared first; they count if all angles then differ by the same offset. Otherwise the
    entry with the nearest angle is taken.

    Parameters
    ----------
    tilts
        T tilts.
    other_deg
        Angles of the other list in the same sense, one for each section of the raw stack or in any order.
    other
        Its file.

    Raises
    ------
    UserError
        A tilt has no counterpart within 1°, two tilts have the same, or the angles have the opposite sign.
    """
    nominal = tilts.tilt_deg if tilts.nominal_deg is None else tilts.nominal_deg
    places = np.arange(len(tilts)) if tilts.sections is None else tilts.sections
    whole = len(tilts) if tilts.stack_size is None else tilts.stack_size[2]
    if len(other_deg) == whole and places.max() < len(other_deg):
        if _differ_by_offset(nominal, other_deg[places]):
            return places
        if np.ptp(nominal) > MATCH_DEG and np.abs(nominal + other_deg[places]).max() <= MATCH_DEG:
            raise UserError(
                f"{tilts.source}: its angles have the sign opposite to that of {other}; give the other --tilt-sign, or "
                "the doses in an .order file."
            )
    distance = np.abs(nominal[:, None] - other_deg[None])
    nearest = distance.argmin(axis=1)
    if distance.min(axis=1).max() > MATCH_DEG:
        lost = nominal[distance.min(axis=1).argmax()]
        raise UserError(
            f"{other}: has no angle within {MATCH_DEG:g} degree of the tilt {lost:g} of {tilts.source}; give the file "
            "that belongs to this series."
        )
    taken, counts = np.unique(nearest, return_counts=True)
    if (counts > 1).any():
        twice = other_deg[taken[counts.argmax()]]
        raise UserError(
            f"{other}: its tilt at {twice:g} degrees is the nearest of {counts.max()} tilts of {tilts.source}; give "
            "the file that belongs to this series."
        )
    return nearest


def _differ_by_offset(one_deg: np.ndarray, other_deg: np.ndarray) -> bool:
    offset = one_deg - other_deg
    return bool(np.abs(offset - np.median(offset)).max() <= MATCH_DEG)
