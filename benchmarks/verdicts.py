#!/usr/bin/env python3
"""Test the verdicts of `dsdsh validate` on simulated sets with known classes and on homogeneous ones.

usage: python benchmarks/verdicts.py --simulator simulate_subtomograms.py --maps DIR [--other-maps DIR] [--seeds 0 1 …]
                                     [--jobs 2] [--minutes 60] [--only NAME …] [--json FILE]
       python benchmarks/verdicts.py --table FILE …

The simulator is an independent program; DIR contains maps of ribosomes (comp_*.mrc and ratchet_*.mrc). `--other-maps`
adds sets of other complexes (1qvr.mrc, 2cg9.mrc, 3cf3.mrc and 3ipm.mrc). Sets have a box of 32 voxels of 12 Å, poses
that are off by 3° and 0.4 pixels, and 300 to 500 particles. Nothing is trained. Each seed gives independent sets, and
each set one trial of each of its kinds. The sets of seed 0, 11 and 12 were used while thresholds were chosen. A trial
uses a random 80 % of the particles and latents that are made as follows:

truth       corners of a simplex by true class plus normal noise (standard deviation 0.12 of the edge); k-means
permuted    the same latents and clusters, with clusters permuted between particles
over-split  the same clusters, of which one is divided at random
copies      the same for two classes that differ in contrast only
random      normal random latents; k-means with 2 or 3 clusters
noise       the first two principal components of the particles' own residuals; k-means with 2 clusters
view        the viewing direction; k-means with 2 clusters
motion      coordinate: the true step plus noise
no motion   coordinate: normal random numbers
noise axis  coordinate: the first principal component of the particles' own residuals

A trial of true classes is right if all classes are supported. Any other trial is right if the classification is not
supported and none of the wrong classes is. A trial of a motion is right if it is supported, and of none if it is not.
`--json` writes the trials, and `--table` prints the table of one or several such files.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.ndimage import rotate
from scipy.stats import beta

from opustomo.analysis.clusters.clustering import cluster_latents
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.io.masks import load_mask
from opustomo.io.mrc import read_volume
from opustomo.physics.fourier import crop_spectrum, irfft3, rfft3
from opustomo.quality.evidence.classification_tests import Classification, Material, judge_classes, read_material
from opustomo.quality.evidence.cluster_stability import ClusteredValues
from opustomo.quality.evidence.covariates import imaging_covariates
from opustomo.quality.evidence.half_maps import ReadOptions
from opustomo.quality.evidence.motion_verdict import LatentCoordinate, judge_motion
from opustomo.quality.evidence.residual_features import fit_residuals, particle_features

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


TURN_DEG = 15.0
TURNED = tuple(f"3cf3@{TURN_DEG * step / 10:g}" for step in range(11))
HOMOGENEOUS = ("noise", "random", "view")
MOTION = ("motion", "no motion")
STILL = ("no motion", "noise axis")
SETS = (
    SimulatedSet("three states", (S50, S30, S70), "-n 300 --snr 0.05"),
    SimulatedSet("five states", (S50, S30, S70, VACANT, CORE), "-n 500 --snr 0.05"),
    SimulatedSet("with and without tRNA", (S70, VACANT), "-n 400 --snr 0.03"),
    SimulatedSet("unequal: 75, 17, 8 %", (S50, S30, S70), "-n 500 --snr 0.03 --weights 75 17 8"),
    SimulatedSet("crowded", (S50, S30, S70), "-n 300 --snr 0.03 --crowd 8 --gap 20"),
    SimulatedSet("SNR 0.01, misaligned", (S50, S30, S70), "-n 400 --snr 0.01 --misalign 0.3"),
    SimulatedSet("homogeneous", (S70,), "-n 300 --snr 0.05", (*HOMOGENEOUS, *STILL)),
    SimulatedSet("homogeneous, crowded, SNR 0.01", (S70,), "-n 300 --snr 0.01 --crowd 8 --gap 20", HOMOGENEOUS),
    SimulatedSet("one state, two contrasts", (S70, f"{S70}*0.7"), "-n 400 --snr 0.05", ("copies",)),
    SimulatedSet("ratchet, continuous", RATCHET, "-n 400 --snr 0.03", MOTION),
    SimulatedSet("one tRNA or none", ("comp_4_70S_P_mRNA", VACANT), "-n 400 --snr 0.03"),
    SimulatedSet("three other complexes", ("1qvr", "2cg9", "3cf3"), "-n 300 --snr 0.05", other=True),
    SimulatedSet("other complex, homogeneous", ("3ipm",), "-n 300 --snr 0.05", (*HOMOGENEOUS, *STILL), other=True),
    SimulatedSet("four other complexes", ("1qvr", "2cg9", "3cf3", "3ipm"), "-n 400 --snr 0.03", other=True),
    SimulatedSet("other complexes, crowded", ("1qvr", "3cf3"), "-n 300 --snr 0.02 --crowd 8 --gap 20", other=True),
    SimulatedSet(
        "other complexes, unequal: 85, 15 %", ("2cg9", "1qvr"), "-n 400 --snr 0.03 --weights 85 15", other=True
    ),
    SimulatedSet(
        "other complex, homogeneous, crowded, SNR 0.01",
        ("3cf3",),
        "-n 300 --snr 0.01 --crowd 8 --gap 20",
        HOMOGENEOUS,
        other=True,
    ),
    SimulatedSet("other complex, a domain turns", TURNED, "-n 400 --snr 0.05", MOTION, other=True),
)


def map_of(name: str, maps: Path) -> torch.Tensor:
    """Return the map ``NAME``, ``NAME*FACTOR`` or ``NAME@ANGLE``, of which one half is turned about its center."""
    stem, _, factor = name.partition("*")
    stem, _, angle = stem.partition("@")
    values = read_volume(maps / f"{stem}.mrc")[0].astype(np.float32)
    if angle:
        size = len(values)
        axis = np.arange(size) - size // 2
        upper = np.clip(axis / 3 + 0.5, 0, 1)[:, None, None]  # a soft cut across z
        turned = rotate(upper * values, float(angle), axes=(1, 2), reshape=False, order=1)
        values = ((1 - upper) * values + turned).astype(np.float32)
    return float(factor or 1) * irfft3(crop_spectrum(rfft3(torch.from_numpy(values)), BOX))


def simulated(one: SimulatedSet, simulator: Path, maps: Path, folder: Path, seed: int) -> Path:
    """Simulate a set unless it exists, and return its folder."""
    target = folder / re.sub(r"\W+", "_", one.name)
    if (target / "truth.npz").exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    stack = target.with_suffix(".npy")
    np.save(stack, torch.stack([map_of(name, maps) for name in one.maps]).numpy())
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

    def made(labels: np.ndarray, number: int) -> Classification:
        outside = (labels == number)[:, None]  # particles that could not be read
        return Classification(labels, number, latents, ClusteredValues(np.where(outside, np.nan, latents)))

    if kind in ("truth", "permuted", "over-split", "copies"):
        number = int(truth.max()) + 1
        latents = np.eye(number)[truth] + 0.12 * np.sqrt(2) * rng.normal(size=(count, number))
        labels = cluster_latents(latents, number).labels
        if kind == "truth":
            return made(labels, number), set(range(number))
        if kind == "copies":
            return made(labels, number), set()
        if kind == "permuted":
            return made(rng.permutation(labels), number), set()
        largest = int(np.bincount(labels).argmax())
        divided = (labels == largest) & (rng.random(count) < 0.5)
        return made(np.where(divided, number, labels), number + 1), set(range(number)) - {largest}
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
    return made(labels, number), set()


@dataclass(frozen=True)
class Trial:
    """Result of a trial: whether the verdict is right, the verdict in short, and its reasons if it is wrong."""

    set: str
    other: bool
    seed: int
    kind: str
    right: bool
    verdict: str
    reasons: tuple[str, ...]


def class_trial(kind: str, truth: np.ndarray, material: Material, seed: int) -> tuple[bool, str, list[str]]:
    """Return whether the verdicts of a trial are right, the verdict, and the verdicts with reasons."""
    rng = np.random.default_rng(seed)
    part = subset(material, rng)
    classes, right = classification(kind, truth, part, rng)
    verdict = judge_classes(part, classes, seed)
    supported = {one.number for one in verdict.classes if one.verdict == "supported"}
    if kind == "truth":
        return verdict.verdict == "supported", verdict.verdict, verdict.lines()
    return verdict.verdict != "supported" and supported <= right, verdict.verdict, verdict.lines()


def motion_trial(kind: str, truth: np.ndarray, material: Material, seed: int) -> tuple[bool, str, list[str]]:
    """Return what `class_trial` returns for the verdict on a motion."""
    rng = np.random.default_rng(seed)
    part = subset(material, rng)
    if kind == "noise axis":
        coordinate = np.linalg.eigh(part.features.gram)[1][:, -1]
    else:
        coordinate = (truth[part.index] if kind == "motion" else 0) + rng.normal(size=len(part.index))
    covariates = imaging_covariates(part.particles, part.index, part.held_out)
    given = LatentCoordinate("a coordinate", coordinate)
    verdict = judge_motion(part.features, given, np.zeros(len(coordinate)), covariates, seed)
    right = (verdict.verdict == "supported") == (kind == "motion")
    continuous = ", continuous" if verdict.verdict == "supported" and verdict.p_continuous <= 0.01 else ""
    return right, verdict.verdict + continuous, verdict.lines()


def trials(one: SimulatedSet, simulator: Path, maps: Path, folder: Path, seed: int, keep: bool) -> list[Trial]:
    """Simulate a set and return one trial of each of its kinds."""
    torch.set_num_threads(1)
    target = simulated(one, simulator, maps, folder, 1000 * seed + 100 + SETS.index(one))
    truth = np.load(target / "truth.npz")["labels"].astype(np.int64)
    particles = load_particles(DataConfig(star=target / "particles.star"))
    mask = load_mask(target / "mask.mrc", particles.box, particles.apix)
    everything = np.arange(len(particles))
    material = read_material(particles, everything, mask, everything[:0], ReadOptions(ctf_normalized=True, workers=1))
    assert material is not None
    found = []
    for kind in one.kinds:
        trial = motion_trial if kind in (*MOTION, *STILL) else class_trial
        right, verdict, lines = trial(kind, truth, material, seed)
        found.append(Trial(one.name, one.other, seed, kind, right, verdict, () if right else tuple(lines)))
    if not keep:
        shutil.rmtree(target)
    return found


def largest_error_rate(wrong: int, count: int) -> float:
    """Return the upper end of the one-sided 95 % interval of the rate of wrong verdicts (Clopper and Pearson 1934)."""
    return float(beta.ppf(0.95, wrong + 1, count - wrong)) if wrong < count else 1.0


def table(found: Iterable[dict[str, Any]]) -> list[str]:
    """Return the lines of a Markdown table of trials, and the rates of right verdicts."""
    found = list(found)
    rows: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for one in found:
        rows.setdefault((one["set"], one["kind"]), []).append(one)
    order = [(one.name, kind) for one in SETS for kind in one.kinds]
    lines = ["| set | trial | right | verdicts |", "|---|---|---|---|"]
    for key in sorted(rows, key=order.index):
        told: dict[str, int] = {}
        for one in rows[key]:
            told[one["verdict"]] = told.get(one["verdict"], 0) + 1
        texts = ", ".join(f"{count} {text}" for text, count in sorted(told.items(), key=lambda item: -item[1]))
        right = sum(one["right"] for one in rows[key])
        lines.append(f"| {key[0]} | {key[1]} | {right} of {len(rows[key])} | {texts} |")
    groups = {
        "true classes": ("truth",),
        "wrong classes": ("permuted", "over-split", "copies", *HOMOGENEOUS),
        "motions": ("motion",),
        "coordinates without motion": STILL,
        "all": tuple({one["kind"] for one in found}),
    }
    for name, kinds in groups.items():
        results = [one["right"] for one in found if one["kind"] in kinds]
        if results:
            wrong = len(results) - sum(results)
            lines.append(
                f"{name}: {sum(results)} of {len(results)} trials are right ({1 - wrong / len(results):.1%}; "
                f"with 95 % confidence more than {1 - largest_error_rate(wrong, len(results)):.1%})"
            )
    return lines


def main() -> None:
    """Run the trials in a pool of processes, print the table, and the reasons of wrong verdicts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulator", type=Path)
    parser.add_argument("--maps", type=Path)
    parser.add_argument("--other-maps", type=Path, help="folder of maps of other complexes")
    parser.add_argument("--out", type=Path, default=Path("verdict_sets"))
    parser.add_argument("--keep", action="store_true", help="keep the simulated sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="seeds of the simulated sets and trials")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--minutes", type=float, default=600, help="start no set after this time")
    parser.add_argument("--only", nargs="+", help="names of sets")
    parser.add_argument("--json", type=Path, help="write all trials to this file")
    parser.add_argument("--table", type=Path, nargs="+", help="print the table of these files and run nothing")
    args = parser.parse_args()
    if args.table:
        print("\n".join(table(one for path in args.table for one in json.loads(path.read_text())["trials"])))
        return
    if args.simulator is None or args.maps is None:
        parser.error("--simulator and --maps are needed")
    unknown = set(args.only or []) - {one.name for one in SETS}
    if unknown:
        parser.error(f"there is no set {', '.join(sorted(unknown))}")
    # One set of each kind per seed, so that a run that is ended early is balanced.
    wanted = [
        (one, seed)
        for seed in args.seeds
        for one in SETS
        if (not args.only or one.name in args.only) and not (one.other and args.other_maps is None)
    ]
    start, found = time.monotonic(), []
    with ProcessPoolExecutor(args.jobs, mp_context=get_context("spawn")) as pool:
        waiting = list(reversed(wanted))
        running = set()
        while waiting or running:
            while waiting and len(running) < args.jobs and time.monotonic() - start < 60 * args.minutes:
                one, seed = waiting.pop()
                maps = args.other_maps if one.other else args.maps
                folder = args.out / f"seed_{seed}"
                running.add(pool.submit(trials, one, args.simulator, maps, folder, seed, args.keep))
            if not running:
                break
            done = next(as_completed(running))
            running.remove(done)
            found += done.result()
            for trial in done.result():
                if not trial.right:
                    print(f"wrong: {trial.set}, {trial.kind}, seed {trial.seed}", *trial.reasons, sep="\n    ")
            if args.json:
                content = {"seconds": round(time.monotonic() - start), "trials": [asdict(trial) for trial in found]}
                args.json.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    print("\n".join(table([asdict(trial) for trial in found])))


if __name__ == "__main__":
    main()
