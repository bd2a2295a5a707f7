"""Accuracy of `dsdsh junk` on simulated picks with known truth: the kept picks and the stated error rates.

    python benchmarks/junk.py --tools TOOLS --data DATA -o OUT [--targets ribosome 50S …] [--seeds 0] [--picks 300]
    python benchmarks/junk.py --runs SET/run … [--epochs 3 7]     # trained runs, the truth being in SET/truth.npz

TOOLS holds an independent simulator (``simulate_subtomograms.py``), DATA the densities (``maps``, ``decoys``). The
picks show the target (42 %), its mirror image (14 %), three other complexes (11 % each) and nothing (11 %). Latents are
artificial: one point per object with noise, for a fraction of the particles that of another particle. The particle of a
trained run is object 0 of its set, or those of ``--states``. Prints a Markdown table: the number of false picks, the
precision and recall of the kept ones, the rate and bound that are reported, or *unknown*, and the true rate.
"""

from __future__ import annotations

import argparse
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
from panel_sets import density

from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.io.masks import load_mask
from opustomo.quality.evidence.half_maps import half_sets
from opustomo.quality.evidence.junk_files import JunkInputs, score_run
from opustomo.quality.evidence.junk_scores import JunkRequest, JunkResult, find_junk

TARGETS = {
    "ribosome": ("comp_5_70S_APE_mRNA", "mirror:comp_5_70S_APE_mRNA", "1qvr", "3ipm", "3cf3", "empty"),
    "50S": ("comp_0_50S", "mirror:comp_0_50S", "comp_2_30S", "1qvr", "2cg9", "empty"),
    "1qvr": ("1qvr", "mirror:1qvr", "comp_2_30S", "3ipm", "2cg9", "empty"),
    "3ipm": ("3ipm", "mirror:3ipm", "comp_0_50S", "3cf3", "1qvr", "empty"),
    "pure": ("comp_5_70S_APE_mRNA", "comp_5_70S_APE_mRNA"),
    "states": ("comp_0_50S", "comp_2_30S", "comp_5_70S_APE_mRNA"),
}
WEIGHTS = (0.42, 0.14, 0.11, 0.11, 0.11, 0.11)
PURE = ("pure", "states")
WRONG_LATENTS = (0.0, 0.2, 1.0)
POSE_ERRORS = (2.0, 6.0)
HEAD = "| set | junk | precision | recall | reported | truth |\n|---|---|---|---|---|---|"


def simulated(target: str, seed: int, error: float, args: argparse.Namespace) -> Path:
    """Simulate the picks of a target and return their folder."""
    folder = args.outdir / f"{target}_{seed}_{error:g}"
    if not (folder / "truth.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        zero = np.zeros((32,) * 3, dtype=np.float32)
        volumes = [zero if name == "empty" else density(name, args.data, True) for name in TARGETS[target]]
        np.save(folder / "volumes.npy", np.stack(volumes))
        words = ["-o", folder, "-n", args.picks, "--apix", 12, "--snr", args.snr, "--rot-err", error, "--shift", 2]
        words += ["--shift-err", error / 8, "--seed", 100 * seed + 7, "--device", "cpu"]
        if target not in PURE:
            words += ["--weights", *WEIGHTS]
        script = args.tools / "simulate_subtomograms.py"
        subprocess.run([sys.executable, script, folder / "volumes.npy", *map(str, words)], check=True)
    return folder


def artificial_latents(labels: np.ndarray, wrong: float, seed: int) -> np.ndarray:
    """Return latents (N, 4) around one point per label; a fraction `wrong` has those of another particle."""
    rng = np.random.default_rng(seed)
    shown = np.where(rng.uniform(size=len(labels)) < wrong, rng.permutation(labels), labels)
    return (4.0 * rng.normal(size=(labels.max() + 1, 4))[shown] + rng.normal(size=(len(labels), 4))).astype(np.float32)


def row(name: str, result: JunkResult, wanted: np.ndarray) -> str:
    """Return a row of the table."""
    kept = result.kept
    true = float((~wanted)[kept].mean()) if kept.any() else 0.0
    recall = float(kept[wanted].mean()) if wanted.any() else 0.0
    known = getattr(result, "rate_is_known", not result.mixed_classes)
    said = f"{100 * result.false_discovery_rate:.2g} %, at most {100 * result.upper_rate:.2g} %"
    if not known:
        said = "unknown"
    wrong = " **wrong**" if known and true > max(result.upper_rate, 0.0) + 0.01 else ""
    return f"| {name} | {(~wanted).sum()} | {1 - true:.3f} | {recall:.3f} | {said} | {100 * true:.2g} %{wrong} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path)
    parser.add_argument("--data", type=Path)
    parser.add_argument("-o", "--outdir", type=Path)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--picks", type=int, default=300)
    parser.add_argument("--snr", type=float, default=0.06)
    parser.add_argument("--wrong", nargs="+", type=float, default=WRONG_LATENTS, help="fractions of wrong latents")
    parser.add_argument("--errors", nargs="+", type=float, default=POSE_ERRORS, help="errors of the poses in degrees")
    parser.add_argument("--runs", nargs="+", type=Path, default=[])
    parser.add_argument("--epochs", nargs="+", type=int, help="epochs of the runs (default: the last)")
    parser.add_argument("--states", nargs="+", type=int, default=[0], help="labels of the particle in the runs")
    args = parser.parse_args()
    print(HEAD, flush=True)
    for run in args.runs:
        from opustomo.run import Run

        results = Run(run).results
        wanted = np.isin(np.load(run.parent / "truth.npz")["labels"], args.states)
        for epoch in args.epochs or [Run(run).epochs[-1]]:
            result, _ = score_run(JunkInputs(results, epoch, run.parent / "particles.star", device="cpu"))
            print(row(f"{run}, epoch {epoch}", result, wanted), flush=True)
    if args.runs:
        return
    for target, seed, error in itertools.product(args.targets, args.seeds, args.errors):
        folder = simulated(target, seed, error, args)
        labels = np.load(folder / "truth.npz")["labels"]
        particles = load_particles(DataConfig(star=folder / "particles.star"))
        mask = load_mask(folder / "mask.mrc", particles.box, particles.apix, False)
        wanted = (labels == 0) | (target in PURE)
        for wrong in args.wrong:
            latents = artificial_latents(labels, wrong, seed)
            request = JunkRequest(particles, latents, half_sets(particles.star)[0], mask, ctf_normalized=True)
            name = f"{target}, seed {seed}, poses {error:g}°, latents {100 * wrong:g} % wrong"
            print(row(name, find_junk(request), wanted), flush=True)


if __name__ == "__main__":
    main()
