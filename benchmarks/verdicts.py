#!/usr/bin/env python3
"""Test the verdicts of `dsdsh validate` on simulated sets with known classes and on homogeneous ones.

usage: python benchmarks/verdicts.py --simulator simulate_subtomograms.py --maps DIR [--other-maps DIR]
                                     [--seed 0] [--trials 5] [--only NAME ...]

The simulator is an independent program; DIR contains maps of ribosomes (comp_*.mrc and ratchet_*.mrc). `--other-maps`
adds sets of other complexes (1qvr.mrc, 2cg9.mrc, 3cf3.mrc and 3ipm.mrc). Sets have a box of 32 voxels of 12 Å, poses
that are off by 3° and 0.4 pixels, and 300 to 500 particles. Nothing is trained. `--seed` sets the seed of the
simulation and of the trials, so that each seed gives independent sets. The sets of seed 0 were used while thresholds
were chosen. Each trial uses a random 80 % of the particles and latents that are made as follows:

truth       corners of a simplex by true class plus normal noise (standard deviation 0.12 of the edge); k-means
permuted    the same latents and clusters, with clusters permuted between particles
over-split  the same clusters, of which one is divided at random
random      normal random latents; k-means with 2 or 3 clusters
noise       the first principal components of the particles' own residuals; k-means with 2 clusters
view        the viewing direction; k-means with 2 clusters

A trial of true classes is right if all classes are supported. Any other trial is right if the classification is not
supported and none of the wrong classes is.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from opustomo.analysis.clusters.clustering import cluster_latents
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_mask, load_particles
from opustomo.io.mrc import read_volume
from opustomo.physics.fourier import crop_spectrum, irfft3, rfft3
from opustomo.quality.evidence.judgment import Classification, Material, judge_classes, read_material
from opustomo.quality.evidence.matched_controls import imaging_covariates
from opustomo.quality.evidence.motion_verdict import judge_motion
from opustomo.quality.evidence.particle_features import fit_residuals, particle_features

BOX, APIX = 32, 12.0
S50, S30, S70, VACANT, CORE = (
    "comp_0_50S",
    "comp_2_30S",
    "comp_5_70S_APE_mRNA",
    "comp_3_70S_vacant",
    "comp_1_50S_noCP_noL1",
)
RATCHET = tuple(f"ratchet_{step:02d}" for step in range(11))


@dataclass(frozen=True)
class SimulatedSet:
    """Simulated set: maps, options of the simulator, and the trials it is used for."""

    name: str
    maps: tuple[str, ...]
    options: str
    kinds: tuple[str, ...] = ("truth", "permuted", "over-split")
    other: bool = False  # whether the maps are those of other complexes


HOMOGENEOUS = ("noise", "random", "view")
SETS = (
    SimulatedSet("three states", (S50, S30, S70), "-n 300 --snr 0.05"),
    SimulatedSet("five states", (S50, S30, S70, VACANT, CORE), "-n 500 --snr 0.05"),
    SimulatedSet("with and without tRNA", (S70, VACANT), "-n 400 --snr 0.03"),
    SimulatedSet("unequal: 75, 17, 8 %", (S50, S30, S70), "-n 500 --snr 0.03 --weights 75 17 8"),
    SimulatedSet("crowded", (S50, S30, S70), "-n 300 --snr 0.03 --crowd 8 --gap 20"),
    SimulatedSet("SNR 0.01, misaligned", (S50, S30, S70), "-n 400 --snr 0.01 --misalign 0.3"),
    SimulatedSet("homogeneous", (S70,), "-n 300 --snr 0.05", HOMOGENEOUS),
    SimulatedSet("homogeneous, crowded, SNR 0.01", (S70,), "-n 300 --snr 0.01 --crowd 8 --gap 20", HOMOGENEOUS),
    SimulatedSet("one state, two contrasts", (S70, f"{S70}*0.7"), "-n 400 --snr 0.05", ("copies",)),
    SimulatedSet("ratchet, continuous", RATCHET, "-n 400 --snr 0.03", ("motion", "no motion")),
    SimulatedSet("one tRNA or none", ("comp_4_70S_P_mRNA", VACANT), "-n 400 --snr 0.03"),
    SimulatedSet("three other complexes", ("1qvr", "2cg9", "3cf3"), "-n 300 --snr 0.05", other=True),
    SimulatedSet("other complex, homogeneous", ("3ipm",), "-n 300 --snr 0.05", HOMOGENEOUS, other=True),
)


def simulated(one: SimulatedSet, simulator: Path, maps: Path, folder: Path, seed: int) -> Path:
    """Simulate a set unless it exists, and return its folder."""
    target = folder / one.name.replace(" ", "_").replace(",", "").replace("%", "").replace(":", "")
    if (target / "truth.npz").exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    volumes = []
    for name in one.maps:
        stem, _, factor = name.partition("*")
        volume = torch.from_numpy(read_volume(maps / f"{stem}.mrc")[0].astype(np.float32))
        volumes.append(float(factor or 1) * irfft3(crop_spectrum(rfft3(volume), BOX)).numpy())
    stack = target.with_suffix(".npy")
    np.save(stack, np.stack(volumes))
    words = f"--apix {APIX} --rot-err 3 --shift-err 0.4 --device cpu --seed {seed} {one.options}".split()
    with (folder / f"{target.name}.log").open("w") as log:
        command = [sys.executable, str(simulator), str(stack), "-o", str(target), *words]
        subprocess.run(command, check=True, stdout=log, stderr=log)
    return target


def subset(material: Material, rng: np.random.Generator) -> Material:
    """Return the material of a random 80 % of the particles."""
    count = len(material.index)
    rows = np.sort(rng.choice(count, round(0.8 * count), replace=False))
    old = material.residuals
    chosen = torch.from_numpy(rows)
    spectra = replace(
        old.spectra, index=old.spectra.index[rows], signal=old.spectra.signal[chosen], weight=old.spectra.weight[chosen]
    )
    residuals = fit_residuals(spectra, old.halves[rows], old.mask)
    return replace(material, residuals=residuals, features=particle_features(residuals))


def classification(
    kind: str, truth: np.ndarray, material: Material, rng: np.random.Generator
) -> tuple[Classification, set[int]]:
    """Return the classes of a trial for all particles of the set, and the numbers of those that are right."""
    count = len(truth)
    if kind in ("truth", "permuted", "over-split", "copies"):
        number = int(truth.max()) + 1
        latents = np.eye(number)[truth] + 0.12 * np.sqrt(2) * rng.normal(size=(count, number))
        labels = cluster_latents(latents, number).labels
        if kind == "truth":
            return Classification(labels, number, latents), set(range(number))
        if kind == "copies":
            return Classification(labels, number, latents), set()
        if kind == "permuted":
            return Classification(rng.permutation(labels), number, latents), set()
        largest = int(np.bincount(labels).argmax())
        divided = (labels == largest) & (rng.random(count) < 0.5)
        return Classification(np.where(divided, number, labels), number + 1, latents), set(range(number)) - {largest}
    latents = np.zeros((count, 3))
    number = 2
    if kind == "random":
        latents, number = rng.normal(size=(count, 3)), int(rng.integers(2, 4))
    elif kind == "noise":
        values, vectors = np.linalg.eigh(material.features.gram)
        latents[material.index, :2] = vectors[:, -2:] * np.sqrt(values[-2:])
    else:
        latents = material.particles.poses.rotations[:, 2].astype(np.float64)
    labels = np.full(count, number)
    labels[material.index] = cluster_latents(latents[material.index], number).labels
    return Classification(labels, number, latents), set()


def class_trial(kind: str, truth: np.ndarray, material: Material, seed: int) -> tuple[bool, str, list[str]]:
    """Return whether the verdicts of a trial are right, a short description, and the verdicts with reasons."""
    rng = np.random.default_rng(seed)
    part = subset(material, rng)
    classes, right = classification(kind, truth, part, rng)
    verdict = judge_classes(part, classes, seed)
    supported = {one.number for one in verdict.classes if one.verdict == "supported"}
    told = "/".join(one.verdict.split()[0] for one in verdict.classes)
    if kind == "truth":
        return verdict.verdict == "supported", f"{verdict.verdict} ({told})", verdict.lines()
    return verdict.verdict != "supported" and supported <= right, f"{verdict.verdict} ({told})", verdict.lines()


def motion_trial(kind: str, truth: np.ndarray, material: Material, seed: int) -> tuple[bool, str, list[str]]:
    """Return what `class_trial` returns for a motion; the coordinate is the true step plus noise, or random."""
    rng = np.random.default_rng(seed)
    part = subset(material, rng)
    coordinate = truth + rng.normal(size=len(truth)) if kind == "motion" else rng.normal(size=len(truth))
    coordinate = coordinate[part.index]
    covariates = imaging_covariates(part.particles, part.index, part.held_out)
    verdict = judge_motion(part.features, coordinate, np.zeros(len(coordinate)), covariates, "a coordinate", seed=seed)
    right = (verdict.verdict == "supported") == (kind == "motion")
    continuous = "continuous" if verdict.p_continuous <= 0.01 else "not shown to be continuous"
    return right, f"{verdict.verdict}, {continuous}", verdict.lines()


def main() -> None:
    """Run the trials, print one row per set and kind of trial, and write the reasons of wrong verdicts to stderr."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulator", type=Path, required=True)
    parser.add_argument("--maps", type=Path, required=True)
    parser.add_argument("--other-maps", type=Path, help="folder of maps of other complexes")
    parser.add_argument("--out", type=Path, default=Path("verdict_sets"))
    parser.add_argument("--seed", type=int, default=0, help="seed of the simulated sets and of the trials")
    parser.add_argument("--trials", type=int, default=5, help="trials per set and kind")
    parser.add_argument("--only", nargs="+", help="names of sets")
    args = parser.parse_args()
    torch.set_num_threads(1)
    totals = {True: [0, 0], False: [0, 0]}
    print("| set | trial | right | verdicts |\n|---|---|---|---|", flush=True)
    for order, one in enumerate(SETS):
        if args.only and one.name not in args.only:
            continue
        maps = args.other_maps if one.other else args.maps
        if maps is None:
            continue
        folder = simulated(one, args.simulator, maps, args.out / f"seed_{args.seed}", 1000 * args.seed + 100 + order)
        truth = np.load(folder / "truth.npz")["labels"].astype(np.int64)
        particles = load_particles(DataConfig(star=folder / "particles.star"))
        mask = load_mask(folder / "mask.mrc", particles.box, particles.apix)
        everything = np.arange(len(particles))
        material = read_material(particles, everything, mask, everything[:0], ctf_normalised=True, workers=1)
        assert material is not None
        for kind in one.kinds:
            trial = motion_trial if "motion" in kind else class_trial
            results = [trial(kind, truth, material, 1000 * args.seed + number) for number in range(args.trials)]
            right = sum(result for result, _, _ in results)
            told: dict[str, int] = {}
            for result, text, lines in results:
                told[text] = told.get(text, 0) + 1
                if not result:
                    print(f"wrong: {one.name}, {kind}", *lines, sep="\n    ", file=sys.stderr, flush=True)
            total = totals[kind in ("truth", "motion")]
            total[0] += right
            total[1] += len(results)
            texts = "; ".join(f"{count} × {text}" for text, count in told.items())
            print(f"| {one.name} | {kind} | {right} of {len(results)} | {texts} |", flush=True)
    for real, name in ((True, "true classes and motions"), (False, "wrong classes and motions")):
        right, count = totals[real]
        print(f"{name}: {right} of {count} trials are right ({100 * right / max(count, 1):.0f} %)")


if __name__ == "__main__":
    main()
