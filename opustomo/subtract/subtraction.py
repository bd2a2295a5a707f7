"""Subtract a part of each particle's own volume from its subtomogram (`dsd subtract`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from torch import Tensor

from opustomo.analysis.results import ResultDir
from opustomo.analysis.volumes.decoding import VolumeDecoder
from opustomo.checkpoint.config import read_config
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.masks import load_mask
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.progress_bar import progress
from opustomo.io.star_conventions import with_columns
from opustomo.io.star_tables import ParticleStar
from opustomo.model.device import choose_device
from opustomo.physics.boxes import mask_on_crop
from opustomo.physics.ctf import TiltBatch
from opustomo.physics.fourier import crop_spectrum, irfft3, pad_spectrum, rfft3
from opustomo.physics.fsc import measured_shells
from opustomo.quality.evidence.trained_model import data_of_run, divides_per_particle, norm_of_run, physics_of_run
from opustomo.subtract.predicted_signal import Imaging, Optics, ShellSums, SignalModel, particle_factors, shrink_factors
from opustomo.training.schedules import bfactor_at

ORIGINAL = "rlnImageOriginalName"
"""Column with the name of the subtomogram before subtraction; RELION restores it with ``--revert``."""
TABLE = "particles.star"
FIT_PARTICLES = 500
"""Largest number of particles to which the factors of the Fourier shells are fitted."""


@dataclass(frozen=True)
class SubtractionRequest:
    """Input and settings of a subtraction.

    Attributes
    ----------
    star
        Particle table with the particles of the run.
    results, epoch
        Result directory of the run and epoch.
    keep
        MRC mask in the box of the subtomograms; what lies outside of it is subtracted.
    outdir
        New folder of the result.
    recenter
        Move the origins so that the center of mass of the mask becomes the center of the particles.
    given_poses
        Use the poses of the table instead of the refined poses of ``pose.N.pkl``.
    datadir
        Folder that the image paths are relative to, if it changed.
    batch_size
        Particles per batch.
    device
        ``cpu`` or ``cuda``; None selects a GPU if one is available.
    """

    star: Path
    results: ResultDir
    epoch: int
    keep: Path
    outdir: Path
    recenter: bool = False
    given_poses: bool = False
    datadir: Path | None = None
    batch_size: int = 8
    device: str | None = None


@dataclass(frozen=True)
class SubtractionResult:
    """Result of a subtraction.

    Attributes
    ----------
    table
        Particle table of the subtracted subtomograms.
    factors
        Amplitude of the signal in each subtomogram relative to the set, shape (N,).
    shell_factors
        Amplitude per Fourier shell, shape (S,).
    imaging
        Name of the :class:`opustomo.subtract.predicted_signal.Imaging` that agrees best with the subtomograms.
    """

    table: Path
    factors: np.ndarray
    shell_factors: np.ndarray
    imaging: str


def subtract(request: SubtractionRequest, say: Callable[[str], None] = print) -> SubtractionResult:
    """Write subtomograms without the signal outside of a mask, and their particle table.

    Raises
    ------
    UserError
        If the output folder is not empty, files are missing, or the table or mask does not fit the run.
    """
    results, epoch = request.results, request.epoch
    if request.outdir.exists() and (not request.outdir.is_dir() or any(request.outdir.iterdir())):
        raise UserError(f"{request.outdir} exists already. Give a new folder with -o.")
    device = choose_device(request.device)
    config, weights = results.config(), results.epoch_file("weights", epoch)
    settings = read_config(config)[2]
    mu, multi_mu = results.load_latents(epoch)
    poses = None if request.given_poses else results.epoch_file("pose", epoch)
    data = data_of_run(config, request.star, datadir=request.datadir)
    data = replace(data, ind=None, poses=poses)
    particles = load_particles(data)
    results.require_same_particles(particles.star, len(mu), results.epoch_file("z", epoch))
    mask = load_mask(request.keep, particles.box, particles.apix, data.force)
    assert mask is not None
    if (mask > 0.99).all():
        raise UserError(f"{request.keep} covers the whole box, so nothing would be subtracted. Give a smaller mask.")
    decoder = VolumeDecoder(weights, config, device)
    physics = physics_of_run(settings)
    keep = mask_on_crop(mask, decoder.boxes).clamp(max=1.0)
    model = SignalModel(decoder, physics, bfactor_at(physics.bfactor_A2, epoch), keep)
    latents = mu if multi_mu is None or decoder.bodies is None else np.concatenate([mu, multi_mu], axis=1)
    norm = norm_of_run(config)
    work = _Work(model, particles, latents, norm, divides_per_particle(config), request.batch_size)

    imaging, sums = work.best_imaging()
    shell_factors, noise, amplitude = sums.factors(), sums.noise(), sums.amplitude()
    if not amplitude > 0:
        raise UserError(
            "The subtomograms do not contain the signal that the model predicts. Check that STAR and the poses belong "
            "to the run."
        )
    factors = work.fit_particles(imaging, shell_factors, noise)
    names = _output_names(particles.star)
    with atomic_path(request.outdir) as partial:
        partial.mkdir()
        work.write(partial, names, imaging, shell_factors, factors)
        star = _table(request, particles, names, mask if request.recenter else None)
        star.write(partial / TABLE)
        if request.outdir.is_dir():
            request.outdir.rmdir()
    say(f"The amplitude of the signal in the subtomograms is {amplitude:.2f} times that of the model.")
    say(f"Imaging by {imaging.value} agrees best with the subtomograms and is used for the removed volumes.")
    return SubtractionResult(request.outdir / TABLE, factors.cpu().numpy(), shell_factors.cpu().numpy(), imaging.name)


@dataclass
class _Work:
    """Particles of a subtraction, processed in batches."""

    model: SignalModel
    particles: ParticleSet
    latents: np.ndarray
    norm: tuple[float, float]
    per_particle: bool
    batch_size: int

    def best_imaging(self) -> tuple[Imaging, ShellSums]:
        """Return the imaging that explains most of a sample of the particles, and its sums per Fourier shell."""
        boxes, model = self.model.decoder.boxes, self.model
        count = len(self.particles)
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(count, min(FIT_PARTICLES, count), replace=False))
        sums = {imaging: ShellSums.empty(boxes.render, model.decoder.device) for imaging in model.imagings}
        with progress(len(chosen), "subtomograms, amplitude per Fourier shell") as advance:
            for batch in self._batches(chosen):
                posed = model.posed(batch.latents, batch.rotations, part=False)
                for imaging, found in sums.items():
                    found.add(model.image(posed, batch.optics, imaging) * batch.filters, batch.observed)
                advance(len(batch.indices))
        noise = sums[model.imagings[0]].noise()
        best = max(sums, key=lambda imaging: sums[imaging].explained(noise))
        return best, sums[best]

    def fit_particles(self, imaging: Imaging, shell_factors: Tensor, noise: Tensor) -> Tensor:
        """Return the factor of each particle, shape (N,)."""
        count = len(self.particles)
        factors = torch.ones(count, device=self.model.decoder.device)
        variances = torch.ones_like(factors)
        shells = measured_shells(self.model.decoder.boxes.render, self.model.decoder.device)
        with progress(count, "subtomograms, amplitude per particle") as advance:
            for batch in self._batches(np.arange(count)):
                posed = self.model.posed(batch.latents, batch.rotations, part=False)
                predicted = self.model.image(posed, batch.optics, imaging) * batch.filters * shell_factors[shells]
                at = torch.from_numpy(batch.indices).to(factors.device)
                factors[at], variances[at] = particle_factors(predicted, batch.observed, noise)
                advance(len(batch.indices))
        return shrink_factors(factors, variances)

    def write(self, folder: Path, names: list[str], imaging: Imaging, shell_factors: Tensor, factors: Tensor) -> None:
        """Write the subtracted subtomograms."""
        boxes = self.model.decoder.boxes
        shells = measured_shells(boxes.render, self.model.decoder.device)
        count = len(self.particles)
        with progress(count, "subtomograms subtracted") as advance:
            for batch in self._batches(np.arange(count)):
                at = torch.from_numpy(batch.indices).to(factors.device)
                posed = self.model.posed(batch.latents, batch.rotations, part=True)
                removed = self.model.image(posed, batch.optics, imaging) * shell_factors[shells]
                removed = removed * factors[at].view(-1, 1, 1, 1)
                volumes = irfft3(pad_spectrum(removed, boxes.box)).cpu().numpy()
                for place, index in enumerate(batch.indices):
                    result = batch.raw[place] - volumes[place] * batch.scales[place]
                    write_volume(folder / names[index], result.astype(np.float32), self.particles.apix)
                advance(len(batch.indices))

    def _batches(self, indices: np.ndarray) -> Iterator[_Batch]:
        device, boxes = self.model.decoder.device, self.model.decoder.boxes
        particles = self.particles
        tilts = TiltBatch.pad(particles.tables).to(device)
        for first in range(0, len(indices), self.batch_size):
            chosen = indices[first : first + self.batch_size]
            raw = [read_volume(particles.images[int(i)].path)[0] for i in chosen]
            scales = [self.norm[1] * (float(v.std()) if self.per_particle else 1.0) for v in raw]
            normalized = np.stack([(v - self.norm[0]) / s for v, s in zip(raw, scales, strict=True)])
            origins = torch.from_numpy((particles.poses.origins[chosen] * particles.box).astype(np.float32)).to(device)
            rotations = torch.from_numpy(particles.poses.rotations[chosen]).float().to(device)
            distinct, table = np.unique(particles.table[chosen], return_inverse=True)
            part = tilts[torch.from_numpy(distinct).to(device)]
            optics = Optics(part, torch.from_numpy(table.ravel()).to(device), origins)
            filters = self.model.filters(optics)
            spectrum = crop_spectrum(rfft3(torch.from_numpy(normalized.astype(np.float32)).to(device)), boxes.render)
            yield _Batch(chosen, raw, scales, self.latents[chosen], rotations, optics, filters, spectrum * filters)


@dataclass(frozen=True)
class _Batch:
    """Particles of a batch; `observed` are the spectra of their normalized subtomograms times `filters`."""

    indices: np.ndarray
    raw: list[np.ndarray]
    scales: list[float]
    latents: np.ndarray
    rotations: Tensor
    optics: Optics
    filters: Tensor
    observed: Tensor


def _output_names(star: ParticleStar) -> list[str]:
    """Return a file name for each subtomogram, numbered if the base names are not unique."""
    stems = [PurePosixPath(name.replace("\\", "/")).stem for name in star.strings("rlnImageName")]
    if len(set(stems)) < len(stems):
        stems = [f"{i:06d}" for i in range(len(stems))]
    return [f"subtomo/{stem}.mrc" for stem in stems]


def _table(
    request: SubtractionRequest, particles: ParticleSet, names: list[str], mask: np.ndarray | None
) -> ParticleStar:
    """Return the particle table of the result, with paths relative to its folder."""
    star = particles.star
    outdir = request.outdir.resolve()
    originals = [os.path.relpath(image.path.resolve(), outdir) for image in particles.images]
    columns = {"rlnImageName": np.array(names, dtype=object), ORIGINAL: np.array(originals, dtype=object)}
    if "rlnCtfImage" in star:
        home = request.datadir or star_folder(star)
        ctf = [os.path.relpath((home / name).resolve(), outdir) for name in star.strings("rlnCtfImage")]
        columns["rlnCtfImage"] = np.array(ctf, dtype=object)
    poses = particles.poses
    origins = poses.origins * particles.box
    if mask is not None:
        at = np.indices(mask.shape).reshape(3, -1)
        center = (at * mask.ravel()).sum(axis=1)[::-1] / mask.sum() - particles.box / 2  # x, y, z
        # The center of the mask lies at D/2 - origin + A p and becomes the center of the particle.
        origins = origins - poses.rotations @ center
    if mask is not None or not request.given_poses:
        star = star.with_poses(poses.eulers_deg, origins, particles.apix)
    return with_columns(star, columns)


def star_folder(star: ParticleStar) -> Path:
    """Return the folder of a particle table."""
    return Path(star.path or ".").resolve().parent
