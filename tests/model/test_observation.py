"""Observation: centering, target, encoder input and its augmentation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.observation import (
    VIEW_JITTER_DEG,
    centered_spectrum,
    encoder_input,
    target_and_transfer,
    view_jitter,
)
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf import model_envelope
from opustomo.physics.fourier import irfft3
from opustomo.physics.sampling import sample_posed
from tests.model.draws import draws_of

BOXES = Boxes(24, 6.0, 20, 16)


def blob(size: int, at: np.ndarray, width: float) -> torch.Tensor:
    """Gaussian at x, y, z voxels from the centre voxel."""
    axis = np.arange(size) - size // 2
    z, y, x = np.meshgrid(axis - at[2], axis - at[1], axis - at[0], indexing="ij")
    return torch.from_numpy(np.exp(-0.5 * (x**2 + y**2 + z**2) / width**2)).float()


def peak(volume: torch.Tensor) -> np.ndarray:
    """Return the center of mass x, y, z, from the center voxel, of voxels above a third of the maximum."""
    size = volume.shape[-1]
    weight = (volume - volume.max() / 3).clamp(min=0).double().numpy()
    at = np.arange(size) - size // 2
    return np.array([weight.sum(axes) @ at for axes in ((0, 1), (0, 2), (1, 2))]) / weight.sum()


def test_origin_centers_the_particle() -> None:
    """The content moves by +origin, in pixels of the input box, for any render size."""
    away = np.array([3.0, -2.0, 1.5])
    spectrum = centered_spectrum(blob(24, away, 2.0)[None], torch.tensor([[-3.0, 2.0, -1.5]]), BOXES)
    assert spectrum.shape == (1, 20, 20, 11)
    assert np.abs(peak(irfft3(spectrum)[0])).max() < 0.05


def test_target_flips_phases_and_keeps_the_wedge_empty() -> None:
    spectrum = centered_spectrum(torch.randn(1, 24, 24, 24), torch.zeros(1, 3), BOXES)
    ctf = torch.randn(1, 20, 20, 11)
    ctf[:, 3:8] = 0
    ctf[:, 12:] = -ctf[:, 12:].abs()
    zero, one = torch.zeros(1), torch.ones(1)
    flipped, transfer = target_and_transfer(spectrum, ctf, zero, zero, 0.0, one)
    assert torch.allclose(transfer, ctf.abs())
    assert torch.allclose(flipped, irfft3(spectrum * torch.sign(ctf)), atol=1e-5)
    weighted, damped = target_and_transfer(spectrum, ctf, torch.tensor([0.4]), torch.tensor([0.3]), 0.5, one)
    assert torch.allclose(damped, ctf.abs() * model_envelope(20, torch.tensor([0.3])))
    z, y, x = np.meshgrid(np.fft.fftfreq(20), np.fft.fftfreq(20), np.fft.rfftfreq(20), indexing="ij")
    sharp = torch.from_numpy(np.exp(np.pi**2 * 0.4 * (x**2 + y**2 + z**2))).float()
    assert torch.allclose(weighted, irfft3(spectrum * ctf.sign() * ctf.abs().sqrt() * sharp), atol=1e-4)


@pytest.mark.parametrize("seed", range(4))
def test_encoder_sees_the_reference_frame(seed: int) -> None:
    """A subtomogram posed by A comes back unposed: y(A x)."""
    boxes = Boxes(24, 6.0, 24, 22)
    rotation = torch.from_numpy(Rotation.random(random_state=seed).as_matrix()).float()[None]
    reference = blob(24, np.array([4.0, 0.0, 0.0]), 2.0) + 0.5 * blob(24, np.array([-1.0, -4.0, 2.0]), 2.0)
    posed = sample_posed(reference[None], rotation.mT[:, None], 24)[:, 0]
    spectrum = centered_spectrum(posed, torch.zeros(1, 3), boxes)
    ones = torch.ones(22, 22, 22)
    seen = encoder_input(spectrum, rotation, ones, boxes, torch.tensor(0.1), None)[0]
    middle = (slice(3, -3),) * 3
    expected = reference[1:-1, 1:-1, 1:-1][middle]
    assert np.corrcoef(seen[middle].flatten(), expected.flatten())[0, 1] > 0.99


def test_encoder_input_is_standardized_and_masked() -> None:
    volumes = torch.randn(3, 24, 24, 24) * torch.tensor([1.0, 50.0, 0.01]).view(-1, 1, 1, 1) + 7.0
    spectrum = centered_spectrum(volumes, torch.zeros(3, 3), BOXES)
    mask = torch.rand(16, 16, 16)
    eye = torch.eye(3).expand(3, 3, 3)
    bare = encoder_input(spectrum, eye, torch.ones(16, 16, 16), BOXES, torch.tensor(0.1), None)
    assert bare.mean((1, 2, 3)).abs().max() < 1e-4
    assert torch.allclose(bare.std((1, 2, 3)), torch.ones(3), atol=1e-3)
    assert torch.allclose(encoder_input(spectrum, eye, mask, BOXES, torch.tensor(0.1), None), bare * mask)


def test_empty_subtomogram_does_not_divide_by_zero() -> None:
    spectrum = centered_spectrum(torch.zeros(1, 24, 24, 24), torch.zeros(1, 3), BOXES)
    seen = encoder_input(spectrum, torch.eye(3)[None], torch.ones(16, 16, 16), BOXES, torch.tensor(0.1), None)
    assert torch.equal(seen, torch.zeros_like(seen))


def test_augmentation_scales_with_the_running_snr() -> None:
    """Contrast 1 ± 0.15·sqrt(snr), offset 0.1·sqrt(snr)·N(0, 1), one draw a particle; none without signal."""
    torch.manual_seed(0)
    count, snr = 200, 0.25
    spectrum = centered_spectrum(torch.randn(1, 24, 24, 24).expand(count, -1, -1, -1), torch.zeros(count, 3), BOXES)
    arguments = (spectrum, torch.eye(3).expand(count, 3, 3), torch.ones(16, 16, 16), BOXES)
    seen = encoder_input(*arguments, torch.tensor(snr), draws_of((1,), count))
    inner = seen[:, 2:-2, 2:-2, 2:-2].flatten(1)
    assert float(inner.mean(1).std()) == pytest.approx(0.1 * snr**0.5, rel=0.2)
    contrast = inner.std(1) / inner.std(1).mean()
    assert float(contrast.std()) > 0.3 * snr**0.5 / 12**0.5 * 0.8
    quiet = encoder_input(*arguments, torch.tensor(0.0), draws_of((1,), count))
    # what is left comes from the blur and the jitter of the view, which do not fade
    assert float(quiet[:, 2:-2, 2:-2, 2:-2].flatten(1).mean(1).std()) < 0.2 * float(inner.mean(1).std())
    again = encoder_input(*arguments, torch.tensor(snr), draws_of((1,), count))
    assert torch.equal(seen, again)


def test_view_jitter_is_a_small_turn_perpendicular_to_the_view() -> None:
    turns = Rotation.from_matrix(view_jitter(draws_of((2,), 3000)).double().numpy()).as_rotvec(degrees=True)
    angle = np.linalg.norm(turns, axis=1)
    assert 0.97 * VIEW_JITTER_DEG < angle.max() <= VIEW_JITTER_DEG + 1e-3
    assert angle.mean() == pytest.approx(VIEW_JITTER_DEG / 2, rel=0.05)  # uniform in the polar angle
    assert np.abs(turns[:, 2]).max() < 1e-3
    assert np.abs(turns.mean(0)).max() < 0.02
