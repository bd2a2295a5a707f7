"""The panel: what training finds in simulated sets with known truth, from high to low signal, and in real particles.

    python benchmarks/panel.py --tools TOOLS --data DATA [--sets states domain …] [--seeds 0 1] [--jobs 9]
    python benchmarks/panel.py --reduced                                             # small sets for a CPU
    python benchmarks/panel.py --variant "default:" --variant "no prior:--lamb 0"    # one mechanism off at a time
    python benchmarks/panel.py --variant "before@/path/of/an/older/tree:"            # two versions in one run

TOOLS holds an independent simulator and a scorer (``simulate_subtomograms.py``, ``score_result.py``), DATA the
densities (``maps``, ``decoys``) and two fixed sets (``sim_3state``, ``ribosomes_10499``). Every set is simulated once;
every variant is trained on every set by ``dsd train_tomo`` in a process of its own. Prints one JSON object per run, and
a Markdown table at the end. Bounds (``--bounds``) are of ``benchmarks/ceiling.py``.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from focus import write_part
from panel_sets import FULL_APIX, REDUCED_APIX, SETS, density, two_bodies, volumes_of

ROOT = Path(__file__).resolve().parent.parent
DECODED = 12
SHELLS_A = (60.0, 40.0, 30.0, 26.7, 24.0)


@dataclass(frozen=True)
class Variant:
    """A way to train: options added to the command, and the source tree that runs it."""

    name: str
    options: tuple[str, ...] = ()
    tree: Path = field(default=ROOT)


def write_bodies(kind: str, folder: Path, data: Path, reduced: bool) -> None:
    """Write the masks of both bodies, their RELION table and the geometry file that training reads."""
    import mrcfile
    from scipy import ndimage

    apix = REDUCED_APIX if reduced else FULL_APIX
    bodies = [ndimage.gaussian_filter(body, 1.3) for body in two_bodies(kind, data, reduced)]
    owner = np.stack(bodies).argmax(0)
    rows = []
    for number, body in enumerate(bodies):
        inside = (body > 0.1 * body.max()) & (owner == number)
        mask = np.clip(ndimage.gaussian_filter(inside.astype(np.float32), 0.7), 0, 1)
        with mrcfile.new(folder / f"body{number}.mrc", overwrite=True) as file:
            file.set_data(np.where(mask > 0.05, mask, 0).astype(np.float32))
            file.voxel_size = apix
        rows.append(f"body{number}.mrc {2 - number}\n")
    table = folder / "bodies.star"
    table.write_text("\ndata_\n\nloop_\n_rlnBodyMaskName #1\n_rlnBodyRotateRelativeTo #2\n" + "".join(rows))
    box = len(bodies[0])
    command(ROOT, "analysis_scripts.main", "prepare_multi", folder / "particles.star", box, apix, table, 2,
            "--outmasks", folder / "bodies")  # fmt: skip


# Processes


def command(tree: Path, module: str, *words: object) -> str:
    """Run a command of a source tree and return what it prints."""
    start = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    return _run([sys.executable, "-P", "-c", start, *map(str, words)], environment)  # -P: not this folder


def referee(folder: Path, script: str, *words: object) -> str:
    """Run one of the referee's tools and return what it prints."""
    return _run([sys.executable, str(folder / script), *map(str, words)], dict(os.environ))


def _run(words: list[str], environment: dict[str, str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(words)}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


# One set, one run


def make(name: str, seed: int, args: argparse.Namespace) -> Path:
    """Simulate a set unless it is there, and return its folder."""
    kind = SETS[name]
    if kind.fixed:
        return Path(args.data / kind.fixed)
    folder = Path(args.folder / f"{name}-{seed}{'-reduced' if args.reduced else ''}")
    if not (folder / "done").exists():
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "volumes.npy", volumes_of(kind, args.data, args.reduced))
        words = shlex.split(kind.simulate)
        if args.reduced:  # SNR is per pixel: half the pixels a side hold a quarter of the pixels
            at = words.index("--snr") + 1
            words[at] = str(float(words[at]) * args.reduced_snr)
        if kind.weights:
            words += ["--weights", *map(str, kind.weights)]
        count, apix = (kind.count // 5, REDUCED_APIX) if args.reduced else (kind.count, FULL_APIX)
        referee(args.tools, "simulate_subtomograms.py", folder / "volumes.npy", "-o", folder, "-n", count,
                "--apix", apix, "--seed", 1000 + seed, *words)  # fmt: skip
        if kind.bodies:
            write_bodies(kind.bodies, folder, args.data, args.reduced)
        if kind.part:
            first, second = (density(part, args.data, args.reduced) for part in kind.part)
            write_part(first, second, folder, apix)
        (folder / "done").touch()
    return folder


def train(name: str, data: Path, out: Path, seed: int, variant: Variant, args: argparse.Namespace) -> tuple[int, float]:
    """Train a variant; return its last epoch and the seconds that it took."""
    kind = SETS[name]
    words: list[object] = [
        "train_tomo", data / "particles.star", "-r", data / "mask.mrc", "--estpose", "-o", out, "--overwrite",
        "--seed", seed, "--checkpoint", 1000, "--keep", 1, "--log-interval", 5000, "--normalizectf",
    ]  # fmt: skip
    sizes = "--zdim 8 --templateres 48 --encoderres 8 --lr 2e-4" if args.reduced else (
        "--zdim 12 --templateres 128 --lr 4.5e-5"
    )  # fmt: skip
    words += ["-b", 8, *shlex.split(sizes)]
    if not kind.fixed:
        count = len(np.load(data / "truth.npz")["labels"])
        words += ["-n", max(1, round(args.visits / (count - int(count * 0.2))))]
    if kind.bodies:
        words += ["--masks", data / "bodies.pkl"]
    if kind.focus:
        words += ["--focus", data / "focus.mrc"]
    started = time.perf_counter()
    command(variant.tree, "opustomo.main", *words, *shlex.split(kind.train), *variant.options)
    epoch = max(int(path.name.split(".")[1]) for path in out.glob("z.*.pkl"))
    return epoch, time.perf_counter() - started


def score(name: str, data: Path, out: Path, epoch: int, variant: Variant, args: argparse.Namespace) -> dict[str, Any]:
    """Return the referee's scores of a run."""
    import torch

    kind = SETS[name]
    stored = torch.load(out / f"z.{epoch}.pkl", weights_only=False)
    mu = np.asarray(stored["mu"])
    if not (data / "truth.npz").exists():
        return half_maps(data, out, epoch, variant) | score_correlations(data, mu)
    labels = np.load(data / "truth.npz")["labels"]
    truths = np.load(data / "volumes.npy", mmap_mode="r")
    real = np.flatnonzero([bool(np.any(volume)) for volume in truths])
    chosen = np.random.default_rng(0).permutation(np.flatnonzero(np.isin(labels, real)))[:DECODED]
    np.savetxt(out / "chosen.txt", chosen, fmt="%d")
    decode = ["--load", out / f"weights.{epoch}.pkl", "-c", out / "config.pkl", "-o", out / "decoded", "--full-box"]
    if kind.bodies:
        latents = np.concatenate([mu, np.asarray(stored["multi_mu"])], 1)[chosen]
        decode += ["--deform", "--masks", data / "bodies.pkl"]
    else:
        latents = mu[chosen]
    np.savetxt(out / "latents.txt", latents)
    words: list[object] = [data, "--z", out / f"z.{epoch}.pkl", "--pose", out / f"pose.{epoch}.pkl"]
    if not kind.bodies:
        command(variant.tree, "opustomo.main", "eval_vol", "--zfile", out / "latents.txt", *decode)
        words += ["--volumes", data / "volumes.npy", "--decoded", out / "decoded", "--idx", out / "chosen.txt"]
    words += ["--continuous"] if kind.continuous else []
    if len(np.unique(labels)) == 1:
        words = [data, "--pose", out / f"pose.{epoch}.pkl"]
    found: dict[str, Any] = json.loads(referee(args.tools, "score_result.py", *words))
    if kind.part:
        focus = _run([sys.executable, str(ROOT / "benchmarks/focus.py"), str(data), str(out), str(epoch)],
                     {**os.environ, "PYTHONPATH": str(variant.tree)})  # fmt: skip
        found["focus"] = json.loads(focus.splitlines()[-1])
    if kind.bodies and kind.continuous:
        found["r2_conformation"] = probe(np.asarray(stored["multi_mu"]), labels)
        found["r2_composition"] = probe(mu, labels)
    return found


def probe(latents: np.ndarray, wanted: np.ndarray) -> float:
    """Return the cross-validated R² of a linear probe from latents (N, L) to numbers (N,)."""
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), RidgeCV(np.logspace(-3, 3, 13)))
    predicted = cross_val_predict(model, latents, wanted.astype(float), cv=5)
    return float(1 - np.square(predicted - wanted).sum() / np.square(wanted - wanted.mean()).sum())


def half_maps(data: Path, out: Path, epoch: int, variant: Variant) -> dict[str, Any]:
    """Return the FSC of half maps at the given and at the refined poses, at 30, 26.7 and 24 Å."""
    found = {}
    for name, poses in (("given", []), ("refined", ["--poses", out / f"pose.{epoch}.pkl"])):
        folder = out / name
        command(variant.tree, "opustomo.main", "reconstruct", data / "particles.star", "-o", folder / "map.mrc",
                "--halves", "--normalizectf", "-r", data / "mask.mrc", *poses)  # fmt: skip
        (curve,) = folder.glob("*fsc.csv")
        rows = np.genfromtxt(curve, delimiter=",", names=True)
        frequency, true = rows["frequency_per_A"], rows["fsc_true"]
        at = [np.abs(frequency - 1 / wanted).argmin() for wanted in SHELLS_A]
        found[name] = {f"{wanted} Å": round(float(true[i]), 3) for wanted, i in zip(SHELLS_A, at, strict=True)}
    return {"half_maps": found}


def score_correlations(data: Path, mu: np.ndarray) -> dict[str, Any]:
    """Return the largest Spearman correlation of a component of the composition with the template-matching score."""
    import starfile
    from scipy.stats import spearmanr

    table = starfile.read(data / "particles.star")
    column = next((name for name in table.columns if "Score" in name or "FigureOfMerit" in name), None)
    if column is None:
        return {}
    components = np.linalg.svd(mu - mu.mean(0), full_matrices=False)[0][:, :4]
    return {"score_spearman": max(abs(float(spearmanr(part, table[column])[0])) for part in components.T)}


def run(job: tuple[str, int, Variant], args: argparse.Namespace) -> dict[str, Any]:
    """Train and score one variant on one set, and print the result."""
    name, seed, variant = job
    row: dict[str, Any] = {"set": name, "seed": seed, "variant": variant.name}
    if time.time() > args.deadline:
        return row | {"failed": "not begun: the time was up"}
    data = args.folder / f"{name}-{seed}{'-reduced' if args.reduced else ''}"
    data = args.data / SETS[name].fixed if SETS[name].fixed else data
    out = args.folder / "runs" / f"{name}-{seed}-{variant.name.replace(' ', '_')}"
    try:
        epoch, seconds = train(name, data, out, seed, variant, args)
        row |= {"seconds": round(seconds, 1), "epoch": epoch, **score(name, data, out, epoch, variant, args)}
    except (RuntimeError, ValueError) as error:
        row["failed"] = str(error)[-1500:]
    print(json.dumps(row), flush=True)
    return row


def table(rows: list[dict[str, Any]]) -> str:
    """Return the results as a Markdown table."""
    lines = ["| set | variant | seed | ARI | kNN | R² | conformation, composition R² | FSC area | turn ° | shift px |"]
    lines += ["|---" * 10 + "|"]

    def number(row: dict[str, Any], key: str) -> str:
        return f"{row[key]:.3f}" if key in row else ""

    for row in sorted(rows, key=lambda row: (list(SETS).index(row["set"]), row["variant"], row["seed"])):
        start = f"| {row['set']} | {row['variant']} | {row['seed']} |"
        if "failed" in row:
            lines.append(f"{start} failed: {row['failed'].splitlines()[-1][:120]} |")
            continue
        before, after = row.get("pose_before"), row.get("pose_after")
        poses = " | |"
        if before and after:
            poses = (
                f" {before['rot_med']:.2f} to {after['rot_med']:.2f} |"
                f" {before['shift_med']:.2f} to {after['shift_med']:.2f} |"
            )
        bodies = f"{number(row, 'r2_conformation')}, {number(row, 'r2_composition')}".strip(", ")
        if "half_maps" in row:
            bodies = f"half maps {json.dumps(row['half_maps'], ensure_ascii=False)}"
        middle = [number(row, "ari"), number(row, "knn_acc"), number(row, "probe_r2"), bodies]
        lines.append(f"{start} {' | '.join([*middle, number(row, 'fsc_area_mean')])} |{poses}")
    return "\n".join(lines)


def variant_of(text: str) -> Variant:
    """Read ``NAME[@TREE]:OPTIONS``."""
    head, _, options = text.partition(":")
    name, _, tree = head.partition("@")
    return Variant(name, tuple(shlex.split(options)), Path(tree).resolve() if tree else ROOT)


def main() -> None:
    """Simulate, train, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--tools", type=Path, default=ROOT.parent / "shared/tools")
    add("--data", type=Path, default=ROOT.parent / "shared/data")
    add("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    add("--seeds", type=int, nargs="+", default=[0])
    add("--variant", action="append", help="NAME[@TREE]:OPTIONS of dsd train_tomo; may be given again")
    add("--visits", type=int, default=34_000)
    add("--folder", type=Path, default=Path("/tmp/opustomo-panel"), help="where sets and runs go")
    add("--reduced", action="store_true", help="32³ boxes and a fifth of the particles, for a CPU")
    add("--reduced-snr", type=float, default=6.0, help="factor of the SNR of reduced sets")
    add("--only-make", action="store_true", help="only simulate the sets")
    add(
        "--bounds",
        action="store_true",
        help="only print the bounds of poses and the ceilings of classes; also at the poses of runs that exist",
    )
    add("--jobs", type=int, default=1, help="how many runs at a time")
    add("--minutes", type=float, default=1e6, help="begin no run after this time")
    args = parser.parse_args()
    args.deadline = time.time() + 60 * args.minutes
    variants = [variant_of(text) for text in args.variant or ["default:"]]
    sets = [(name, seed) for seed in args.seeds for name in args.sets]
    with ThreadPoolExecutor(args.jobs) as pool:
        made = list(pool.map(lambda one: make(*one, args), sets))
        print(f"sets are there after {time.time() - args.deadline + 60 * args.minutes:.0f} s", file=sys.stderr)
        if args.only_make:
            return
        if args.bounds:
            sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
            from ceiling import ceilings, pose_bound

            for (name, seed), data in zip(sets, made, strict=True):
                if (data / "truth.npz").exists():
                    folder = args.folder / "runs" / f"{name}-{seed}-{variants[0].name}"
                    refined = max(folder.glob("pose.*.pkl"), key=lambda path: path.stat().st_mtime, default=None)
                    found = ceilings(data, normalized=True, refined=refined) | pose_bound(data)
                    print(json.dumps({"set": name, "seed": seed, **found}), flush=True)
            return
        jobs = [(name, seed, variant) for variant in variants for name, seed in sets]
        rows = list(pool.map(lambda job: run(job, args), jobs))
    print(table(rows))


if __name__ == "__main__":
    main()
