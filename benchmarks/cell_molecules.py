"""Molecules of the cells of `benchmarks/cell.py`, and which of them are the target.

The cells share most molecules. In `ribosome`, the target is one molecule of eight. In `rare` and `rare-small`, it is
one of nine, with 2 % of all molecules: a proteasome (3IPM, 0.7 MDa) or Hsp90 (2CG9, 0.2 MDa). In `moving`, it is a
ribosome in two states, which differ by the rotation of one subunit by 12°.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Molecule(NamedTuple):
    """Name, map, whether the map is mirrored, and frequency in percent."""

    name: str
    map: str
    mirrored: bool
    percent: float


@dataclass(frozen=True)
class Cell:
    """Molecules of a cell.

    Attributes
    ----------
    molecules
        All molecules, the targets among them.
    targets
        Places of the targets in ``molecules``.
    template
        Map that is low-pass filtered and searched for.
    second_round
        Number of clusters of a second round of analysis; 0 for none.
    """

    molecules: tuple[Molecule, ...]
    targets: tuple[int, ...]
    template: str
    second_round: int = 0


RIBOSOME = Molecule("70S with tRNAs", "comp_5_70S_APE_mRNA", False, 13)
OTHERS = (
    Molecule("50S", "comp_0_50S", False, 14),
    Molecule("30S", "comp_2_30S", False, 12),
    Molecule("mirrored 70S", "comp_5_70S_APE_mRNA", True, 13),
    Molecule("mirrored 50S", "comp_0_50S", True, 12),
    Molecule("3IPM", "3ipm", False, 13),
    Molecule("1QVR", "1qvr", False, 12),
    Molecule("3CF3", "3cf3", False, 11),
)
CELLS = {
    "ribosome": Cell((RIBOSOME._replace(name="70S with tRNAs (target)"), *OTHERS), (0,), "comp_3_70S_vacant"),
    "rare": Cell(
        (
            Molecule("3IPM (target)", "3ipm", False, 2),
            RIBOSOME,
            *(one._replace(name="2CG9", map="2cg9") if one.map == "3ipm" else one for one in OTHERS),
        ),
        (0,),
        "3ipm",
        3,
    ),
    "rare-small": Cell((Molecule("2CG9 (target)", "2cg9", False, 2), RIBOSOME, *OTHERS), (0,), "2cg9", 3),
    "moving": Cell(
        (
            Molecule("70S, 30S not rotated (target)", "ratchet_00", False, 6.5),
            Molecule("70S, 30S rotated (target)", "ratchet_10", False, 6.5),
            *OTHERS,
        ),
        (0, 1),
        "comp_3_70S_vacant",
        2,
    ),
}


def read_density(data: Path, box: int, extent_A: float, name: str, mirrored: bool = False) -> np.ndarray:
    """Return a density of the folder ``data`` in a box of ``box`` voxels that spans ``extent_A`` Å."""
    import torch

    from opustomo.io.mrc import read_volume
    from opustomo.physics.fourier import crop_spectrum, irfft3, pad_center, rfft3

    path = next(p for p in data.glob(f"*/{name}.mrc") if p.parent.name in ("maps", "decoys"))
    volume, apix = read_volume(path)
    assert apix is not None
    wide = pad_center(torch.from_numpy(volume), round(extent_A / apix))
    small = irfft3(crop_spectrum(rfft3(wide), box)).numpy()
    # reversing an even axis moves the center from N/2 to N/2 - 1
    return np.roll(small[:, :, ::-1], 1, axis=2).copy() if mirrored else small


def low_passed(volume: np.ndarray, apix: float, resolution_A: float) -> np.ndarray:
    """Return a volume (D, D, D) multiplied by a Gaussian that is 1/2 at the given resolution."""
    frequency = np.fft.fftfreq(len(volume), apix)
    squared = frequency[:, None, None] ** 2 + frequency[None, :, None] ** 2 + frequency[None, None, :] ** 2
    envelope = np.exp(-np.log(2) * squared * resolution_A**2)
    return np.fft.ifftn(np.fft.fftn(volume) * envelope).real.astype(np.float32)
