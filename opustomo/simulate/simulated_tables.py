"""Tables of a simulated data set: CTF tables and the particle STAR file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from opustomo.simulate.forward_model import ParticleSet, PoseSet

#: Magnification in RELION 3.0 tables, for which the detector pixel size equals the pixel size in Å.
MAGNIFICATION = 10000


def ctf_star_table(particles: ParticleSet, row: int) -> pd.DataFrame:
    """Return the CTF table of a particle in RELION columns, one row per tilt.

    Units are Å, kV, mm and degrees. Positive B factors damp.
    """
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
    """Return the CTF table of a particle in WARP columns, one row per tilt.

    Units are meters, volts and radians. Underfocus and damping B factors are negative.
    """
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
    """Write the CTF tables `{stem}_ctf.star` and `{stem}_ctf.csv` of a particle."""
    base = stem.with_name(stem.name + "_ctf")
    starfile.write({"images": ctf_star_table(particles, row)}, base.with_suffix(".star"), float_format="%.6f")
    ctf_csv_table(particles, row).to_csv(base.with_suffix(".csv"), index=False, float_format="%.9g")


def draw_places(count: int, box: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the tomogram (N,) of each particle and its coordinates x, y, z in voxels (N, 3)."""
    tomogram = np.sort(np.arange(count) % max(1, min(5, count // 20)))
    return tomogram, rng.integers((box, box, box // 2), (928, 928, 300), (count, 3))


def particle_blocks(
    particles: ParticleSet,
    poses: PoseSet,
    names: list[str],
    places: tuple[np.ndarray, np.ndarray],
    apix: float,
    optics_box: int | None = None,
) -> dict[str, pd.DataFrame]:
    """Return the blocks of the particle STAR file.

    Parameters
    ----------
    particles
        Particle set, which provides the optics.
    poses
        Poses that the table reports, N.
    names
        File names of the subtomograms without suffix, relative to the STAR file.
    places
        Tomogram and coordinates of each particle, see :func:`draw_places`.
    apix
        Pixel size of the subtomograms in Å.
    optics_box
        Box of the subtomograms in voxels, for tables of RELION 3.1 with an optics block and origins in Å. None writes
        one block of RELION 3.0 with origins in voxels.
    """
    count = len(names)
    tomogram, coordinates = places
    eulers_deg, origins = poses.eulers_deg, poses.origins
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
    if optics_box is None:
        origin = {f"rlnOrigin{axis}": origins[:, i] for i, axis in enumerate("XYZ")}
        scale = {"rlnMagnification": [MAGNIFICATION] * count, "rlnDetectorPixelSize": [float(apix)] * count}
        # RELION 3.1 and later ignore origins in pixels if the table has no voltage and spherical aberration.
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
            "rlnImageSize": [optics_box],
            "rlnImageDimensionality": [3],
        }
    )
    return {"optics": optics, "particles": pd.DataFrame(table | origin | {"rlnOpticsGroup": [1] * count})}
