"""Gradients through pose, CTF, envelopes and crop compared with finite differences in double precision."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor
from torch.autograd import gradcheck

from opustomo.model.energy import crop_energies
from opustomo.model.networks import small_rotation
from opustomo.physics.ctf import TiltBatch, ctf_at, ctf_volume, model_envelope, sharpening
from opustomo.physics.fourier import crop_center, crop_spectrum, irfft3, pad_center, rfft3, shift_phases
from opustomo.physics.sampling import rotate_about_z, sample_posed
from tests.energies import render_energies
from tests.physics.optics import one_tilt, slice_grid, tilt_table

RENDER, CROP = 8, 6


BOTH_ENERGIES = pytest.mark.parametrize("compare", [render_energies, partial(crop_energies, crop=CROP)])


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers that want a gradient."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator).requires_grad_()


def base_rotations(count: int) -> Tensor:
    """Return poses without sampled points on voxels, where trilinear samples are not differentiable."""
    return torch.from_numpy(Rotation.random(count, random_state=2).as_matrix())


def transfer_of(batch: int) -> Tensor:
    """CTF of a few tilts."""
    tables = [tilt_table(np.arange(-50.0, 41, 10), seed) for seed in range(batch)]
    return ctf_volume(TiltBatch.pad(tables, torch.float64), RENDER, 8.0)


def test_pose() -> None:
    """Rotation numbers, shift and density of two particles with three candidates each."""
    candidates = base_rotations(3)

    def posed(numbers: Tensor, shift: Tensor, volumes: Tensor) -> Tensor:
        back = (small_rotation(numbers)[:, None] @ candidates).mT
        return sample_posed(volumes, back, CROP, shift[:, None])

    shift = (0.1 * draw(2, 3, seed=1)).detach().requires_grad_()
    assert gradcheck(posed, (draw(2, 3), shift, draw(2, 5, 5, 5)), eps=1e-7, atol=1e-5)


def test_turn_about_z_and_shift_in_fourier_space() -> None:
    angle = torch.tensor(0.4, dtype=torch.float64)
    matrix = torch.stack([torch.cos(angle), -torch.sin(angle), torch.sin(angle), torch.cos(angle)]).view(1, 2, 2)

    def observed(volumes: Tensor, origin: Tensor) -> Tensor:
        spectrum = crop_spectrum(rfft3(volumes), 6) * shift_phases(origin, 8, 6)
        return rotate_about_z(crop_center(irfft3(spectrum), 4), matrix)

    assert gradcheck(observed, (draw(1, 8, 8, 8), draw(1, 3, seed=1)), eps=1e-6, atol=1e-6)


def test_ctf_of_a_tilt() -> None:
    x, y = slice_grid(8, 6.0)
    scales = torch.tensor([1e4, 1e4, 10.0, 1.0, 0.1, 10.0, 50.0], dtype=torch.float64)
    start = torch.tensor([2.1, 1.8, 3.0, 2.7, 0.8, 4.0, 2.0], dtype=torch.float64, requires_grad=True)
    names = ("defocus_u_A", "defocus_v_A", "astigmatism_deg", "cs_mm", "amplitude_contrast", "phase_shift_deg",
             "bfactor_A2")  # fmt: skip

    def ctf(numbers: Tensor) -> Tensor:
        values = dict(zip(names, (numbers * scales).unbind(), strict=True))
        return ctf_at(x, y, replace(one_tilt(), **values))

    assert gradcheck(ctf, (start,), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("normalized", [True, False])
def test_ctf_of_a_tilt_series(normalized: bool) -> None:
    batch = TiltBatch.pad([tilt_table(np.array([-40.5, 0.3, 30.2]))], torch.float64)

    def ctf(defocus_um: Tensor, bfactor: Tensor) -> Tensor:
        tilts = replace(batch, defocus_u_A=1e4 * defocus_um, defocus_v_A=1e4 * defocus_um, bfactor_A2=100 * bfactor)
        return ctf_volume(tilts, 8, 6.0, normalized=normalized)

    defocus = torch.tensor([[2.0, 2.2, 2.4]], dtype=torch.float64, requires_grad=True)
    bfactor = torch.tensor([[0.3, 0.1, 0.5]], dtype=torch.float64, requires_grad=True)
    assert gradcheck(ctf, (defocus, bfactor), eps=1e-6, atol=1e-5)


@pytest.mark.parametrize("envelope", [sharpening, model_envelope])
def test_envelopes(envelope) -> None:
    b = torch.tensor([0.3, -0.4], dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda value: envelope(6, value), (b,))


def test_padding_and_cropping() -> None:
    transfer = transfer_of(2)

    def imaged(volumes: Tensor) -> Tensor:
        return crop_center(irfft3(rfft3(pad_center(volumes, RENDER)) * transfer), CROP)

    assert gradcheck(imaged, (draw(2, CROP, CROP, CROP),))


@BOTH_ENERGIES
def test_energies(compare) -> None:
    """Transfer functions that are no Hermitian filter included."""
    transfer = torch.rand(2, RENDER, RENDER, RENDER // 2 + 1, dtype=torch.float64)
    target = pad_center(draw(2, CROP, CROP, CROP, seed=3).detach(), RENDER)

    def energies(posed: Tensor) -> Tensor:
        return compare(pad_center(posed, RENDER), transfer, target).total

    assert gradcheck(energies, (draw(2, 3, CROP, CROP, CROP),))


@BOTH_ENERGIES
def test_whole_chain(compare) -> None:
    """Pose numbers and density to the energies of the candidates, through CTF and envelope."""
    candidates = base_rotations(2)
    transfer = transfer_of(2) * model_envelope(RENDER, torch.tensor([0.2, 0.4], dtype=torch.float64))
    target = pad_center(draw(2, CROP, CROP, CROP, seed=3).detach(), RENDER)

    def energy(numbers: Tensor, shift: Tensor, volumes: Tensor) -> Tensor:
        back = (small_rotation(numbers)[:, None] @ candidates).mT
        return compare(sample_posed(volumes, back, CROP, shift[:, None], RENDER), transfer, target).total

    shift = (0.1 * draw(2, 3, seed=1)).detach().requires_grad_()
    assert gradcheck(energy, (draw(2, 3), shift, draw(2, 5, 5, 5)), eps=1e-7, atol=1e-5)
