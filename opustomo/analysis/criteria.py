"""Which particles to take: by cluster, by place in a latent space, by distance, by a list."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.second_round import ClusterChoice, chosen_particles, round_particles
from opustomo.errors import UserError
from opustomo.io.indices import read_indices
from opustomo.io.pickles import load_pickle
from opustomo.io.tables import read_latent_rows

_AXIS = re.compile(r"(pc|umap|z|conf)(\d+)")
_RANGE = re.compile(r"\s*([a-z]+\d+)\s*=\s*([^:\s]*)\s*:\s*([^:\s]*)\s*")


@dataclass(frozen=True)
class Neighbourhood:
    """Particles about one place, by distance in the composition.

    Attributes
    ----------
    place
        Latent, shape (zdim,).
    within
        Largest distance; None for any.
    nearest
        Number of nearest particles; None for all.
    """

    place: np.ndarray
    within: float | None = None
    nearest: int | None = None


@dataclass(frozen=True)
class AnalysedParticles:
    """All particles of a run as a round of analysis sees them.

    Attributes
    ----------
    results, which
        The run and the round.
    """

    results: ResultDir
    which: Round

    @cached_property
    def latents(self) -> np.ndarray:
        """Compositions of all particles, shape (N, zdim)."""
        return self.results.load_latents(self.which.epoch)[0]

    @property
    def total(self) -> int:
        """Number of all particles of the run, N."""
        return len(self.latents)

    @cached_property
    def members(self) -> np.ndarray:
        """Indices of the particles of the round, ascending."""
        return round_particles(self.results, self.which, self.total)

    def axis(self, name: str) -> np.ndarray:
        """Coordinate of every particle along one axis, shape (N,); NaN for those outside the round.

        Parameters
        ----------
        name
            ``z1`` …: composition; ``conf1`` …: conformation; ``pc1`` …: principal components of the round;
            ``umap1``, ``umap2``: its UMAP.

        Raises
        ------
        UserError
            There is no such axis.
        """
        match = _AXIS.fullmatch(name.strip().lower())
        if match is None:
            raise UserError(f"{name!r} is no axis; give pc1, pc2 …, umap1, umap2, z1 … or conf1 …")
        kind, number = match[1], int(match[2])
        if kind in ("z", "conf"):
            table = self.latents if kind == "z" else self.results.load_latents(self.which.epoch)[1]
            if table is None:
                raise UserError(f"{name}: z.{self.which.epoch}.pkl has no conformation latents.")
            table = table[self.members]
        else:
            path = self.results.analysed_file(self.which, f"{kind}.pkl")
            table = np.asarray(load_pickle(path))
            if table.ndim != 2 or len(table) != len(self.members):
                raise UserError(
                    f"{path} does not belong to the {len(self.members)} particles of this round; analyse it again."
                )
        if not 1 <= number <= table.shape[1]:
            raise UserError(f"{name} does not exist; there are {kind}1 to {kind}{table.shape[1]}.")
        values = np.full(self.total, np.nan)
        values[self.members] = table[:, number - 1]
        return values

    def in_clusters(self, choice: ClusterChoice) -> np.ndarray:
        """Mask (N,) of the particles in clusters of this round (errors as `chosen_particles`)."""
        mask = np.zeros(self.total, dtype=bool)
        mask[chosen_particles(self.results, self.which, choice, self.total)] = True
        return mask

    def in_range(self, text: str) -> np.ndarray:
        """Mask (N,) of the particles in a range such as ``pc1=-2:0.5``, ``umap2=3:`` or ``z4=:1`` (``UserError``)."""
        match = _RANGE.fullmatch(text)
        try:
            if match is None:
                raise ValueError
            low, high = float(match[2] or "-inf"), float(match[3] or "inf")
        except ValueError as error:
            raise UserError(f"--range {text!r} is not understood; give AXIS=low:high such as pc1=-2:0.5.") from error
        if not low <= high:
            raise UserError(f"--range {text!r} is empty; give the lower end first.")
        values = self.axis(match[1])
        return (values >= low) & (values <= high)

    def in_polygon(self, plane: str, path: Path) -> np.ndarray:
        """Mask (N,) of the particles in a polygon.

        Parameters
        ----------
        plane
            ``umap`` or ``pc`` for the first two axes of their kind, else two axes such as ``pc1,pc3``.
        path
            Text file with the corners, x and y in a row each, in order around the polygon.

        Raises
        ------
        UserError
            There are no such axes, or fewer than three corners.
        """
        from matplotlib.path import Path as Outline

        names = [f"{plane}1", f"{plane}2"] if plane in ("umap", "pc", "z", "conf") else plane.split(",")
        if len(names) != 2:
            raise UserError(f"--polygon {plane}: give umap, pc, or two axes such as pc1,pc3.")
        corners = read_latent_rows(path)
        if len(corners) < 3 or corners.shape[1] != 2:
            raise UserError(f"{path}: {len(corners)} rows of {corners.shape[1]}; give three corners x y or more.")
        points = np.stack([self.axis(name) for name in names], axis=1)
        known = np.isfinite(points).all(axis=1)
        mask = np.zeros(self.total, dtype=bool)
        mask[known] = Outline(corners).contains_points(points[known])
        return mask

    def near(self, neighbourhood: Neighbourhood) -> np.ndarray:
        """Mask (N,) of the particles of the round about one place."""
        distance = np.full(self.total, np.inf)
        distance[self.members] = np.linalg.norm(
            self.latents[self.members].astype(np.float64) - neighbourhood.place, axis=1
        )
        mask = np.isfinite(distance)
        if neighbourhood.within is not None:
            mask &= distance <= neighbourhood.within
        if neighbourhood.nearest is not None:
            closest = np.zeros(self.total, dtype=bool)
            closest[np.argsort(distance, kind="stable")[: neighbourhood.nearest]] = True
            mask &= closest
        return mask

    def center(self, choice: ClusterChoice) -> np.ndarray:
        """Latent (zdim,) of the particle that represents a cluster (``UserError`` unless it is exactly one)."""
        if len(choice.chosen) != 1:
            raise UserError("--near takes one cluster, such as 20:3.")
        path = self.results.analysed_file(self.which, choice.clustering.folder, "centers.txt")
        return read_latent_rows(path)[choice.chosen[0]]

    def listed(self, path: Path) -> np.ndarray:
        """Mask (N,) of the particles in a file of indices (errors as `read_indices`)."""
        mask = np.zeros(self.total, dtype=bool)
        mask[read_indices(path, self.total)] = True
        return mask
