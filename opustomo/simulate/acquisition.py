"""Tilt series as recorded: angles, exposure order, dose and the defocus of every tilt image."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from opustomo.errors import UserError


@dataclass(frozen=True)
class TiltScheme:
    """Angles of a tilt series and the dose received by the end of each exposure.

    Attributes
    ----------
    tilt_deg
        (T,) degrees, in the order of the files.
    dose
        (T,) accumulated e/Å²; damps the image by exp(-dose s²), a B factor of 4·dose Å².
    """

    tilt_deg: np.ndarray
    dose: np.ndarray

    def __len__(self) -> int:
        return len(self.tilt_deg)

    @property
    def bfactor_A2(self) -> np.ndarray:
        return 4.0 * self.dose

    @property
    def scale(self) -> np.ndarray:
        """(T,) cos t: what the longer way through a tilted specimen leaves of the signal."""
        return np.cos(np.deg2rad(self.tilt_deg))

    @property
    def least_tilted(self) -> int:
        """Index of the tilt nearest to 0 degrees."""
        return int(np.abs(self.tilt_deg).argmin())


def _dose_symmetric(tilt_deg: np.ndarray, dose_per_tilt: float) -> np.ndarray:
    """Accumulated dose when tilts are exposed outwards from 0, the negative one of a pair first."""
    order = np.lexsort((tilt_deg, np.abs(tilt_deg).round(3)))
    dose = np.empty(len(tilt_deg))
    dose[order] = dose_per_tilt * np.arange(1, len(tilt_deg) + 1)
    return dose


def regular_scheme(lowest_deg: float, highest_deg: float, step_deg: float, dose_per_tilt: float) -> TiltScheme:
    """Tilts from `lowest_deg` to `highest_deg` in steps of `step_deg`, exposed dose-symmetrically.

    Raises
    ------
    UserError
        When the range is empty, reaches 90 degrees, or the step is not positive.
    """
    if not -90 < lowest_deg <= highest_deg < 90:
        raise UserError(f"--tilt-range {lowest_deg:g} {highest_deg:g} must rise and stay between -90 and 90 degrees.")
    if step_deg <= 0:
        raise UserError(f"--tilt-step must be positive, not {step_deg:g}.")
    count = int(np.floor((highest_deg - lowest_deg) / step_deg + 1e-6)) + 1
    tilt_deg = lowest_deg + step_deg * np.arange(count)
    return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))


def scheme_from_file(path: Path, dose_per_tilt: float) -> TiltScheme:
    """Tilts from a text file: one angle per line (as in .tlt), or angle and accumulated dose in e/Å².

    Without doses the tilts count as exposed dose-symmetrically.

    Raises
    ------
    UserError
        When the file is missing, empty, not numeric, or holds an angle of 90 degrees or more.
    """
    try:
        with warnings.catch_warnings():
            # an empty file is told below
            warnings.simplefilter("ignore", UserWarning)
            table = np.loadtxt(path, ndmin=2)
    except OSError as error:
        raise UserError(f"Cannot read the tilt angles in {path}: {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"{path} must hold one tilt angle per line, or angle and dose: {error}.") from error
    if table.size == 0 or table.shape[1] not in (1, 2):
        raise UserError(f"{path} must hold one tilt angle per line, or angle and accumulated dose.")
    tilt_deg = table[:, 0]
    if not np.isfinite(table).all() or np.abs(tilt_deg).max() >= 90:
        raise UserError(f"{path} holds a tilt angle that is not between -90 and 90 degrees.")
    if table.shape[1] == 1:
        return TiltScheme(tilt_deg, _dose_symmetric(tilt_deg, dose_per_tilt))
    if (table[:, 1] < 0).any():
        raise UserError(f"{path} holds a negative dose; the second column is the accumulated dose in e/Å².")
    return TiltScheme(tilt_deg, table[:, 1])


@dataclass(frozen=True)
class Optics:
    """Microscope constants: kV, mm, fraction."""

    voltage_kv: float = 300.0
    cs_mm: float = 2.7
    amplitude_contrast: float = 0.07


@dataclass(frozen=True)
class Defoci:
    """Defocus of every tilt image of every particle, Å and degrees, each (N, T)."""

    u: np.ndarray
    v: np.ndarray
    angle_deg: np.ndarray


def draw_defoci(
    count: int,
    tilts: int,
    *,
    lowest: float,
    highest: float,
    astigmatism: float,
    jitter: float,
    rng: np.random.Generator,
) -> Defoci:
    """Random defoci: uniform per particle plus a normal part per tilt; uniform astigmatism |u - v|."""
    mean = rng.uniform(lowest, highest, (count, 1)) + rng.normal(0.0, 1.0, (count, tilts)) * jitter
    difference = rng.uniform(0.0, 1.0, (count, 1)) * astigmatism
    angle = rng.uniform(0.0, 180.0, (count, 1)) if astigmatism > 0 else np.zeros((count, 1))
    return Defoci(mean + 0.5 * difference, mean - 0.5 * difference, np.broadcast_to(angle, mean.shape).copy())
