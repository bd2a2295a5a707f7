"""Where a run's particles come from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataConfig:
    """Inputs of a run.

    Attributes
    ----------
    star, poses
        Particle table and pose pickle; without poses the table's own angles and origins are taken.
    mask
        Solvent mask (``-r``), box of the subtomograms.
    bodies
        Geometry of the bodies to move (``--masks``).
    datadir
        Folder that image paths are relative to.
    ind
        Pickle or text file with the indices of the particles to take; None takes all.
    apix
        Pixel size in Å (``--angpix``); None takes the MRC headers'.
    force
        Go on, with a loud note, where the pixel size asked for disagrees with the headers (``--force``).
    warp
        CTF tables are WARP csv files.
    use_ctf
        False: a missing-wedge-only model from ``tilt_range_deg`` (None: 50) and ``tilt_step_deg`` (None: 2); otherwise
        they only say what the user expects of the tables.
    norm
        (shift, scale) given by the user: values become (value - shift) / scale; None measures the scale.
    """

    star: Path
    poses: Path | None = None
    mask: Path | None = None
    bodies: Path | None = None
    datadir: Path | None = None
    ind: Path | None = None
    apix: float | None = None
    force: bool = False
    warp: bool = False
    warp_bfactor_scale: float = 0.25
    use_ctf: bool = True
    tilt_range_deg: float | None = None
    tilt_step_deg: float | None = None
    tilt_limit_deg: float | None = None
    norm: tuple[float, float] | None = None
