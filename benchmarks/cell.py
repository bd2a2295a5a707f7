#!/usr/bin/env python3
"""From tilt series of a crowded cell to a clean set: simulate, pick, train, select clusters, reconstruct, score.

usage: python benchmarks/cell.py [--reduced] [-o DIR] [--cell ribosome|rare|rare-small|moving] [--seed 0] [--steps ...]

The tilt series come from an independent simulator (--tools) with densities in --data. The target is a 70S ribosome
with tRNAs among seven decoys: its two subunits, its mirror image, the mirror image of a subunit, and three other
complexes (`benchmarks/cell_molecules.py` describes the other cells). Template matching at a low threshold gives picks
of which at least two thirds are false; the matcher is `benchmarks/template_matching.py` or, with --matcher pytom,
pytom-match-pick. Everything from there on is done by the commands of opustomo, which are written to DIR/commands.sh as
a user would type them. The truth is used only to simulate and in the last step, `score`.

steps     simulate, pick, extract, check, train, analyze, volumes, validate, choose, second, maps, junk, score
resuming  a finished step is skipped; --steps repeats the given ones; no step needs volumes or junk, which --skip omits
results   DIR/results.json, DIR/results.md, DIR/steps.json (seconds of each step, and of its processors)

Clusters are selected without the truth, as `dsdsh validate --reference` does: the cluster whose back-projected map
resembles the search template most (mean FSC inside the mask) is kept, and those that cannot be told from it. A second
round (`--kpc`) divides the kept clusters of a rare or moving target once more.
"""

from __future__ import annotations

import argparse
import json
import resource
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path

import cell_tomograms
import numpy as np
from cell_molecules import CELLS
from cell_tomograms import FULL, REDUCED, Size

ROOT = Path(__file__).resolve().parents[1]
STEPS = (
    "simulate",
    "pick",
    "extract",
    "check",
    "train",
    "analyze",
    "volumes",
    "validate",
    "choose",
    "second",
    "maps",
    "junk",
    "score",
)


class Bench:
    """Folder of a benchmark, its settings, and the commands that were run in it."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.folder, self.cell = args, args.folder.resolve(), CELLS[args.cell]
        size = REDUCED if args.reduced else FULL
        given = {
            name: value
            for name in ("tomograms", "epochs", "clusters", "snr")
            if (value := getattr(args, name)) is not None
        }
        self.size: Size = replace(size, **given)
        self.folder.mkdir(parents=True, exist_ok=True)

    def step(self, name: str) -> None:
        """Run a step unless it is finished, and record its duration."""
        record = self.folder / "steps.json"
        done = json.loads(record.read_text()) if record.exists() else {}
        if name in done and name not in (self.args.steps or ()):
            return
        print(f"--- {name}", flush=True)
        start, busy = time.perf_counter(), processor_seconds()
        getattr(self, name)()
        took = {"wall": time.perf_counter() - start, "processor": processor_seconds() - busy}
        done = json.loads(record.read_text()) if record.exists() else {}
        done[name] = {kind: round(seconds, 1) for kind, seconds in took.items()}
        record.write_text(json.dumps(done, indent=1))

    def command(self, line: str) -> str:
        """Run a command line of dsd or dsdsh in the folder, and return what it prints."""
        with (self.folder / "commands.sh").open("a") as script:
            script.write(line + "\n")
        print(f"$ {line}", flush=True)
        return in_program(line, self.folder)

    def simulate(self) -> None:
        """Simulate the tilt series and write them as files of IMOD, and the search template."""
        cell_tomograms.simulate(self.folder, self.cell, self.size, self.args)

    def pick(self) -> None:
        """Pick particles in every tomogram."""
        cell_tomograms.pick(self.folder, self.size, self.args)

    def extract(self) -> None:
        """Combine the picks and reconstruct their subtomograms."""
        size = self.size
        tables = " ".join(f"picks/{name}_particles.star" for name in size.names)
        self.command(f"dsdsh combine_star {tables} picks.star")
        self.command(
            f"dsd extract_subtomos picks.star --tilts tilts --hand 1 --box {size.box} --apix {size.apix:g} "
            f"-o subtomos --float16 --workers {self.args.workers}"
        )

    def check(self) -> None:
        """Prepare poses and mask, and let `dsd check` propose the training command."""
        size = self.size
        self.command(f"dsdsh prepare subtomos/particles.star {size.box} {size.apix:g}")
        self.command("dsdsh create_mask template.mrc -o mask.mrc --dilate 2 --soft-edge 3")
        epochs = "" if size.epochs is None else f" -n {size.epochs}"
        said = self.command(
            f"dsd check subtomos/particles.star --poses subtomos/particles_pose_euler.pkl -r mask.mrc --angpix "
            f"{size.apix:g} --figure check.png{epochs} {self.args.check_options}".strip()
        )
        lines = [line.strip() for line in said.splitlines() if line.strip().startswith("dsd train_tomo")]
        (self.folder / "train.txt").write_text(lines[-1])

    def train(self) -> None:
        """Train with the command that `dsd check` printed, or resume a training that was stopped."""
        words = [(self.folder / "train.txt").read_text(), self.args.train_options]
        if (self.folder / "run/state.pkl").exists():
            words.append("--overwrite" if "train" in (self.args.steps or ()) else "--load latest")
        self.command(" ".join(filter(None, words)))

    @property
    def epoch(self) -> str:
        """Epoch that the training proposes in its last line: if it overfits, an earlier one than the last."""
        last = (self.folder / "run/run.log").read_text().strip().splitlines()[-1]
        return str(last.partition("dsdsh results run")[2].strip() or "latest")

    def analyze(self) -> None:
        """Cluster the latents."""
        self.command(f"dsdsh analyze run {self.epoch} 4 {self.size.clusters}")

    def volumes(self) -> None:
        """Decode the volumes of the clusters."""
        self.command(f"dsdsh eval_vol run {self.epoch} kmeans {self.size.clusters} {self.size.apix:g} --full-box")

    def junk(self) -> None:
        """Let the program find false picks without clusters that anybody selects."""
        self.command(f"dsdsh junk run {self.epoch} --reference template.mrc")

    def validate(self) -> None:
        """Let the program judge the clusters."""
        self.command(f"dsdsh validate run {self.epoch} {self.size.clusters} --reference template.mrc")

    @property
    def clusters(self) -> Path:
        """Folder of the clusters of the analyzed epoch."""
        number = "[0-9]*" if self.epoch == "latest" else self.epoch
        return next(self.folder.glob(f"run/analyze.{number}/kmeans{self.size.clusters}"))

    def choose(self) -> None:
        """Export the particles of the clusters that `dsdsh validate` names."""
        which = self._kept(self.clusters)
        self.command(
            f"dsdsh select subtomos/particles.star run {self.epoch} --clusters {which} --refined -o clean.star"
        )

    def second(self) -> None:
        """Divide the kept clusters once more, and export the clusters that `dsdsh validate` names then."""
        number = self.cell.second_round
        if not number:
            return
        epoch = self.clusters.parent.name.removeprefix("analyze.")
        self.command(f"dsdsh analyze run {epoch} 4 {number} --kpc {self._kept(self.clusters)}")
        self.command(f"dsdsh validate run filter.{epoch} {number} --reference template.mrc")
        which = self._kept(self.second_clusters)
        self.command(
            f"dsdsh select subtomos/particles.star run filter.{epoch} --clusters {which} --refined -o second.star"
        )

    @property
    def second_clusters(self) -> Path:
        """Folder of the clusters of the second round."""
        return next(self.folder.glob(f"run/analyze.filter.*/kmeans{self.cell.second_round}"))

    def _kept(self, clusters: Path) -> str:
        """Return the clusters that `dsdsh validate` names, as `dsdsh select --clusters` reads them."""
        from cell_scores import matches

        kept = [row["cluster"] for row in matches(clusters) if row["kept"] == "1"]
        return f"{clusters.name.removeprefix('kmeans')}:{','.join(kept)}"

    def maps(self) -> None:
        """Reconstruct maps of all picks, of the best-scoring ones, and of the filtered set."""
        from cell_scores import kept_rows

        from opustomo.io.star_tables import read_particles

        particles = read_particles(self.folder / "subtomos/particles.star")
        kept = kept_rows(self.folder / "clean.star", particles)
        best = np.sort(np.argsort(-particles.numbers("rlnLCCmax"))[: kept.sum()])
        for name, rows in (("best", best), ("filtered", np.flatnonzero(kept))):
            (self.folder / f"{name}.txt").write_text("\n".join(map(str, rows)))
        refined = f" --poses run/pose.{self.clusters.parent.name.removeprefix('analyze.')}.pkl"

        def one(name: str) -> None:
            part, _, poses = name.partition("_")
            self.command(
                f"dsd reconstruct subtomos/particles.star -o maps/{name}.mrc --halves -r mask.mrc --normalizectf"
                + (f" --ind {part}.txt" if part != "all" else "")
                + (refined if poses else "")
            )

        with ThreadPoolExecutor(self.args.workers) as pool:
            list(pool.map(one, MAPS))

    def score(self) -> None:
        """Compare all results with the truth and write results.json and results.md."""
        import cell_scores

        from opustomo.io.star_tables import read_particles

        particles = read_particles(self.folder / "subtomos/particles.star")
        truth = cell_scores.true_classes(particles, self.folder / "simulated", self.size.apix, self.cell.targets)
        kept = cell_scores.kept_rows(self.folder / "clean.star", particles)
        contents = partial(cell_scores.contents, classes=truth.classes, molecules=len(self.cell.molecules))
        score = particles.numbers("rlnLCCmax")
        best = np.zeros(len(kept), dtype=bool)
        best[np.argsort(-score)[: kept.sum()]] = True
        sets = {"all picks": np.ones(len(kept), dtype=bool), "best-scoring, same number": best, "filtered": kept}
        if self.cell.second_round:
            sets["filtered, second round"] = cell_scores.kept_rows(self.folder / "second.star", particles)
        if (junk := self.clusters.parent / "junk/particles.star").exists():
            sets["dsdsh junk"] = cell_scores.kept_rows(junk, particles)
        sets["best score threshold (uses the truth)"] = cell_scores.best_threshold(score, truth)
        results = {
            "size": vars(self.size),
            "cell": self.args.cell,
            "seed": self.args.seed,
            "classes": {
                label: int((truth.classes == number).sum())
                for number, label in [*enumerate(one.name for one in self.cell.molecules), (-1, "no molecule")]
            },
            "pose_of_true_picks": {
                "angle_median_deg": round(float(np.median(truth.angle_deg[truth.hits])), 2),
                "angles_above_20_deg": int((truth.angle_deg[truth.hits] > 20).sum()),
                "distance_median_A": round(float(np.median(truth.distance_A[truth.hits])), 2),
            },
            "sets": {name: cell_scores.by_tomogram(chosen, truth) for name, chosen in sets.items()},
            "clusters": contents(self.clusters),
            "second_round": contents(self.second_clusters) if self.cell.second_round else [],
            "maps": {
                name: cell_scores.map_scores(
                    self.folder / f"maps/{name}.mrc", self.folder / "target.mrc", self.folder / "mask.mrc"
                )
                for name in MAPS
            },
            "seconds": json.loads((self.folder / "steps.json").read_text()),
        }
        (self.folder / "results.json").write_text(json.dumps(results, indent=1))
        text = cell_scores.report(results)
        (self.folder / "results.md").write_text(text)
        print(text)


def processor_seconds() -> float:
    """Return the processor time of this process and of its finished children."""
    return sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )


MAPS = ("all", "best", "filtered", "all_refined", "best_refined", "filtered_refined")


def in_program(line: str, folder: Path) -> str:
    """Run a command line of dsd or dsdsh of this tree, add what it prints to output.txt, and return it."""
    program, *words = shlex.split(line)
    module = {"dsd": "opustomo.main", "dsdsh": "analysis_scripts.main"}[program]
    start = f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = {program!r}; from {module} import main; "
    done = subprocess.run(
        [sys.executable, "-c", start + "sys.exit(main())", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    with (folder / "output.txt").open("a") as log:
        log.write(f"$ {line}\n{done.stdout}\n")
    if done.returncode:
        raise SystemExit(f"error: {line} failed:\n{done.stdout[-3000:]}")
    return done.stdout


def main() -> None:
    """Run the steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--folder", type=Path, default=Path("cell"))
    add("--reduced", action="store_true", help="three small tomograms, for a CPU")
    add("--cell", choices=CELLS, default="ribosome")
    add("--seed", type=int, default=0)
    add("--steps", nargs="+", choices=STEPS, help="repeat these steps")
    add("--only", choices=STEPS, help="repeat only this step")
    add("--skip", nargs="+", choices=STEPS, default=[], help="omit these steps")
    add("--until", choices=STEPS, default=STEPS[-1], help="last step")
    add("--tools", type=Path, default=ROOT.parent / "shared/tools")
    add("--data", type=Path, default=ROOT.parent / "shared/data")
    add("--tomograms", type=int)
    add("--epochs", type=int, help="epochs of the training (default: proposed by dsd check)")
    add("--clusters", type=int)
    add("--snr", type=float)
    add("--check-options", default="", help="options that are added to the command line of dsd check")
    add("--train-options", default="", help="options that are added to the printed command")
    add("--workers", type=int, default=2)
    add("--pick-workers", type=int, default=1)
    add(
        "--matcher", choices=("own", "pytom"), default="own", help="pytom: pytom-match-pick, which needs a GPU and CuPy"
    )
    add("--simulate-on", default="cpu", help="device of the simulator; results differ between devices")
    args = parser.parse_args()
    if args.tomograms is not None and args.tomograms < 2:
        parser.error(f"--tomograms is {args.tomograms}, but picks are combined from several. Give at least 2.")
    args.tools, args.data = args.tools.resolve(), args.data.resolve()
    sys.path[:0] = [str(ROOT)]
    if args.only:
        args.steps = [args.only]
    bench = Bench(args)
    for name in [args.only] if args.only else STEPS[: STEPS.index(args.until) + 1]:
        if name not in args.skip:
            bench.step(name)


if __name__ == "__main__":
    main()
