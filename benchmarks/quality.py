"""What is found in simulated sets with truth: classes, motion, false picks, poses.

    python benchmarks/quality.py --tools TOOLS --maps MAPS --decoys DECOYS [--sets composition …] [--seeds 0 1 2]

Makes the sets with an independent simulator (``TOOLS/simulate_subtomograms.py``), trains with ``dsd train_tomo`` in
this process, scores with ``TOOLS/score_result.py``; "best" is what the known densities give at the true poses. Prints
a JSON object per run and a table at the end. ``--reduced`` is small enough for a CPU; ``--jobs 6`` runs six at a time
on one GPU. Options after ``--`` go to every training.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed

VISITS = 34_000
DECODED = 24


@dataclass(frozen=True)
class QualitySet:
    """A kind of set: which densities in which proportions, noise and pose errors."""

    maps: tuple[str, ...]
    simulate: str
    weights: tuple[float, ...] = ()
    count: int = 1500
    continuous: bool = False
    same_pose: bool = False
    target: int | None = None
    """The density wanted from template matching."""


COMPOSITIONS = tuple(
    f"comp_{name}" for name in "0_50S 1_50S_noCP_noL1 2_30S 3_70S_vacant 4_70S_P_mRNA 5_70S_APE_mRNA".split()
)
DECOYS = ("1qvr", "2cg9", "3cf3", "3ipm")
SETS = {
    "composition": QualitySet(COMPOSITIONS, "--snr 0.05 --rot-err 3.1 --shift-err 0.7"),
    "conformation": QualitySet(tuple(f"ratchet_{i:02d}" for i in range(11)), "--snr 0.05", continuous=True),
    "matching": QualitySet(
        ("comp_5_70S_APE_mRNA", *DECOYS, "mirror:1qvr", "mirror:3cf3", "empty"),
        "--snr 0.03 --rot-err 6 --shift-err 1.0",
        (0.4, *[0.08] * 6, 0.12),
        target=0,
    ),
    "prealigned": QualitySet(COMPOSITIONS[4:], "--snr 0.34 --shift 0", count=540, same_pose=True),
}
SAME_POSE = "import simulate_subtomograms as s, numpy as np; s.uniform_eulers = lambda n, _: np.zeros((n, 3)); s.main()"


def volumes(names: tuple[str, ...], maps: Path, decoys: Path, reduce: bool) -> np.ndarray:
    """Densities of a set, (K, D, D, D)."""
    import mrcfile

    found = []
    for name in names:
        plain = name.removeprefix("mirror:")
        if name == "empty":
            found.append(np.zeros_like(found[0]))
            continue
        path = next(p for p in (maps / f"{plain}.mrc", decoys / f"{plain}.mrc") if p.exists())
        volume = np.array(mrcfile.read(path), dtype=np.float32)
        if reduce:
            volume = volume.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
        volume /= np.abs(volume[volume != 0]).std()
        found.append(volume[:, :, ::-1].copy() if name.startswith("mirror:") else volume)
    return np.stack(found)


def tool(folder: Path, script: str, *words: object, code: str = "") -> str:
    """Run one of the referee's tools, or code that uses it."""
    start = ["-c", code] if code else [str(folder / script)]
    command = [sys.executable, *start, *map(str, words)]
    environment = {**os.environ, "PYTHONPATH": f"{folder.resolve()}:{os.environ.get('PYTHONPATH', '')}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)}\n{done.stderr[-2000:]}")
    return done.stdout


def dsd(*words: object) -> None:
    """A ``dsd`` command in this process; what it prints goes to stderr."""
    from opustomo.main import main as command

    with contextlib.redirect_stdout(sys.stderr):
        if code := command([str(word) for word in words]):
            raise RuntimeError(f"dsd {words[0]} failed with {code}")


def make(kind: QualitySet, name: str, seed: int, args: argparse.Namespace) -> Path:
    """The simulated set, made unless it is there."""
    folder = Path(args.folder) / f"{name}-{seed}{'-reduced' if args.reduced else ''}"
    if not (folder / "truth.npz").exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "volumes.npy", volumes(kind.maps, args.maps, args.decoys, args.reduced))
        words = shlex.split(kind.simulate) + shlex.split(args.simulate or "")
        if kind.weights:
            words += ["--weights", *map(str, kind.weights)]
        count, apix = (kind.count // 6, 12.0) if args.reduced else (kind.count, 6.0)
        tool(args.tools, "simulate_subtomograms.py", folder / "volumes.npy", "-o", folder, "-n", count, "--apix", apix,
             "--seed", seed, *words, code=SAME_POSE if kind.same_pose else "")  # fmt: skip
    return folder


def train(kind: QualitySet, data: Path, out: Path, seed: int, args: argparse.Namespace) -> tuple[int, float]:
    """Train; last epoch and seconds."""
    count = len(np.load(data / "truth.npz")["labels"])
    training = count - int(count * args.valfrac)
    epochs = max(1, args.visits // training)
    started = time.perf_counter()
    words: list[object] = [
        "train_tomo", data / "particles.star", "-r", data / "mask.mrc", "--estpose", "-o", out,
        "--overwrite", "-n", epochs, "--seed", seed, "--checkpoint", epochs, "--valfrac", args.valfrac,
        "--log-interval", 5000,
    ]  # fmt: skip
    if "--raw" not in (args.simulate or ""):
        words.append("--normalizectf")
    defaults = "--zdim 8 --templateres 48 --encoderres 8 -b 8 --lr 2e-4" if args.reduced else (
        "--zdim 12 --templateres 128 -b 8 --lr 4.5e-5"
    )  # fmt: skip
    dsd(*words, *shlex.split(defaults), *args.options)
    return epochs - 1, time.perf_counter() - started


def score(kind: QualitySet, data: Path, out: Path, epoch: int, args: argparse.Namespace) -> dict[str, Any]:
    """The referee's scores, and how well target particles can be chosen by clusters."""
    import torch
    from sklearn.cluster import KMeans
    from sklearn.metrics import f1_score

    truth = np.load(data / "truth.npz")
    mu = np.asarray(torch.load(out / f"z.{epoch}.pkl", weights_only=False)["mu"])
    labels = truth["labels"]
    real = np.flatnonzero([name != "empty" for name in kind.maps])
    rng = np.random.default_rng(0)
    chosen = rng.permutation(np.flatnonzero(np.isin(labels, real)))[:DECODED]
    np.savetxt(out / "idx.txt", chosen, fmt="%d")
    np.savetxt(out / "zchosen.txt", mu[chosen])
    dsd("eval_vol", "--load", out / f"weights.{epoch}.pkl", "-c", out / "config.pkl", "--zfile", out / "zchosen.txt",
        "-o", out / "decoded", "--full-box")  # fmt: skip
    words = [
        data,
        "--z",
        out / f"z.{epoch}.pkl",
        "--pose",
        out / f"pose.{epoch}.pkl",
        "--volumes",
        data / "volumes.npy",
    ]
    words += ["--decoded", out / "decoded", "--idx", out / "idx.txt"] + (["--continuous"] if kind.continuous else [])
    found: dict[str, Any] = json.loads(tool(args.tools, "score_result.py", *words))
    if kind.target is not None:
        clusters = KMeans(12, n_init=10, random_state=0).fit_predict(mu)
        is_target = labels == kind.target
        pure = [c for c in range(12) if is_target[clusters == c].mean() > 0.5]
        found["target_f1"] = float(f1_score(is_target, np.isin(clusters, pure)))
    return found


def run(name: str, seed: int, args: argparse.Namespace) -> dict[str, Any] | None:
    """One set: make, train, score, print; None if it is only made."""
    from ceiling import ceilings

    data = make(SETS[name], name, seed, args)
    if args.only_make:
        return None
    out = Path(args.folder) / f"run-{name}-{seed}-{args.label}"
    epoch, seconds = train(SETS[name], data, out, seed, args)
    found = score(SETS[name], data, out, epoch, args)
    best = ceilings(data, "--raw" not in (args.simulate or ""))
    row = {"set": name, "seed": seed, "label": args.label, "seconds": round(seconds, 1), **found, "best": best}
    print(json.dumps(row), flush=True)
    return row


def run_apart(name: str, seed: int) -> dict[str, Any] | None:
    """The same by this very command line, in a process of its own."""
    words = sys.orig_argv[1:]
    at = words.index("--") if "--" in words else len(words)
    words[at:at] = ["--sets", name, "--seeds", str(seed), "--jobs", "1"]
    done = subprocess.run([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    rows = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode:
        print(f"{name}, seed {seed}: failed with {done.returncode}", file=sys.stderr)
    if not rows:
        return None
    print(rows[0], flush=True)
    return json.loads(rows[0])  # type: ignore[no-any-return]


def main() -> None:
    """All sets and seeds, and a table."""
    own, options = sys.argv[1:], []
    if "--" in own:
        own, options = own[: own.index("--")], own[own.index("--") + 1 :]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=ROOT.parent / "shared/tools")
    parser.add_argument("--maps", type=Path, default=ROOT.parent / "shared/data/maps")
    parser.add_argument("--decoys", type=Path, default=ROOT.parent / "shared/data/decoys")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=list(SETS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--visits", type=int, default=VISITS)
    parser.add_argument("--valfrac", type=float, default=0.2)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/opustomo-quality"), help="where sets and runs go")
    parser.add_argument("--simulate", help="more options for the simulator, for instance --raw")
    parser.add_argument("--reduced", action="store_true", help="32³ boxes, few particles: runs on a CPU")
    parser.add_argument("--only-make", action="store_true", help="make the sets and end")
    parser.add_argument("--jobs", type=int, default=1, help="how many runs at a time")
    parser.add_argument("--label", default="", help="goes into the output")
    args = parser.parse_args(own)
    args.options = options
    pairs = [(name, seed) for seed in args.seeds for name in args.sets]
    if args.jobs > 1:
        with ThreadPoolExecutor(args.jobs) as pool:
            found = list(pool.map(lambda pair: run_apart(*pair), pairs))
    else:
        found = [run(name, seed, args) for name, seed in pairs]
    rows = [row for row in found if row is not None]
    print(
        f"{'set':14}{'seed':>5}{'ARI':>7}{'best':>7}{'kNN':>7}{'FSC':>7}{'R²':>7}{'F1':>7}{'rot °':>14}{'shift px':>14}"
    )
    for row in rows:
        before, after = row["pose_before"], row["pose_after"]
        print(
            f"{row['set']:14}{row['seed']:5}{row['ari']:7.3f}{row['best']['ari_true_poses']:7.3f}{row['knn_acc']:7.3f}{row['fsc_area_mean']:7.3f}"
            f"{row.get('probe_r2', float('nan')):7.3f}{row.get('target_f1', float('nan')):7.3f}"
            f"{before['rot_med']:7.2f}→{after['rot_med']:5.2f} {before['shift_med']:7.2f}→{after['shift_med']:5.2f}"
        )


if __name__ == "__main__":
    main()
