"""Forward model of simulated subtomograms: random poses, posed slices, CTF, noise and Fourier insertion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor

from opustomo.geometry.rotations import matrix_to_euler
from opustomo.physics.slice_insertion import SliceInserter
from opustomo.simulate.acquisition import Defoci, Optics, SliceSource, TiltScheme, origin_phases, tilt_image_transfer


@dataclass(frozen=True)
class PoseSet:
    """RELION poses: matrices A from reference to subtomogram, (N, 3, 3), and origins x, y, z in voxels, (N, 3)."""

    rotations: np.ndarray
    origins: np.ndarray

    @property
    def eulers_deg(self) -> np.ndarray:
        """Euler angles rot, tilt, psi in degrees, (N, 3)."""
        return matrix_to_euler(torch.from_numpy(self.rotations)).numpy()


def draw_poses(count: int, largest_shift: float, rng: np.random.Generator) -> PoseSet:
    """Draw orientations uniformly on SO(3) and each component of the origin uniformly in ±`largest_shift` voxels."""
    rotations = Rotation.random(count, rng).as_matrix()
    return PoseSet(rotations, rng.uniform(-largest_shift, largest_shift, (count, 3)))


def disturb_poses(poses: PoseSet, angle_deg: float, shift: float, rng: np.random.Generator) -> PoseSet:
    """Add errors to poses, which imitate an imperfect alignment.

    Each orientation is rotated about a random axis by a normally distributed angle with standard deviation
    `angle_deg`, and each component of the origin gets a normally distributed error with standard deviation `shift`.
    """
    count = len(poses.rotations)
    axes = rng.normal(size=(count, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    errors = Rotation.from_rotvec(axes * np.deg2rad(angle_deg) * rng.normal(size=(count, 1)))
    rotations = (Rotation.from_matrix(poses.rotations) * errors).as_matrix()
    return PoseSet(rotations, poses.origins + shift * rng.normal(size=(count, 3)))


#: Number of slice samples per chunk, which limits the memory to about 200 MB.
CHUNK_SAMPLES = 1_500_000


@dataclass(frozen=True)
class ParticleSet:
    """Parameters of the noise-free subtomograms of a data set.

    Attributes
    ----------
    labels
        Index of the density of each particle, (N,); -1 for empty boxes.
    poses, defoci
        Poses and defocus values of the particles.
    scheme, optics
        Tilt scheme and optics, common to all particles.
    """

    labels: np.ndarray
    poses: PoseSet
    defoci: Defoci
    scheme: TiltScheme
    optics: Optics

    def __len__(self) -> int:
        return len(self.labels)


class SubtomogramSimulator:
    """Simulate the subtomograms of a particle set.

    Parameters
    ----------
    volumes
        Densities, (K, D, D, D).
    apix
        Pixel size in Å.
    particles
        Particles to simulate.
    normalize
        True divides by the sampling weights, False by the number of tilts.
    device
        Device of the computation. Noise is drawn on the CPU with one random stream per particle, so the results
        depend neither on the device nor on the chunks.
    """

    def __init__(
        self,
        volumes: np.ndarray,
        apix: float,
        particles: ParticleSet,
        *,
        normalize: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if volumes.ndim != 4:
            raise ValueError(f"volumes must be (K, D, D, D), not {volumes.shape}")
        if particles.labels.max(initial=-1) >= len(volumes):
            raise ValueError("a particle label refers to a volume that does not exist")
        self.volumes = volumes
        self.apix = apix
        self.particles = particles
        self.device = torch.device(device)
        self.box = int(volumes.shape[-1])
        self._tilts = torch.from_numpy(particles.scheme.tilt_deg.astype(np.float64))
        self.inserter = SliceInserter(particles.scheme.tilt_deg, self.box, normalize=normalize, device=device)
        samples = len(particles.scheme) * self.box * (self.box // 2 + 1)
        self.chunk = max(1, CHUNK_SAMPLES // samples)

    def signal_slices(self, source: SliceSource, rows: np.ndarray, tilts: Sequence[int] | None = None) -> Tensor:
        """Compute noise-free slices of particles of one density, including CTF, dose envelope and scale.

        Parameters
        ----------
        source
            Fourier transform of the density.
        rows
            Particle indices, (B,).
        tilts
            Indices of T tilts; None for all tilts.

        Returns
        -------
        Tensor, complex, (B, T, D, D//2 + 1)
            Slices in FFT order with phases relative to the box center.
        """
        poses, which = self.particles.poses, slice(None) if tilts is None else list(tilts)
        rotations = torch.from_numpy(poses.rotations[rows]).to(self.device)
        origins = torch.from_numpy(poses.origins[rows]).to(self.device)
        angles = self._tilts[which]
        slices = source.slices(rotations, angles) * origin_phases(origins, angles, self.box)
        return slices * self._transfer(rows, which)

    def _transfer(self, rows: np.ndarray, which: slice | list[int]) -> Tensor:
        """Compute the product of CTF, dose envelope and scale of each tilt image, (B, T, D, D//2 + 1)."""
        defoci, scheme, optics = self.particles.defoci, self.particles.scheme, self.particles.optics
        ctf = tilt_image_transfer(
            (
                torch.from_numpy(defoci.u[rows][:, which]).to(self.device),
                torch.from_numpy(defoci.v[rows][:, which]).to(self.device),
            ),
            torch.from_numpy(defoci.angle_deg[rows][:, which]).to(self.device),
            torch.from_numpy(scheme.bfactor_A2[which]).to(self.device),
            optics,
            box=self.box,
            apix=self.apix,
        )
        return ctf * torch.from_numpy(scheme.scale[which]).float().to(self.device)[:, None, None]

    def noise_sigma(self, snr: float, sample: int = 64) -> float:
        """Compute the standard deviation of the pixel noise of the tilt images, common to the whole data set.

        The SNR is the variance over the whole box of the noise-free image at the smallest tilt, including CTF and dose
        envelope, divided by the variance of the noise. The signal variance is averaged over up to `sample` evenly
        spaced particles.
        """
        if snr <= 0:
            raise ValueError("the SNR must be positive")
        filled = np.flatnonzero(self.particles.labels >= 0)
        if not len(filled):
            raise ValueError("the SNR is undefined because all boxes are empty")
        sampled = filled[np.linspace(0, len(filled) - 1, min(sample, len(filled))).round().astype(int)]
        tilt = [self.particles.scheme.least_tilted]
        variances = []
        for label in np.unique(self.particles.labels[sampled]):
            source = self._source(int(label))
            rows = sampled[self.particles.labels[sampled] == label]
            images = torch.fft.irfft2(self.signal_slices(source, rows, tilt)[:, 0], s=(self.box, self.box))
            variances.append(images.var(dim=(1, 2), unbiased=False).double().cpu())
        return float((torch.cat(variances).mean() / snr).sqrt())

    def _source(self, label: int) -> SliceSource:
        return SliceSource(torch.from_numpy(self.volumes[label].astype(np.float32)).to(self.device))

    def noise_slices(self, rows: np.ndarray, sigma: float, seed: int) -> Tensor:
        """Return the Fourier transforms of white noise images of the given particles, (B, T, D, D//2 + 1)."""
        shape = (len(self._tilts), self.box, self.box)
        images = [
            np.random.default_rng([seed, int(row)]).standard_normal(shape, dtype=np.float32) * np.float32(sigma)
            for row in rows
        ]
        return torch.fft.rfft2(torch.from_numpy(np.stack(images)).to(self.device))

    def subtomograms(self, sigma: float, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Simulate all subtomograms in chunks, ordered by density.

        Parameters
        ----------
        sigma
            Standard deviation of the pixel noise of the tilt images; 0 for no noise.
        seed
            Random seed of the noise.

        Yields
        ------
        rows : numpy.ndarray, (B,)
            Particle indices.
        boxes : numpy.ndarray, float32, (B, D, D, D)
            Subtomograms of these particles.
        """
        for label in np.unique(self.particles.labels):
            source = self._source(int(label)) if label >= 0 else None
            members = np.flatnonzero(self.particles.labels == label)
            for start in range(0, len(members), self.chunk):
                rows = members[start : start + self.chunk]
                yield rows, self._simulate_chunk(source, rows, sigma, seed)

    def _simulate_chunk(self, source: SliceSource | None, rows: np.ndarray, sigma: float, seed: int) -> np.ndarray:
        shape = (len(rows), len(self._tilts), self.box, self.box // 2 + 1)
        if source is None:
            slices = torch.zeros(shape, dtype=torch.complex64, device=self.device)
        else:
            slices = self.signal_slices(source, rows)
        if sigma > 0:
            slices = slices + self.noise_slices(rows, sigma, seed)
        return self.inserter.insert(slices).cpu().numpy()
