"""Posterior of each particle's pose: a Gaussian prior about the given pose times the likelihood around the current one.

Turns (rotation vectors) and shifts are six numbers x per particle, measured from the given pose. The prior is
N(0, s²), with one s for turns and one for shifts, estimated from all particles (empirical Bayes). The energies of the
model at small turns and shifts give slope g and curvature h of the negative log-likelihood, and Newton's step leads to
the maximum of the posterior, whose variance is v:

    δ = -(g + x/s²) / (h + 1/s²),    v = 1 / (h + 1/s²),    s² = mean of x² + v over all particles.

Because v belongs to s², s does not shrink to nothing where the data say little about each pose. Where the template has
no detail yet, h is small and the given pose stands. See docs/method.md, section 5.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.geometry.rotations import small_turn_to_matrix
from opustomo.model.energy import shifted_cross


class PoseSlopes(NamedTuple):
    """Slope and curvature of an energy: three turns (rad, reference frame), three shifts (voxels, subtomogram frame).

    Attributes
    ----------
    slope, curvature
        (B, 6).
    reach
        (6,) longest step.
    """

    slope: Tensor
    curvature: Tensor
    reach: Tensor


class PoseStep(NamedTuple):
    """Result of a Newton step.

    Attributes
    ----------
    turn
        (B, 3, 3) rotation to be multiplied to the pose from the right.
    shift_px
        (B, 3) shift in the reference frame, pixels of the input box.
    variance
        (B, 6) posterior variances: rad² and pixels².
    """

    turn: Tensor
    shift_px: Tensor
    variance: Tensor


def slopes(cross: Tensor, turned: Tensor, posed: Tensor, filtered: Tensor, angle_rad: Tensor) -> PoseSlopes:
    """Compute slope and curvature of the energy ``E = Σx² - 2 Σ V·h`` by central differences of V.

    The slope by a rotation is Σ ∂E/∂V · ∂V. Σx² contributes to it, because the filters of the model are not isotropic,
    but not to the curvature: its second derivative is neglected.

    Parameters
    ----------
    cross
        (B,) Σ V·h at the current pose.
    turned
        (B, 2, 6) Σ V·h, and Σ V·½ ∂E/∂V with the derivative at the current pose, of rotations by ``angle_rad`` about
        x, y, z, and of their inverses.
    posed
        (B, n, n, n) the model V at the current pose; zero at the edges, so that Σx² does not change when it is shifted.
    filtered
        (B, n, n, n) h.
    angle_rad
        Angle of the rotations.
    """
    # V(x + s) against h(x) is V(x) against h(x - s)
    shifted = shifted_cross(posed, filtered)
    reach = torch.stack([angle_rad, torch.ones_like(angle_rad)]).repeat_interleave(3)
    by_turn, by_shift = turned[:, 1, :3] - turned[:, 1, 3:], shifted[:, 3:] - shifted[:, :3]
    plus, minus = torch.cat([turned[:, 0, :3], shifted[:, :3]], 1), torch.cat([turned[:, 0, 3:], shifted[:, 3:]], 1)
    curvature = -2.0 * (plus + minus - 2.0 * cross[:, None]) / reach**2
    return PoseSlopes(torch.cat([by_turn, by_shift], 1) / reach, curvature, reach)


def newton_step(
    found: PoseSlopes, noise_variance: Tensor, deviation: Tensor, prior_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the step to the maximum of the posterior and the posterior variance, both (B, 6).

    The step is no longer than the reach of the slopes.

    Parameters
    ----------
    found
        Slope and curvature of the energies.
    noise_variance
        Variance of the noise per voxel; energies over twice this are negative log-likelihoods.
    deviation, prior_variance
        (B, 6) and (6,): deviations from the given poses, and variances of the prior, in the units of ``found``.
    """
    slope, curvature, precision = _log_likelihood(found, noise_variance, prior_variance)
    variance = 1.0 / (curvature + precision)
    step = -variance * (slope + precision * deviation)
    return torch.minimum(torch.maximum(step, -found.reach), found.reach), variance


def effective_parameters(found: PoseSlopes, noise_variance: Tensor, prior_variance: Tensor) -> Tensor:
    """Return how many of the six numbers the data determine, (B,): the sum of h / (h + 1/s²).

    A pose that is inferred from the data that it is then compared with makes the negative log-likelihood smaller than
    that of new data by this number, on average (Akaike 1974).

    Parameters
    ----------
    found, noise_variance, prior_variance
        As in :func:`newton_step`.
    """
    _, curvature, precision = _log_likelihood(found, noise_variance, prior_variance)
    return (curvature / (curvature + precision)).sum(1)


def _log_likelihood(found: PoseSlopes, noise_variance: Tensor, prior_variance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return slope and curvature (B, 6) of the negative log-likelihood, and the precision (6,) of the prior."""
    unit = 0.5 / noise_variance.clamp(min=1e-30)
    return unit * found.slope, unit * found.curvature.clamp(min=0.0), 1.0 / prior_variance.clamp(min=1e-12)


def prior_in_voxels(prior_variance: Tensor, pixels_per_voxel: float) -> Tensor:
    """Return the variances (6,) of turns (rad²) and shifts (voxels²) from those of turns and shifts (pixels²), (2,)."""
    units = torch.cat([prior_variance.new_ones(3), prior_variance.new_full((3,), pixels_per_voxel**-2)])
    return prior_variance.repeat_interleave(3) * units


def pose_step(
    found: PoseSlopes,
    noise_variance: Tensor,
    rotation: Tensor,
    deviation: Tensor,
    prior_variance: Tensor,
    pixels_per_voxel: float,
) -> PoseStep:
    """Return Newton's step in the frames and units in which poses are stored.

    Parameters
    ----------
    found, noise_variance
        As in :func:`newton_step`.
    rotation
        (B, 3, 3) poses A in use.
    deviation
        (B, 6) of the pose from the given one: rad, pixels, both in the reference frame.
    prior_variance
        (2,) of turns (rad²) and shifts (pixels²).
    pixels_per_voxel
        Pixels of the input box per voxel of the render box.
    """
    shifted = torch.einsum("bij,bj->bi", rotation, deviation[:, 3:]) / pixels_per_voxel
    step, variance = newton_step(
        found,
        noise_variance,
        torch.cat([deviation[:, :3], shifted], 1),
        prior_in_voxels(prior_variance, pixels_per_voxel),
    )
    moved = torch.einsum("bij,bi->bj", rotation, step[:, 3:]) * pixels_per_voxel
    return PoseStep(
        small_turn_to_matrix(step[:, :3]), moved, torch.cat([variance[:, :3], variance[:, 3:] * pixels_per_voxel**2], 1)
    )


def prior_variance(deviations: Tensor, variances: Tensor) -> Tensor:
    """Return the variances of the prior, (2,) of turns and shifts, from deviations and posterior variances (N, 6)."""
    return (deviations.square() + variances).mean(0).unflatten(0, (2, 3)).mean(1)


def start_variance(radius_voxels: float, pixels_per_voxel: float) -> Tensor:
    """Return the variances (2,) of the prior before anything is known: a voxel, at the particle's radius for turns."""
    return torch.tensor([radius_voxels**-2, pixels_per_voxel**2])
