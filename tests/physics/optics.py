"""Random tilt lists for tests of the CTF."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch_ctf import calculate_ctf_2d

from opustomo.io.ctf_tables import TiltTable
from opustomo.physics.ctf import FIELDS, TiltBatch


def tilt_table(tilt_deg: np.ndarray, seed: int = 0) -> TiltTable:
    """Return optics in which all parameters differ from tilt to tilt."""
    rng = np.random.default_rng(seed)
    count = len(tilt_deg)
    return TiltTable(
        tilt_deg=tilt_deg,
        defocus_u_A=rng.uniform(20000, 30000, count),
        defocus_v_A=rng.uniform(20000, 30000, count),
        astigmatism_deg=rng.uniform(-90, 90, count),
        voltage_kv=rng.choice([200.0, 300.0], count),
        cs_mm=rng.uniform(0.5, 3, count),
        amplitude_contrast=rng.uniform(0.05, 0.2, count),
        phase_shift_deg=rng.uniform(0, 90, count),
        bfactor_A2=rng.uniform(0, 400, count),
        scale=rng.uniform(0.3, 1, count),
    )


def one_tilt(**values: float) -> TiltBatch:
    """Return a single tilt without contrast transfer except for `values`; fields () in float64."""
    plain = dict.fromkeys(FIELDS, 0.0) | {"voltage_kv": 300.0, "scale": 1.0} | values
    return TiltBatch(**{name: torch.tensor(value, dtype=torch.float64) for name, value in plain.items()})


def torch_ctf_image(tilt: TiltBatch, size: int, apix: float) -> np.ndarray:
    """What torch-ctf says of a tilt (no B-factor): half transform of an image, native order, (size, size/2+1).

    It takes µm, half of u - v (not negative), and, against its documentation, the angle from x, as RELION does.
    """
    u, v, angle = float(tilt.defocus_u_A), float(tilt.defocus_v_A), float(tilt.astigmatism_deg)
    if u < v:
        u, v, angle = v, u, angle + 90.0
    return calculate_ctf_2d(
        defocus=0.5e-4 * (u + v),
        astigmatism=0.5e-4 * (u - v),
        astigmatism_angle=angle,
        voltage=float(tilt.voltage_kv),
        spherical_aberration=float(tilt.cs_mm),
        amplitude_contrast=float(tilt.amplitude_contrast),
        phase_shift=float(tilt.phase_shift_deg),
        pixel_size=apix,
        image_shape=(size, size),
        rfft=True,
        fftshift=False,
    ).numpy()


def slice_grid(size: int, apix: float) -> tuple[Tensor, Tensor]:
    """Return frequencies x (1, size/2+1) and y (size, 1) of a half transform, native order, 1/Å, float64."""
    y = torch.fft.fftfreq(size, d=apix, dtype=torch.float64)[:, None]
    x = torch.fft.rfftfreq(size, d=apix, dtype=torch.float64)[None]
    return x, y
