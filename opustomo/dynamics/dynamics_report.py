"""Dynamics report ``dynamics.N``: body motion along the conformation latent and its independence of composition."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from opustomo.analysis.latents.dimension_reduction import fit_pca
from opustomo.analysis.latents.latent_independence import predict_latent
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.volumes.decoding import decode_batches, first_voxel
from opustomo.dynamics.body_star import BodyPoses, write_body_stars
from opustomo.dynamics.motion import ComponentMotion, MotionModel, component_motion, particle_table
from opustomo.dynamics.motion_figures import draw_motion, write_chimerax, write_movie
from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path
from opustomo.io.latents import read_latent_rows
from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.model.device import choose_device

Say = Callable[[str], None]
LEAST_PARTICLES = 30
"""Minimum number of particles of the independence test."""


@dataclass(frozen=True)
class DynamicsRequest:
    """Input and settings of a dynamics report.

    Attributes
    ----------
    results, epoch
        Result directory of the run and the epoch.
    num_pcs
        Number of principal components of the conformation, at most its dimension.
    points
        Number of volumes along each component.
    apix
        Pixel size of the volumes in Å; None for that of the template.
    kmeans, center
        Number of clusters and index of the k-means center whose composition is decoded. If `kmeans` is None, the
        particle nearest to the mean is decoded.
    volumes
        Decode volumes and draw figures and movies.
    permutations
        Number of permutations of the independence test; 0 skips the test.
    star
        Particle table for ``bodies.N.star``; None for the table used for training, if it still exists.
    device
        Device on which the model is evaluated; None selects a GPU if one is available.
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
    """Write ``dynamics.N`` and ``bodies.N.star`` and return the folder.

    Raises
    ------
    UserError
        If the run has no bodies or no conformation latents, or if a file is missing or belongs to other particles.
    """
    results, epoch = request.results, request.epoch
    if request.points < 2 or request.num_pcs < 1 or request.permutations < 0:
        raise UserError("--points must be at least 2, --num-pcs at least 1 and --permutations at least 0.")
    mu, conformation = results.load_latents(epoch)
    if conformation is None:
        raise UserError(f"z.{epoch}.pkl has no conformation latents (multi_mu). Train with --masks and --zaffinedim.")
    poses = results.load_poses(epoch, len(mu))
    config = results.config()
    model = MotionModel(results.epoch_file("weights", epoch), config, choose_device(request.device))
    composition = _composition(request, mu)
    table = _particle_table(request)
    if table is not None and len(table) != len(mu):
        raise UserError(
            f"{table.path} has {len(table)} particles, but the run has {len(mu)}. Give its particle table with --star."
        )

    folder = results.root / f"dynamics.{epoch}"
    pca = fit_pca(conformation)
    scores = pca.scores(conformation)
    count = min(request.num_pcs, conformation.shape[1])
    motions = [component_motion(model, pca, scores, component, request.points) for component in range(count)]
    lines = []
    for motion in motions:
        lines.append(f"conformation PC{motion.number}, {motion.variance_ratio:.0%} of the variance:")
        lines += [f"  {body_screw.sentence()}" for body_screw in motion.screws]
    content: dict[str, Any] = {"epoch": epoch, "components": [_component_content(motion) for motion in motions]}
    if request.permutations and len(mu) >= LEAST_PARTICLES:
        predictions = [
            predict_latent(mu, conformation, ("composition", "conformation"), request.permutations),
            predict_latent(conformation, mu, ("conformation", "composition"), request.permutations),
        ]
        lines += [prediction.sentence() for prediction in predictions]
        content["independence"] = [
            {**vars(prediction), "p_value": prediction.p_value, "sentence": prediction.sentence()}
            for prediction in predictions
        ]
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
        found = BodyPoses(poses, model.bodies(conformation), model.geometry)
        written = write_body_stars(star, table, found, model.boxes.box, model.boxes.apix)
        say(f"Wrote the body poses to {star}, and one file per body: {', '.join(path.name for path in written[1:])}")
    else:
        say(f"The particle table of the run was not found, so bodies.{epoch}.star is not written. Give it with --star.")
    if request.volumes:
        for motion in motions:
            _write_volumes(model, motion, composition, request.apix, folder / f"pc{motion.number}")
    return folder


def _composition(request: DynamicsRequest, mu: np.ndarray) -> np.ndarray:
    if request.kmeans is None:
        distance = np.square(mu - mu.mean(0)).sum(1)
        return mu[distance.argmin()]
    path = request.results.analyzed_file(Round(request.epoch), f"kmeans{request.kmeans}", "centers.txt")
    centers = read_latent_rows(path)
    if not 0 <= request.center < len(centers):
        raise UserError(
            f"--dfk is {request.center}, but the centers of {path.parent} are numbered 0 to {len(centers) - 1}."
        )
    return centers[request.center]


def _particle_table(request: DynamicsRequest) -> ParticleStar | None:
    try:
        return read_particles(request.results.particle_table(request.star))
    except UserError:
        if request.star is not None:
            raise
        return None


def _write_volumes(
    model: MotionModel, motion: ComponentMotion, composition: np.ndarray, apix: float | None, folder: Path
) -> None:
    pixel = model.boxes.render_apix if apix is None else apix
    latents = np.concatenate([np.tile(composition, (len(motion.latents), 1)), motion.latents], axis=1)
    volumes = np.stack(list(decode_batches(model.decoder, latents, pixel, full_box=False)))
    origin = first_voxel(model.boxes, pixel, volumes.shape[-1])
    for i, volume in enumerate(volumes):
        write_volume(folder / f"reference{i}.mrc", volume, pixel, origin)
    centers = model.geometry.array("com_bodies") * model.boxes.apix
    draw_motion(folder / "axes.png", volumes, pixel, motion, centers)
    write_movie(folder / "movie.gif", volumes)
    write_chimerax(folder, motion, len(volumes), model.boxes.box / 2 * model.boxes.apix)


def _component_content(motion: ComponentMotion) -> dict[str, Any]:
    """Return the entry of one component in ``motion.json``."""
    return {
        "pc": motion.number,
        "variance_ratio": motion.variance_ratio,
        "bodies": [
            {
                "body": body_screw.body + 1,
                "relative_to": body_screw.parent + 1,
                "moves": body_screw.moves,
                "axis": body_screw.screw.axis.tolist(),
                "point_A": body_screw.screw.point.tolist(),
                "angle_deg": body_screw.screw.angle_deg,
                "shown_deg": body_screw.shown_deg,
                "shift_A": body_screw.screw.shift,
                "center_shift_A": body_screw.center_shift_A,
                "center_move_A": body_screw.center_move_A.tolist(),
                "path_deg": body_screw.path_deg.tolist(),
            }
            for body_screw in motion.screws
        ],
    }
