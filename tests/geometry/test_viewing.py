"""Groups of viewing directions."""

import healpy
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.geometry.rotations import nested_pixels, perturb_eulers, viewing_groups


def random_eulers(count: int, seed: int = 0) -> np.ndarray:
    return Rotation.random(count, rng=np.random.default_rng(seed)).as_euler("ZYZ", degrees=True)


def test_all_groups_occur_equally_often() -> None:
    counts = np.bincount(viewing_groups(random_eulers(48_000)), minlength=48)
    assert counts.shape == (48,)
    # 1000 expected each; five standard deviations
    assert np.abs(counts - 1000).max() < 160


def test_turn_in_the_plane_does_not_matter() -> None:
    eulers = random_eulers(200)
    turned = eulers + [0, 0, 77.7]
    np.testing.assert_array_equal(viewing_groups(eulers), viewing_groups(turned))


def test_group_is_the_pixel_of_the_hopf_direction() -> None:
    """phi = 180 - rot, theta = tilt."""
    for pixel in range(48):
        theta, phi = healpy.pix2ang(2, pixel, nest=True)
        eulers = np.array([[180 - np.rad2deg(phi), np.rad2deg(theta), 5.0]])
        assert viewing_groups(eulers)[0] == pixel


def test_negative_tilts_are_the_same_directions() -> None:
    eulers = random_eulers(200)
    mirrored = eulers * [1, -1, 1] + [180, 0, 180]
    np.testing.assert_array_equal(viewing_groups(eulers), viewing_groups(mirrored))


def test_poles_and_finer_grids() -> None:
    assert viewing_groups(np.array([[0.0, 0, 0], [0, 180, 0]])).dtype == np.int64
    assert viewing_groups(random_eulers(5000), nside=4).max() > 48
    with pytest.raises(ValueError, match=r"\(N, 3\)"):
        viewing_groups(np.zeros(3))


def test_perturbation_angles_are_uniform_and_bounded() -> None:
    eulers = random_eulers(4000)
    turned = perturb_eulers(eulers, 10.0, np.random.default_rng(1))
    before, after = (Rotation.from_euler("ZYZ", e, degrees=True) for e in (eulers, turned))
    angles = np.rad2deg((before.inv() * after).magnitude())
    assert angles.max() <= 10 + 1e-9
    # the magnitude of U(-10, 10) is U(0, 10)
    np.testing.assert_allclose(np.quantile(angles, [0.25, 0.5, 0.75]), [2.5, 5, 7.5], atol=0.4)
    again = perturb_eulers(eulers, 10.0, np.random.default_rng(1))
    np.testing.assert_array_equal(turned, again)


@pytest.mark.parametrize("nside", [1, 2, 8])
def test_pixels_are_those_of_healpy(nside: int) -> None:
    rng = np.random.default_rng(2)
    theta, phi = np.arccos(rng.uniform(-1, 1, 20_000)), rng.uniform(-7, 7, 20_000)
    theta[:3], phi[:3] = (0.0, np.pi, np.pi / 2), (0.0, 6.2, 0.0)
    np.testing.assert_array_equal(nested_pixels(nside, theta, phi), healpy.ang2pix(nside, theta, phi, nest=True))
