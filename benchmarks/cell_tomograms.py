"""Tomograms of the cells of `benchmarks/cell.py` and their picks: sizes, simulation and template matching.

The simulator is an independent program. Its tilt series are written as IMOD writes them, and everything after the picks
starts from these files.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from cell_molecules import Cell, low_passed, read_density

ROOT = Path(__file__).resolve().parents[1]
EXTENT_A = 480.0
"""Box of the densities, the template and the subtomograms."""


@dataclass(frozen=True)
class Size:
    """Size of the benchmark.

    Attributes
    ----------
    tomograms, molecules
        Number of tomograms, and of molecules in each.
    shape
        Size x, y, z of a tomogram in voxels.
    apix
        Pixel size in Å.
    snr
        Variance of the signal of all molecules over that of the noise, per tilt image.
    picks
        Number of picks per tomogram.
    match_apix, rotations
        Pixel size and number of rotations of template matching.
    clusters
        Number of clusters.
    epochs
        Number of epochs; None takes the proposal of `dsd check`.
    """

    tomograms: int
    molecules: int
    shape: tuple[int, int, int]
    apix: float
    snr: float
    picks: int
    match_apix: float
    rotations: int
    clusters: int
    epochs: int | None = None

    @property
    def box(self) -> int:
        return round(EXTENT_A / self.apix)

    @property
    def names(self) -> list[str]:
        """Names of the tomograms."""
        return [f"TS_{number + 1:02d}" for number in range(self.tomograms)]


FULL = Size(6, 300, (512, 512, 128), 10.0, 0.005, 130, 40 / 3, 5000, 8)
REDUCED = Size(3, 110, (192, 192, 48), 15.0, 0.05, 50, 20.0, 1500, 6, 30)
PYTOM_APIX, PYTOM_ANGLE = 20.0, 15.0
"""Pixel size in Å and angular step in degrees of pytom-match-pick."""


def run_tool(*words: object) -> None:
    """Run a Python program that is not part of opustomo, with one thread, because several run at the same time."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: {words[0]} failed:\n{done.stdout[-1000:]}{done.stderr[-3000:]}")


def simulate(folder: Path, cell: Cell, size: Size, args: argparse.Namespace) -> None:
    """Simulate the tilt series of a cell and write them as files of IMOD, and the search template."""
    from opustomo.io.mrc import write_volume

    density = partial(read_density, args.data, size.box, EXTENT_A)
    np.save(folder / "densities.npy", np.stack([density(one.map, one.mirrored) for one in cell.molecules]))
    write_volume(folder / "template.mrc", low_passed(density(cell.template), size.apix, 30.0), size.apix)
    write_volume(folder / "target.mrc", density(cell.molecules[cell.targets[0]].map), size.apix)
    (folder / "tilts").mkdir(exist_ok=True)
    weights = [one.percent for one in cell.molecules]
    with ThreadPoolExecutor(args.workers) as pool:
        list(pool.map(lambda number: simulate_one(folder, weights, size, number, args), range(size.tomograms)))


def simulate_one(folder: Path, weights: list[float], size: Size, number: int, args: argparse.Namespace) -> None:
    """Simulate one tilt series with molecules at the frequencies ``weights``, and write it as files of IMOD."""
    from opustomo.io.mrc import read_volume, write_volume

    name = size.names[number]
    out = folder / "simulated" / name
    words = f"-n {size.molecules} --apix {size.apix} --snr {size.snr} --gap {260 / size.apix:.1f} --misalign 0.3 "
    words += f"--seed {1000 * args.seed + number} --device {args.simulate_on} "
    words += "--weights " + " ".join(map(str, weights))
    words += " --size " + " ".join(map(str, size.shape))
    run_tool(args.tools / "simulate_tilt_series.py", folder / "densities.npy", "-o", out, *words.split())
    tilts = folder / "tilts"
    # Particles are dark in real images and tomograms.
    for path, target in ((out / "series.mrcs", f"{name}.ali"), (out / "tomogram.mrc", f"{name}_rec.mrc")):
        volume, _ = read_volume(path)
        write_volume(tilts / target, -volume, size.apix)
        path.unlink()
    table = np.genfromtxt(out / "tilts.csv", delimiter=",", names=True)
    # The angles of IMOD have the opposite sign to those of the simulator.
    (tilts / f"{name}.tlt").write_text("".join(f"{-t:.2f}\n" for t in table["tilt_deg"]))
    (tilts / f"{name}.order").write_text(
        "".join(f"{-t:.2f} {d:.2f}\n" for t, d in zip(table["tilt_deg"], table["dose"], strict=True))
    )
    rows = zip(table["tilt_deg"], table["defocus_A"], strict=True)
    (tilts / f"{name}.defocus").write_text(
        "".join(f"{i + 1} {i + 1} {-t:.2f} {-t:.2f} {d / 10:.1f}\n" for i, (t, d) in enumerate(rows))
    )


def pick(folder: Path, size: Size, args: argparse.Namespace) -> None:
    """Pick particles in every tomogram with the matcher ``args.matcher``."""
    (folder / "picks").mkdir(exist_ok=True)
    matcher = {"pytom": pick_with_pytom, "own": pick_with_own_matcher}[args.matcher]
    with ThreadPoolExecutor(args.pick_workers) as pool:
        list(pool.map(lambda name: matcher(folder, size, name), size.names))


def pick_with_pytom(folder: Path, size: Size, name: str) -> None:
    """Pick particles in a tomogram with pytom-match-pick."""
    words = f"{folder} {name} --angpix {PYTOM_APIX} --angle {PYTOM_ANGLE} --picks {size.picks}".split()
    run_tool(ROOT / "benchmarks" / "cell_pytom.py", *words)
    table = f"{name}_particles.star"
    (folder / "picks" / table).write_text((folder / "pytom" / table).read_text())


def pick_with_own_matcher(folder: Path, size: Size, name: str) -> None:
    """Pick particles in a tomogram with `benchmarks/template_matching.py`."""
    tilts = folder / "tilts" / name
    words = f"--angpix {size.match_apix} --rotations {size.rotations} --picks {size.picks} --invert".split()
    files = []
    for option, suffix in (("tilts", "tlt"), ("defocus", "defocus"), ("order", "order")):
        files += [f"--{option}", f"{tilts}.{suffix}"]
    out = folder / "picks" / f"{name}_particles.star"
    tomogram = tilts.with_name(f"{name}_rec.mrc")
    program = ROOT / "benchmarks" / "template_matching.py"
    run_tool(program, tomogram, "--template", folder / "template.mrc", *files, "-o", out, *words)
