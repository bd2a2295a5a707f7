"""The folder ``dynamics.N``: how bodies move along the conformation latent, and whether it is conformation at all."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.analysis.decoding import decode_batches, first_voxel
from opustomo.analysis.independence import predict_latent
from opustomo.analysis.pca import fit_pca
from opustomo.analysis.results import ResultDir, Round
from opustomo.checkpoint.config import read_config
from opustomo.dynamics.body_star import write_body_stars
from opustomo.dynamics.latent_motion import MotionModel
from opustomo.dynamics.pictures import draw_motion, write_chimerax, write_movie
from opustomo.dynamics.screws import ComponentMotion, component_motion, particle_table
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import write_volume
from opustomo.io.star import ParticleStar, read_particles
from opustomo.io.tables import read_latent_rows
from opustomo.model.device import choose_device

Say = Callable[[str], None]
SELECTED_STAR = "particles.selected.star"
LEAST_PARTICLES = 30
"""Fewer cannot say whether one latent predicts the other."""


@dataclass(frozen=True)
class DynamicsRequest:
    """What to report.

    Attributes
    ----------
    results, epoch
        The run and its epoch.
    num_pcs
        Components of the conformation; clipped to its dimension.
    points
        Volumes along each.
    apix
        Their pixel size in Å; None takes the network's.
    kmeans, center
        k-means centre of the composition to move; without K the particle nearest to the mean.
    volumes
        Decode volumes, pictures and movies.
    permutations
        Shuffles of the null of the independence check; 0 leaves the check out.
    star
        Particle table for ``bodies.N.star``; None takes the one the run was trained on, if it is still there.
    device
        Where to decode.
    """

    results: ResultDir
    epoch: int
    num_pcs: int = 2
    points: int = 20
    apix: float | None = None
    kmeans: int | None = None
    center: int = 0
    volumes: bool = True
    permutations: int = 19
    star: Path | None = None
    device: str | None = None


def report_dynamics(request: DynamicsRequest, say: Say = print) -> Path:
    """Write ``dynamics.N`` and ``bodies.N.star``; returns the folder.

    Raises
    ------
    UserError
        The run has no bodies or no conformation, or a file is missing or of another set.
    """
    results, epoch = request.results, request.epoch
    if request.points < 2 or request.num_pcs < 1 or request.permutations < 0:
        raise UserError("--points must be at least 2, --num-pcs at least 1 and --permutations at least 0.")
    mu, conformation = results.load_latents(epoch)
    if conformation is None:
        raise UserError(f"z.{epoch}.pkl has no conformation latents (multi_mu); train with --masks and --zaffinedim.")
    poses = results.load_poses(epoch, len(mu))
    config = results.config()
    model = MotionModel(results.epoch_file("weights", epoch), config, choose_device(request.device))
    composition = _composition(request, mu)
    table = _particle_table(request, config)
    if table is not None and len(table) != len(mu):
        raise UserError(f"{table.path} has {len(table)} particles but the run {len(mu)}; give its table with --star.")

    folder = results.root / f"dynamics.{epoch}"
    pca = fit_pca(conformation)
    scores = pca.scores(conformation)
    count = min(request.num_pcs, conformation.shape[1])
    motions = [component_motion(model, pca, scores, component, request.points) for component in range(count)]
    lines = []
    for motion in motions:
        lines.append(f"conformation PC{motion.number}, {motion.variance_ratio:.0%} of the variance:")
        lines += [f"  {one.sentence()}" for one in motion.screws]
    content: dict[str, Any] = {"epoch": epoch, "components": [_plain(motion) for motion in motions]}
    if request.permutations and len(mu) >= LEAST_PARTICLES:
        both = [
            predict_latent(mu, conformation, ("composition", "conformation"), request.permutations),
            predict_latent(conformation, mu, ("conformation", "composition"), request.permutations),
        ]
        lines += [one.sentence() for one in both]
        content["independence"] = [{**vars(one), "p_value": one.p_value, "sentence": one.sentence()} for one in both]
    names, values = particle_table(model, conformation, motions[0])
    with atomic_path(folder / "particles.csv") as temporary:
        header = ",".join(["particle", *names])
        rows = np.column_stack([np.arange(len(values)), values])
        np.savetxt(temporary, rows, delimiter=",", header=header, comments="", fmt=["%d"] + ["%.4f"] * len(names))
    for name, text in (("motion.json", json.dumps(content, indent=2)), ("motion.txt", "\n".join(lines))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    for line in lines:
        say(line)
    if table is not None:
        star = results.root / f"bodies.{epoch}.star"
        bodies = model.bodies(conformation)
        boxes = model.boxes
        written = write_body_stars(star, table, poses, bodies, model.geometry, boxes.box, boxes.apix)
        say(f"Poses of bodies: {star}, and for refinement one by one: {', '.join(path.name for path in written[1:])}")
    else:
        say(f"The particle table of the run is not there, so bodies.{epoch}.star is not written; give it with --star.")
    if request.volumes:
        for motion in motions:
            _write_volumes(model, motion, composition, request.apix, folder / f"pc{motion.number}")
    return folder


def _composition(request: DynamicsRequest, mu: np.ndarray) -> np.ndarray:
    if request.kmeans is None:
        distance = np.square(mu - mu.mean(0)).sum(1)
        return mu[distance.argmin()]
    path = request.results.analysed_file(Round(request.epoch), f"kmeans{request.kmeans}", "centers.txt")
    centers = read_latent_rows(path)
    if not 0 <= request.center < len(centers):
        raise UserError(f"--dfk {request.center}: {path.parent} has centres 0 to {len(centers) - 1}.")
    return centers[request.center]


def _particle_table(request: DynamicsRequest, config: Path) -> ParticleStar | None:
    if request.star is not None:
        return read_particles(request.star)
    selected = request.results.root / SELECTED_STAR
    if selected.is_file():
        return read_particles(selected)
    settings = read_config(config)[2]
    name = settings.get("dataset_args", {}).get("star") or settings.get("dataset_args", {}).get("particles")
    return read_particles(Path(str(name))) if name and Path(str(name)).is_file() else None


def _write_volumes(
    model: MotionModel, motion: ComponentMotion, composition: np.ndarray, apix: float | None, folder: Path
) -> None:
    pixel = model.boxes.render_apix if apix is None else apix
    latents = np.concatenate([np.tile(composition, (len(motion.latents), 1)), motion.latents], axis=1)
    volumes = np.stack(list(decode_batches(model.decoder, latents, pixel, full_box=False)))
    origin = first_voxel(model.boxes, pixel, volumes.shape[-1])
    for i, volume in enumerate(volumes):
        write_volume(folder / f"reference{i}.mrc", volume, pixel, origin)
    centres = model.geometry.array("com_bodies") * model.boxes.apix
    draw_motion(folder / "axes.png", volumes, pixel, motion, centres)
    write_movie(folder / "movie.gif", volumes)
    write_chimerax(folder, motion, len(volumes), model.boxes.box / 2 * model.boxes.apix)


def _plain(motion: ComponentMotion) -> dict[str, Any]:
    return {
        "pc": motion.number,
        "variance_ratio": motion.variance_ratio,
        "bodies": [
            {
                "body": one.body + 1,
                "relative_to": one.parent + 1,
                "moves": one.moves,
                "axis": one.screw.axis.tolist(),
                "point_A": one.screw.point.tolist(),
                "angle_deg": one.screw.angle_deg,
                "shown_deg": one.shown_deg,
                "shift_A": one.screw.shift,
                "centre_shift_A": one.centre_shift_A,
                "centre_move_A": one.centre_move_A.tolist(),
                "path_deg": one.path_deg.tolist(),
            }
            for one in motion.screws
        ],
    }
