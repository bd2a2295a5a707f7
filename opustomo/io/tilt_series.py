"""Tilt series as every program's metadata tell them: images, geometry, CTF of each tilt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

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
