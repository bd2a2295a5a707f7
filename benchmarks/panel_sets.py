"""Sets of ``panel.py``: densities, words for the simulator and for training."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FULL_APIX, REDUCED_APIX = 6.0, 12.0


@dataclass(frozen=True)
class PanelSet:
    """A set of the panel: its densities, words for the simulator and for training, and how it is scored."""

    volumes: tuple[str, ...]
    simulate: str = ""
    train: str = ""
    weights: tuple[float, ...] = ()
    count: int = 1500
    continuous: bool = False
    bodies: str = ""
    part: tuple[str, ...] = ()
    """Two densities whose difference is the part that classes are also judged by."""
    focus: bool = False
    """Whether training has ``--focus`` on this part."""
    fixed: str = ""
    """Folder of a set that exists already."""


STATES = tuple(
    f"comp_{name}" for name in "0_50S 1_50S_noCP_noL1 2_30S 3_70S_vacant 4_70S_P_mRNA 5_70S_APE_mRNA".split()
)
TRNA = STATES[4:]
RATCHET = tuple(f"ratchet_{step:02d}" for step in range(11))
A_AND_E = f"+{STATES[5]}-{STATES[4]}"
"""Two tRNAs, as a difference of densities of the same frame."""
TRNA_PROTUBERANCE = tuple(f"{state}{part}" for state in TRNA for part in ("", f"-{STATES[0]}+{STATES[1]}"))
TRNA_RATCHET = tuple(f"{step}{part}" for step in RATCHET for part in ("", A_AND_E))
MATCHING = ("comp_5_70S_APE_mRNA", "1qvr", "2cg9", "3cf3", "3ipm", "mirror:1qvr", "mirror:3cf3", "empty")
MATCHING_1QVR = ("1qvr", "comp_2_30S", "2cg9", "3cf3", "3ipm", "mirror:3ipm", "mirror:3cf3", "empty")
MATCHING_50S = ("comp_0_50S", "comp_2_30S", "1qvr", "3cf3", "3ipm", "mirror:comp_0_50S", "mirror:1qvr", "empty")
PICKS = (0.4, *[0.08] * 6, 0.12)
OFF = "--rot-err 3.1 --shift-err 0.7"
CELL = "--crowd 12 --gap 34 --misalign 0.4 --ctf-err 300"
SETS = {
    "states": PanelSet(STATES, f"--snr 0.05 {OFF}"),
    "states-0.01": PanelSet(STATES, f"--snr 0.01 --misalign 0.4 {OFF}"),
    "states-0.004": PanelSet(STATES, f"--snr 0.004 --misalign 0.4 {OFF}"),
    "domain": PanelSet(RATCHET, "--snr 0.05", continuous=True),
    "domain-0.01": PanelSet(RATCHET, f"--snr 0.01 --misalign 0.4 {OFF}", continuous=True),
    "matching": PanelSet(MATCHING, "--snr 0.03 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "matching-crowded": PanelSet(MATCHING, f"--snr 0.03 --rot-err 6 --shift-err 1.0 {CELL}", weights=PICKS),
    "poor-poses": PanelSet(STATES, "--snr 0.05 --rot-err 12 --shift-err 2.9"),
    "unequal": PanelSet(STATES, f"--snr 0.05 {OFF}", weights=(60, 30, 6, 2, 1, 1)),
    "trna": PanelSet(TRNA, f"--snr 0.05 {OFF}", part=TRNA),
    "trna-focus": PanelSet(TRNA, f"--snr 0.05 {OFF}", part=TRNA, focus=True),
    "trna-0.01": PanelSet(TRNA, f"--snr 0.01 {OFF}", part=TRNA),
    "trna-0.01-focus": PanelSet(TRNA, f"--snr 0.01 {OFF}", part=TRNA, focus=True),
    "trna-protuberance": PanelSet(TRNA_PROTUBERANCE, f"--snr 0.05 {OFF}", part=TRNA),
    "trna-protuberance-focus": PanelSet(TRNA_PROTUBERANCE, f"--snr 0.05 {OFF}", part=TRNA, focus=True),
    "trna-ratchet": PanelSet(TRNA_RATCHET, f"--snr 0.05 {OFF}", part=TRNA_RATCHET[10:12]),
    "trna-ratchet-focus": PanelSet(TRNA_RATCHET, f"--snr 0.05 {OFF}", part=TRNA_RATCHET[10:12], focus=True),
    "protuberance": PanelSet(STATES, f"--snr 0.05 {OFF}", part=STATES[:2]),
    "protuberance-focus": PanelSet(STATES, f"--snr 0.05 {OFF}", part=STATES[:2], focus=True),
    "matching-1qvr": PanelSet(MATCHING_1QVR, "--snr 0.03 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "matching-50s": PanelSet(MATCHING_50S, "--snr 0.02 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "unequal-reversed": PanelSet(STATES, f"--snr 0.05 {OFF}", weights=(1, 1, 2, 6, 30, 60)),
    "large-body": PanelSet(("turn:large",), f"--snr 0.05 {OFF}", continuous=True, bodies="large"),
    "small-body": PanelSet(("turn:small",), f"--snr 0.05 {OFF}", continuous=True, bodies="small"),
    "still": PanelSet(("comp_0_50S",), "--snr 0.05", bodies="small"),
    "many": PanelSet(STATES, f"--snr 0.05 {OFF}", train="-b 32 --lr 9e-5", count=7500),
    "sim_3state": PanelSet((), train="--zdim 8 --templateres 64 --encoderres 8 --lr 4e-4 -n 20", fixed="sim_3state"),
    "ribosomes": PanelSet(
        (), train="--zdim 8 --templateres 48 --encoderres 8 --lr 4e-4 -n 12", fixed="ribosomes_10499"
    ),
}


# Densities


def density(name: str, data: Path, reduced: bool) -> np.ndarray:
    """Return one density (D, D, D) of the panel, in units of the standard deviation of its voxels.

    A name such as ``a+b-c`` is the sum of the densities a and b less c, where it is positive.
    """
    import mrcfile

    volume: np.ndarray = np.float32(0)
    for sign, plain in re.findall(r"([+-]?)([^+-]+)", name.removeprefix("mirror:")):
        path = next(p for p in (data / "maps" / f"{plain}.mrc", data / "decoys" / f"{plain}.mrc") if p.exists())
        volume = volume + (-1 if sign == "-" else 1) * np.array(mrcfile.read(path), dtype=np.float32)
    volume = np.maximum(volume, 0)
    if reduced:
        volume = volume.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
    volume /= np.abs(volume[volume != 0]).std()
    return volume[:, :, ::-1].copy() if name.startswith("mirror:") else volume


def two_bodies(kind: str, data: Path, reduced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed and the moving density: 50S and 30S (large), or 50S and its central protuberance (small)."""
    from scipy import ndimage

    whole = np.maximum(density("comp_0_50S", data, reduced), 0)
    if kind == "large":
        return whole, np.maximum(density("comp_2_30S", data, reduced), 0)
    difference = np.maximum(whole - np.maximum(density("comp_1_50S_noCP_noL1", data, reduced), 0), 0)
    parts, _ = ndimage.label(difference > 0.1 * difference.max())
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    moving = whole * ndimage.binary_dilation(largest)
    return whole - moving, moving


def turned_states(kind: str, data: Path, reduced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return nine states (9, D, D, D) of a body that turns by ±20° (small) or ±10° (large), and the angles (°)."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    fixed, moving = two_bodies(kind, data, reduced)
    middle = np.array(ndimage.center_of_mass(moving))
    axis = np.array(ndimage.center_of_mass(fixed)) - middle
    axis = np.cross(axis, [1.0, 0.0, 0.0]) if kind == "small" else axis
    axis /= np.linalg.norm(axis)
    sweep = 20.0 if kind == "small" else 10.0
    angles = np.linspace(-sweep, sweep, 9)
    states = []
    for angle in angles:
        back = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix().T
        states.append(fixed + np.maximum(ndimage.affine_transform(moving, back, middle - back @ middle, order=3), 0))
    return np.stack(states).astype(np.float32), angles


def volumes_of(kind: PanelSet, data: Path, reduced: bool) -> np.ndarray:
    """Return the densities of a set, (K, D, D, D)."""
    first = kind.volumes[0]
    if first.startswith("turn:"):
        return turned_states(first.removeprefix("turn:"), data, reduced)[0]
    found = [density(name, data, reduced) for name in kind.volumes if name != "empty"]
    return np.stack(found + [np.zeros_like(found[0])] * (len(kind.volumes) - len(found)))
