#!/usr/bin/env python3
"""3D classification of the picks of `benchmarks/cell.py` with RELION 3.1, scored as the clusters of opustomo.

usage: python benchmarks/cell_relion.py FOLDER [--search given local] [--classes 8] [--seeds 0 1] [--threads 2]

FOLDER is that of cell.py after its step `check`. The picks are exported by `dsdsh export_relion` and classified with
the same poses and mask: at the given poses (`--skip_align`), and with a local search of ±12° and 2 pixels around them.
Classifications that are not finished after --minutes are stopped, and their last complete iterations are scored.

Three selections of classes are scored, with precision, recall, F1 and the map of the selected picks at RELION's poses:

gap       classes whose map correlates with the search template above the largest gap between successive values
most      the class whose map correlates most
best      the classes that give the best F1, which nobody can know without the truth

Results go to FOLDER/relion.json and FOLDER/relion.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

from cell import in_program  # noqa: E402
from cell_molecules import CELLS  # noqa: E402
from cell_scores import Truth, above_largest_gap, correlation, map_scores, selection_scores, true_classes  # noqa: E402

from opustomo.io.star_tables import ParticleStar, read_particles  # noqa: E402

SEARCH = {
    "given": ["--skip_align"],
    "local": "--healpix_order 3 --sigma_ang 4 --offset_range 2 --offset_step 2 --oversampling 1".split(),
}


@dataclass(frozen=True)
class Variant:
    """Settings of one classification: kind of search, number of classes, random seed."""

    search: str
    classes: int
    seed: int

    @property
    def name(self) -> str:
        """Return the name of the folder of the classification."""
        return f"{self.search}_{self.classes}_{self.seed}"


def classify(folder: Path, variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    """Run relion_refine unless it has been run; return its time, and whether it was stopped."""
    out = folder / "for_relion" / variant.name
    record = out / "seconds.json"
    if not record.exists():
        out.mkdir(exist_ok=True)
        words = (
            f"relion_refine --i particles.star --o {variant.name}/run --ref ../template.mrc --solvent_mask ../mask.mrc"
        )
        words += f" --K {variant.classes} --iter {args.iterations} --firstiter_cc --ini_high 60 --ctf --zero_mask"
        words += f" --flatten_solvent --particle_diameter {args.diameter} --dont_check_norm --pad 1"
        words += f" --pool 3 --j {args.threads} --random_seed {variant.seed + 1}"
        start = time.perf_counter()
        with (out / "run.log").open("w") as log:
            command = [*words.split(), *SEARCH[variant.search]]
            process = subprocess.Popen(command, cwd=folder / "for_relion", stdout=log, stderr=subprocess.STDOUT)
            stopped = threading.Event()

            def stop() -> None:
                stopped.set()
                process.kill()

            timer = threading.Timer(max(1.0, args.deadline - time.perf_counter()), stop)
            timer.start()
            _, status, usage = os.wait4(process.pid, 0)
            timer.cancel()
        if status and not stopped.is_set():
            raise SystemExit(f"error: {' '.join(command)}\n{(out / 'run.log').read_text()[-2000:]}")
        took = {
            "seconds": round(time.perf_counter() - start, 1),
            "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
            "stopped": stopped.is_set(),
        }
        record.write_text(json.dumps(took))
    return dict(json.loads(record.read_text()))


def iterations_of(out: Path, classes: int, particles: int) -> list[int]:
    """Return the complete iterations of a classification: those with all maps and a table of all particles."""
    complete = []
    for table in sorted(out.glob("run_it*_data.star")):
        number = int(table.name.removeprefix("run_it").removesuffix("_data.star"))
        maps = [out / f"run_it{number:03d}_class{i + 1:03d}.mrc" for i in range(classes)]
        if all(path.exists() for path in maps) and len(read_particles(table)) == particles:
            complete.append(number)
    return complete


def in_order_of(particles: ParticleStar, table: ParticleStar) -> ParticleStar:
    """Return the rows of a table of RELION, which sorts particles, in the order of ``particles``."""
    places = {Path(name).name: row for row, name in enumerate(table.strings("rlnImageName"))}
    return table.subset([places[Path(name).name] for name in particles.strings("rlnImageName")])


def best_classes(labels: np.ndarray, classes: int, truth: Truth) -> list[int]:
    """Return the classes whose union has the best F1, added in the order of their precision."""
    filled = [i for i in range(classes) if (labels == i).any()]
    order = sorted(filled, key=lambda i: -float(truth.hits[labels == i].mean()))
    f1 = [selection_scores(np.isin(labels, order[: n + 1]), truth)["f1"] for n in range(len(order))]
    return sorted(order[: int(np.argmax(f1)) + 1])


def score(folder: Path, variant: Variant, particles: ParticleStar, truth: Truth) -> dict[str, Any]:
    """Return the selections of a classification with their scores and maps."""
    out = folder / "for_relion" / variant.name
    apix = pixel_size(particles)
    iterations = iterations_of(out, variant.classes, len(particles))
    if len(iterations) < 2:
        return {"iterations": 0}
    last, before = (
        in_order_of(particles, read_particles(out / f"run_it{n:03d}_data.star")) for n in iterations[:-3:-1]
    )
    labels = last.numbers("rlnClassNumber").astype(int) - 1
    table = folder / "subtomos" / f"relion_{variant.name}.star"
    particles.with_poses(last.eulers_deg(), last.origins_px(apix), apix).write(table)
    filled = [i for i in range(variant.classes) if (labels == i).any()]
    likeness = {}
    for i in filled:
        path = out / f"run_it{iterations[-1]:03d}_class{i + 1:03d}.mrc"
        value = correlation(path, folder / "template.mrc", folder / "mask.mrc")
        likeness[i] = value if np.isfinite(value) else -1.0
    gap = [filled[i] for i in above_largest_gap(list(likeness.values()))] if len(filled) > 1 else filled
    chosen = {
        "gap": gap,
        "most": [max(filled, key=lambda i: likeness[i])],
        "best": best_classes(labels, variant.classes, truth),
    }
    selections, done = {}, {}
    for rule, classes in chosen.items():
        if (key := tuple(classes)) not in done:
            name = f"relion_{variant.name}_{rule}"
            rows = folder / f"{name}.txt"
            rows.write_text("\n".join(map(str, np.flatnonzero(np.isin(labels, classes)))))
            in_program(
                f"dsd reconstruct {table.relative_to(folder)} -o maps/{name}.mrc --halves -r mask.mrc --normalizectf "
                f"--ind {rows.name}",
                folder,
            )
            maps = map_scores(folder / f"maps/{name}.mrc", folder / "target.mrc", folder / "mask.mrc")
            brief = {key: value for key, value in maps.items() if key not in ("half_maps", "truth")}
            done[key] = {"classes": classes} | selection_scores(np.isin(labels, classes), truth) | brief
        selections[rule] = done[key]
    length = int(truth.classes.max()) + 2
    return {
        "iterations": iterations[-1],
        "changed_class_in_last": round(float((labels != before.numbers("rlnClassNumber") - 1).mean()), 4),
        "angle_median_deg": round(float(np.median(turned(last, particles)[truth.hits])), 2),
        "selections": selections,
        "correlation": {i: round(value, 4) for i, value in likeness.items()},
        "contents": {i: np.bincount(truth.classes[labels == i] + 1, minlength=length).tolist() for i in filled},
    }


def pixel_size(particles: ParticleStar) -> float:
    """Return the pixel size of a table in Å."""
    sizes = particles.pixel_sizes()
    assert sizes is not None
    return float(sizes[0])


def turned(table: ParticleStar, particles: ParticleStar) -> np.ndarray:
    """Return the angles between the orientations of two tables in degrees."""
    from cell_scores import angles_deg

    return angles_deg(table.eulers_deg(), particles.eulers_deg())


def report(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    titles = "search | seed | iterations | changed class in the last | selection | kept | precision | recall | F1"
    titles += " | mean FSC with the truth | half maps, FSC 0.143 (Å) | minutes | minutes of processors"
    lines = [f"| {titles} |", "|---" * (titles.count("|") + 1) + "|"]
    for row in rows:
        for rule, one in row.get("selections", {}).items():
            values = [
                row["search"],
                row["seed"],
                row["iterations"],
                f"{row['changed_class_in_last']:.3f}",
                rule,
                one["kept"],
            ]
            values += [f"{one[key]:.3f}" for key in ("precision", "recall", "f1", "mean_truth")]
            values += [
                one["resolution_half_maps"],
                f"{row['seconds'] / 60:.1f}",
                f"{row['processor_seconds'] / 60:.1f}",
            ]
            lines.append(f"| {' | '.join(map(str, values))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Classify with all variants and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folder", type=Path)
    add("--cell", choices=CELLS, default="ribosome")
    add("--search", nargs="+", choices=SEARCH, default=list(SEARCH))
    add("--classes", type=int, nargs="+", default=[8])
    add("--iterations", type=int, default=25)
    add("--seeds", type=int, nargs="+", default=[0, 1])
    add("--threads", type=int, default=2)
    add("--jobs", type=int, default=1, help="number of classifications that run at the same time")
    add("--minutes", type=float, default=600.0, help="stop all classifications after this time")
    add("--diameter", type=float, default=400.0, help="diameter of the particle in Å")
    args = parser.parse_args()
    args.deadline = time.perf_counter() + 60 * args.minutes
    folder = args.folder.resolve()
    if not (folder / "for_relion" / "particles.star").exists():
        in_program("dsdsh export_relion subtomos/particles.star -o for_relion --normalizectf", folder)
    particles = read_particles(folder / "subtomos/particles.star")
    truth = true_classes(particles, folder / "simulated", pixel_size(particles), CELLS[args.cell].targets)
    variants = [Variant(*one) for one in ((s, k, n) for s in args.search for k in args.classes for n in args.seeds)]
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(args.jobs) as pool:
        runs = [pool.submit(classify, folder, variant, args) for variant in variants]
        for variant, run in zip(variants, runs, strict=True):
            took = run.result()
            rows.append(vars(variant) | took | {"threads": args.threads} | score(folder, variant, particles, truth))
            print(json.dumps(rows[-1]), flush=True)
            (folder / "relion.json").write_text(json.dumps(rows, indent=1))
            (folder / "relion.md").write_text(report(rows))
    print(report(rows))


if __name__ == "__main__":
    main()
