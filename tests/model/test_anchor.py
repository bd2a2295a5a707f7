"""Poses may be corrected one by one, but not all of a kind together; small spreads draw corrections back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.anchor import FRAME_GAIN, FRAME_WEIGHT, PoseHistory, anchor_penalty, correction_vector, floor_at


def history(
    std: tuple[float, float] = (0.01, 0.3),
    own: torch.Tensor | None = None,
    kind: torch.Tensor | None = None,
    drift: tuple[float, float] = (1.0, 1.0),
) -> PoseHistory:
    zero = torch.zeros(2, 6)
    kind, own = zero if kind is None else kind, zero if own is None else own
    return PoseHistory(kind, own, torch.tensor(std), torch.tensor(drift))


def test_correction_vector_is_the_rotation_vector() -> None:
    vectors = np.radians([[1.0, -2.0, 0.5], [0.0, 0.3, 3.0]])
    turn = torch.from_numpy(Rotation.from_rotvec(vectors).as_matrix())
    shift = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -1.0]], dtype=torch.float64)
    found = correction_vector(turn, shift)
    np.testing.assert_allclose(found[:, :3].numpy(), vectors, rtol=1e-3)
    assert torch.equal(found[:, 3:], shift)


def test_penalty_counts_deviations_in_standard_deviations() -> None:
    own = torch.zeros(2, 6)
    own[0, 0], own[1, 4] = 0.02, 0.3
    moved = torch.zeros(2, 6)
    moved[0, 0] = 0.01
    kind = -moved / FRAME_GAIN  # the frame asks for this correction
    found = anchor_penalty(moved, history(own=own, kind=kind), 0.0)
    assert found.tolist() == pytest.approx([0.125 * 3.0**2, 0.125])
    assert anchor_penalty(-own, history(own=own, kind=own / FRAME_GAIN), 0.0).tolist() == [0, 0]


def test_the_frame_pulls_back_what_like_particles_have_in_common() -> None:
    kind = torch.zeros(2, 6)
    kind[:, 1], kind[:, 5] = math.radians(0.5), -0.25
    correction = torch.zeros(2, 6, requires_grad=True)
    wide = history((10.0, 100.0), kind=kind)
    penalty = anchor_penalty(correction, wide, 0.0).sum()
    assert penalty.item() == pytest.approx(FRAME_WEIGHT * 2 * (0.5 * FRAME_GAIN) ** 2)
    penalty.backward()
    assert (correction.grad[:, 1] > 0).all() and (correction.grad[:, 5] < 0).all()
    assert not correction.grad[:, [0, 2, 3, 4]].any()


def test_common_shifts_that_are_no_drift_do_not_pull() -> None:
    kind = torch.full((2, 6), 0.1)
    wide = history((10.0, 100.0), kind=kind, drift=(1.0, 0.0))
    correction = torch.zeros(2, 6, requires_grad=True)
    anchor_penalty(correction, wide, 0.0).sum().backward()
    assert (correction.grad[:, :3] > 0).all() and not correction.grad[:, 3:].any()


def test_floor_leaves_room_in_the_first_epochs() -> None:
    correction = torch.full((2, 6), math.radians(1.0))
    kind = -correction / FRAME_GAIN
    exact = history((1e-6, 1e-6), kind=kind)
    early, late = (float(anchor_penalty(correction, exact, floor_at(epoch))[0]) for epoch in (0, 30))
    assert early < 0.1 < 10 < late
    wide = history((math.radians(3.0), 1.0), kind=kind)
    assert float(anchor_penalty(correction, wide, floor_at(0))[0]) == pytest.approx(
        float(anchor_penalty(correction, wide, floor_at(30))[0]), rel=0.3
    )


def test_exactly_given_poses_have_no_penalty_and_a_finite_gradient() -> None:
    correction = torch.zeros(2, 6, requires_grad=True)
    penalty = anchor_penalty(correction, history((0.0, 0.0)), floor_at(200)).sum()
    penalty.backward()
    assert penalty.item() == 0
    assert torch.isfinite(correction.grad).all()
