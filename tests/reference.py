"""Reference of one validation step: particle by particle and candidate by candidate, in float64.

Nothing here is fast, and nothing is computed by `opustomo`: transforms are numpy's with the shifts that put the zero
frequency in the middle, sampling is scipy's, networks are applied layer by layer from their state dictionaries. Arrays
are z, y, x; vectors x, y, z; angles degrees; lengths Å unless they say voxels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from torch.nn import functional

from opustomo.geometry.rigid_bodies import BodyGeometry
from tests.reference_bodies import Grid, pulled_grid, sample_at
from tests.reference_imaging import (
    Sizes,
    Tilt,
    crop_center,
    crop_spectrum,
    ctf_3d,
    frequencies,
    irfft3,
    pad_center,
    rfft3,
    rotate_about_z,
    sample,
    split_turn,
)

Weights = dict[str, torch.Tensor]  # float64
MEAN_BLUR = 0.125


@dataclass(frozen=True)
class Particle:
    """One subtomogram (D, D, D) divided by the deviation of the data, with RELION A and origin in voxels."""

    voxels: np.ndarray
    rotation: np.ndarray
    origin: np.ndarray
    tilts: list[Tilt]
    near: np.ndarray
    far: np.ndarray


@dataclass(frozen=True)
class Settings:
    """Settings of a step apart from networks and particles; ``snr`` is the running value, ``bfactor`` in Å²."""

    alpha: float = 0.0
    beta_ctf: float = 1.0
    normalized: bool = False
    bfactor: float = 4.0
    original: bool = False
    estimate_pose: bool = True
    beta: float = 0.7
    beta_control: float = 0.5
    lamb: float = 1.0
    snr: float = 0.02
    bodies: BodyGeometry | None = None


# --- networks, layer by layer


def _leaky(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, 0.2)


def encode(weights: Weights, volume: np.ndarray, inner: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mu and logstd of one standardized, masked subtomogram."""
    w = weights
    x = torch.from_numpy(volume)[None, None]
    for layer in ("down1.0", "down1.2", "down1.4"):
        x = _leaky(functional.conv3d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], stride=2, padding=1))
    x = functional.interpolate(x, size=(inner,) * 3, mode="trilinear", align_corners=True)
    for layer in ("down2.0", "down2.2", "down2.4"):
        x = _leaky(functional.conv3d(x, w[f"{layer}.weight"], w[f"{layer}.bias"], stride=2, padding=1))
    x = _leaky(functional.linear(x.amax((2, 3, 4)), w["down3.0.weight"], w["down3.0.bias"]))
    mu, logstd = (functional.linear(x, w[f"{head}.weight"], w[f"{head}.bias"])[0] for head in ("mu", "logstd"))
    return mu.numpy(), logstd.numpy()


def decode(weights: Weights, composition: np.ndarray, templateres: int) -> np.ndarray:
    """Return the template (T, T, T) of one composition."""
    w = weights

    def transposed(x: torch.Tensor, layer: str, padding: int) -> torch.Tensor:
        weight, bias = w[f"template.{layer}.weight"], w[f"template.{layer}.bias"]
        return functional.conv_transpose3d(x, weight, bias, stride=2, padding=padding)

    x = torch.from_numpy(composition)[None]
    for layer in ("template1.0", "template1.2"):
        x = _leaky(functional.linear(x, w[f"template.{layer}.weight"], w[f"template.{layer}.bias"]))
    x = x[:, :, None, None, None]
    for layer in ("template2.0", "template2.2"):
        x = _leaky(transposed(x, layer, 0))
    for layer in ("template3.0", "template3.2"):
        x = _leaky(transposed(x, layer, 1))
    x = functional.interpolate(x, size=(templateres // 16,) * 3, mode="trilinear", align_corners=True)
    for layer in ("template4.0", "template4.2", "template4.4"):
        x = _leaky(transposed(x, layer, 1))
    return transposed(x, "conv_out", 1)[0, 0].numpy()


def head_rows(weights: Weights, conformation: np.ndarray) -> np.ndarray:
    """Return rows of six numbers, one per body, the last for the particle (quaternion a; t in input voxels)."""
    w = weights
    x = torch.from_numpy(conformation)[None]
    x = _leaky(functional.linear(x, w["template.affine_out.0.weight"], w["template.affine_out.0.bias"]))
    x = functional.linear(x, w["template.affine_out.2.weight"], w["template.affine_out.2.bias"])
    return x[0].numpy().reshape(-1, 6)


# --- loss


def candidates() -> list[np.ndarray]:
    """Return the eight rotations R(φ, θ, 0) of OPUS-TOMO from quaternions of Hopf angles."""
    found = []
    for theta, phis in ((1.46, (135, 225, 315)), (2.92, (22.5, 67.5, 112.5, 337.5)), (4.39, (45,))):
        for phi in np.radians(phis):
            half = np.radians(theta) / 2
            found.append(Rotation.from_quat([np.sin(half) * np.sin(phi), np.sin(half) * np.cos(phi), 0, np.cos(half)]))
    return [rotation.as_matrix() for rotation in found]


def candidate_weights(energies: np.ndarray, crop: int) -> np.ndarray:
    """Return the softmax at temperature max(½ std E, Dc/8)."""
    temperature = max(0.5 * np.std(energies, ddof=1), crop / 8) if len(energies) > 1 else crop / 8
    shifted = np.exp(-(energies - energies.min()) / temperature)
    return shifted / shifted.sum()


def kl_divergence(mu: np.ndarray, logstd: np.ndarray) -> float:
    """Return the KL divergence of the latent of one particle."""
    return float(sum(-s + 0.5 * np.exp(2 * s) + 0.5 * m * m for m, s in zip(mu, logstd, strict=True)))


def smoothness(template: np.ndarray) -> tuple[float, float]:
    """Return the mean of sqrt(1e-8 + |∇V|²), from backward differences, and the mean of |V|."""
    squares = sum((template[1:, 1:, 1:] - np.roll(template, 1, axis)[1:, 1:, 1:]) ** 2 for axis in range(3))
    return float(np.sqrt(1e-8 + squares).mean()), float(np.abs(template).mean())


def inside(template: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the part of a template that the bounding box of the mask covers."""
    scale = (template.shape[0] - 1) / (mask.shape[0] - 1)
    used = np.argwhere(mask > 0)
    first, last = np.floor(used.min(0) * scale).astype(int), np.ceil(used.max(0) * scale).astype(int)
    return template[tuple(slice(a, b + 1) for a, b in zip(first, last, strict=True))]


def prior_terms(mu: np.ndarray, z: np.ndarray, near: np.ndarray, far: np.ndarray) -> dict[str, float]:
    """Return the four terms of the disentanglement prior, pair by pair; mu, z (B, L), near (B, n, L), far (B, m, L)."""
    epsilon, count = 1e-3, len(mu)
    attract = [np.log(1 + np.sum((mu[i] - other) ** 2) + epsilon) for i in range(count) for other in near[i]]
    repel = [np.log(1 + 1 / (np.sum((mu[i] - other) ** 2) + epsilon)) for i in range(count) for other in far[i]]
    spread, knn = 0.0, []
    for i in range(count):
        others = [j for j in range(count) if j != i]
        for j in others:
            d2 = np.sum((mu[i] - mu[j]) ** 2) + epsilon
            spread += np.log(1 + 1 / d2) * min(d2, 1.0) / count**2
        for j in sorted(others, key=lambda j: np.sum((z[i] - z[j]) ** 2))[:3]:
            knn.append(np.log(1 + np.sum((mu[i] - mu[j]) ** 2)))
    return {
        "attract": float(np.mean(attract)),
        "repel": 3 * float(np.mean(repel)),
        "spread": spread,
        "knn": float(np.mean(knn)) if knn else 0.0,
    }


def combine(
    energies: list[np.ndarray], powers: list[np.ndarray], target2: list[float], mask: np.ndarray,
    kl: list[float], smooth: tuple[float, float], prior: dict[str, float], settings: Settings,
) -> dict[str, float]:  # fmt: skip
    """Return all terms of a batch from the energies of the candidates and Σx² of each particle."""
    crop = mask.shape[0]
    norm = max(np.count_nonzero(mask > 0), 0.05 * np.pi * crop**3)
    gen, mse, snr = [], [], []
    for energy, power, y2 in zip(energies, powers, target2, strict=True):
        w = candidate_weights(energy, crop)
        gen.append(np.sum(w * energy) / norm)
        mse.append(gen[-1] + y2 / norm)
        snr.append(np.sum(w * power) / norm / mse[-1])
    terms = {"gen": np.mean(gen), "mse": np.mean(mse), "snr": np.mean(snr), "kl": np.mean(kl)}
    terms |= {"tv": smooth[0], "l1": smooth[1]} | prior
    strength = settings.lamb * (1 - np.exp(-min(0.5 * (terms["snr"] / 0.01) ** 2, 16)))
    terms["total"] = (
        terms["gen"]
        + settings.beta_control * settings.snr * settings.beta * terms["kl"] / norm
        + min(np.sqrt(terms["snr"]), 0.5) * (0.1 * terms["tv"] + 0.3 * terms["l1"]) / norm
        + strength * sum(prior.values()) * (settings.beta + 0.05) / 1.05 / norm
    )
    return {name: float(value) for name, value in terms.items()}


# --- the step


def encoder_input(spectrum: np.ndarray, rotation: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the centered subtomogram, blurred, rotated into the reference frame, standardized and masked."""
    kz, ky, kx = frequencies(spectrum.shape[0])
    k2 = (kz**2 + ky**2 + kx**2) / spectrum.shape[0] ** 2
    volume = crop_center(irfft3(spectrum * np.exp(-(np.pi**2) * MEAN_BLUR * k2)), mask.shape[0])
    about_z, out_of_plane = split_turn(rotation)
    volume = rotate_about_z(volume, about_z)
    volume = (volume - volume.mean()) / volume.std(ddof=1)
    return sample(volume, out_of_plane, mask.shape[0]) * mask


def validation_step(
    particles: list[Particle], encoder: Weights, decoder: Weights, mask: np.ndarray, sizes: Sizes, settings: Settings
) -> dict[str, float]:
    """Return all loss terms of a batch in validation: no augmentation, z = mu."""
    encoder, decoder = ({name: value.double() for name, value in part.items()} for part in (encoder, decoder))
    kz, ky, kx = frequencies(sizes.render)
    k2 = (kz**2 + ky**2 + kx**2) / sizes.render**2
    b = settings.bfactor / sizes.render_apix**2
    length = sizes.render * sizes.render_apix
    latents, energies, powers, target2, kl, smooth = [], [], [], [], [], []
    for particle in particles:
        ox, oy, oz = particle.origin * sizes.apix
        centring = np.exp(-2j * np.pi * (kx * ox + ky * oy + kz * oz) / length)
        spectrum = crop_spectrum(rfft3(particle.voxels), sizes.render) * centring
        ctf = ctf_3d(particle.tilts, sizes, settings.normalized)

        mu, logstd = encode(encoder, encoder_input(spectrum, particle.rotation, mask), sizes.encoderres)
        template = decode(decoder, mu[: sizes.zdim], sizes.templateres)
        turn, shift = np.eye(3), np.zeros(3)
        if settings.estimate_pose:
            rows = head_rows(decoder, mu[sizes.zdim :])
        if settings.estimate_pose and settings.original:
            turn, shift = Rotation.from_quat([*rows[-1, :3], 16.0]).as_matrix(), rows[-1, 3:]
        shift = shift * sizes.render / sizes.box  # voxels of the render grid
        pose = particle.rotation @ turn

        sharpened = spectrum * np.exp(np.pi**2 * b * k2) * np.sign(ctf) * np.abs(ctf) ** settings.alpha
        rigid = settings.bodies is None
        posed_mask = np.clip(sample(mask, pose.T, sizes.crop, shift if rigid else None), 0, None)
        target = posed_mask * crop_center(irfft3(sharpened), sizes.crop)

        damping = np.exp(-(np.pi**2) * b / 2 * k2) * np.exp(-(np.pi**2) * b / 2 * k2 * np.abs(np.arctan2(kz, kx)))
        energy, power = [], []
        grid = Grid(sizes.box, sizes.render, sizes.crop)
        pulled = None if rigid else pulled_grid(pose, rows[:-1], settings.bodies, grid)
        for turn_p in candidates() if settings.original else [np.eye(3)]:
            if pulled is None:
                posed = sample(template, (pose @ turn_p).T, sizes.crop, shift)
            else:
                at = pulled @ turn_p + shift * 2 / (sizes.crop - 1) + grid.e
                posed = sample_at(template, at).reshape((sizes.crop,) * 3)
            whole = irfft3(damping * np.abs(ctf) ** settings.beta_ctf * rfft3(pad_center(posed, sizes.render)))
            image = crop_center(whole, sizes.crop)
            power.append(np.sum((image if settings.original else whole) ** 2))
            energy.append(power[-1] - 2 * np.sum(image * target))
        latents.append(mu)
        energies.append(np.array(energy))
        powers.append(np.array(power))
        target2.append(float(np.sum(target**2)))
        kl.append(kl_divergence(mu, logstd))
        smooth.append(smoothness(inside(template, mask)))

    mu = np.array(latents)
    prior = prior_terms(mu, mu, np.array([p.near for p in particles]), np.array([p.far for p in particles]))
    tv, l1 = np.mean(smooth, axis=0) if settings.original else (0.0, 0.0)
    return combine(energies, powers, target2, mask, kl, (tv, l1), prior, settings)
