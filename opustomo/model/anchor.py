"""Hold corrected poses to the given ones where the data do not ask for more. Not in the original.

*Frame of a kind.* A template that turns with its composition and poses that turn back explain the data equally well, so
nothing in the likelihood keeps the volumes of different states in one frame. The given poses do: whatever their errors
are, they do not depend on what the particle is. So what the corrections of particles of like composition have come to
have in common is taken back step by step, and the head is drawn to give its opposite. Of shifts only as far as they are
a drift: a composition that has come to tell where a particle lies makes particles of like errors alike, and taking back
what these have in common would keep the errors. So what is common counts by its share in all shifts, which is near 1
where the given ones are exact.

*Size of corrections.* The deviations from the given poses have a spread, taken from all particles; a deviation that the
data hardly support is drawn back against it. Where the given poses are right, the spread shrinks and with it the noise
that estimation adds; where they are poor, this term is weak. In the first epochs a floor leaves room to begin.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

FRAME_SHARE = 0.3
"""Share of what like particles' corrections have in common that a visit takes back."""
TURN_UNIT_RAD, SHIFT_UNIT_PX = math.radians(1.0), 0.5
FRAME_WEIGHT, FRAME_GAIN = 0.5, 6.0
"""Weak on a correction itself, which it slows, strong against the common part."""
SIZE_WEIGHT = 0.25
FLOOR, FLOOR_DECAY = 3.0, 0.85
"""Least spread at the start, in the units above, and what an epoch leaves of it."""


class PoseHistory(NamedTuple):
    """What is known of the particles' deviations from their given poses.

    Six numbers are a rotation vector (rad, small) and a shift (pixels of the input box) in the reference frame.

    Attributes
    ----------
    kind
        (B, 6) mean deviation of particles of like composition.
    own
        (B, 6) deviation of each particle.
    std
        (2,) standard deviations per axis over all particles: rad, pixels.
    drift
        (2,) how much of ``kind``'s turns and shifts is taken for a drift of the template, 0…1.
    """

    kind: Tensor
    own: Tensor
    std: Tensor
    drift: Tensor


def floor_at(epoch: int) -> float:
    """Least spread that an epoch allows for, in units of 1° and half a pixel."""
    return FLOOR * FLOOR_DECAY**epoch


def spreads(history: PoseHistory, floor: Tensor | float) -> Tensor:
    """Spread (2,) of the deviations per axis, rad and pixels; no less than ``floor``, in units of 1° and 0.5 px."""
    return torch.maximum(history.std, floor * _units(history.std.device))


@lru_cache
def _units(device: torch.device) -> Tensor:
    return torch.tensor([TURN_UNIT_RAD, SHIFT_UNIT_PX], device=device)


def correction_vector(turn: Tensor, shift_px: Tensor) -> Tensor:
    """(B, 6) of a small turn δA (B, 3, 3) and a shift t (B, 3)."""
    skew = 0.5 * (turn - turn.mT)
    return torch.cat([torch.stack([skew[:, 2, 1], skew[:, 0, 2], skew[:, 1, 0]], -1), shift_px], 1)


def drifted(kind: Tensor, drift: Tensor) -> Tensor:
    """What of common deviations (B, 6) is a drift; ``drift`` (2,) of turns and of shifts."""
    return kind * drift.repeat_interleave(3)


def anchor_penalty(correction: Tensor, history: PoseHistory, floor: Tensor | float) -> Tensor:
    """Penalty of corrections (B, 6) in units of a negative log-likelihood, (B,); ``floor`` is :func:`floor_at`'s."""
    common, total = correction + FRAME_GAIN * drifted(history.kind, history.drift), correction + history.own
    units, spread = _units(correction.device), spreads(history, floor)
    scales = torch.cat([units / math.sqrt(FRAME_WEIGHT), spread / math.sqrt(SIZE_WEIGHT)]).repeat_interleave(3)
    return 0.5 * (torch.cat([common, total], 1) / scales).square().sum(1)
