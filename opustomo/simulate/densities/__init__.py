"""Densities shipped with the package: compositions of the 70S ribosome (see README.md beside this file)."""

from __future__ import annotations

from functools import cache
from importlib import resources

import numpy as np

from opustomo.errors import UserError


@cache
def _archive() -> tuple[dict[str, np.ndarray], float]:
    with (
        resources.files(__name__).joinpath("ribosome_70S.npz").open("rb") as handle,
        np.load(handle) as archive,
    ):
        volumes = {name: archive[name] for name in archive.files if name != "apix"}
        return volumes, float(archive["apix"])


def list_densities() -> list[str]:
    """Names of the shipped densities."""
    return list(_archive()[0])


def load_density(name: str) -> tuple[np.ndarray, float]:
    """One shipped density.

    Parameters
    ----------
    name
        One of `list_densities()`.

    Returns
    -------
    (density, apix)
        float32 (32, 32, 32), axes z, y, x, protein bright, all in one frame; pixel size 12 Å.

    Raises
    ------
    UserError
        When there is no density of that name.
    """
    volumes, apix = _archive()
    if name not in volumes:
        raise UserError(f"There is no built-in density '{name}'; choose from {', '.join(volumes)}.")
    return volumes[name].astype(np.float32), apix
