"""CTF tables of single particles, from the CTF of their tilt series and how deep they lie."""

from __future__ import annotations

import os
from dataclasses import replace

import numpy as np

from opustomo.io.plain_loop import write_plain_loop
from opustomo.io.tilt_series import TiltOptics


def original_depth(positions_A: np.ndarray, tilt_deg: np.ndarray) -> np.ndarray:
    """(N, T) depths `x sin t + z cos t` (Å) by which the original and RELION's old preparation script change defoci.

    With the tilt written as -t this is no rotation: slices lie along (cos t, 0, sin t), whose normal is
    (-sin t, 0, cos t). See docs/handedness.md.
    """
    angle = np.deg2rad(tilt_deg)
    return positions_A[:, 0, None] * np.sin(angle) + positions_A[:, 2, None] * np.cos(angle)


def clipped_defoci(optics: TiltOptics, tilt_deg: np.ndarray, from_deg: float, sigmas: float) -> TiltOptics:
    """Bring defoci of tilts beyond ± `from_deg` to within mean ± `sigmas` deviations of the lower ones.

    Estimates at high tilt are often far off. u and v move together; with fewer than two lower tilts nothing changes.
    """
    low = np.abs(tilt_deg) <= from_deg
    if low.sum() < 2:
        return optics
    mean = 0.5 * (optics.defocus_u_A + optics.defocus_v_A)
    centre, reach = mean[low].mean(), sigmas * mean[low].std()
    moved = np.where(low, 0.0, np.clip(mean, centre - reach, centre + reach) - mean)
    return replace(optics, defocus_u_A=optics.defocus_u_A + moved, defocus_v_A=optics.defocus_v_A + moved)


def write_ctf_table(
    path: str | os.PathLike[str], optics: TiltOptics, tilt_deg: np.ndarray, depth_A: np.ndarray
) -> None:
    """Write the CTF STAR of one particle.

    Parameters
    ----------
    path
        The file.
    optics
        Of the tilts that the particle has, at the centre of the tomogram; azimuths from the slice's x axis.
    tilt_deg
        (T,) angles to write.
    depth_A
        (T,) what is added to the defoci.
    """
    ones = np.ones(len(optics))
    columns = {
        "rlnDefocusU": optics.defocus_u_A + depth_A,
        "rlnDefocusV": optics.defocus_v_A + depth_A,
        "rlnDefocusAngle": optics.astigmatism_deg,
        "rlnVoltage": ones * optics.voltage_kv,
        "rlnSphericalAberration": ones * optics.cs_mm,
        "rlnAmplitudeContrast": ones * optics.amplitude_contrast,
        "rlnAngleRot": 0 * ones,
        "rlnAngleTilt": tilt_deg,
        "rlnAnglePsi": 0 * ones,
        "rlnCtfBfactor": optics.bfactor_A2,
        "rlnCtfScalefactor": optics.scale,
    }
    if np.any(optics.phase_shift_deg):
        columns["rlnPhaseShift"] = optics.phase_shift_deg
    write_plain_loop(path, "images", columns)
