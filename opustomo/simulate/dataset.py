"""A simulated data set on disk: subtomograms, tables, mask and truth."""

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
from opustomo.io.progress import progress
from opustomo.simulate.acquisition import Optics, TiltScheme, draw_defoci
from opustomo.simulate.orientations import PoseSet, disturb_poses, draw_poses
from opustomo.simulate.soft_mask import covering_mask
from opustomo.simulate.subtomograms import ParticleSet, SubtomogramSimulator
from opustomo.simulate.tables import particle_blocks, write_ctf_tables

PARAMETERS = "params.json"


@dataclass(frozen=True)
class SimulationConfig:
    """What a simulated set is to be like; angles in degrees, lengths in Å, shifts in voxels.

    Attributes
    ----------
    count
        Number of subtomograms.
    apix
        Pixel size.
    scheme, optics
        Tilt series and microscope.
    snr
        Variance of the noise-free image at the least tilt over that of the noise; inf for no noise.
    defocus
        Lowest and highest defocus (underfocus positive).
    astigmatism
        Largest |u - v|.
    defocus_jitter
        Standard deviation of the defocus among the tilts of a particle.
    weights
        Relative frequency of each volume; equal when left out.
    rot_err, shift, shift_err
        Standard deviation of the error in angle, largest origin, standard deviation of its error.
    empty
        Fraction of boxes that hold only noise (label -1).
    normalise
        Divide reconstructions by the sampling weights (else by the number of tilts).
    float16, relion31
        Format of the subtomograms and of the STAR file.
    seed, device
        Of the random numbers; where to compute.
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
    normalise: bool = True
    float16: bool = False
    relion31: bool = False
    seed: int = 0
    device: str = "cpu"


def draw_labels(
    count: int, states: int, weights: tuple[float, ...] | None, empty: float, rng: np.random.Generator
) -> np.ndarray:
    """(N,) state of each particle, -1 for empty boxes: numbers in proportion to `weights`, order random."""
    share = np.full(states, 1.0) if weights is None else np.asarray(weights, dtype=np.float64)
    empties = round(count * empty)
    wanted = share / share.sum() * (count - empties)
    numbers = np.floor(wanted).astype(int)
    # what rounding down left over goes to the states that lost most by it
    left = count - empties - numbers.sum()
    numbers[np.argsort(numbers - wanted, kind="stable")[:left]] += 1
    return rng.permutation(np.repeat(np.arange(-1, states), [empties, *numbers]))


def draw_particles(config: SimulationConfig, states: int) -> tuple[ParticleSet, PoseSet, np.random.Generator]:
    """Labels, true poses and defoci; the poses for the STAR file; the generator, for what follows."""
    rng = np.random.default_rng(config.seed)
    labels = draw_labels(config.count, states, config.weights, config.empty, rng)
    poses = draw_poses(config.count, config.shift, rng)
    told = disturb_poses(poses, config.rot_err, config.shift_err, rng)
    defoci = draw_defoci(
        config.count,
        len(config.scheme),
        lowest=config.defocus[0],
        highest=config.defocus[1],
        astigmatism=config.astigmatism,
        jitter=config.defocus_jitter,
        rng=rng,
    )
    return ParticleSet(labels, poses, defoci, config.scheme, config.optics), told, rng


def simulate_dataset(volumes: np.ndarray, config: SimulationConfig, out: Path, *, overwrite: bool = False) -> None:
    """Simulate a set and write it to the folder `out`, which appears complete or not at all.

    Parameters
    ----------
    volumes
        (K, D, D, D) densities of pixel size `config.apix`, D even.
    config
        What to make.
    out
        New or empty folder.
    overwrite
        Replace an earlier simulated set in `out`.

    Raises
    ------
    UserError
        When `out` holds something else, or a subtomogram does not fit float16.
    """
    check_target(out, overwrite)
    particles, told, rng = draw_particles(config, len(volumes))
    simulator = SubtomogramSimulator(volumes, config.apix, particles, normalise=config.normalise, device=config.device)
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
            told.eulers_deg,
            told.origins,
            names,
            box=simulator.box,
            apix=config.apix,
            relion31=config.relion31,
            rng=rng,
        )
        starfile.write(blocks, folder / "particles.star", float_format="%.6f")
        write_volume(folder / "mask.mrc", covering_mask(volumes, config.apix), config.apix)
        np.save(folder / "volumes.npy", volumes.astype(np.float32))
        np.savez(
            folder / "truth.npz",
            labels=particles.labels,
            eulers=particles.poses.eulers_deg,
            origin=particles.poses.origins,
            eulers_used=told.eulers_deg,
            origin_used=told.origins,
        )
        (folder / PARAMETERS).write_text(json.dumps(_parameters(config, simulator.box, sigma), indent=1) + "\n")


def _write_subtomogram(path: Path, box: np.ndarray, config: SimulationConfig) -> None:
    if config.float16 and np.abs(box).max() > np.finfo(np.float16).max:
        raise UserError(
            f"{path.name} reaches {np.abs(box).max():.3g}, too large for float16: "
            "leave out --float16 or scale the volumes down."
        )
    write_volume(path, box.astype(np.float16 if config.float16 else np.float32), config.apix)


def _parameters(config: SimulationConfig, box: int, sigma: float) -> dict[str, object]:
    plain = asdict(config)
    plain["scheme"] = {name: [round(float(x), 4) for x in values] for name, values in plain["scheme"].items()}
    plain["snr"] = None if np.isinf(config.snr) else config.snr
    return {"program": "opustomo simulate", "box": box, "sigma": sigma, **plain}


def check_target(out: Path, overwrite: bool) -> None:
    """Refuse, before any work is done, a folder that must not be written to."""
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a new folder with -o.")
    if out.resolve() == Path.cwd():
        raise UserError(f"{out} is the current folder; name a new folder inside it with -o.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise UserError(f"{out} is not empty; name another folder with -o, or replace it with --overwrite.")
    try:
        ours = json.loads((out / PARAMETERS).read_text()).get("program") == "opustomo simulate"
    except (OSError, ValueError, AttributeError):
        ours = False
    if not ours:
        raise UserError(f"{out} holds something else than a simulated set and is not overwritten; name another.")


@contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary folder that takes the place of `out` at the end; an old set there survives a failure."""
    old: Path | None = None
    try:
        with atomic_path(out) as folder:
            folder.mkdir()
            yield folder
            if overwrite and out.is_dir() and any(out.iterdir()):
                aside = out.with_name(f".{out.name}.{secrets.token_hex(6)}.old")
                os.replace(out, aside)
                old = aside
    except BaseException:
        if old is not None:
            os.replace(old, out)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
