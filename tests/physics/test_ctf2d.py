"""The 2D CTF compared with torch-ctf and with closed formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from opustomo.physics.ctf import ctf_at, electron_wavelength_A
from tests.physics.optics import one_tilt, slice_grid, torch_ctf_image

CASES = {
    "defocus": {"defocus_u_A": 25000.0, "defocus_v_A": 25000.0},
    "overfocus": {"defocus_u_A": -15000.0, "defocus_v_A": -15000.0},
    "astigmatism": {"defocus_u_A": 27000.0, "defocus_v_A": 21000.0},
    "astigmatism at an angle": {"defocus_u_A": 27000.0, "defocus_v_A": 21000.0, "astigmatism_deg": 33.0},
    "astigmatism the other way": {"defocus_u_A": 20000.0, "defocus_v_A": 23000.0, "astigmatism_deg": -70.0},
    "aberration": {"defocus_u_A": 20000.0, "defocus_v_A": 20000.0, "cs_mm": 2.7},
    "amplitude contrast": {"defocus_u_A": 20000.0, "defocus_v_A": 20000.0, "amplitude_contrast": 0.1},
    "phase plate": {"defocus_u_A": 8000.0, "defocus_v_A": 8000.0, "phase_shift_deg": 75.0},
    "all": {
        "defocus_u_A": 31000.0, "defocus_v_A": 28000.0, "astigmatism_deg": 130.0, "voltage_kv": 200.0, "cs_mm": 2.0,
        "amplitude_contrast": 0.08, "phase_shift_deg": 40.0,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(("size", "apix"), [(48, 4.0), (64, 1.7)])
def test_agrees_with_torch_ctf(name: str, size: int, apix: float) -> None:
    tilt = one_tilt(**CASES[name])
    ours, theirs = ctf_at(*slice_grid(size, apix), tilt).numpy(), torch_ctf_image(tilt, size, apix)
    difference = np.abs(ours - theirs)
    # torch-ctf works in single precision, with the wavelength of another edition of the constants
    assert difference.max() < 4e-3
    assert np.sqrt(np.mean(difference**2)) < 1e-3


@pytest.mark.parametrize(("kilovolt", "wavelength"), [(100.0, 0.0370144), (200.0, 0.0250793), (300.0, 0.0196875)])
def test_wavelength(kilovolt: float, wavelength: float) -> None:
    """Values of Reimer & Kohl's table."""
    assert float(electron_wavelength_A(torch.tensor(kilovolt))) == pytest.approx(wavelength, rel=1e-4)


@pytest.mark.parametrize("w", [0.0, 0.07, 0.5, 1.0])
def test_at_zero_frequency_only_amplitude_contrast_is_left(w: float) -> None:
    at_zero = torch.zeros((), dtype=torch.float64)
    tilt = one_tilt(defocus_u_A=2e4, defocus_v_A=3e4, cs_mm=2.7, amplitude_contrast=w, bfactor_A2=100.0)
    assert float(ctf_at(at_zero, at_zero, tilt)) == pytest.approx(w, abs=1e-12)


def test_phase_plate_of_90_degrees_makes_contrast_at_zero_frequency() -> None:
    at_zero = torch.zeros((), dtype=torch.float64)
    assert float(ctf_at(at_zero, at_zero, one_tilt(phase_shift_deg=90.0))) == pytest.approx(1.0)


@pytest.mark.parametrize("defocus", [8000.0, 25000.0])
def test_underfocus_is_positive_up_to_the_first_zero(defocus: float) -> None:
    """Without aberration and amplitude contrast, sin(π Δf λ s²) vanishes first at s² = 1/(Δf λ)."""
    tilt = one_tilt(defocus_u_A=defocus, defocus_v_A=defocus)
    zero = 1.0 / math.sqrt(defocus * float(electron_wavelength_A(tilt.voltage_kv)))
    s = zero * torch.tensor([0.1, 0.5, 0.9, 1.0, 1.1, 1.35], dtype=torch.float64)
    values = ctf_at(s, torch.zeros_like(s), tilt)
    assert (values[:3] > 0).all()
    assert abs(float(values[3])) < 1e-6
    assert (values[4:] < 0).all()


def test_defocus_u_lies_along_the_astigmatism_axis() -> None:
    """Along the axis the rings are those of u, across it those of v."""
    s = torch.linspace(0.005, 0.1, 40, dtype=torch.float64)
    angle = math.radians(25.0)
    both = one_tilt(defocus_u_A=3e4, defocus_v_A=2e4, astigmatism_deg=25.0)
    zeros = torch.zeros_like(s)
    along = ctf_at(s * math.cos(angle), s * math.sin(angle), both)
    across = ctf_at(-s * math.sin(angle), s * math.cos(angle), both)
    assert torch.allclose(along, ctf_at(s, zeros, one_tilt(defocus_u_A=3e4, defocus_v_A=3e4)))
    assert torch.allclose(across, ctf_at(s, zeros, one_tilt(defocus_u_A=2e4, defocus_v_A=2e4)))


def test_bfactor_damps() -> None:
    x, y = slice_grid(32, 3.0)
    sharp = one_tilt(defocus_u_A=2e4, defocus_v_A=2e4, amplitude_contrast=0.1)
    damped = one_tilt(defocus_u_A=2e4, defocus_v_A=2e4, amplitude_contrast=0.1, bfactor_A2=120.0)
    expected = ctf_at(x, y, sharp) * torch.exp(-120.0 / 4.0 * (x**2 + y**2))
    assert torch.allclose(ctf_at(x, y, damped), expected)


def test_opposite_frequencies_are_equal() -> None:
    x, y = slice_grid(32, 2.0)
    tilt = one_tilt(**CASES["all"])
    assert torch.equal(ctf_at(x, y, tilt), ctf_at(-x, -y, tilt))
