"""Poses may be corrected one by one, but not all of a kind together; small spreads draw corrections back."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.anchor import PoseHistory, correction_vector, floor_at, size_penalty


def history(std: tuple[float, float] = (0.01, 0.3), own: torch.Tensor | None = None) -> PoseHistory:
    zero = torch.zeros(2, 6) if own is None else own
    return PoseHistory(torch.zeros(2, 3, 4), zero, zero, torch.tensor(std))


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
    found = size_penalty(moved, history(own=own), 0.0)
    assert found.tolist() == pytest.approx([0.125 * 3.0**2, 0.125])
    assert size_penalty(-own, history(own=own), 0.0).tolist() == [0, 0]


def test_floor_leaves_room_in_the_first_epochs() -> None:
    correction = torch.full((2, 6), math.radians(1.0))
    exact = history((1e-6, 1e-6))
    early, late = (float(size_penalty(correction, exact, floor_at(epoch))[0]) for epoch in (0, 30))
    assert early < 0.1 < 10 < late
    wide = history((math.radians(3.0), 1.0))
    assert float(size_penalty(correction, wide, floor_at(0))[0]) == pytest.approx(
        float(size_penalty(correction, wide, floor_at(30))[0]), rel=0.3
    )


def test_exactly_given_poses_have_no_penalty_and_a_finite_gradient() -> None:
    correction = torch.zeros(2, 6, requires_grad=True)
    penalty = size_penalty(correction, history((0.0, 0.0)), floor_at(200)).sum()
    penalty.backward()
    assert float(penalty) == 0
    assert torch.isfinite(correction.grad).all()
