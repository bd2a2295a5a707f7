"""The 2D CTF of the simulator compared with torch-ctf, an analytic zero, and the definition of astigmatism."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch_ctf import calculate_ctf_2d

from opustomo.simulate.acquisition import Optics, electron_wavelength, tilt_image_transfer


def values(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


@pytest.mark.parametrize(
    ("u", "v", "angle", "kv", "cs", "w", "phase", "apix", "box"),
    [
        (20000, 20000, 0, 300, 2.7, 0.07, 0, 4.0, 48),
        (35000, 31000, 25, 300, 2.7, 0.1, 0, 2.0, 64),
        (18000, 15000, 130, 200, 1.4, 0.07, 60, 1.7, 32),
    ],
)
def test_agrees_with_torch_ctf(
    u: float, v: float, angle: float, kv: float, cs: float, w: float, phase: float, apix: float, box: int
) -> None:
    ours = tilt_image_transfer(
        (values(u), values(v)), values(angle), values(0.0), Optics(kv, cs, w, phase), box=box, apix=apix,
    )[0]  # fmt: skip
    # torch-ctf's documentation counts the angle from y, its code from x
    theirs = calculate_ctf_2d(
        defocus=0.5e-4 * (u + v), astigmatism=0.5e-4 * (u - v), astigmatism_angle=angle, voltage=kv,
        spherical_aberration=cs, amplitude_contrast=w, phase_shift=phase, pixel_size=apix,
        image_shape=(box, box), rfft=True, fftshift=False,
    )  # fmt: skip
    # on the row of the Nyquist frequency the sign of y is a matter of taste
    rows = np.arange(box) != box // 2
    assert np.abs(ours.numpy() - theirs.numpy().reshape(ours.shape))[rows].max() < 2e-3
    assert ours[0, 0] > 0


def test_first_zero_lies_where_the_phase_is_pi() -> None:
    """Without aberration and amplitude contrast the first zero is at s = 1/sqrt(λ Δf)."""
    wavelength, defocus = electron_wavelength(300.0), 20000.0
    assert wavelength == pytest.approx(0.019687, abs=2e-6)
    box = 64
    apix = 16 / (box * math.sqrt(1 / (wavelength * defocus)))  # puts the zero on voxel 16
    ctf = tilt_image_transfer(
        (values(defocus), values(defocus)), values(0.0), values(0.0), Optics(300.0, 0.0, 0.0), box=box, apix=apix,
    )[0]  # fmt: skip
    assert ctf[0, 1:16].min() > 0
    assert abs(float(ctf[0, 16])) < 1e-4
    assert ctf[0, 17:20].max() < 0


def test_defocus_u_acts_along_its_angle() -> None:
    """At angle 0 the x axis has the CTF of defocus u, the y axis that of v; at 90° the other way round."""
    common = dict(optics=Optics(300.0, 2.7, 0.07), box=32, apix=5.0)
    turned = tilt_image_transfer(
        (values(20000, 20000), values(26000, 26000)), values(0.0, 90.0), values(0.0), **common
    )  # fmt: skip
    u = tilt_image_transfer((values(20000), values(20000)), values(0.0), values(0.0), **common)[0]
    v = tilt_image_transfer((values(26000), values(26000)), values(0.0), values(0.0), **common)[0]
    for image, along_x, along_y in ((turned[0], u, v), (turned[1], v, u)):
        assert torch.allclose(image[0, :], along_x[0, :], atol=1e-5)
        assert torch.allclose(image[:, 0], along_y[:, 0], atol=1e-5)
    # u at 45°: the diagonal of the first quadrant sees u, that of the fourth v
    diagonal = tilt_image_transfer((values(20000), values(26000)), values(45.0), values(0.0), **common)[0]
    assert float(diagonal[9, 9]) == pytest.approx(float(u[9, 9]), abs=1e-5)
    assert float(diagonal[-9, 9]) == pytest.approx(float(v[9, 9]), abs=1e-5)


def test_envelope_of_a_bfactor() -> None:
    common = dict(optics=Optics(300.0, 2.7, 0.07), box=32, apix=4.0)
    d = values(30000)
    plain, damped = tilt_image_transfer((d, d), values(0.0), values(0.0, 400.0), **common)
    s = 10 / (32 * 4.0)
    assert float(damped[0, 10] / plain[0, 10]) == pytest.approx(math.exp(-400 * s * s / 4), rel=1e-4)
