"""Energies of candidates, their weights, and the sampled candidate of the gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.energy import candidate_weights, crop_energies, shifted_cross
from opustomo.model.posing import symmetric_candidates
from opustomo.physics.ctf import TiltBatch, ctf_volume, model_envelope
from opustomo.physics.fourier import pad_center
from tests import reference
from tests.energies import render_energies
from tests.physics.optics import tilt_table

RENDER, CROP = 16, 12
BATCH, POSES = 2, 3
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


@pytest.fixture(scope="module")
def scene() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Posed densities, transfer function and target; double precision."""
    torch.manual_seed(0)
    tables = [tilt_table(np.arange(-50.0, 61, 4), seed) for seed in range(BATCH)]
    ctf = ctf_volume(TiltBatch.pad(tables, torch.float64), RENDER, 6.0)
    transfer = ctf.abs() * model_envelope(RENDER, torch.tensor([0.3, 0.6], dtype=torch.float64))
    # the Nyquist planes, on which a half spectrum does not say what the other half is
    transfer[:, RENDER // 2], transfer[:, :, RENDER // 2], transfer[..., -1] = 0, 0, 0
    posed = torch.randn(BATCH, POSES, CROP, CROP, CROP, dtype=torch.float64)
    target = torch.randn(BATCH, CROP, CROP, CROP, dtype=torch.float64)
    return pad_center(posed, RENDER), transfer, pad_center(target, RENDER)


def plain_images(posed: torch.Tensor, transfer: torch.Tensor) -> np.ndarray:
    """x of docs/method.md, section 2, before the crop, computed one by one: (B, P, Dr, Dr, Dr)."""
    out = np.zeros((BATCH, POSES, RENDER, RENDER, RENDER))
    for i in range(BATCH):
        centred = np.fft.fftshift(transfer[i].numpy(), axes=(0, 1))
        for p in range(POSES):
            out[i, p] = reference.irfft3(centred * reference.rfft3(posed[i, p].numpy()))
    return out


@DEVICES
def test_energies_on_the_crop_are_the_definition(scene, device: str) -> None:
    posed, transfer, target = scene
    energies = crop_energies(*(t.to(device) for t in scene), CROP)
    images = plain_images(posed, transfer)
    for i in range(BATCH):
        for p in range(POSES):
            x, r = (reference.crop_center(v, CROP) for v in (images[i, p], target[i].numpy()))
            assert float(energies.power[i, p]) == pytest.approx(np.sum(x**2))
            assert float(energies.total[i, p]) == pytest.approx(np.sum((x - r) ** 2) - np.sum(r**2))


@DEVICES
def test_energies_on_the_render_box(scene, device: str) -> None:
    """The same cross term, and Σx² over the whole box, with no transform per candidate for either."""
    posed, transfer, target = scene
    energies = render_energies(*(t.to(device) for t in scene))
    images = plain_images(posed, transfer)
    for i in range(BATCH):
        for p in range(POSES):
            power, cross = np.sum(images[i, p] ** 2), np.sum(images[i, p] * target[i].numpy())
            assert float(energies.total[i, p]) == pytest.approx(power - 2 * cross)
            assert float(energies.power[i, p]) == pytest.approx(power)


def test_both_energies_agree_on_a_crop_of_everything(scene) -> None:
    _, transfer, _ = scene
    posed = torch.randn(BATCH, POSES, RENDER, RENDER, RENDER, dtype=torch.float64)
    target = torch.randn(BATCH, RENDER, RENDER, RENDER, dtype=torch.float64)
    first, second = render_energies(posed, transfer, target), crop_energies(posed, transfer, target, RENDER)
    assert torch.allclose(first.power, second.power)
    assert torch.allclose(first.total, second.total)


def test_power_is_hardly_touched_by_the_nyquist_planes() -> None:
    """There a real image sees the mean of c(k) and c(-k); Parseval's sum takes both squares."""
    torch.manual_seed(1)
    tables = [tilt_table(np.arange(-50.0, 61, 4))]
    transfer = ctf_volume(TiltBatch.pad(tables, torch.float64), RENDER, 6.0).abs()
    posed = torch.randn(1, 4, RENDER, RENDER, RENDER, dtype=torch.float64)
    target = torch.zeros(1, RENDER, RENDER, RENDER, dtype=torch.float64)
    fast, exact = render_energies(posed, transfer, target).power, crop_energies(posed, transfer, target, RENDER).power
    assert torch.allclose(fast, exact, rtol=0.02)  # white noise, the worst case: a sixth of it lies on these planes


@pytest.mark.parametrize(
    "energies",
    [
        [5.0, 3.0, 4.0, 10.0],  # close: the floor of Dc/8 is the temperature
        [100.0, 3.0, 45.0, -80.0],  # far: half their spread is
        [-2.0],
        [1e6, 1e6 + 5, 1e6 - 3, 1e6],
    ],
)
@pytest.mark.parametrize("crop", [16, 64])
def test_candidate_weights(energies: list[float], crop: int) -> None:
    both = torch.tensor([energies, energies[::-1]], dtype=torch.float64, requires_grad=True)
    weights = candidate_weights(both, crop)
    assert not weights.requires_grad
    for row, values in zip(weights, (energies, energies[::-1]), strict=True):
        temperature = max(0.5 * np.std(values, ddof=1), crop / 8) if len(values) > 1 else crop / 8
        expected = np.exp(-(np.array(values) - min(values)) / temperature)
        assert row.numpy() == pytest.approx(expected / expected.sum())


def test_candidates_are_symmetric_about_the_identity() -> None:
    """Their mean is the identity, each has its inverse, and the identity itself is one."""
    candidates = symmetric_candidates()
    assert candidates.shape == (7, 3, 3)
    turns = Rotation.from_matrix(candidates.double().numpy())
    assert np.abs(turns.mean().as_rotvec()).max() < 1e-6
    angles = np.degrees(turns.magnitude())
    assert np.sort(angles) == pytest.approx([0, 1.46, 1.46, 1.46, 1.46, 1.46, 1.46], abs=1e-4)
    for candidate in candidates:
        assert any(torch.allclose(candidate.mT, other, atol=1e-6) for other in candidates)
    wide = Rotation.from_matrix(symmetric_candidates(5.0).double().numpy())
    assert np.degrees(wide.magnitude()).max() == pytest.approx(5.0, abs=1e-4)


def test_shifted_products() -> None:
    """Shifts by whole voxels in both directions along each axis."""
    generator = torch.Generator().manual_seed(3)
    posed = torch.zeros(2, 8, 8, 8)
    posed[:, 1:-1, 1:-1, 1:-1] = torch.randn(2, 6, 6, 6, generator=generator)
    field = torch.randn(2, 8, 8, 8, generator=generator)
    found = shifted_cross(posed, field)
    for number, (dz, dy, dx) in enumerate([(0, 0, 1), (0, 1, 0), (1, 0, 0), (0, 0, -1), (0, -1, 0), (-1, 0, 0)]):
        moved = np.zeros((2, 8, 8, 8))
        moved[:, 1:-1, 1:-1, 1:-1] = field[:, 1 - dz : 7 - dz, 1 - dy : 7 - dy, 1 - dx : 7 - dx]
        np.testing.assert_allclose(found[:, number], (posed.numpy() * moved).sum((1, 2, 3)), rtol=1e-4, atol=1e-4)
