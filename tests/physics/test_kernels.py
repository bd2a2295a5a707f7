"""GPU kernels of the physics equal plain PyTorch in values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.nn import functional

from opustomo.model.energy import shifted_cross, spectral_sums
from opustomo.model.residual_spectra import model_residual_sums
from opustomo.physics import kernels
from opustomo.physics.body_motion import cross_on_grid, sample_on_grid
from opustomo.physics.ctf import TiltBatch, ctf_volume, model_envelope, sharpening
from opustomo.physics.fourier import pad_center, shift_phases
from opustomo.physics.sampling import cross_of_posed, rotate_about_z, sample_posed
from tests.gpu_kernels import DEVICE, INTERPRETED, both, interpreter, plain_torch  # noqa: F401
from tests.physics.optics import tilt_table

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("interpreter")]


def close(got: Tensor, wanted: Tensor, tolerance: float = 2e-5) -> None:
    """Relative to the largest value; NaN never passes."""
    error = float((got.detach().cpu() - wanted.detach().cpu()).abs().max())
    assert error <= tolerance * float(wanted.detach().abs().max())


@pytest.mark.cuda
def test_plain_tensors_on_the_cpu_take_no_kernel() -> None:
    assert not kernels.usable(torch.zeros(2))
    assert not kernels.usable(torch.zeros(2, device="cuda", dtype=torch.float64))
    assert kernels.usable(torch.zeros(2, device="cuda"))


@pytest.mark.parametrize("normalized", [False, True])
@pytest.mark.parametrize("size", [8, 18] if INTERPRETED else [16, 34])
def test_ctf(normalized: bool, size: int) -> None:
    tables = [tilt_table(np.arange(-60.0, 61, 6)), tilt_table(np.arange(-30.0, 61, 6), 1)]
    tilts = TiltBatch.pad(tables).limit(55.0)
    with plain_torch():
        plain = ctf_volume(tilts, size, 5.0, normalized=normalized, nyquist=size / 2)
    close(ctf_volume(tilts.to(DEVICE), size, 5.0, normalized=normalized, nyquist=size / 2), plain)


def test_sampling_and_its_gradients() -> None:
    torch.manual_seed(0)
    rotations = torch.from_numpy(Rotation.random(6, random_state=1).as_matrix()).float().view(2, 3, 3, 3)
    inputs = [torch.randn(2, 11, 11, 11), rotations, 0.1 * torch.randn(2, 3, 3)]
    weight = torch.randn(2, 3, 12, 12, 12)
    results = []
    for volumes, matrices, shift in both(*inputs):
        out = sample_posed(volumes, matrices, 9, shift, 12)
        gradients = torch.autograd.grad((out * weight.to(out.device)).sum(), [volumes, matrices, shift])
        results.append([out, *gradients])
    for wanted, got in zip(*results, strict=True):
        close(got, wanted)
    assert torch.equal(
        results[1][0], pad_center(sample_posed(*(x.to(DEVICE) for x in inputs[:2]), 9, inputs[2].to(DEVICE)), 12)
    )


def test_gradient_of_volumes_alone() -> None:
    """As in training, where the poses have no gradient."""
    torch.manual_seed(0)
    matrices = torch.from_numpy(Rotation.random(2, random_state=1).as_matrix()).float()[:, None]
    weight = torch.randn(2, 1, 12, 12, 12)
    results = []
    for (volumes,) in both(torch.randn(2, 11, 11, 11)):
        out = sample_posed(volumes, matrices.to(volumes.device), 9, None, 12)
        results.append(torch.autograd.grad((out * weight.to(out.device)).sum(), volumes)[0])
    close(results[1], results[0])


@pytest.mark.parametrize("poses", [1, 3])
def test_sampling_of_bodies_and_its_gradients(poses: int) -> None:
    torch.manual_seed(0)
    turns = torch.from_numpy(Rotation.random(2 + poses, random_state=1).as_matrix()).float()
    inputs = [torch.randn(2, 11, 11, 11), 0.5 * torch.randn(2, 3, 9**3), 0.1 * torch.randn(2, 1, 3)]
    weight = torch.randn(2, poses, 12, 12, 12)
    results = []
    for volumes, grid, shift in both(*inputs):
        out = sample_on_grid(volumes, grid, turns[2:].to(volumes.device), 9, shift, 12)
        gradients = torch.autograd.grad((out * weight.to(out.device)).sum(), [volumes, grid, shift])
        results.append([out, *gradients])
    for wanted, got in zip(*results, strict=True):
        close(got, wanted)


def test_rotation_about_z() -> None:
    torch.manual_seed(0)
    angle = torch.tensor([0.3, -2.0])
    matrices = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(2, 2, 2)
    volumes = torch.randn(2, 12, 12, 12)
    inner = volumes[:, 1:10, 1:10, 1:10]
    with plain_torch():
        plain = rotate_about_z(inner, matrices)
    close(rotate_about_z(volumes.to(DEVICE)[:, 1:10, 1:10, 1:10], matrices.to(DEVICE)), plain)


def test_spectra_are_moved_and_filtered() -> None:
    from opustomo.model.kernels import observation

    torch.manual_seed(0)
    y, origin, b = torch.randn(2, 10, 10, 6, dtype=torch.complex64), torch.randn(2, 3), torch.tensor([0.3, -0.2])
    close(
        torch.view_as_real(observation.move(y.to(DEVICE), origin.to(DEVICE), 12)),
        torch.view_as_real(y * shift_phases(origin, 12, 10)),
    )
    close(
        torch.view_as_real(observation.sharpen(y.to(DEVICE), b.to(DEVICE))), torch.view_as_real(y * sharpening(10, b))
    )
    ctf = torch.randn(2, 10, 10, 6)
    ctf[:, 3] = 0
    beta, model_b = torch.tensor([1.0, 0.9]), torch.tensor([3.0, 2.5])
    for alpha in (0.0, 0.5):
        phase = ctf.sign() if alpha == 0 else ctf.sign() * ctf.abs() ** alpha
        sharp, transfer = observation.observe(*(t.to(DEVICE) for t in (y, ctf, b, model_b)), alpha, beta.to(DEVICE))
        close(torch.view_as_real(sharp), torch.view_as_real(y * phase * sharpening(10, b)))
        close(transfer, ctf.abs() ** beta.view(-1, 1, 1, 1) * model_envelope(10, model_b), 1e-4)


def test_sums_over_spectra() -> None:
    torch.manual_seed(0)
    spectra, filters = torch.randn(2, 2, 6, 6, 4, dtype=torch.complex64), torch.rand(2, 6, 6, 4)
    with plain_torch():
        sums, pushed = spectral_sums(spectra[0], filters, spectra[1])
    found, pushed_too = spectral_sums(spectra[0].to(DEVICE), filters.to(DEVICE), spectra[1].to(DEVICE))
    close(found, sums)
    close(torch.view_as_real(pushed_too), torch.view_as_real(pushed))


def test_sums_over_posed_volumes() -> None:
    """For volumes that bfloat16 holds exactly, because the kernel rounds volumes to it."""
    torch.manual_seed(0)
    turns = torch.from_numpy(Rotation.random(6, random_state=1).as_matrix()).float().view(2, 3, 3, 3)
    volumes, shift, grid = torch.randn(2, 11, 11, 11), 0.1 * torch.randn(2, 1, 3), 0.5 * torch.randn(2, 3, 9**3)
    fields = torch.randn(2, 12, 12, 12), torch.randn(2, 12, 12, 12)
    volumes = volumes.bfloat16().float()
    with plain_torch():
        posed = cross_of_posed(volumes, turns, 9, shift, fields)
        moved = cross_on_grid(volumes, grid, turns, 9, shift, fields)
        samples = sample_posed(volumes, turns, 9, shift, 12)
    close(posed, torch.stack([torch.einsum("bpzyx,bzyx->bp", samples, field) for field in fields], 1))
    volumes, turns, shift, grid = (t.to(DEVICE) for t in (volumes, turns, shift, grid))
    fields = fields[0].to(DEVICE), fields[1].to(DEVICE)
    close(cross_of_posed(volumes, turns, 9, shift, fields), posed)
    close(cross_on_grid(volumes, grid, turns, 9, shift, fields), moved)


def test_shifted_sums() -> None:
    from opustomo.model.kernels import energy

    torch.manual_seed(0)
    posed, field = torch.randn(2, 3, 12, 12, 12), torch.randn(2, 12, 12, 12)
    inner = functional.pad(posed[..., 1:-1, 1:-1, 1:-1], (1,) * 6)
    with plain_torch():
        plain = shifted_cross(inner[:, 1], field)
    close(energy.shifted_cross(inner.to(DEVICE)[:, 1], field.to(DEVICE)), plain)


def test_residual_sums() -> None:
    torch.manual_seed(0)
    size, count = 8, 3
    shape = (count, size, size, size // 2 + 1)
    target, posed = torch.randn(2, *shape, dtype=torch.complex64).unbind(0)
    transfer, measured = torch.rand(shape), (torch.rand(shape) > 0.3).float()
    mask_power, weight = torch.rand(count), torch.tensor([1.0, 0.0, 1.0])
    with plain_torch():
        plain = model_residual_sums(target, posed, transfer, measured, mask_power, weight)
    found = model_residual_sums(*(t.to(DEVICE) for t in (target, posed, transfer, measured, mask_power, weight)))
    close(found.power, plain.power)
    close(found.voxels, plain.voxels)
