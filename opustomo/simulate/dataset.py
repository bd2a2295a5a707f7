"""Simulated data set on disk: subtomograms, tables, mask and ground truth."""

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
import starfile

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import write_volume
from opustomo.io.progress_bar import progress
from opustomo.simulate.acquisition import Optics, TiltScheme, draw_defoci
from opustomo.simulate.forward_model import ParticleSet, PoseSet, SubtomogramSimulator, disturb_poses, draw_poses
from opustomo.simulate.simulated_tables import draw_places, particle_blocks, write_ctf_tables
from opustomo.simulate.volumes import covering_mask

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
