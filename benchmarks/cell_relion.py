#!/usr/bin/env python3
"""3D classification of the picks of `benchmarks/cell.py` with RELION 3.1, scored as the clusters of opustomo.

usage: python benchmarks/cell_relion.py FOLDER [--classes 4 8] [--iterations 25] [--seeds 0 1] [--threads 2]

FOLDER is that of cell.py after its step `check`. The picks are exported by `dsdsh export_relion` and classified with
the same poses and mask: once without alignment, and once with a local search. Classes are selected by the correlation
of the class map with the search template inside the mask: those above the largest gap between successive values are
kept. Results go to FOLDER/relion.json, as do those of the best score threshold, which uses the truth.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from cell import in_program  # noqa: E402
from cell_molecules import CELLS  # noqa: E402
from cell_scores import above_largest_gap, correlation, selection_scores, true_classes  # noqa: E402

from opustomo.io.star_tables import read_particles  # noqa: E402

SEARCH = {
    "no alignment": ["--skip_align"],
    "local search": "--healpix_order 3 --sigma_ang 6 --offset_range 3 --offset_step 1 --oversampling 1".split(),
}


def classify(folder: Path, name: str, classes: int, options: list[str], args: argparse.Namespace) -> tuple[Path, float]:
    """Run relion_refine; return the table of the last iteration and the seconds it took."""
    out = folder / "for_relion" / name
    last = out / f"run_it{args.iterations:03d}_data.star"
    record = out / "seconds.json"
    if not record.exists():
        out.mkdir(exist_ok=True)
        words = (
            f"--K {classes} --iter {args.iterations} --firstiter_cc --ini_high 60 --ctf --zero_mask --flatten_solvent"
        )
        words += f" --particle_diameter {args.diameter} --dont_check_norm --pad 1 --j {args.threads}"
        files = [
            "--i",
            "particles.star",
            "--o",
            f"{name}/run",
            "--ref",
            "../template.mrc",
            "--solvent_mask",
            "../mask.mrc",
        ]
        start = time.perf_counter()
        command = ["relion_refine", *files, *words.split(), *options]
        done = subprocess.run(command, cwd=folder / "for_relion", capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"error: {' '.join(command)}\n{done.stdout[-1000:]}{done.stderr[-2000:]}")
        record.write_text(json.dumps(round(time.perf_counter() - start, 1)))
    return last, json.loads(record.read_text())


def main() -> None:
    """Classify with all variants and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--classes", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--iterations", type=int, default=25)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--diameter", type=float, default=400.0, help="diameter of the particle in Å")
    args = parser.parse_args()
    folder = args.folder.resolve()
    if not (folder / "for_relion" / "particles.star").exists():
        in_program("dsdsh export_relion subtomos/particles.star -o for_relion --normalizectf", folder)
    particles = read_particles(folder / "subtomos/particles.star")
    truth = true_classes(particles, folder / "simulated", particles.pixel_sizes()[0])
    names = {Path(name).name: row for row, name in enumerate(particles.strings("rlnImageName"))}
    rows: list[dict[str, Any]] = []
    for label, search in SEARCH.items():
        for classes in args.classes:
            for seed in args.seeds:
                name = f"{label.split()[0]}_{classes}_{seed}"
                options = [*search, "--random_seed", str(seed + 1)]
                table, seconds = classify(folder, name, classes, options, args)
                star = read_particles(table)
                order = [names[Path(image).name] for image in star.strings("rlnImageName")]
                labels = np.empty(len(order), dtype=int)
                labels[order] = star.numbers("rlnClassNumber").astype(int) - 1
                volumes = [Path(str(table).replace("_data.star", f"_class{i + 1:03d}.mrc")) for i in range(classes)]
                likeness = [correlation(path, folder / "template.mrc", folder / "mask.mrc") for path in volumes]
                likeness = [value if np.isfinite(value) else -1.0 for value in likeness]
                filled = [i for i in range(classes) if (labels == i).any()]
                chosen = (
                    [filled[i] for i in above_largest_gap([likeness[i] for i in filled])] if len(filled) > 1 else filled
                )
                contents = [
                    np.bincount(truth.classes[labels == i] + 1, minlength=len(CELLS["ribosome"].molecules) + 1)
                    for i in filled
                ]
                rows.append(
                    {"search": label, "classes": classes, "seed": seed, "seconds": seconds, "chosen": chosen}
                    | selection_scores(np.isin(labels, chosen), truth)
                    | {
                        "correlation": [round(likeness[i], 4) for i in filled],
                        "contents": [c.tolist() for c in contents],
                    }
                )
                print(json.dumps(rows[-1]), flush=True)
                (folder / "relion.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
