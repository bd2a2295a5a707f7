"""Solvent mask: window, mask on the crop, voxel count and bounding box."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from opustomo.physics.boxes import Boxes, bounding_box, crop_window, mask_norm, mask_on_crop


def brick(size: int, z: tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> np.ndarray:
    """Mask that is one between first and last index, both included."""
    mask = np.zeros((size,) * 3, np.float32)
    mask[z[0] : z[1] + 1, y[0] : y[1] + 1, x[0] : x[1] + 1] = 1.0
    return mask


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (brick(48, (14, 33), (14, 33), (14, 33)), (48 - 28 + 4) / 48),
        (brick(48, (14, 33), (20, 30), (9, 30)), (48 - 18 + 4) / 48),  # low along x decides
        (brick(48, (14, 40), (20, 30), (12, 30)), (48 - 16 + 4) / 48),  # high along z decides: 48 - 40
        (brick(48, (1, 46), (20, 30), (12, 30)), 0.98),
        (brick(40, (0, 39), (0, 39), (0, 39)), 0.98),
        (None, 0.85),
    ],
)
def test_window(mask: np.ndarray | None, expected: float) -> None:
    """min((N - 2m + 4)/N, 0.98), m the least of first non-zero index and N - last."""
    assert crop_window(mask, 64) == pytest.approx(expected)


def test_window_of_the_largest_template() -> None:
    wide = brick(48, (2, 45), (2, 45), (2, 45))
    assert crop_window(wide, 256) == pytest.approx(0.9)
    assert crop_window(wide, 192) == pytest.approx(0.98)
    narrow = brick(48, (14, 33), (14, 33), (14, 33))
    assert crop_window(narrow, 256) == pytest.approx(0.5)


def test_window_keeps_every_voxel_of_the_mask() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        size = int(rng.choice([32, 40, 48]))
        low, high = np.sort(rng.integers(0, size, (2, 3)), axis=0)
        mask = brick(size, *((int(a), int(b)) for a, b in zip(low, high, strict=True)))
        window = crop_window(mask, 64)
        if window == pytest.approx(0.98):
            continue
        kept = mask_on_crop(mask, Boxes.from_window(size, 4.0, 1.0, window))
        assert float(kept.sum()) == pytest.approx(float(mask.sum()))


def test_empty_mask_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        crop_window(np.zeros((8, 8, 8)), 64)


def test_mask_of_the_render_box_is_cut_exactly() -> None:
    mask = np.random.default_rng(0).uniform(0, 1, (24, 24, 24)).astype(np.float32)
    on_crop = mask_on_crop(mask, Boxes(24, 4.0, 24, 16))
    assert on_crop.shape == (16, 16, 16)
    assert np.allclose(on_crop.numpy(), mask[4:20, 4:20, 4:20], atol=1e-5)


@pytest.mark.parametrize(("render", "crop"), [(24, 20), (36, 30), (32, 24)])
def test_mask_of_another_box_keeps_its_center(render: int, crop: int) -> None:
    """Voxel N/2 of the mask is voxel Dc/2 of the crop, and lengths scale with the pixel size."""
    n = 48
    axis = np.arange(n) - n // 2
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    ball = np.clip(12.5 - np.sqrt(r2), 0, 1).astype(np.float32)
    on_crop = mask_on_crop(ball, Boxes(48, 4.0, render, crop)).numpy()
    at = np.arange(crop) - crop // 2
    for axes in ((1, 2), (0, 2), (0, 1)):
        assert abs((on_crop.sum(axes) @ at) / on_crop.sum()) < 1e-3
    assert on_crop.sum() == pytest.approx(ball.sum() * (render / n) ** 3, rel=0.03)
    assert on_crop.min() >= 0


def test_negative_values_are_clipped() -> None:
    mask = brick(16, (4, 11), (4, 11), (4, 11))
    mask[8, 8, 8] = -1.0
    assert float(mask_on_crop(mask, Boxes(16, 4.0, 16, 12)).min()) == 0.0


def test_without_mask_a_ball_of_radius_one() -> None:
    """Half the crop across, about voxel Dc/2."""
    on_crop = mask_on_crop(None, Boxes(16, 4.0, 16, 12))
    at = (torch.arange(12) - 6) * 2 / 11
    r2 = at[:, None, None] ** 2 + at[:, None] ** 2 + at**2
    assert torch.equal(on_crop, (r2 <= 1 + 1e-6).float())


def test_norm_counts_voxels_with_a_floor() -> None:
    mask = torch.zeros(10, 10, 10)
    mask[2:9, 2:9, 2:9] = 0.1
    assert mask_norm(mask) == 343
    mask[3:, :, :] = 0
    assert mask_norm(mask) == pytest.approx(0.05 * math.pi * 1000)


@pytest.mark.parametrize("templateres", [16, 24, 32, 48])
def test_bounding_box_covers_the_mask(templateres: int) -> None:
    """Both grids span [-1, 1]: voxel i of Dc stands at i·(T - 1)/(Dc - 1) of T."""
    mask = torch.zeros(24, 24, 24)
    mask[3:12, 7:20, 10:23] = 1.0
    slices = bounding_box(mask, templateres)
    for cut, (first, last) in zip(slices, ((3, 11), (7, 19), (10, 22)), strict=True):
        scale = (templateres - 1) / 23
        assert 0 <= cut.start <= first * scale < cut.start + 1
        assert cut.stop - 2 < last * scale <= cut.stop - 1 <= templateres - 1


def test_bounding_box_needs_a_mask() -> None:
    with pytest.raises(ValueError, match="no voxel"):
        bounding_box(torch.zeros(8, 8, 8), 16)
