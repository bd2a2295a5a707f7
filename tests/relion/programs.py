"""Programs of RELION that read and process the output of opustomo."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import ParticleStar, read_particles

NEEDS_RELION = pytest.mark.skipif(
    shutil.which("relion_reconstruct") is None, reason="RELION is not installed (Debian: apt-get install relion)"
)


def relion(program: str, *words: object, cwd: Path) -> str:
    """Run a program of RELION in a folder, and return what it printed."""
    command = [f"relion_{program}", *map(str, words)]
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, errors="replace", check=False)
    said = done.stdout.replace("\r", "\n") + done.stderr
    assert done.returncode == 0, f"{' '.join(command)}\n{said}"
    return said


def as_relion_reads(star: Path) -> ParticleStar:
    """Return the table that RELION writes after reading `star`, in RELION 3.1's form.

    `relion_star_handler` writes nothing when a table lacks voltage and spherical aberration;
    `relion_convert_star` reads any table.
    """
    out = star.with_name(f"{star.stem}_read_by_relion.star")
    relion("star_handler", "--i", star.name, "--o", out.name, cwd=star.parent)
    if not out.read_text().strip():
        relion("convert_star", "--i", star.name, "--o", out.name, cwd=star.parent)
    return read_particles(out)


def relion_map(star: Path, *words: str) -> np.ndarray:
    """Back-project the subtomograms of a table with RELION and return the map."""
    out = star.with_name(f"{star.stem}_relion.mrc")
    relion("reconstruct", "--i", star.name, "--3d_rot", "--o", out.name, *words, cwd=star.parent)
    return read_volume(out)[0].astype(np.float64)


def correlation(one: np.ndarray, other: np.ndarray, where: np.ndarray | None = None) -> float:
    """Return the Pearson correlation of two volumes, of the voxels `where` only if given."""
    if where is not None:
        one, other = one[where], other[where]
    return float(np.corrcoef(one.ravel(), other.ravel())[0, 1])


def radius_px(box: int) -> np.ndarray:
    """Return the distance of each voxel from voxel D/2, (D, D, D) in pixels."""
    at = np.arange(box) - box // 2
    return np.sqrt(at[:, None, None] ** 2 + at[None, :, None] ** 2 + at[None, None, :] ** 2)


def shell_correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the Fourier shell correlation of two volumes up to the Nyquist frequency, (D/2 + 1,)."""
    size = len(one)
    left, right = np.fft.fftshift(np.fft.fftn(one)), np.fft.fftshift(np.fft.fftn(other))
    shell = np.rint(radius_px(size)).astype(int).ravel()
    cross = np.bincount(shell, (left * right.conj()).real.ravel())
    power = np.bincount(shell, np.abs(left.ravel()) ** 2) * np.bincount(shell, np.abs(right.ravel()) ** 2)
    return np.asarray((cross / np.sqrt(power))[: size // 2 + 1])
