"""Tilt schemes and random draws."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.errors import UserError
from opustomo.simulate.acquisition import draw_defoci, regular_scheme, scheme_from_file
from opustomo.simulate.dataset import draw_labels
from opustomo.simulate.forward_model import disturb_poses, draw_poses


def test_regular_scheme_is_dose_symmetric() -> None:
    scheme = regular_scheme(-6.0, 6.0, 3.0, 2.0)
    assert scheme.tilt_deg == pytest.approx([-6, -3, 0, 3, 6])
    assert scheme.dose == pytest.approx([8, 4, 2, 6, 10])
    assert len(regular_scheme(-60.0, 60.0, 3.0, 3.0)) == 41


def test_asymmetric_range_keeps_its_sides() -> None:
    scheme = regular_scheme(-50.0, 40.0, 2.0, 1.0)
    assert (scheme.tilt_deg.min(), scheme.tilt_deg.max(), len(scheme)) == (-50.0, 40.0, 46)


@pytest.mark.parametrize(("low", "high", "step"), [(40, -40, 3), (-90, 0, 3), (-60, 60, 0)])
def test_impossible_ranges_are_refused(low: float, high: float, step: float) -> None:
    with pytest.raises(UserError):
        regular_scheme(low, high, step, 1.0)


def test_scheme_from_file(tmp_path: Path) -> None:
    path = tmp_path / "tilts of one series.tlt"
    path.write_text("-40\n0\n41.5\n")
    scheme = scheme_from_file(path, 3.0)
    assert scheme.tilt_deg == pytest.approx([-40, 0, 41.5])
    assert scheme.dose == pytest.approx([6, 3, 9])
    path.write_text("-40 10\n0 0\n40 20\n")
    assert scheme_from_file(path, 3.0).dose == pytest.approx([10, 0, 20])


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("text", ["", "a\n", "1 2 3\n", "95\n", "10 -3\n"])
def test_bad_tilt_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "tilts.tlt"
    path.write_text(text)
    with pytest.raises(UserError, match=r"tilts\.tlt"):
        scheme_from_file(path, 3.0)


def test_defoci_lie_in_their_range_and_tell_their_astigmatism() -> None:
    rng = np.random.default_rng(0)
    settings = dict(mean_range=(20000.0, 30000.0), jitter=0.0)
    round_lens = draw_defoci(50, 3, astigmatism=0.0, rng=rng, **settings)
    assert (round_lens.u == round_lens.v).all() and not round_lens.angle_deg.any()
    assert 20000 <= round_lens.u.min() < 22000 and 28000 < round_lens.u.max() <= 30000
    oval = draw_defoci(50, 3, astigmatism=800.0, rng=rng, **settings)
    assert 0 < (oval.u - oval.v).min() and (oval.u - oval.v).max() <= 800
    assert np.ptp(oval.angle_deg) > 90


def test_orientations_are_uniform_on_the_sphere() -> None:
    poses = draw_poses(4000, 2.0, np.random.default_rng(0))
    for axis in range(3):
        view = poses.rotations[:, axis]
        assert np.abs(view.mean(axis=0)).max() < 0.05
        assert (view**2).mean(axis=0) == pytest.approx([1 / 3] * 3, abs=0.03)
    assert np.abs(poses.origins).max() <= 2.0 and np.abs(poses.origins).max() > 1.9


def test_pose_errors_have_the_wanted_size() -> None:
    poses = draw_poses(4000, 2.0, np.random.default_rng(0))
    told = disturb_poses(poses, 3.0, 0.5, np.random.default_rng(1))
    difference = Rotation.from_matrix(poses.rotations).inv() * Rotation.from_matrix(told.rotations)
    assert np.sqrt((np.degrees(difference.magnitude()) ** 2).mean()) == pytest.approx(3.0, rel=0.05)
    assert (told.origins - poses.origins).std(axis=0) == pytest.approx([0.5] * 3, rel=0.05)


def test_labels_follow_the_weights_exactly() -> None:
    labels = draw_labels(100, 3, (1.0, 2.0, 1.0), 0.2, np.random.default_rng(0))
    assert {int(k): int((labels == k).sum()) for k in np.unique(labels)} == {-1: 20, 0: 20, 1: 40, 2: 20}
    labels = draw_labels(10, 3, None, 0.0, np.random.default_rng(0))
    assert sorted(np.bincount(labels)) == [3, 3, 4]
    assert (np.diff(labels) < 0).any()
