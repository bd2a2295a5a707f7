"""Tilt series of known particles at known positions, rendered in real space from Gaussian blobs.

Nothing of the program is used: places come from matrices that the tests make with scipy, images are sums of Gaussians,
and CTFs are closed formulas. Particles are dark, as in a microscope.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

WINDOW = 192
BLOB_SIGMA_A = 3.0
BOX, APIX = 48, 8.0
"""Of the subtomograms; the density has nothing above 0.8 of their Nyquist frequency."""
VOLTAGE_KV, CS_MM, AMPLITUDE = 300.0, 2.7, 0.07
TILTS = np.arange(-30.0, 61.0, 3.0)
DOSE = 2.0 * (1 + np.argsort(np.argsort(np.abs(TILTS), kind="stable")))
DEFOCUS_A = 25000.0 + 400.0 * np.sin(np.arange(len(TILTS)))
ASTIGMATISM_A, AZIMUTH_DEG = 3000.0, 25.0
"""Difference of the defoci, and azimuth of the larger one in the image."""


def blob_centers() -> np.ndarray:
    """Return x, y, z of 40 blobs in Å from the center, (40, 3): asymmetric, within 110 Å."""
    rng = np.random.default_rng(1)
    centers = rng.normal(size=(40, 3))
    return centers * 110.0 * rng.uniform(0.1, 1.0, (40, 1)) ** (1 / 3) / np.linalg.norm(centers, axis=1, keepdims=True)


def density() -> np.ndarray:
    """Return the particle on the grid of the subtomograms, (BOX, BOX, BOX), from its structure factors."""
    k = np.fft.fftfreq(BOX, APIX)
    waves = np.exp(-2j * np.pi * k * blob_centers()[..., None])  # (40, 3, BOX)
    s2 = k[:, None, None] ** 2 + k[:, None] ** 2 + k**2
    spectrum = np.einsum("bx,by,bz->zyx", *waves.transpose(1, 0, 2)) * np.exp(-2 * np.pi**2 * BLOB_SIGMA_A**2 * s2)
    return np.fft.fftshift(np.fft.ifftn(spectrum * _band(s2)).real).astype(np.float32)


def _band(s2: np.ndarray) -> np.ndarray:
    return 1.0 / (1.0 + np.exp((APIX * np.sqrt(s2) - 0.4) / 0.02))


@dataclass(frozen=True)
class Particles:
    """Poses (RELION), origins (Å) and coordinates (Å from the center of the tomogram)."""

    eulers_deg: np.ndarray
    origins_A: np.ndarray
    coordinates_A: np.ndarray

    @property
    def matrices(self) -> np.ndarray:
        """Return the matrices A of RELION from intrinsic zyz rotations, transposed."""
        return Rotation.from_euler("ZYZ", self.eulers_deg, degrees=True).as_matrix().swapaxes(1, 2)


def draw_particles(far_A: float) -> Particles:
    """Return three particles at different y and up to `far_A` from the tilt axis along x."""
    rng = np.random.default_rng(5)
    coordinates = np.array([[-far_A, -330.0, 120.0], [far_A, 0.0, -90.0], [0.8 * far_A, 330.0, 60.0]])
    eulers = np.stack([rng.uniform(-180, 180, 3), rng.uniform(20, 160, 3), rng.uniform(-180, 180, 3)], axis=1)
    return Particles(eulers, rng.uniform(-12, 12, (3, 3)), coordinates)


def render(
    particles: Particles,
    rotations: np.ndarray,
    shifts_A: np.ndarray,
    hand: int,
    size: tuple[int, int],
    apix: float,
    movement: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> np.ndarray:
    """Tilt images (T, height, width).

    Parameters
    ----------
    particles
        What is imaged.
    rotations, shifts_A
        (T, 3, 3) and (T, 2): a point x is seen at the first two components of M x, plus the shift.
    hand
        What the third component of M x, times this, adds to the defocus.
    size, apix
        Width and height in pixels, pixel size in Å.
    movement
        From (N, 2) places in the image (Å from the center) and tilt index: what is subtracted from them.
    """
    width, height = size
    images = np.zeros((len(rotations), height + 2 * WINDOW, width + 2 * WINDOW), np.float32)
    blobs = np.einsum("nij,bj->nbi", particles.matrices, blob_centers())
    blobs += (particles.coordinates_A - particles.origins_A)[:, None]
    for tilt, (rotation, shift) in enumerate(zip(rotations, shifts_A, strict=True)):
        seen = blobs @ rotation.T
        depth = hand * (particles.coordinates_A @ rotation.T)[:, 2]
        for places, deep in zip(seen[..., :2] + shift, depth, strict=True):
            if movement is not None:
                places = places - movement(places, tilt)
            pixels = places / apix + np.array([width // 2, height // 2])
            corner = np.round(pixels.mean(axis=0)).astype(int) - WINDOW // 2
            image = _projection(pixels - corner, BLOB_SIGMA_A / apix)
            image = np.fft.irfft2(np.fft.rfft2(image) * _transfer(tilt, deep, apix), s=image.shape)
            x, y = corner + WINDOW
            if 0 <= x <= width + WINDOW and 0 <= y <= height + WINDOW:
                images[tilt, y : y + WINDOW, x : x + WINDOW] -= image
    return images[:, WINDOW:-WINDOW, WINDOW:-WINDOW]


def _projection(centers: np.ndarray, sigma: float) -> np.ndarray:
    at = np.arange(WINDOW)
    x, y = (np.exp(-0.5 * ((at - centers[:, axis, None]) / sigma) ** 2) for axis in (0, 1))
    return np.einsum("by,bx->yx", y, x)


def _transfer(tilt: int, depth_A: float, apix: float) -> np.ndarray:
    """Return CTF, dose filter and cos t by the formulas of Reimer, with the azimuth from the arctangent."""
    x, y = np.fft.rfftfreq(WINDOW, apix)[None, :], np.fft.fftfreq(WINDOW, apix)[:, None]
    s2, azimuth = x**2 + y**2, np.arctan2(y, x)
    volt = 1e3 * VOLTAGE_KV
    wavelength = 12.2643247 / np.sqrt(volt * (1 + 0.978466e-6 * volt))
    defocus = DEFOCUS_A[tilt] + depth_A + 0.5 * ASTIGMATISM_A * np.cos(2 * (azimuth - np.deg2rad(AZIMUTH_DEG)))
    phase = np.pi * wavelength * defocus * s2 - 0.5 * np.pi * 1e7 * CS_MM * wavelength**3 * s2**2
    damping = np.cos(np.deg2rad(TILTS[tilt])) * np.exp(-DOSE[tilt] * s2)
    return np.sin(phase + np.arcsin(AMPLITUDE)) * damping * _band(s2)
