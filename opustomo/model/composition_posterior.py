"""Posterior of each particle's composition: the population of compositions as the prior, times the likelihood.

The encoder estimates a composition in one pass and knows neither the CTF nor the missing wedge of the particle. The
likelihood knows both. The volumes V(z_j) of a population of compositions are expressed in a few components,
V(z_j) = M + Σ_k c_jk U_k, in which the log-likelihood of particle i is quadratic:

    L_i(c) = h_i·c - ½ cᵀ G_i c,    h_i = A_iᵀ r_i / σ²,    G_i = A_iᵀ A_i / σ²,

with the imaged components A_i and the residual r_i of the data from the imaged M. The prior has a weight π_j at every
composition of the population, which EM estimates from all particles (Laird 1978). The result is the posterior mean:

    w_ij ∝ π_j exp L_i(c_j),    π_j = mean over i of w_ij,    z_i = Σ_j w_ij z_j.

See docs/method.md, section 4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.model.autoencoder import Autoencoder
from opustomo.model.residual_spectra import apply_gain, shell_sums
from opustomo.model.step_records import Batch, StepState
from opustomo.physics.fourier import crop_spectrum, half_spectrum_weights, irfft3, pad_spectrum, rfft3
from opustomo.physics.sampling import sample_posed, to_template

INFORMATION_KEPT = 0.99
"""Share of the information on the components that the box of the comparison keeps."""
INSPECTED = 32
"""Number of volumes from which this box is determined."""
EM_STEPS = 20
OVERSAMPLING = 2
"""Voxels of the components per voxel of the comparison, so that their interpolation attenuates little."""
BATCH = 16
ROWS = 4096
PRIOR_PRECISION = 0.01
"""Precision of the coordinates before the data are seen, relative to that of the data, so that they are finite."""


class Population(NamedTuple):
    """Compositions of a population and the components of their volumes.

    Attributes
    ----------
    latents, coordinates
        z_j (M, zdim) and c_j (M, K).
    volumes
        M and U_k, on a grid twice as fine as that of the comparison, (K+1, F, F, F).
    size
        Box in which particles are compared with them.
    """

    latents: Tensor
    coordinates: Tensor
    volumes: Tensor
    size: int


class Evidence(NamedTuple):
    """Quadratic log-likelihoods of particles in the components: h (N, K) and G (N, K, K), float64."""

    linear: Tensor
    quadratic: Tensor

    def of(self, coordinates: Tensor) -> Tensor:
        """Return L_i(c_j) of coordinates (M, K), (N, M)."""
        outer = (coordinates[:, :, None] * coordinates[:, None, :]).flatten(1)
        return self.linear @ coordinates.T - 0.5 * self.quadratic.flatten(1) @ outer.T


class ComparedSpectra(NamedTuple):
    """Targets and filters of a batch in a small box, with white noise.

    Attributes
    ----------
    target, filtering
        Half spectra (B, n, n, n/2+1).
    unit
        Float64 scalar that turns products of spectra, summed over the full spectrum, to log-likelihoods.
    """

    target: Tensor
    filtering: Tensor
    unit: Tensor


def applies(model: Autoencoder) -> bool:
    """Return whether compositions are inferred: not without an encoder, for moving bodies or OPUS-TOMO's algorithm."""
    return model.encoder is not None and model.config.bodies is None and not model.physics.original


@torch.no_grad()
def find_population(model: Autoencoder, latents: Tensor, size: int) -> Population:
    """Decode a population of compositions and find the components of its volumes.

    Parameters
    ----------
    model
        Model in evaluation mode.
    latents
        (M, zdim) compositions.
    size
        Box of the comparison (:func:`comparison_size`).
    """
    seen = model.mask * model.focus if model.focused else model.mask
    weight = _on_grid(to_template(seen, model.config.templateres)[None], model, size)[0]
    volumes = torch.cat([_differences(model, part, size) for part in latents.split(BATCH)])
    mean = volumes.mean(0)
    deviations = ((volumes - mean) * weight).flatten(1)
    count = min(model.config.zdim, len(latents))
    values, vectors = torch.linalg.eigh((deviations @ deviations.T).double())
    values, vectors = values[-count:].clamp(min=1e-30), vectors[:, -count:]
    components = (vectors / values.sqrt()).T.float() @ deviations
    consensus = _on_grid(model.decoder.consensus[None], model, size)
    stacked = torch.cat([mean[None] + consensus, components.view(-1, *mean.shape)])
    return Population(latents, vectors * values.sqrt(), _finer(stacked), size)


@torch.no_grad()
def volumes_of(model: Autoencoder, latents: Tensor, size: int) -> Tensor:
    """Return the volumes of compositions (M, zdim), on the grid of :class:`Population`, (M, F, F, F)."""
    consensus = _on_grid(model.decoder.consensus[None], model, size)
    return _finer(consensus + _differences(model, latents, size))


def _differences(model: Autoencoder, latents: Tensor, size: int) -> Tensor:
    """Return what the network adds to the consensus for compositions (B, zdim), in a box of ``size`` voxels."""
    low_pass = (torch.arange(len(model.gain), device=latents.device) <= size // 2).to(model.gain)
    with model.precision():
        difference = model.decoder.difference(latents)
    return _on_grid(apply_gain(difference.float(), model.gain * low_pass, model.boxes), model, size)


def _finer(volumes: Tensor) -> Tensor:
    """Interpolate volumes (B, n, n, n) to ``OVERSAMPLING`` n voxels a side."""
    return irfft3(pad_spectrum(rfft3(volumes), OVERSAMPLING * volumes.shape[-1]))


@torch.no_grad()
def comparison_size(model: Autoencoder, latents: Tensor) -> int:
    """Return the smallest box, a multiple of eight, that keeps 99 % of the information on differences of volumes.

    The information of a shell is the power of the differences over that of the noise.
    """
    with model.precision():
        volumes = model.decoder.difference(latents[:INSPECTED])
    boxes = model.boxes
    render = boxes.render
    volumes = _on_grid(apply_gain(volumes.float(), model.gain, boxes), model, render)
    power = torch.view_as_real(rfft3(volumes - volumes.mean(0))).square().sum((0, 4))
    information = (shell_sums(power) / model.noise.variance.clamp(min=1e-30)).cumsum(0)
    shell = int((information < INFORMATION_KEPT * information[-1]).sum())
    return min(render, 8 * -(-(shell + 1) // 4))


def _on_grid(templates: Tensor, model: Autoencoder, size: int) -> Tensor:
    """Sample templates (B, T, T, T) on the voxels of a box of ``size`` voxels with the extent of the render box."""
    still = torch.eye(3, device=templates.device).expand(len(templates), 1, 3, 3)
    return sampled(templates, still, size, model.boxes.render / size, model.boxes.crop)[:, 0]


def sampled(volumes: Tensor, matrices: Tensor, size: int, spacing: float, width: int) -> Tensor:
    """Sample volumes that span ``width`` voxels on a grid of ``size`` voxels that are ``spacing`` of those apart.

    Matrices (B, P, 3, 3) as in :func:`sample_posed`; voxel size/2 is at voxel width/2. The result is (B, P, n, n, n).
    """
    scale = spacing * (size - 1) / (width - 1)
    shift = torch.full((1, 1, 3), 1.0 / (width - 1) - 1.0 / (size - 1), device=volumes.device)
    return sample_posed(volumes, matrices * scale, size, shift.expand(*matrices.shape[:2], 3))


def compared_spectra(model: Autoencoder, batch: Batch, state: StepState, size: int) -> ComparedSpectra:
    """Return what volumes are compared with in a box of ``size`` voxels, at the poses of a batch."""
    target, filtering = model.whitened_comparison(batch, state)
    grown = (model.boxes.render / size) ** 3
    # squares of the spectra of the render box sum to those of its voxels
    unit = grown**2 / model.boxes.render**3 / model.noise.reference_variance.double().clamp(min=1e-30)
    return ComparedSpectra(crop_spectrum(target, size), crop_spectrum(filtering, size) * grown, unit)


@torch.no_grad()
def evidence(model: Autoencoder, population: Population, batch: Batch, state: StepState) -> Evidence:
    """Compute h (B, K) and G (B, K, K) of a batch at its poses."""
    size = population.size
    target, filtering, unit = compared_spectra(model, batch, state, size)
    volumes = population.volumes
    inverse = batch.rotation.mT[None].expand(len(volumes), -1, -1, -1)
    posed = sampled(volumes, inverse, size, OVERSAMPLING, OVERSAMPLING * size)
    imaged = (rfft3(posed) * filtering).transpose(0, 1)
    half = half_spectrum_weights(size, imaged.device).sqrt()[:, None]

    def flat(spectra: Tensor) -> Tensor:
        return (torch.view_as_real(spectra) * half).flatten(-4)

    mean, components = flat(imaged[:, 0]), flat(imaged[:, 1:])
    residual = flat(target) - mean
    linear = (components @ residual[:, :, None])[:, :, 0]
    return Evidence(linear.double() * unit, (components @ components.mT).double() * unit)


def population_weights(likelihood: Tensor) -> Tensor:
    """Estimate the weights π_j (M,) of a population by EM from the log-likelihoods (N, M) of particles."""
    weights = torch.full_like(likelihood[0], 1.0 / likelihood.shape[1])
    for _ in range(EM_STEPS):
        weights = torch.softmax(likelihood + weights.clamp(min=1e-300).log(), 1).mean(0)
    return weights


def posterior_means(found: Evidence, population: Population) -> Tensor:
    """Return the posterior means (N, zdim) of the compositions of particles.

    The weights of the population are estimated from as many particles as it has compositions, evenly spread.
    """
    latents, coordinates = population.latents.double(), population.coordinates
    step = -(-len(found.linear) // len(latents))
    weights = population_weights(Evidence(found.linear[::step], found.quadratic[::step]).of(coordinates))
    prior = weights.clamp(min=1e-300).log()
    parts = zip(found.linear.split(ROWS), found.quadratic.split(ROWS), strict=True)
    return torch.cat([torch.softmax(Evidence(*part).of(coordinates) + prior, 1) @ latents for part in parts])


def likelihood_coordinates(found: Evidence) -> Tensor:
    """Return the coordinates (N, K) that maximize the likelihood of each particle, in units of their standard errors.

    The axes are the eigenvectors of the mean information Ḡ = mean of G_i, scaled so that Ḡ is the identity. The
    coordinates of identical particles therefore scatter with a standard deviation of about 1, and the squared distance
    between two compositions is twice the mean log-likelihood ratio of a particle. Unlike posterior means, they do not
    gather at the compositions of the population, so that their density is meaningful.
    """
    information, axes = torch.linalg.eigh(found.quadratic.mean(0))
    kept = information > torch.finfo(torch.float32).eps * information[-1]
    axes = (axes[:, kept] / information[kept].sqrt()).flip(1)
    prior = PRIOR_PRECISION * torch.eye(axes.shape[1], dtype=axes.dtype, device=axes.device)
    parts = zip(found.linear.split(ROWS), found.quadratic.split(ROWS), strict=True)
    return torch.cat(
        [torch.linalg.solve(axes.T @ quadratic @ axes + prior, linear @ axes) for linear, quadratic in parts]
    )
