"""Tables of a simulated set: CTF tables of the particles and the particle STAR file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from opustomo.simulate.subtomograms import ParticleSet

#: magnification written to RELION 3.0 tables; the detector pixel size then equals the pixel size in Å
MAGNIFICATION = 10000


def ctf_star_table(particles: ParticleSet, row: int) -> pd.DataFrame:
    """One row per tilt in RELION's columns: Å, kV, mm, degrees; a positive B factor damps."""
    scheme, optics, defoci = particles.scheme, particles.optics, particles.defoci
    zeros = np.zeros(len(scheme))
    return pd.DataFrame(
        {
            "rlnDefocusU": defoci.u[row],
            "rlnDefocusV": defoci.v[row],
            "rlnDefocusAngle": defoci.angle_deg[row],
            "rlnVoltage": zeros + optics.voltage_kv,
            "rlnSphericalAberration": zeros + optics.cs_mm,
            "rlnAmplitudeContrast": zeros + optics.amplitude_contrast,
            "rlnAngleRot": zeros,
            "rlnAngleTilt": scheme.tilt_deg,
            "rlnAnglePsi": zeros,
            "rlnCtfBfactor": scheme.bfactor_A2,
            "rlnCtfScalefactor": scheme.scale,
        }
    )


def ctf_csv_table(particles: ParticleSet, row: int) -> pd.DataFrame:
    """One row per tilt in WARP's columns: metres, volts, radians; underfocus and damping B are negative."""
    scheme, optics, defoci = particles.scheme, particles.optics, particles.defoci
    zeros = np.zeros(len(scheme))
    return pd.DataFrame(
        {
            "TiltAngle": scheme.tilt_deg,
            "Voltage": zeros + 1e3 * optics.voltage_kv,
            "Cs": zeros + 1e-3 * optics.cs_mm,
            "Amplitude": zeros + optics.amplitude_contrast,
            "Defocus": -0.5e-10 * (defoci.u[row] + defoci.v[row]),
            "DefocusDelta": 1e-10 * (defoci.v[row] - defoci.u[row]),
            "AstigmatismAngle": np.deg2rad(defoci.angle_deg[row]),
            "Bfactor": -1e-20 * scheme.bfactor_A2,
            "Scale": scheme.scale,
        }
    )


def write_ctf_tables(particles: ParticleSet, row: int, stem: Path) -> None:
    """Write `{stem}_ctf.star` and `{stem}_ctf.csv` of one particle."""
    base = stem.with_name(stem.name + "_ctf")
    starfile.write({"images": ctf_star_table(particles, row)}, base.with_suffix(".star"), float_format="%.6f")
    ctf_csv_table(particles, row).to_csv(base.with_suffix(".csv"), index=False, float_format="%.9g")


def particle_blocks(
    particles: ParticleSet,
    eulers_deg: np.ndarray,
    origins: np.ndarray,
    names: list[str],
    *,
    box: int,
    apix: float,
    relion31: bool,
    rng: np.random.Generator,
) -> dict[str, pd.DataFrame]:
    """Blocks of the particle STAR file.

    Parameters
    ----------
    particles
        The set; supplies the optics.
    eulers_deg, origins
        (N, 3) poses to write: rot, tilt, psi in degrees; x, y, z in voxels.
    names
        File names of the subtomograms without suffix, relative to the STAR file.
    box, apix
        Of the subtomograms.
    relion31
        True: optics block and origins in Å. False: one block, origins in voxels.
    rng
        For the coordinates in the (imaginary) tomograms.
    """
    count = len(names)
    tomogram = np.sort(np.arange(count) % max(1, min(5, count // 20)))
    coordinates = rng.integers((box, box, box // 2), (928, 928, 300), (count, 3))
    table = {
        "rlnMicrographName": [f"tomo{i:02d}.mrc" for i in tomogram],
        "rlnCoordinateX": coordinates[:, 0],
        "rlnCoordinateY": coordinates[:, 1],
        "rlnCoordinateZ": coordinates[:, 2],
        "rlnImageName": [f"{name}.mrc" for name in names],
        "rlnCtfImage": [f"{name}_ctf.mrc" for name in names],
        "rlnAngleRot": eulers_deg[:, 0],
        "rlnAngleTilt": eulers_deg[:, 1],
        "rlnAnglePsi": eulers_deg[:, 2],
        "rlnRandomSubset": 1 + np.arange(count) % 2,
    }
    if not relion31:
        origin = {f"rlnOrigin{axis}": origins[:, i] for i, axis in enumerate("XYZ")}
        scale = {"rlnMagnification": [MAGNIFICATION] * count, "rlnDetectorPixelSize": [float(apix)] * count}
        # RELION 3.1 and later ignore origins in pixels where they find no voltage and no spherical aberration
        microscope = {
            "rlnVoltage": [float(particles.optics.voltage_kv)] * count,
            "rlnSphericalAberration": [float(particles.optics.cs_mm)] * count,
            "rlnAmplitudeContrast": [float(particles.optics.amplitude_contrast)] * count,
        }
        return {"": pd.DataFrame(table | origin | scale | microscope)}
    origin = {f"rlnOrigin{axis}Angst": apix * origins[:, i] for i, axis in enumerate("XYZ")}
    optics = pd.DataFrame(
        {
            "rlnOpticsGroup": [1],
            "rlnOpticsGroupName": ["opticsGroup1"],
            "rlnVoltage": [float(particles.optics.voltage_kv)],
            "rlnSphericalAberration": [float(particles.optics.cs_mm)],
            "rlnAmplitudeContrast": [float(particles.optics.amplitude_contrast)],
            "rlnImagePixelSize": [float(apix)],
            "rlnImageSize": [box],
            "rlnImageDimensionality": [3],
        }
    )
    return {"optics": optics, "particles": pd.DataFrame(table | origin | {"rlnOpticsGroup": [1] * count})}
