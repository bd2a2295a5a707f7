"""Simulated data set on disk: subtomograms, CTF tables, particle table, mask and ground truth."""

from __future__ import annotations

import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import starfile

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import write_volume
from opustomo.io.progress_bar import progress
from opustomo.simulate.acquisition import Optics, TiltScheme, draw_defoci
from opustomo.simulate.forward_model import ParticleSet, PoseSet, SubtomogramSimulator, disturb_poses, draw_poses
from opustomo.simulate.volumes import covering_mask

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


PARAMETERS = "params.json"


@dataclass(frozen=True)
class SimulationConfig:
    """Settings of a simulated data set.

    Attributes
    ----------
    count
        Number of subtomograms.
    apix
        Pixel size in Å.
    scheme, optics
        Tilt scheme and microscope optics.
    snr
        Variance of the noise-free image at the smallest tilt divided by the variance of the noise; inf for no noise.
    defocus
        Minimum and maximum defocus in Å, underfocus positive.
    astigmatism
        Maximum astigmatism |u - v| in Å.
    defocus_jitter
        Standard deviation in Å of the defocus between the tilts of a particle.
    weights
        Relative frequency of each volume; None for equal frequencies.
    rot_err
        Standard deviation of the angular error in degrees.
    shift, shift_err
        Maximum origin along each axis, and standard deviation of its error, in voxels.
    empty
        Fraction of subtomograms that contain only noise (label -1).
    normalize
        True divides the reconstructions by the sampling weights, False by the number of tilts.
    float16, relion31
        Data type of the subtomograms, and format of the STAR file.
    seed, device
        Random seed, and device of the computation.
    """

    count: int
    apix: float
    scheme: TiltScheme
    optics: Optics = field(default_factory=Optics)
    snr: float = 0.1
    defocus: tuple[float, float] = (20000.0, 40000.0)
    astigmatism: float = 0.0
    defocus_jitter: float = 200.0
    weights: tuple[float, ...] | None = None
    rot_err: float = 0.0
    shift: float = 2.0
    shift_err: float = 0.0
    empty: float = 0.0
    normalize: bool = True
    float16: bool = False
    relion31: bool = False
    seed: int = 0
    device: str = "cpu"


def draw_labels(
    count: int, states: int, weights: tuple[float, ...] | None, empty: float, rng: np.random.Generator
) -> np.ndarray:
    """Return the state of each particle in random order, (N,), -1 for empty boxes.

    The number of particles of each state is proportional to `weights`, rounded by the largest remainder method.
    """
    frequencies = np.full(states, 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    num_empty = round(count * empty)
    expected = frequencies / frequencies.sum() * (count - num_empty)
    numbers = np.floor(expected).astype(int)
    remainder = count - num_empty - numbers.sum()
    numbers[np.argsort(numbers - expected, kind="stable")[:remainder]] += 1
    return rng.permutation(np.repeat(np.arange(-1, states), [num_empty, *numbers]))


def draw_particles(config: SimulationConfig, states: int) -> tuple[ParticleSet, PoseSet, np.random.Generator]:
    """Draw the particles of a data set.

    Returns
    -------
    particles : ParticleSet
        Labels, true poses and defocus values.
    reported_poses : PoseSet
        Poses with errors, which are written to the STAR file.
    rng : numpy.random.Generator
        Random number generator for all further random numbers.
    """
    rng = np.random.default_rng(config.seed)
    labels = draw_labels(config.count, states, config.weights, config.empty, rng)
    poses = draw_poses(config.count, config.shift, rng)
    reported_poses = disturb_poses(poses, config.rot_err, config.shift_err, rng)
    defoci = draw_defoci(
        config.count,
        len(config.scheme),
        mean_range=config.defocus,
        astigmatism=config.astigmatism,
        jitter=config.defocus_jitter,
        rng=rng,
    )
    return ParticleSet(labels, poses, defoci, config.scheme, config.optics), reported_poses, rng


def simulate_dataset(volumes: np.ndarray, config: SimulationConfig, out: Path, *, overwrite: bool = False) -> None:
    """Simulate a data set and write it to the folder `out`; no incomplete folder is left behind.

    Parameters
    ----------
    volumes
        Densities with pixel size `config.apix`, (K, D, D, D), D even.
    config
        Settings of the data set.
    out
        New or empty folder.
    overwrite
        Replace an earlier simulated data set in `out`.

    Raises
    ------
    UserError
        If `out` has other content, or if the values of a subtomogram exceed the range of float16.
    """
    check_target(out, overwrite)
    particles, reported_poses, rng = draw_particles(config, len(volumes))
    simulator = SubtomogramSimulator(volumes, config.apix, particles, normalize=config.normalize, device=config.device)
    sigma = 0.0 if np.isinf(config.snr) else simulator.noise_sigma(config.snr)
    names = [f"subtomo/p{row:06d}" for row in range(config.count)]
    with _new_folder(out, overwrite) as folder:
        (folder / "subtomo").mkdir()
        with progress(config.count, "subtomograms") as advance:
            for rows, boxes in simulator.subtomograms(sigma, config.seed):
                for row, box in zip(rows, boxes, strict=True):
                    _write_subtomogram(folder / f"{names[row]}.mrc", box, config)
                    write_ctf_tables(particles, int(row), folder / names[row])
                advance(len(rows))
        blocks = particle_blocks(
            particles,
            reported_poses,
            names,
            draw_places(config.count, simulator.box, rng),
            config.apix,
            simulator.box if config.relion31 else None,
        )
        starfile.write(blocks, folder / "particles.star", float_format="%.6f")
        write_volume(folder / "mask.mrc", covering_mask(volumes, config.apix), config.apix)
        np.save(folder / "volumes.npy", volumes.astype(np.float32))
        np.savez(
            folder / "truth.npz",
            labels=particles.labels,
            eulers=particles.poses.eulers_deg,
            origin=particles.poses.origins,
            eulers_used=reported_poses.eulers_deg,
            origin_used=reported_poses.origins,
        )
        (folder / PARAMETERS).write_text(json.dumps(_parameters(config, simulator.box, sigma), indent=1) + "\n")


def _write_subtomogram(path: Path, box: np.ndarray, config: SimulationConfig) -> None:
    if config.float16 and np.abs(box).max() > np.finfo(np.float16).max:
        raise UserError(
            f"The values of {path.name} reach {np.abs(box).max():.3g}, which is too large for float16. "
            "Omit --float16 or scale the volumes down."
        )
    write_volume(path, box.astype(np.float16 if config.float16 else np.float32), config.apix)


def _parameters(config: SimulationConfig, box: int, sigma: float) -> dict[str, object]:
    plain = asdict(config)
    plain["scheme"] = {name: [round(float(x), 4) for x in values] for name, values in plain["scheme"].items()}
    plain["snr"] = None if np.isinf(config.snr) else config.snr
    return {"program": "opustomo simulate", "box": box, "sigma": sigma, **plain}


def check_target(out: Path, overwrite: bool) -> None:
    """Raise ``UserError`` if the output folder must not be written to."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file. Give a new folder with -o.")
    if out.resolve() == Path.cwd():
        raise UserError(f"{out} is the current folder. Give a new folder inside it with -o.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} is not empty. Give another folder with -o, or replace it with --overwrite.")
    try:
        is_simulated = json.loads((out / PARAMETERS).read_text()).get("program") == "opustomo simulate"
    except (OSError, ValueError, AttributeError):
        is_simulated = False
    if not is_simulated:
        raise UserError(f"{out} is not a simulated data set, so it is not overwritten. Give another folder with -o.")


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """Provide a temporary folder that replaces `out` on success; an existing data set is restored on failure."""
    old: Path | None = None
    try:
        with atomic_path(out) as folder:
            folder.mkdir()
            yield folder
            if overwrite and out.is_dir() and any(out.iterdir()):
                backup = out.with_name(f".{out.name}.{secrets.token_hex(6)}.old")
                os.replace(out, backup)
                old = backup
    except BaseException:
        if old is not None:
            os.replace(old, out)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
