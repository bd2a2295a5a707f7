"""Resemblance of clusters to a reference map, for example the template of the particle picking."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from opustomo.data.particles import pixel_sizes_differ
from opustomo.errors import UserError
from opustomo.io.atomic import write_csv
from opustomo.io.mrc import read_volume
from opustomo.physics.fsc import shell_correlation


def read_reference(path: Path, box: int, apix: float) -> np.ndarray:
    """Read a reference map, (D, D, D), in the box of the subtomograms.

    Raises
    ------
    UserError
        If box or pixel size are not those of the subtomograms, or if the map is constant or not finite.
    """
    volume, own = read_volume(path)
    if volume.shape != (box,) * 3 or pixel_sizes_differ(own, apix):
        shape = "×".join(str(n) for n in reversed(volume.shape))
        size = "no pixel size" if own is None else f"a pixel size of {own:.4g} Å"
        raise UserError(
            f"The reference {path} has {shape} voxels and {size}, but the subtomograms have {box}³ voxels of "
            f"{apix:.4g} Å. Resample it to their box."
        )
    if not np.isfinite(volume).all() or not volume.std() > 0:
        raise UserError(f"The reference {path} is constant or contains values that are not finite.")
    return np.asarray(volume, dtype=np.float32)


@dataclass(frozen=True)
class ReferenceMatch:
    """Which clusters show the object of a reference.

    Attributes
    ----------
    mean_fsc
        Mean FSC of the back-projection of each cluster with the reference, shape (K,); NaN for empty clusters.
    kept
        Numbers of the cluster with the largest mean FSC and of those that cannot be told from it, ascending.
    undecided
        Numbers of the clusters for which the evidence does not decide whether they differ from these, ascending.
    """

    mean_fsc: np.ndarray
    kept: list[int]
    undecided: list[int]

    @property
    def best(self) -> int:
        """Number of the cluster with the largest mean FSC."""
        return int(np.nanargmax(self.mean_fsc))

    def lines(self, name: str) -> list[str]:
        """Return the result in sentences; `name` is the file of the reference."""
        rest = np.where(np.isin(np.arange(len(self.mean_fsc)), self.kept), np.nan, self.mean_fsc)
        said = [f"Class {self.best} resembles {name} most, with a mean FSC of {self.mean_fsc[self.best]:.3f}."]
        if others := [number for number in self.kept if number != self.best]:
            said.append(f"The evidence does not tell it from {self._named(others)}.")
        if np.isfinite(rest).any():
            said.append(f"The next is {self._named([int(np.nanargmax(rest))])}.")
        if self.undecided:
            said.append(
                f"The evidence does not decide about {self._named(self.undecided)}; fewer clusters may tell more."
            )
        return [" ".join(said)]

    def _named(self, numbers: list[int]) -> str:
        named = ", ".join(f"{number} ({self.mean_fsc[number]:.3f})" for number in numbers)
        return f"{'class' if len(numbers) == 1 else 'classes'} {named}"

    def write(self, path: Path) -> None:
        """Write the mean FSC of each cluster and whether the cluster is kept."""
        rows = [
            [number, "" if np.isnan(value) else f"{value:.4f}", int(number in self.kept)]
            for number, value in enumerate(self.mean_fsc)
        ]
        write_csv(path, [["cluster", "reference_fsc", "kept"], *rows])


def match_reference(
    volumes: Sequence[Tensor | None],
    reference: np.ndarray,
    mask: np.ndarray | None,
    same: Sequence[tuple[int, int]] = (),
    unclear: Sequence[tuple[int, int]] = (),
) -> ReferenceMatch:
    """Compare clusters with a reference inside a mask.

    Parameters
    ----------
    volumes
        Back-projection of each cluster, (D, D, D), or None for empty clusters.
    reference, mask
        Reference map and solvent mask, (D, D, D); no mask if it is None.
    same, unclear
        Pairs of clusters that cannot be told from each other, and about which the evidence does not decide.

    Raises
    ------
    UserError
        If all clusters are empty.
    """
    soft = torch.ones(reference.shape) if mask is None else torch.from_numpy(mask)
    template = torch.from_numpy(reference) * soft
    found = np.full(len(volumes), np.nan)
    for number, volume in enumerate(volumes):
        if volume is not None:
            found[number] = float(shell_correlation(volume.float() * soft, template)[1:].mean())
    if not np.isfinite(found).any():
        raise UserError("All clusters are empty, so that none can be compared with the reference.")
    best = int(np.nanargmax(found))
    kept = {best}
    while grown := [pair for pair in same if len(kept.intersection(pair)) == 1]:
        kept.update(*grown)
    undecided = set().union(*(pair for pair in unclear if kept.intersection(pair))) - kept
    return ReferenceMatch(found, sorted(kept), sorted(undecided))
