#!/usr/bin/env python3
"""Pick in a tomogram of `benchmarks/cell.py` with pytom-match-pick, which needs CuPy and a GPU.

usage: python benchmarks/cell_pytom.py FOLDER NAME [--angpix 13.33] [--angle 12.85] [--picks 150]

FOLDER is that of cell.py after its step `simulate`, NAME a tomogram such as TS_01. Tomogram and template are cropped in
Fourier space to --angpix. The table is FOLDER/pytom/NAME_particles.star; its coordinates are in pixels of --angpix, so
that `dsd extract_subtomos` needs --coord-apix.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from template_matching import crop_tomogram, resample, soft_ball

from opustomo.io.mrc import read_volume, write_volume


def entry_point(name: str, *words: object) -> None:
    """Run a program of pytom-match-pick."""
    code = f"import sys; sys.argv[0] = {name!r}; from pytom_tm.entry_points import {name}; {name}()"
    subprocess.run([sys.executable, "-c", code, *map(str, words)], check=True)


def in_odd_box(volume: torch.Tensor) -> torch.Tensor:
    """Return a volume (D, D, D) padded to an odd box, with its central voxel D // 2 at the same index.

    pytom-match-pick rotates templates about (D - 1)/2, which is the central voxel only if D is odd.
    """
    return torch.nn.functional.pad(volume, (0, 1 - len(volume) % 2) * 3)


def main() -> None:
    """Prepare the files of one tomogram, match, and extract the candidates."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("name")
    parser.add_argument("--angpix", type=float, default=40 / 3)
    parser.add_argument("--angle", type=float, default=12.85, help="angular step in degrees")
    parser.add_argument("--picks", type=int, default=150)
    parser.add_argument("--radius", type=float, default=160.0, help="radius of the mask in Å")
    parser.add_argument("--distance", type=float, default=130.0, help="least distance of two picks in Å")
    args = parser.parse_args()
    tilts, out = args.folder / "tilts", args.folder / "pytom"
    out.mkdir(exist_ok=True)
    volume, apix = read_volume(tilts / f"{args.name}_rec.mrc")
    template, template_apix = read_volume(args.folder / "template.mrc")
    assert apix is not None and template_apix is not None
    small = crop_tomogram(torch.from_numpy(-volume), apix / args.angpix)
    write_volume(out / f"{args.name}.mrc", small.numpy(), args.angpix)
    reference, _ = resample(torch.from_numpy(template), template_apix, args.angpix)
    reference = in_odd_box(reference)
    write_volume(out / "template.mrc", reference.numpy(), args.angpix)
    write_volume(out / "mask.mrc", soft_ball(len(reference), args.radius / args.angpix).numpy(), args.angpix)
    table = np.genfromtxt(args.folder / "simulated" / args.name / "tilts.csv", delimiter=",", names=True)
    np.savetxt(out / f"{args.name}_dose.txt", table["dose"], fmt="%.3f")
    np.savetxt(out / f"{args.name}_defocus.txt", table["defocus_A"] * 1e-4, fmt="%.5f")
    files = ("-t", out / "template.mrc", "-v", out / f"{args.name}.mrc", "-m", out / "mask.mrc", "-d", out)
    optics = "--amplitude-contrast 0.07 --spherical-aberration 2.7 --voltage 300 --per-tilt-weighting".split()
    optics += ["--dose-accumulation", out / f"{args.name}_dose.txt", "--defocus", out / f"{args.name}_defocus.txt"]
    search = ("--angular-search", args.angle, "--spectral-whitening", "--voxel-size-angstrom", f"{args.angpix:.4f}")
    entry_point("match_template", *files, "-a", tilts / f"{args.name}.tlt", *optics, *search, "-g", 0)
    limits = ("-n", args.picks, "--particle-diameter", args.distance, "-c", 0.01)
    entry_point("extract_candidates", "-j", out / f"{args.name}_job.json", *limits)


if __name__ == "__main__":
    main()
