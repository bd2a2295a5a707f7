"""The forward physics of a simulated set: posed slices, contrast transfer, noise, back-insertion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from opustomo.simulate.acquisition import Defoci, Optics, TiltScheme
from opustomo.simulate.contrast import tilt_image_transfer
from opustomo.simulate.orientations import PoseSet
from opustomo.simulate.projection import SliceSource, origin_phases
from opustomo.slices.insertion import SliceInserter

#: slice samples worked on at once; bounds memory to about 200 MB
CHUNK_SAMPLES = 1_500_000


@dataclass(frozen=True)
class ParticleSet:
    """Everything that determines a set's noise-free subtomograms, particle by particle.

    Attributes
    ----------
    labels
        (N,) index of the density of each particle, -1 for boxes without one.
    poses, defoci
        Of each particle.
    scheme, optics
        Common to all.
    """

    labels: np.ndarray
    poses: PoseSet
    defoci: Defoci
    scheme: TiltScheme
    optics: Optics

    def __len__(self) -> int:
        return len(self.labels)


class SubtomogramSimulator:
    """Makes the subtomograms of a particle set.

    Parameters
    ----------
    volumes
        (K, D, D, D) densities.
    apix
        Pixel size in Å.
    particles
        What to make.
    normalise
        Divide by the sampling weights (True) or by the number of tilts.
    device
        Where the work is done. Noise is drawn on the CPU, one stream per particle, so that results depend
        neither on the device nor on how particles are grouped.
    """

    def __init__(
        self,
        volumes: np.ndarray,
        apix: float,
        particles: ParticleSet,
        *,
        normalise: bool = True,
        device: torch.device | str = "cpu",
    ) -> None:
        if volumes.ndim != 4:
            raise ValueError(f"volumes must be (K, D, D, D), not {volumes.shape}")
        if particles.labels.max(initial=-1) >= len(volumes):
            raise ValueError("a particle's label names a volume that is not there")
        self.volumes = volumes
        self.apix = apix
        self.particles = particles
        self.device = torch.device(device)
        self.box = int(volumes.shape[-1])
        self._tilts = torch.from_numpy(particles.scheme.tilt_deg.astype(np.float64))
        self.inserter = SliceInserter(particles.scheme.tilt_deg, self.box, normalise=normalise, device=device)
        samples = len(particles.scheme) * self.box * (self.box // 2 + 1)
        self.chunk = max(1, CHUNK_SAMPLES // samples)

    def signal_slices(self, source: SliceSource, rows: np.ndarray, tilts: Sequence[int] | None = None) -> Tensor:
        """Noise-free slices of some particles of one density: what the microscope records of them.

        Parameters
        ----------
        source
            The density's transform.
        rows
            (B,) particle indices.
        tilts
            Indices of the tilts wanted; all T when left out.

        Returns
        -------
        Complex (B, T, D, D//2 + 1), native FFT order, phases counted from the box centre; CTF, dose envelope
        and scale applied.
        """
        poses, which = self.particles.poses, slice(None) if tilts is None else list(tilts)
        rotations = torch.from_numpy(poses.rotations[rows]).to(self.device)
        origins = torch.from_numpy(poses.origins[rows]).to(self.device)
        angles = self._tilts[which]
        slices = source.slices(rotations, angles) * origin_phases(origins, angles, self.box)
        return slices * self._transfer(rows, which)

    def _transfer(self, rows: np.ndarray, which: slice | list[int]) -> Tensor:
        """CTF, dose envelope and scale of each tilt image, (B, T, D, D//2 + 1)."""
        defoci, scheme, optics = self.particles.defoci, self.particles.scheme, self.particles.optics
        ctf = tilt_image_transfer(
            torch.from_numpy(defoci.u[rows][:, which]).to(self.device),
            torch.from_numpy(defoci.v[rows][:, which]).to(self.device),
            torch.from_numpy(defoci.angle_deg[rows][:, which]).to(self.device),
            torch.from_numpy(scheme.bfactor_A2[which]).to(self.device),
            voltage_kv=optics.voltage_kv,
            cs_mm=optics.cs_mm,
            amplitude_contrast=optics.amplitude_contrast,
            box=self.box,
            apix=self.apix,
        )
        return ctf * torch.from_numpy(scheme.scale[which]).float().to(self.device)[:, None, None]

    def noise_sigma(self, snr: float, sample: int = 64) -> float:
        """Standard deviation of the noise of a tilt image's pixels, one for the whole set.

        SNR is the variance of the noise-free image at the least tilt, with its CTF and dose envelope and over
        the whole box, divided by the variance of the noise; averaged over (up to `sample`, evenly drawn)
        particles.
        """
        if snr <= 0:
            raise ValueError("the SNR must be positive")
        filled = np.flatnonzero(self.particles.labels >= 0)
        if not len(filled):
            raise ValueError("a set of empty boxes has no signal to measure the noise by")
        chosen = filled[np.linspace(0, len(filled) - 1, min(sample, len(filled))).round().astype(int)]
        tilt = [self.particles.scheme.least_tilted]
        variances = []
        for label in np.unique(self.particles.labels[chosen]):
            source = self._source(int(label))
            rows = chosen[self.particles.labels[chosen] == label]
            images = torch.fft.irfft2(self.signal_slices(source, rows, tilt)[:, 0], s=(self.box, self.box))
            variances.append(images.var(dim=(1, 2), unbiased=False).double().cpu())
        return float((torch.cat(variances).mean() / snr).sqrt())

    def _source(self, label: int) -> SliceSource:
        return SliceSource(torch.from_numpy(self.volumes[label].astype(np.float32)).to(self.device))

    def noise_slices(self, rows: np.ndarray, sigma: float, seed: int) -> Tensor:
        """Transforms of white noise images of the given particles, (B, T, D, D//2 + 1)."""
        shape = (len(self._tilts), self.box, self.box)
        images = [
            np.random.default_rng([seed, int(row)]).standard_normal(shape, dtype=np.float32) * np.float32(sigma)
            for row in rows
        ]
        return torch.fft.rfft2(torch.from_numpy(np.stack(images)).to(self.device))

    def subtomograms(self, sigma: float, seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All subtomograms, density by density in chunks.

        Parameters
        ----------
        sigma
            Noise of a tilt image's pixels; 0 for none.
        seed
            Of the noise.

        Yields
        ------
        (rows, boxes)
            (B,) particle indices and their (B, D, D, D) float32 subtomograms.
        """
        for label in np.unique(self.particles.labels):
            source = self._source(int(label)) if label >= 0 else None
            members = np.flatnonzero(self.particles.labels == label)
            for start in range(0, len(members), self.chunk):
                rows = members[start : start + self.chunk]
                yield rows, self._make(source, rows, sigma, seed)

    def _make(self, source: SliceSource | None, rows: np.ndarray, sigma: float, seed: int) -> np.ndarray:
        shape = (len(rows), len(self._tilts), self.box, self.box // 2 + 1)
        if source is None:
            slices = torch.zeros(shape, dtype=torch.complex64, device=self.device)
        else:
            slices = self.signal_slices(source, rows)
        if sigma > 0:
            slices = slices + self.noise_slices(rows, sigma, seed)
        return self.inserter.insert(slices).cpu().numpy()
