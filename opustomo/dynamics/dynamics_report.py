"""Dynamics report ``dynamics.N``: body motion along the conformation latent, its figures, and its independence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from opustomo.analysis.latents.dimension_reduction import fit_pca
from opustomo.analysis.latents.latent_independence import predict_latent
from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.volumes.decoding import decode_batches, first_voxel, series_paths, write_series
from opustomo.dynamics.motion import ComponentMotion, MotionModel, component_motion, particle_table
from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import Array
from opustomo.io.atomic import atomic_path, write_figure
from opustomo.io.body_files import BodyPoses, write_body_stars
from opustomo.io.latents import read_latent_rows
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.model.device import choose_device

if TYPE_CHECKING:
    from matplotlib.axes import Axes

VIEWS = (("z", 0, 1), ("y", 0, 2), ("x", 1, 2))
"""Projection axis, and the indices of the coordinates drawn horizontally and vertically."""
DPI = 130
COLORS = ("tab:orange", "tab:green", "tab:purple", "tab:olive", "tab:cyan")
OUTLINE = 0.35


def projection(volume: np.ndarray, view: str) -> np.ndarray:
    """Return the projection of a volume along x, y or z."""
    return volume.sum("zyx".index(view))


def draw_motion(path: Path, volumes: np.ndarray, apix: float, motion: ComponentMotion, centers_A: Array) -> None:
    """Draw three projections of the middle volume with outlines of the first and last and the axes of moving bodies.

    Parameters
    ----------
    path
        Output image.
    volumes
        Volumes along the component, (n, D, D, D).
    apix
        Pixel size of the volumes in Å.
    motion
        Motion of the bodies along the component.
    centers_A
        Centers of the bodies relative to the center of the box in Å, (B, 3).
    """
    from matplotlib.figure import Figure

    half = volumes.shape[-1] / 2 * apix
    coordinates = np.arange(volumes.shape[-1]) * apix - half
    edges = (-half - apix / 2, half - apix / 2) * 2
    figure = Figure(figsize=(12.5, 5.0), layout="constrained")
    for axes, (view, right, up) in zip(figure.subplots(1, 3), VIEWS, strict=True):
        axes.imshow(projection(volumes[len(volumes) // 2], view), cmap="gray_r", extent=edges, origin="lower")
        for volume, color in ((volumes[0], "tab:blue"), (volumes[-1], "tab:red")):
            image = projection(volume, view)
            axes.contour(coordinates, coordinates, image, levels=[OUTLINE * image.max()], colors=color, linewidths=1.2)
        for body, center in enumerate(centers_A):
            position, color = (center[right], center[up]), _color(body)
            axes.plot(*position, "o", color=color, markersize=6)
            axes.annotate(f"{body + 1}", position, textcoords="offset points", xytext=(6, 4), color=color)
        for body_screw in motion.screws:
            color = _color(body_screw.body)
            if body_screw.rotates:
                _draw_axis(axes, body_screw.screw.point, body_screw.screw.axis, (right, up), 0.92 * half, color)
            if body_screw.moves:
                start, end = body_screw.center_A, body_screw.center_A + body_screw.center_move_A
                axes.plot([start[right], end[right]], [start[up], end[up]], color=color, linewidth=2.5)
        axes.set(title=f"Projection along {view}", xlabel=f"{'xyz'[right]} (Å)", ylabel=f"{'xyz'[up]} (Å)")
        axes.set(xlim=(-half, half), ylim=(-half, half))
    lines = [
        f"Conformation PC{motion.number} ({motion.variance_ratio:.0%} of the variance). "
        "Outlines: first volume (blue) and last volume (red)."
    ]
    for body_screw in motion.screws:
        name = f"Body {body_screw.body + 1} relative to body {body_screw.parent + 1}"
        lines.append(
            f"{name}: rotation {body_screw.screw.angle_deg:.1f}°, displacement of its center "
            f"{body_screw.center_shift_A:.1f} Å"
            if body_screw.moves
            else f"{name}: no motion"
        )
    figure.suptitle("\n".join(lines), fontsize=10)
    write_figure(path, figure, DPI)


def _color(body: int) -> str:
    return COLORS[body % len(COLORS)]


def _draw_axis(axes: Axes, point: Array, axis: Array, plane: tuple[int, int], reach: float, color: str) -> None:
    """Draw an arrow along a rotation axis, or a circled dot or cross if the axis is parallel to the view."""
    right, up = plane
    direction = np.array([axis[right], axis[up]])
    position = np.array([point[right], point[up]])
    length = np.linalg.norm(direction)
    if length < 0.2:
        depth = next(i for i in range(3) if i not in plane)
        towards_viewer = axis[depth] * (-1.0 if depth == 1 else 1.0) > 0  # with x right and z up, y points away
        axes.plot(*position, "o", markersize=15, markerfacecolor="none", color=color, markeredgewidth=2)
        axes.plot(*position, "." if towards_viewer else "x", color=color, markersize=7)
        return
    # Clip the arrow to the frame because matplotlib does not draw arrows that end outside of it.
    with np.errstate(divide="ignore"):
        ends = np.sort([(-reach - position) / direction, (reach - position) / direction], axis=0)
    (x0, y0), (x1, y1) = position + ends[0].max() * direction, position + ends[1].min() * direction
    arrow = {"arrowstyle": "-|>", "color": color, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)


def write_movie(path: Path, volumes: np.ndarray, milliseconds: int = 80) -> None:
    """Write an animated GIF of the three projections of a series, played forward and backward."""
    from PIL import Image

    size = volumes.shape[-1]
    scale = max(1, round(240 / size))
    frames = []
    projections = [[projection(volume, view)[::-1] for view, _, _ in VIEWS] for volume in volumes]
    low, high = np.percentile(projections, 1), np.max(projections)
    for views in [*projections, *projections[-2:0:-1]]:
        gray = np.clip((np.concatenate(views, axis=1) - low) / max(high - low, 1e-12), 0.0, 1.0)
        image = Image.fromarray((255 * gray).astype(np.uint8))
        frames.append(image.resize((image.width * scale, image.height * scale), Image.Resampling.BICUBIC))
    with atomic_path(path) as temporary:
        frames[0].save(temporary, save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)


def write_chimerax(folder: Path, motion: ComponentMotion, count: int, middle_A: float) -> None:
    """Write the rotation axes, ``axes.bild``, and a ChimeraX script, ``movie.cxc``, that plays the series with them.

    Parameters
    ----------
    folder
        Folder of the volumes.
    motion
        Motion of the bodies along the component.
    count
        Number of volumes.
    middle_A
        Coordinate of the center of the box along each axis in Å.
    """
    lines = []
    for body_screw in motion.screws:
        if body_screw.rotates:
            screw = body_screw.screw
            ends = [screw.point + side * 0.8 * middle_A * screw.axis + middle_A for side in (-1.0, 1.0)]
            numbers = " ".join(f"{value:.2f}" for value in np.concatenate(ends))
            color = _color(body_screw.body).removeprefix("tab:")
            lines += [f".comment body {body_screw.body + 1}", f".color {color}", f".arrow {numbers} 1.5 4.5 0.85"]
    with atomic_path(folder / "axes.bild") as temporary:
        temporary.write_text("\n".join(lines) + "\n")
    names = " ".join(path.name for path in series_paths(folder, count))
    script = [f"open {names} vseries true", "volume #1 capFaces false", "lighting soft", "view"]
    script += ["open axes.bild"] if lines else []
    script += [
        "# To record a movie: movie record; vseries play #1 direction oscillate; wait 200; movie encode motion.mp4",
        "vseries play #1 direction oscillate maxFrameRate 12",
    ]
    with atomic_path(folder / "movie.cxc") as temporary:
        temporary.write_text("\n".join(script) + "\n")


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
    write_series(folder, volumes, pixel, origin)
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
