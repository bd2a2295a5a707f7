"""Patches of analytic tilt images."""

from __future__ import annotations

import numpy as np
import pytest

from opustomo.prepare.tilt_images import SliceGrid, cut_patches, cut_slices, image_statistics


def waves(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A smooth image, x and y in Å: periods from 40 to 100 Å under a Gaussian."""
    return np.exp(-(x**2 + y**2) / (2 * 50.0**2)) * (np.cos(x / 8 + 0.3) + np.sin(y / 11) + np.cos((x - 2 * y) / 16))


def image(apix: float, size: int, center: np.ndarray) -> np.ndarray:
    at = np.arange(size)
    return waves((at[None, :] - center[0]) * apix, (at[:, None] - center[1]) * apix)


@pytest.mark.parametrize("angle_deg", [0.0, 33.0, -85.0])
@pytest.mark.parametrize(("image_apix", "apix"), [(2.0, 8.0), (3.0, 8.0), (5.0, 7.0), (6.0, 6.0)])
def test_slices_are_centered_turned_and_resampled(angle_deg: float, image_apix: float, apix: float) -> None:
    """The slice's values are the image's at `center + in_plane · (u, v)`; the origin of phases is box/2."""
    size, box = round(800 / image_apix), 2 * round(320 / apix / 2)
    center = np.array([size / 2 + 7.3, size / 2 - 11.6])
    angle = np.deg2rad(angle_deg)
    in_plane = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    picture = image(image_apix, size, center) + 5.0
    grid = SliceGrid(box, apix, keep_scale=True)
    (spectrum,) = cut_slices(picture, image_apix, center[None], in_plane, grid)
    found = np.fft.fftshift(np.fft.irfft2(spectrum, s=(box, box)))
    u, v = np.meshgrid(*[(np.arange(box) - box // 2) * apix] * 2)
    x, y = np.einsum("ij,jab->iab", in_plane, np.stack([u, v]))
    expected = waves(x, y) - (picture.mean() - 5.0)
    inside = np.hypot(u, v) < 120
    assert np.abs(found - expected)[inside].max() < 0.02


def test_patches_outside_and_not_finite() -> None:
    picture = np.arange(30.0).reshape(5, 6)
    picture[2, 3] = np.nan
    mean, deviation = image_statistics(picture)
    known = np.delete(picture.ravel(), 15)
    assert (mean, deviation) == (pytest.approx(known.mean()), pytest.approx(known.std()))
    inside, across, beyond = cut_patches(picture, np.array([[1, 1], [-2, 3], [20, 0]]), 4, keep_scale=False)
    expected = (picture[1:5, 1:5] - mean) / deviation
    expected[1, 2] = 0
    assert np.allclose(inside, expected)
    assert np.allclose(across[:2, 2:], (picture[3:, :2] - mean) / deviation)
    assert not across[2:].any() and not beyond.any()
    assert image_statistics(np.full((3, 3), np.nan)) == (0.0, 1.0) and image_statistics(np.ones((3, 3))) == (1.0, 1.0)
