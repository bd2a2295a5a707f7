"""The tilt axis that most slices share."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.geometry.tilt_geometry import fit_axis, fit_axis_robustly, slice_frame


def normals(off_deg: dict[int, float], noise_deg: float = 0.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Normals of 39 tilts about a random axis, some of them turned off the plane across it; and the axis."""
    turn = Rotation.random(random_state=seed)
    rng = np.random.default_rng(seed)
    off = rng.normal(0, noise_deg, 39) if noise_deg else np.zeros(39)
    for tilt, degrees in off_deg.items():
        off[tilt] = degrees
    angle, off = np.deg2rad(np.linspace(-57, 57, 39)), np.deg2rad(off)
    flat = np.stack([np.sin(angle) * np.cos(off), np.sin(off), np.cos(angle) * np.cos(off)], axis=1)
    return turn.apply(flat), turn.apply([0.0, 1.0, 0.0])


def angle_between(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.rad2deg(np.arccos(np.clip(abs(one @ other), 0, 1))))


@pytest.mark.parametrize("seed", range(5))
def test_tilts_off_the_axis_do_not_pull_at_it(seed: int) -> None:
    seen, axis = normals({36: 7.0, 37: 6.0, 38: 6.5}, seed=seed)
    found = fit_axis_robustly(seen, 5.0)
    assert angle_between(found, axis) < 1e-4 < 0.5 < angle_between(fit_axis(seen), axis)
    assert np.linalg.norm(found) == pytest.approx(1) and found[1] >= 0


@pytest.mark.parametrize("seed", range(5))
def test_noise_is_averaged_over_all_tilts_within_the_tolerance(seed: int) -> None:
    seen, axis = normals({}, noise_deg=1.0, seed=seed)
    assert fit_axis_robustly(seen, 5.0) == pytest.approx(fit_axis(seen), abs=1e-9)
    assert angle_between(fit_axis_robustly(seen, 5.0), axis) < 1.0


def test_tilts_that_tell_no_axis() -> None:
    one = np.array([[0.0, 0.0, 1.0]])
    for few in (one, np.repeat(one, 3, axis=0)):
        assert fit_axis_robustly(few, 5.0).tolist() == [0, 1, 0]


def test_deviations_of_each_tilt() -> None:
    seen, axis = normals({38: -6.0})
    second = np.cross(seen, axis)
    rotations = np.stack([np.cross(second, seen), second, seen], axis=1)
    rotations /= np.linalg.norm(rotations, axis=2, keepdims=True)
    frame = slice_frame(rotations, axis=fit_axis_robustly(seen, 5.0))
    assert frame.off_axis_deg[38] == pytest.approx(6.0, abs=1e-6) and frame.residual_deg == frame.off_axis_deg[38]
    assert frame.off_axis_deg[:38].max() < 1e-4 and len(frame.take(frame.off_axis_deg < 5).tilt_deg) == 38
