"""The likeliest correction of each particle's pose, from energies around it. Not in the original.

The head's correction is what an encoder makes of a noisy subtomogram; the energies of the candidate rotations, and of
the model shifted by a voxel each way, say directly where the pose fits best and how sharply. Both are parabolas about
the pose in use, and the deviations from the given poses have a spread, so that one step to the most probable pose is

    δ = -(g + p x) / (h + p),   p = (1 + (2/(h s²))²) / s²

with slope g and curvature h of the negative log-likelihood E/(2 mse), the deviation x so far and its spread s. The
factor of 1/s² is there because s holds what noise alone makes of exact poses: a spread that is no larger than the
uncertainty h^-½ is not believed, shrinks by that, and goes. Where the model has no detail yet, h is small and the given
pose stands. Measured in docs/quality.md.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from opustomo.geometry.quaternion import small_turn_to_matrix
from opustomo.model.energy import shifted_cross

TEMPERATURE = 4.0
"""Neighbouring voxels are not independent: the data fill about a third of Fourier space, low frequencies less noisy."""

DOUBT = 2.0
"""How many times the variance of its uncertainty a variance of deviations must be to be half believed."""


class Slopes(NamedTuple):
    """Slope and curvature (B, 6) of an energy: three turns (rad, reference frame), three shifts (voxels, subtomogram).

    ``reach`` (6,) is how far they were looked at.
    """

    slope: Tensor
    curvature: Tensor
    reach: Tensor


def log_likelihood_unit(left: Tensor) -> Tensor:
    """What makes a negative log-likelihood of an energy, (B,); ``left`` is the mean square of a voxel left over."""
    return 0.5 / (TEMPERATURE * left)


def slopes(total: Tensor, cross: Tensor, posed: Tensor, filtered: Tensor, angle_rad: Tensor) -> Slopes:
    """Slopes of the energy E = Σx² - 2 Σ V·h.

    Parameters
    ----------
    total
        (B, 7) energies of no turn, of turns by ``angle_rad`` about x, y, z, and of their inverses.
    cross
        (B,) Σ V·h without turn.
    posed
        (B, n, n, n) the model V without turn; zero at the edges, so that Σx² does not change when it is shifted.
    filtered
        (B, n, n, n) h.
    """
    # V(x + s) against h(x) is V(x) against h(x - s)
    shifted = -2.0 * shifted_cross(posed, filtered)
    plus, minus = torch.cat([total[:, 1:4], shifted[:, :3]], 1), torch.cat([total[:, 4:7], shifted[:, 3:]], 1)
    middle = torch.stack([total[:, 0], -2.0 * cross], 1).repeat_interleave(3, 1)
    reach = torch.stack([angle_rad, torch.ones_like(angle_rad)]).repeat_interleave(3)
    return Slopes((plus - minus) / (2.0 * reach), (plus + minus - 2.0 * middle) / reach**2, reach)


def likeliest_step(found: Slopes, noise: Tensor, deviation: Tensor, spread: Tensor) -> Tensor:
    """Steps (B, 6) to the most probable poses, no longer than what was looked at.

    Parameters
    ----------
    found
        Slopes of the energies.
    noise
        (B,) mean square of a voxel that the model leaves over.
    deviation, spread
        (B, 6) and (6,): deviations from the given poses so far, and their standard deviations, in the same units.
    """
    unit = log_likelihood_unit(noise)[:, None]
    slope, curvature = unit * found.slope, unit * found.curvature.clamp(min=0.0)
    precision = spread.clamp(min=1e-6) ** -2
    precision = precision * (1.0 + (DOUBT * precision / curvature.clamp(min=1e-3 * precision)).square())
    step = -(slope + precision * deviation) / (curvature + precision)
    return torch.minimum(torch.maximum(step, -found.reach), found.reach)


def refined(
    turn: Tensor,
    shift_px: Tensor,
    rotation: Tensor,
    found: Slopes,
    noise: Tensor,
    deviation: Tensor,
    spread: Tensor,
    pixels_per_voxel: float,
    share: Tensor | float,
) -> tuple[Tensor, Tensor]:
    """Corrections δA (B, 3, 3) and t (B, 3; reference frame, pixels) after ``share`` of the likeliest step.

    Parameters
    ----------
    turn, shift_px
        Corrections so far.
    rotation
        (B, 3, 3) A; shifts were looked at in the frame that A δA leads to.
    deviation
        (B, 6) of the corrected pose from the given one: rad, pixels, reference frame.
    spread
        (2,) of :func:`opustomo.model.anchor.spreads`.
    """
    pose = rotation @ turn
    own = torch.cat([deviation[:, :3], torch.einsum("bij,bj->bi", pose, deviation[:, 3:]) / pixels_per_voxel], 1)
    widths = torch.cat([spread[:1].expand(3), spread[1:].expand(3) / pixels_per_voxel])
    step = share * likeliest_step(found, noise, own, widths)
    moved = torch.einsum("bij,bi->bj", pose, step[:, 3:]) * pixels_per_voxel
    return turn @ small_turn_to_matrix(step[:, :3]), shift_px + moved
