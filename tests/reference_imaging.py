"""Reference of imaging: transforms of centered boxes, CTFs and rotations, in float64 and independent of the package."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation


@dataclass(frozen=True)
class Sizes:
    """Input box D, pixel size, render box Dr, crop Dc; sizes of the template and the grid of the encoder."""

    box: int
    apix: float
    render: int
    crop: int
    templateres: int
    encoderres: int
    zdim: int

    @property
    def render_apix(self) -> float:
        return self.apix * self.box / self.render


@dataclass(frozen=True)
class Tilt:
    """One tilt image; a positive B factor in Å² damps."""

    angle: float
    defocus_u: float
    defocus_v: float
    astigmatism: float
    kilovolt: float
    cs_mm: float
    amplitude_contrast: float
    phase_shift: float
    bfactor: float
    scale: float


# --- Fourier transforms of centred boxes


def rfft3(y: np.ndarray) -> np.ndarray:
    """Return the half spectrum, with zero frequency at (D/2, D/2, 0)."""
    return np.fft.fftshift(np.fft.rfftn(np.fft.fftshift(y)), axes=(0, 1))


def irfft3(spectrum: np.ndarray) -> np.ndarray:
    """Return the inverse of rfft3."""
    size = spectrum.shape[0]
    return np.fft.fftshift(np.fft.irfftn(np.fft.ifftshift(spectrum, axes=(0, 1)), s=(size,) * 3, axes=(0, 1, 2)))


def frequencies(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return kz, ky and kx in 1/voxel, each of the shape of the half spectrum."""
    full = np.arange(size) - size // 2
    kz, ky, kx = np.meshgrid(full, full, np.arange(size // 2 + 1), indexing="ij")
    return kz.astype(float), ky.astype(float), kx.astype(float)


def crop_spectrum(spectrum: np.ndarray, size: int) -> np.ndarray:
    """Return the low frequencies; densities keep their values."""
    full = spectrum.shape[0]
    start = full // 2 - size // 2
    return spectrum[start : start + size, start : start + size, : size // 2 + 1] * (size / full) ** 3


def crop_center(y: np.ndarray, size: int) -> np.ndarray:
    """Return the central cube."""
    start = y.shape[0] // 2 - size // 2
    return y[(slice(start, start + size),) * 3]


def pad_center(y: np.ndarray, size: int) -> np.ndarray:
    """Add zeros around a cube."""
    out = np.zeros((size,) * 3)
    start = size // 2 - y.shape[0] // 2
    out[(slice(start, start + y.shape[0]),) * 3] = y
    return out


def cubic(d: np.ndarray) -> np.ndarray:
    """Return the cubic convolution kernel, a = -0.75."""
    a, d = -0.75, np.abs(d)
    near = (a + 2) * d**3 - (a + 3) * d**2 + 1
    far = a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))


def linear(d: np.ndarray) -> np.ndarray:
    """Return the linear interpolation kernel."""
    return np.clip(1 - np.abs(d), 0, None)


def ctf_2d(tilt: Tilt, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return CTF and envelope of a tilt at in-plane frequencies in 1/Å."""
    volt = tilt.kilovolt * 1e3
    wavelength = 12.2643247 / np.sqrt(volt + 0.978466e-6 * volt**2)
    s, azimuth = np.hypot(x, y), np.arctan2(y, x)
    u, v, w = tilt.defocus_u, tilt.defocus_v, tilt.amplitude_contrast
    defocus = 0.5 * (u + v + (u - v) * np.cos(2 * (azimuth - np.radians(tilt.astigmatism))))
    gamma = 2 * np.pi * (-0.5 * defocus * wavelength * s**2 + 0.25 * tilt.cs_mm * 1e7 * wavelength**3 * s**4)
    gamma = gamma - np.radians(tilt.phase_shift)
    return -np.sin(gamma - np.arctan2(w, np.sqrt(1 - w * w))) * np.exp(-tilt.bfactor * s**2 / 4)


def ctf_3d(tilts: list[Tilt], sizes: Sizes, normalized: bool) -> np.ndarray:
    """Return the 3D CTF on the render grid."""
    kz, ky, kx = frequencies(sizes.render)
    length = sizes.render * sizes.render_apix
    total, sampling = np.zeros_like(kz), np.zeros_like(kz)
    for tilt in tilts:
        cos, sin = np.cos(np.radians(tilt.angle)), np.sin(np.radians(tilt.angle))
        x, distance = kx * cos - kz * sin, kx * sin + kz * cos
        weight = (linear if normalized else cubic)(distance)
        # the sign of c counts: what a kernel touches with its very end lies in the wedge
        weight *= (np.abs(weight) > 1e-5) & (np.abs(x) <= sizes.box / 2) & (tilt.scale > 0)
        total += weight * tilt.scale * ctf_2d(tilt, x / length, ky / length)
        sampling += weight
    return total / np.maximum(sampling, 1) if normalized else total / sum(tilt.scale for tilt in tilts)


def sample(volume: np.ndarray, matrix: np.ndarray, size: int, shift: np.ndarray | None = None) -> np.ndarray:
    """V(M (x - c) + c + shift) on a cube of ``size`` voxels about its voxel c = size/2; shift in these voxels.

    The volume spans the cube, whatever its own number of voxels.
    """
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    at = np.einsum("ij,jzyx->izyx", matrix, np.stack([x, y, z])) + size // 2
    if shift is not None:
        at = at + shift[:, None, None, None]
    at = at * (volume.shape[0] - 1) / (size - 1)
    return map_coordinates(volume, at[::-1], order=1, mode="grid-constant")


def rotate_about_z(volume: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Rotate every x, y plane about voxel D/2 by bicubic interpolation (a = -0.75), with zeros outside."""
    size = volume.shape[0]
    axis = np.arange(size) - size // 2
    y, x = np.meshgrid(axis, axis, indexing="ij")
    at_x, at_y = np.einsum("ij,jyx->iyx", matrix, np.stack([x, y])) + size // 2
    padded = np.pad(volume, ((0, 0), (size, size), (size, size)))
    out = np.zeros_like(volume)
    for step_y in range(-1, 3):
        for step_x in range(-1, 3):
            node_y, node_x = np.floor(at_y).astype(int) + step_y, np.floor(at_x).astype(int) + step_x
            out += cubic(at_y - node_y) * cubic(at_x - node_x) * padded[:, node_y + size, node_x + size]
    return out


def split_turn(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split A into a rotation about z, (2, 2), and one out of the plane, (3, 3)."""
    _, _, z, w = Rotation.from_matrix(rotation).as_quat()
    angle = 2 * np.arctan2(z, w)
    about_z = Rotation.from_euler("z", angle).as_matrix()
    return about_z[:2, :2], about_z.T @ rotation
