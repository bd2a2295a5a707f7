"""Built-in densities: compositions of the 70S ribosome (see README.md in this folder)."""

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
    """Return the names of the built-in densities."""
    return list(_archive()[0])


def load_density(name: str) -> tuple[np.ndarray, float]:
    """Load a built-in density.

    Parameters
    ----------
    name
        Name of the density, see `list_densities`.

    Returns
    -------
    density : numpy.ndarray, float32, (32, 32, 32)
        Density, axes z, y, x, protein bright. All built-in densities are aligned.
    apix : float
        Pixel size, 12 Å.

    Raises
    ------
    UserError
        If there is no density of this name.
    """
    volumes, apix = _archive()
    if name not in volumes:
        raise UserError(f"There is no built-in density '{name}'. Choose from {', '.join(volumes)}.")
    return volumes[name].astype(np.float32), apix
