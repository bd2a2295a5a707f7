"""Per-particle data of the report: coordinates, categories and scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_hex

from opustomo.analysis.figures.figure_style import QUALITATIVE, UNASSIGNED_COLOR, cluster_colors, viewing_colors
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_tilts
from opustomo.errors import UserError
from opustomo.geometry.rotations import viewing_groups
from opustomo.io.star_tables import ParticleStar
from opustomo.io.tomograms import coordinates_of, scores_of, tomograms_of
from opustomo.report.run_summary import parse_number, read_rows

MOST_COMPONENTS = 8
PART_COLORS = ("#8794a5", "#2f3b49")
"""Colors of training and held-out particles: shades of slate, because hues denote clusters."""
JUNK_COLORS = ("#8794a5", "#b0483a")
"""Colors of particles that ``dsdsh junk`` keeps and of junk, which are not colors of clusters."""


@dataclass(frozen=True)
class Analyzed:
    """Results of an analysis, read from its files.

    Attributes
    ----------
    indices, total
        Rows of the analyzed particles, (n,), and number of particles of the run.
    scores, variance_ratio
        Principal component scores, (n, d), and fraction of variance of each component, (d,).
    embedding
        UMAP embedding, (n, 2), or None.
    labels, centers
        Cluster of each particle, (n,), and representative particle of each cluster, (K,), as index into `indices`.
    eulers_deg
        Euler angles rot, tilt, psi in degrees, (n, 3).
    held_out
        Whether each particle was held out from training, (n,); None if unknown.
    conformation, conformation_embedding
        Principal component scores and UMAP embedding of the conformation latents, (n, c) and (n, 2); None if the run
        has none or they have not been analyzed.
    """

    indices: np.ndarray
    total: int
    scores: np.ndarray
    variance_ratio: np.ndarray
    embedding: np.ndarray | None
    labels: np.ndarray
    centers: np.ndarray
    eulers_deg: np.ndarray
    held_out: np.ndarray | None
    conformation: np.ndarray | None = None
    conformation_embedding: np.ndarray | None = None

    @property
    def num_clusters(self) -> int:
        """Number of clusters, K."""
        return len(self.centers)


@dataclass(frozen=True)
class JunkScores:
    """Result of ``dsdsh junk``: score of each analyzed particle, (n,), and whether it is kept, (n,)."""

    score: np.ndarray
    kept: np.ndarray


def describe_points(
    analyzed: Analyzed,
    star: ParticleStar | None,
    defocus_um: np.ndarray | None = None,
    junk: JunkScores | None = None,
) -> dict[str, Any]:
    """Return the columns, measures, categories and coordinates of the particles.

    A measure is a column with a name, a longer label for axes, a unit and a kind: ``map`` (UMAP), ``component``, or
    ``particle`` for what is known of the particle besides its latent.

    Parameters
    ----------
    analyzed
        Results of the analysis.
    star
        Particle table with only the rows ``analyzed.indices``; None if it is not available.
    defocus_um
        Mean defocus of each analyzed particle in µm, (n,); None if it is not known.
    junk
        Result of ``dsdsh junk``; None if it has not been run.
    """
    columns: dict[str, np.ndarray] = {}
    measures: list[dict[str, str]] = []

    def add(column: str, values: np.ndarray, name: str, kind: str, unit: str = "", label: str | None = None) -> None:
        columns[column] = values
        measures.append({"column": column, "name": name, "label": label or name, "kind": kind, "unit": unit})

    if analyzed.embedding is not None:
        for axis in (0, 1):
            add(f"umap{axis}", analyzed.embedding[:, axis], f"UMAP {axis + 1}", "map")
    for i in range(min(MOST_COMPONENTS, analyzed.scores.shape[1])):
        variance = f"{100 * analyzed.variance_ratio[i]:.1f} % of variance"
        add(f"pc{i}", analyzed.scores[:, i], f"PC{i + 1}", "component", label=f"PC{i + 1} ({variance})")
    if analyzed.conformation_embedding is not None:
        for axis in (0, 1):
            add(f"conf_umap{axis}", analyzed.conformation_embedding[:, axis], f"conformation UMAP {axis + 1}", "map")
    if analyzed.conformation is not None:
        for i in range(min(MOST_COMPONENTS, analyzed.conformation.shape[1])):
            add(f"conf{i}", analyzed.conformation[:, i], f"conformation PC{i + 1}", "component")
    for column, values in (scores_of(star) if star is not None else {}).items():
        add(column, values, column.removeprefix("rln"), "particle")
    if defocus_um is not None and np.ptp(defocus_um) > 0:
        add("defocus", defocus_um, "defocus", "particle", "µm")
    add("tilt", analyzed.eulers_deg[:, 1], "tilt angle of the particle", "particle", "°")
    categories = _categories(analyzed, star)
    if junk is not None:
        add("junk", junk.score, "score of dsdsh junk", "particle")
        categories.append(_category("kept or junk", ~junk.kept, ["kept", "junk"], list(JUNK_COLORS)))
    coordinates = _coordinates(star)
    if coordinates is not None:
        add("height", coordinates["z"], "height z in the tomogram", "particle", coordinates["unit"])
    if not any(category["name"] == "tomogram" for category in categories):
        coordinates = None
    all_particles = np.array_equal(analyzed.indices, np.arange(analyzed.total))
    return {
        "count": len(analyzed.indices),
        "total": analyzed.total,
        "index": None if all_particles else analyzed.indices,
        "columns": columns,
        "measures": measures,
        "categories": categories,
        "centers": analyzed.centers,
        "coordinates": coordinates,
    }


def _coordinates(star: ParticleStar | None) -> dict[str, Any] | None:
    """Return the coordinates of the particles and their unit; None if some particles have none."""
    if star is None:
        return None
    try:
        positions = coordinates_of(star)
    except UserError:
        return None
    if positions is None:
        return None
    unit = "Å" if "rlnCenteredCoordinateXAngst" in star and "rlnCoordinateX" not in star else "px"
    return {axis: positions[:, i] for i, axis in enumerate("xyz")} | {"unit": unit}


def read_junk(path: Path, analyzed: Analyzed) -> JunkScores | None:
    """Read ``scores.csv`` of ``dsdsh junk``; return None if it is absent.

    Raises
    ------
    UserError
        If it belongs to another particle table, or is not a table of ``dsdsh junk``.
    """
    rows = read_rows(path)
    if not rows:
        return None
    if not {"score", "kept"} <= set(rows[0]):
        raise UserError(f"{path} is not a table of dsdsh junk. Run dsdsh junk again.")
    if len(rows) != analyzed.total:
        raise UserError(f"{path} has {len(rows)} particles, but the run has {analyzed.total}. Run dsdsh junk again.")
    score = np.array([parse_number(row["score"]) for row in rows])[analyzed.indices]
    return JunkScores(score, np.array([row["kept"] == "1" for row in rows])[analyzed.indices])


def mean_defocus(star: ParticleStar, data: DataConfig | None) -> np.ndarray | None:
    """Return the mean defocus over the tilts of each particle in µm, (n,); None if no CTF table can be read.

    Parameters
    ----------
    star
        Particle table.
    data
        Inputs of the run, which contain the location of its CTF tables; None if they are unknown.
    """
    if "rlnDefocusU" in star and "rlnDefocusV" in star:
        return (star.numbers("rlnDefocusU") + star.numbers("rlnDefocusV")) / 2e4
    if data is None or not data.use_ctf:
        return None
    try:
        tables, table, _ = load_tilts(data, star, len(star))
    except UserError:
        return None
    means = np.array([float((entry.defocus_u_A + entry.defocus_v_A).mean()) / 2e4 for entry in tables])
    return means[table]


def _categories(analyzed: Analyzed, star: ParticleStar | None) -> list[dict[str, Any]]:
    """Return the categories of the particles: clusters, tomograms, viewing directions and the training split."""
    import healpy

    clusters = [to_hex(color) for color in cluster_colors(analyzed.num_clusters)]
    names = [f"cluster {i}" for i in range(len(clusters))]
    if (analyzed.labels == len(clusters)).any():
        names, clusters = [*names, "no cluster"], [*clusters, to_hex(UNASSIGNED_COLOR)]
    categories = [_category("cluster", analyzed.labels, names, clusters)]
    tomograms = None if star is None else tomograms_of(star)
    if tomograms is not None:
        categories.append(_category("tomogram", tomograms.index, tomograms.names, many_colors(len(tomograms))))
    theta, phi = (np.degrees(angle) for angle in healpy.pix2ang(2, np.arange(48), nest=True))
    directions = [f"direction {i}: θ {t:.0f}°, φ {p:.0f}°" for i, (t, p) in enumerate(zip(theta, phi, strict=True))]
    groups = viewing_groups(analyzed.eulers_deg)
    categories.append(_category("viewing direction", groups, directions, [to_hex(color) for color in viewing_colors()]))
    if analyzed.held_out is not None:
        parts, colors = ["training", "held out"], list(PART_COLORS)
        categories.append(_category("training or held out", analyzed.held_out.astype(np.int64), parts, colors))
    return categories


def many_colors(count: int) -> list[str]:
    """Return any number of colors such that consecutive colors differ."""
    if count <= len(QUALITATIVE):
        return list(QUALITATIVE[:count])
    return [to_hex(color) for color in cluster_colors(count)]


def _category(name: str, codes: np.ndarray, labels: list[str], colors: list[str]) -> dict[str, Any]:
    # A uniform integer type ensures that `pack` stores all codes as uint16.
    return {"name": name, "codes": codes.astype(np.int64), "labels": labels, "colors": colors}
