"""Simulated acquisition: tilt angles, exposure order, dose and defocus of each tilt image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError


@dataclass(frozen=True)
class TiltScheme:
    """Tilt angles and accumulated dose of a tilt series.

    Attributes
    ----------
    tilt_deg
        Tilt angles in degrees in the order of the files, (T,).
    dose
        Accumulated dose at the end of each exposure in e/Å², (T,). It damps the image by exp(-dose s²), which is a
        B factor of 4·dose Å².
    """

    tilt_deg: np.ndarray
    dose: np.ndarray

    def __len__(self) -> int:
        return len(self.tilt_deg)

    @property
    def bfactor_A2(self) -> np.ndarray:
        """B factor of each tilt in Å², (T,)."""
        return 4.0 * self.dose

    @property
    def scale(self) -> np.ndarray:
        """Signal scale of each tilt, cos t, (T,); it models the longer path through a tilted specimen."""
        return np.cos(np.deg2rad(self.tilt_deg))

    @property
    def least_tilted(self) -> int:
        """Index of the tilt closest to 0 degrees."""
        return int(np.abs(self.tilt_deg).argmin())


def _dose_symmetric(tilt_deg: np.ndarray, dose_per_tilt: float) -> np.ndarray:
    """Return the accumulated dose of a dose-symmetric scheme that starts at 0, negative tilt of each pair first."""
    order = np.lexsort((tilt_deg, np.abs(tilt_deg).round(3)))
    dose = np.empty(len(tilt_deg))
    dose[order] = dose_per_tilt * np.arange(1, len(tilt_deg) + 1)
    return dose


def regular_scheme(lowest_deg: float, highest_deg: float, step_deg: float, dose_per_tilt: float) -> TiltScheme:
    """Return a dose-symmetric scheme from `lowest_deg` to `highest_deg` in steps of `step_deg`.

    Raises
    ------
    UserError
        If the range is empty or reaches 90 degrees, or if the step is not positive.
    """
    if not -90 < lowest_deg <= highest_deg < 90:
        raise UserError(
            f"--tilt-range is {lowest_deg:g} {highest_deg:g}, but it must be ascending and between -90 and 90 degrees."
        )
    if step_deg <= 0:
        raise UserError(f"--tilt-step is {step_deg:g}, but it must be positive.")
    count = int(np.floor((highest_deg - lowest_deg) / step_deg + 1e-6)) + 1
    tilt_deg = lowest_deg + step_deg * np.arange(count)
    return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))


def scheme_from_file(path: Path, dose_per_tilt: float) -> TiltScheme:
    """Read a tilt scheme from a text file with one angle per line (.tlt), or angle and accumulated dose in e/Å².

    Without doses, a dose-symmetric scheme is assumed.

    Raises
    ------
    UserError
        If the file is missing, empty or not numeric, or if it contains an angle of 90 degrees or more.
    """
    try:
        with warnings.catch_warnings():
            # an empty file is reported below
            warnings.simplefilter("ignore", UserWarning)
            table = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise UserError(f"Cannot read the tilt angles in {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} must contain one tilt angle per line, or angle and dose: {error}.") from error
    if table.size == 0 or table.shape[1] not in (1, 2):
        raise UserError(f"{path} must contain one tilt angle per line, or angle and accumulated dose.")
    tilt_deg = table[:, 0]
    if not np.isfinite(table).all() or np.abs(tilt_deg).max() >= 90:
        raise UserError(f"{path} contains a tilt angle that is not between -90 and 90 degrees.")
    if table.shape[1] == 1:
        return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))
    if (table[:, 1] < 0).any():
        raise UserError(f"{path} contains a negative dose. The second column must be the accumulated dose in e/Å².")
    return TiltScheme(tilt_deg, table[:, 1])


@dataclass(frozen=True)
class Optics:
    """Acceleration voltage (kV), spherical aberration (mm), amplitude contrast (fraction) and phase shift (degrees)."""

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07
    phase_shift_deg: float = 0.0


@dataclass(frozen=True)
class Defoci:
    """Defocus values (Å) and astigmatism angle (degrees) of each tilt image of each particle, each (N, T)."""

    u: np.ndarray
    v: np.ndarray
    angle_deg: np.ndarray


def draw_defoci(
    count: int,
    tilts: int,
    *,
    mean_range: tuple[float, float],
    astigmatism: float,
    jitter: float,
    rng: np.random.Generator,
) -> Defoci:
    """Draw random defocus values.

    The mean defocus is uniform per particle with a normally distributed variation per tilt. The astigmatism |u - v|
    and its angle are uniform per particle.

    Parameters
    ----------
    count, tilts
        Numbers of particles, N, and tilts, T.
    mean_range
        Lowest and highest mean defocus in Å, underfocus positive.
    astigmatism
        Maximum astigmatism |u - v| in Å.
    jitter
        Standard deviation of the variation between tilts in Å.
    rng
        Random number generator.
    """
    mean = rng.uniform(*mean_range, (count, 1)) + rng.normal(0.0, 1.0, (count, tilts)) * jitter
    difference = rng.uniform(0.0, 1.0, (count, 1)) * astigmatism
    angle = rng.uniform(0.0, 180.0, (count, 1)) if astigmatism > 0 else np.zeros((count, 1))
    return Defoci(mean + 0.5 * difference, mean - 0.5 * difference, np.broadcast_to(angle, mean.shape).copy())
