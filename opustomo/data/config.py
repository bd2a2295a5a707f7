"""Configuration of the input data of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DataConfig:
    """Input data of a run.

    Attributes
    ----------
    star, poses
        Particle table and pose pickle; without pickle, poses are read from the table.
    mask
        Solvent mask (``-r``) in the box of the subtomograms.
    focus
        Mask of the region that determines the composition (``--focus``), in the box of the subtomograms.
    bodies
        Geometry of the bodies (``--masks``).
    datadir
        Folder that image paths are relative to.
    ind
        Pickle or text file with the indices of the particles to use; None uses all.
    apix
        Pixel size in Å (``--angpix``); None reads it from the MRC headers.
    force
        Whether to continue with a note if ``apix`` disagrees with the headers (``--force``).
    warp
        Whether CTF tables are WARP csv files.
    warp_bfactor_scale
        Scale factor of the B factors of WARP.
    use_ctf
        False models only the missing wedge.
    tilt_range_deg, tilt_step_deg
        Maximum tilt angle (±) and tilt increment in degrees. They define the missing wedge if ``use_ctf`` is False
        (defaults 50 and 2), and are compared with the CTF tables otherwise.
    tilt_limit_deg
        Maximum tilt angle (±) of the tilts to use in degrees; None uses all.
    norm
        Normalization (shift, scale): voxels become (value - shift) / scale; None measures the scale.
    """

    star: Path
    poses: Path | None = None
    mask: Path | None = None
    focus: Path | None = None
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
