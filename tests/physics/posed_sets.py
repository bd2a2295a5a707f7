"""Noise-free subtomograms of known densities and poses, from simulators that share nothing with `opustomo.physics`.

Densities are band-limited to 0.8 of the Nyquist frequency: the shared simulator cuts its slices at a circle, which no
3D CTF describes. They are also given on a twice finer grid, so that trilinear posing is accurate and a disagreement
speaks of the physics, not of the interpolation.
"""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from opustomo.geometry.rotations import euler_to_matrix
from opustomo.io.ctf_tables import TiltTable, read_relion_table
from opustomo.io.image_paths import resolve_ctf_tables, resolve_images
from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import read_particles
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.physics.fourier import irfft3, rfft3, shift_phases
from opustomo.physics.sampling import sample_posed
from opustomo.simulate.acquisition import Optics, TiltScheme, draw_defoci
from opustomo.simulate.forward_model import ParticleSet, SubtomogramSimulator, draw_poses

SHARED = Path(__file__).resolve().parents[3] / "shared"
FIELD_OF_VIEW_A = 384.0
FINER = 2
OPTICS = Optics(300.0, 2.7, 0.07)


@dataclass(frozen=True)
class PosedSet:
    """Subtomograms ``images`` (N, D, D, D) of one ``density`` (D, D, D), with the content of their STAR file."""

    density: np.ndarray
    apix: float
    eulers_deg: np.ndarray
    origins_px: np.ndarray
    tables: list[TiltTable]
    images: np.ndarray
    normalized: bool


def band_limit(density: np.ndarray) -> np.ndarray:
    """Attenuate frequencies above 0.8 of the Nyquist frequency."""
    k = np.fft.fftfreq(density.shape[0])
    radius = np.sqrt(k[:, None, None] ** 2 + k[:, None] ** 2 + k**2)
    return np.fft.ifftn(np.fft.fftn(density) / (1.0 + np.exp((radius - 0.4) / 0.02))).real.astype(np.float32)


def fourier_resize(density: np.ndarray, size: int) -> np.ndarray:
    """Resample a density to a coarser or finer grid of the same field of view; voxel D/2 becomes size/2."""
    full = density.shape[0]
    spectrum = np.fft.fftshift(np.fft.fftn(np.fft.ifftshift(density)))
    if size < full:
        cut = slice(full // 2 - size // 2, full // 2 + size // 2)
        spectrum = spectrum[cut, cut, cut]
    else:
        spectrum = np.pad(spectrum, (size - full) // 2)
    small = np.fft.fftshift(np.fft.ifftn(np.fft.ifftshift(spectrum))).real * (size / full) ** 3
    return small.astype(np.float32)


def ribosome(name: str, size: int) -> np.ndarray:
    """Return one of the shared maps (64³, 6 Å) with ``size`` voxels."""
    (path,) = (SHARED / "data" / "maps").glob(f"{name}_*.mrc")
    return band_limit(fourier_resize(read_volume(path)[0], size))


def blobs(seed: int, size: int) -> np.ndarray:
    """Return an asymmetric density: 40 Gaussians of 12 Å within 110 Å of the center."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(40, 3))
    centers *= 110.0 * rng.uniform(0.1, 1.0, (40, 1)) ** (1 / 3) / np.linalg.norm(centers, axis=1, keepdims=True)
    axis = (np.arange(size) - size // 2) * FIELD_OF_VIEW_A / size
    along = np.exp(-0.5 * ((axis - centers[..., None]) / 12.0) ** 2)  # (40, 3, size)
    return band_limit(np.einsum("nz,ny,nx->zyx", *along.transpose(1, 0, 2)))


def shared_simulator():
    """Return the independent simulator; skip the test if it is not next to the repository."""
    path = SHARED / "tools" / "simulate_subtomograms.py"
    if not path.exists():
        pytest.skip("the shared simulator (../shared/tools/simulate_subtomograms.py) is not on this machine")
    spec = importlib.util.spec_from_file_location("shared_simulate_subtomograms", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def from_shared_files(
    name: str, size: int, normalized: bool, folder: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> PosedSet:
    """Run the shared simulator as a program and read its STAR file, CTF tables and subtomograms with our readers."""
    simulator = shared_simulator()
    density, apix = ribosome(name, size), FIELD_OF_VIEW_A / size
    np.save(folder / "density.npy", density[None])
    arguments = [str(folder / "density.npy"), "-o", str(folder), "-n", str(count), "--apix", str(apix)]
    arguments += ["--snr", "1e8", "--device", "cpu", "--seed", "3"] + ([] if normalized else ["--raw"])
    monkeypatch.setattr(sys, "argv", ["simulate_subtomograms.py", *arguments])
    simulator.main()
    star = read_particles(folder / "particles.star")
    tables = resolve_ctf_tables(star, folder, warp=False)
    assert tables is not None
    return PosedSet(
        density,
        apix,
        star.eulers_deg(),
        star.origins_px(None),
        [read_relion_table(path) for path in tables],
        np.stack([read_volume(path)[0] for path in resolve_images(star, folder)]),
        normalized,
    )


def _acquisition(tilt_deg: np.ndarray, count: int, seed: int) -> ParticleSet:
    rng = np.random.default_rng(seed)
    scheme = TiltScheme(tilt_deg, 3.0 * (1 + np.argsort(np.argsort(np.abs(tilt_deg), kind="stable"))))
    defoci = draw_defoci(
        count, len(tilt_deg), mean_range=(20000, 40000), astigmatism=0, jitter=200, rng=rng
    )  # the shared simulator knows no astigmatism
    return ParticleSet(np.zeros(count, dtype=np.int64), draw_poses(count, 3.0, rng), defoci, scheme, OPTICS)


def _tables(particles: ParticleSet) -> list[TiltTable]:
    scheme, ones = particles.scheme, np.ones(len(particles.scheme))
    defoci = particles.defoci
    return [
        TiltTable(
            tilt_deg=scheme.tilt_deg,
            defocus_u_A=u,
            defocus_v_A=v,
            astigmatism_deg=angle,
            voltage_kv=OPTICS.voltage_kv * ones,
            cs_mm=OPTICS.cs_mm * ones,
            amplitude_contrast=OPTICS.amplitude_contrast * ones,
            phase_shift_deg=0 * ones,
            bfactor_A2=scheme.bfactor_A2,
            scale=scheme.scale,
        )
        for u, v, angle in zip(defoci.u, defoci.v, defoci.angle_deg, strict=True)
    ]


def from_own_simulator(density: np.ndarray, tilt_deg: np.ndarray, normalized: bool, count: int) -> PosedSet:
    """Simulate with `opustomo.simulate`: projection of each tilt and insertion."""
    apix = FIELD_OF_VIEW_A / density.shape[0]
    particles = _acquisition(tilt_deg, count, seed=4)
    simulator = SubtomogramSimulator(density[None], apix, particles, normalize=normalized)
    images = np.zeros((count, *density.shape), np.float32)
    for rows, boxes in simulator.subtomograms(0.0, 0):
        images[rows] = boxes
    poses = particles.poses
    return PosedSet(density, apix, poses.eulers_deg, poses.origins, _tables(particles), images, normalized)


def from_shared_simulator(density: np.ndarray, tilt_deg: np.ndarray, normalized: bool, count: int) -> PosedSet:
    """Simulate with the core of the independent simulator, with tilt angles that its command line does not offer."""
    module = shared_simulator()
    apix = FIELD_OF_VIEW_A / density.shape[0]
    particles = _acquisition(tilt_deg, count, seed=4)
    simulator = module.Simulator(density[None], apix, "cpu")
    generator = torch.Generator().manual_seed(0)
    poses, scheme = particles.poses, particles.scheme
    images = [
        simulator.particle(
            0,
            torch.from_numpy(rotation).float(),
            torch.from_numpy(-origin).float(),  # the simulator moves by the shift that the origin takes back
            torch.from_numpy(scheme.tilt_deg).float(),
            torch.from_numpy(defocus).float(),
            OPTICS.voltage_kv,
            OPTICS.cs_mm,
            OPTICS.amplitude_contrast,
            torch.from_numpy(scheme.dose).float(),
            0.0,
            generator,
            normalized,
        ).numpy()
        for rotation, origin, defocus in zip(poses.rotations, poses.origins, particles.defoci.u, strict=True)
    ]
    return PosedSet(density, apix, poses.eulers_deg, poses.origins, _tables(particles), np.stack(images), normalized)


def finer(density: np.ndarray) -> Tensor:
    """Return a density on a grid of twice the sampling whose end voxels are those of the density."""
    size = FINER * density.shape[0]
    return torch.from_numpy(fourier_resize(density, size))[(slice(0, size - FINER + 1),) * 3].contiguous()


def mirror_z(density: np.ndarray) -> np.ndarray:
    """Mirror a density in z about voxel D/2."""
    return np.roll(density[::-1], 1, axis=0).copy()


def predict(particles: PosedSet, posed: Tensor, tables: list[TiltTable], origins_px: np.ndarray) -> Tensor:
    """Image posed densities (N, D, D, D) with the 3D CTF and shift them off center by the origins."""
    size = posed.shape[-1]
    ctf = ctf_volume(TiltBatch.pad(tables), size, particles.apix, normalized=particles.normalized)
    phases = shift_phases(torch.from_numpy(-origins_px).float(), size, size)
    return irfft3(rfft3(posed) * ctf * phases)


def pose(density: np.ndarray, matrices: Tensor) -> Tensor:
    """Rotate a density by RELION matrices A (N, 3, 3): y(x) = V(Aᵀ x)."""
    volume = finer(density).expand(len(matrices), -1, -1, -1)
    return sample_posed(volume, matrices.mT[:, None], density.shape[0])[:, 0]


def inside(particles: PosedSet) -> np.ndarray:
    """Return the voxels of the posed particles, as a solvent mask covers them."""
    size = particles.density.shape[0]
    turned = pose(particles.density, euler_to_matrix(torch.from_numpy(particles.eulers_deg)).float())
    moved = irfft3(rfft3(turned) * shift_phases(torch.from_numpy(-particles.origins_px).float(), size, size))
    blur = torch.nn.functional.avg_pool3d(moved[:, None].abs(), 5, stride=1, padding=2)[:, 0]
    return (blur > 0.1 * blur.amax((1, 2, 3), keepdim=True)).numpy()


def correlations(particles: PosedSet, model: Tensor) -> np.ndarray:
    """Return the correlation of model and subtomogram inside the particle, (N,)."""
    return np.array(
        [
            np.corrcoef(a[where], b[where])[0, 1]
            for a, b, where in zip(particles.images, model.numpy(), inside(particles), strict=True)
        ]
    )


def matrices_of(particles: PosedSet) -> Tensor:
    """Return RELION matrices A, (N, 3, 3)."""
    return euler_to_matrix(torch.from_numpy(particles.eulers_deg)).float()
