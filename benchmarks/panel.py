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
import re
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

ROOT = Path(__file__).resolve().parent.parent
DECODED = 12
SHELLS_A = (60.0, 40.0, 30.0, 26.7, 24.0)
FULL_APIX, REDUCED_APIX = 6.0, 12.0


@dataclass(frozen=True)
class PanelSet:
    """A set of the panel: its densities, words for the simulator and for training, and how it is scored."""

    volumes: tuple[str, ...]
    simulate: str = ""
    train: str = ""
    weights: tuple[float, ...] = ()
    count: int = 1500
    continuous: bool = False
    bodies: str = ""
    part: tuple[str, ...] = ()
    """Two densities whose difference is the part that classes are also judged by."""
    focus: bool = False
    """Whether training has ``--focus`` on this part."""
    fixed: str = ""
    """Folder of a set that exists already."""


@dataclass(frozen=True)
class Variant:
    """A way to train: options added to the command, and the source tree that runs it."""

    name: str
    options: tuple[str, ...] = ()
    tree: Path = field(default=ROOT)


STATES = tuple(
    f"comp_{name}" for name in "0_50S 1_50S_noCP_noL1 2_30S 3_70S_vacant 4_70S_P_mRNA 5_70S_APE_mRNA".split()
)
TRNA = STATES[4:]
RATCHET = tuple(f"ratchet_{step:02d}" for step in range(11))
A_AND_E = f"+{STATES[5]}-{STATES[4]}"
"""Two tRNAs, as a difference of densities of the same frame."""
TRNA_PROTUBERANCE = tuple(f"{state}{part}" for state in TRNA for part in ("", f"-{STATES[0]}+{STATES[1]}"))
TRNA_RATCHET = tuple(f"{step}{part}" for step in RATCHET for part in ("", A_AND_E))
MATCHING = ("comp_5_70S_APE_mRNA", "1qvr", "2cg9", "3cf3", "3ipm", "mirror:1qvr", "mirror:3cf3", "empty")
MATCHING_1QVR = ("1qvr", "comp_2_30S", "2cg9", "3cf3", "3ipm", "mirror:3ipm", "mirror:3cf3", "empty")
MATCHING_50S = ("comp_0_50S", "comp_2_30S", "1qvr", "3cf3", "3ipm", "mirror:comp_0_50S", "mirror:1qvr", "empty")
PICKS = (0.4, *[0.08] * 6, 0.12)
OFF = "--rot-err 3.1 --shift-err 0.7"
CELL = "--crowd 12 --gap 34 --misalign 0.4 --ctf-err 300"
SETS = {
    "states": PanelSet(STATES, f"--snr 0.05 {OFF}"),
    "states-0.01": PanelSet(STATES, f"--snr 0.01 --misalign 0.4 {OFF}"),
    "states-0.004": PanelSet(STATES, f"--snr 0.004 --misalign 0.4 {OFF}"),
    "domain": PanelSet(RATCHET, "--snr 0.05", continuous=True),
    "domain-0.01": PanelSet(RATCHET, f"--snr 0.01 --misalign 0.4 {OFF}", continuous=True),
    "matching": PanelSet(MATCHING, "--snr 0.03 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "matching-crowded": PanelSet(MATCHING, f"--snr 0.03 --rot-err 6 --shift-err 1.0 {CELL}", weights=PICKS),
    "poor-poses": PanelSet(STATES, "--snr 0.05 --rot-err 12 --shift-err 2.9"),
    "unequal": PanelSet(STATES, f"--snr 0.05 {OFF}", weights=(60, 30, 6, 2, 1, 1)),
    "trna": PanelSet(TRNA, f"--snr 0.05 {OFF}", part=TRNA),
    "trna-focus": PanelSet(TRNA, f"--snr 0.05 {OFF}", part=TRNA, focus=True),
    "trna-0.01": PanelSet(TRNA, f"--snr 0.01 {OFF}", part=TRNA),
    "trna-0.01-focus": PanelSet(TRNA, f"--snr 0.01 {OFF}", part=TRNA, focus=True),
    "trna-protuberance": PanelSet(TRNA_PROTUBERANCE, f"--snr 0.05 {OFF}", part=TRNA),
    "trna-protuberance-focus": PanelSet(TRNA_PROTUBERANCE, f"--snr 0.05 {OFF}", part=TRNA, focus=True),
    "trna-ratchet": PanelSet(TRNA_RATCHET, f"--snr 0.05 {OFF}", part=TRNA_RATCHET[10:12]),
    "trna-ratchet-focus": PanelSet(TRNA_RATCHET, f"--snr 0.05 {OFF}", part=TRNA_RATCHET[10:12], focus=True),
    "protuberance": PanelSet(STATES, f"--snr 0.05 {OFF}", part=STATES[:2]),
    "protuberance-focus": PanelSet(STATES, f"--snr 0.05 {OFF}", part=STATES[:2], focus=True),
    "matching-1qvr": PanelSet(MATCHING_1QVR, "--snr 0.03 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "matching-50s": PanelSet(MATCHING_50S, "--snr 0.02 --rot-err 6 --shift-err 1.0", weights=PICKS),
    "unequal-reversed": PanelSet(STATES, f"--snr 0.05 {OFF}", weights=(1, 1, 2, 6, 30, 60)),
    "large-body": PanelSet(("turn:large",), f"--snr 0.05 {OFF}", continuous=True, bodies="large"),
    "small-body": PanelSet(("turn:small",), f"--snr 0.05 {OFF}", continuous=True, bodies="small"),
    "still": PanelSet(("comp_0_50S",), "--snr 0.05", bodies="small"),
    "many": PanelSet(STATES, f"--snr 0.05 {OFF}", train="-b 32 --lr 9e-5", count=7500),
    "sim_3state": PanelSet((), train="--zdim 8 --templateres 64 --encoderres 8 --lr 4e-4 -n 20", fixed="sim_3state"),
    "ribosomes": PanelSet(
        (), train="--zdim 8 --templateres 48 --encoderres 8 --lr 4e-4 -n 12", fixed="ribosomes_10499"
    ),
}


# Densities


def density(name: str, data: Path, reduced: bool) -> np.ndarray:
    """Return one density (D, D, D) of the panel, in units of the standard deviation of its voxels.

    A name such as ``a+b-c`` is the sum of the densities a and b less c, where it is positive.
    """
    import mrcfile

    volume: np.ndarray = np.float32(0)
    for sign, plain in re.findall(r"([+-]?)([^+-]+)", name.removeprefix("mirror:")):
        path = next(p for p in (data / "maps" / f"{plain}.mrc", data / "decoys" / f"{plain}.mrc") if p.exists())
        volume = volume + (-1 if sign == "-" else 1) * np.array(mrcfile.read(path), dtype=np.float32)
    volume = np.maximum(volume, 0)
    if reduced:
        volume = volume.reshape(32, 2, 32, 2, 32, 2).mean((1, 3, 5))
    volume /= np.abs(volume[volume != 0]).std()
    return volume[:, :, ::-1].copy() if name.startswith("mirror:") else volume


def two_bodies(kind: str, data: Path, reduced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the fixed and the moving density: 50S and 30S (large), or 50S and its central protuberance (small)."""
    from scipy import ndimage

    whole = np.maximum(density("comp_0_50S", data, reduced), 0)
    if kind == "large":
        return whole, np.maximum(density("comp_2_30S", data, reduced), 0)
    difference = np.maximum(whole - np.maximum(density("comp_1_50S_noCP_noL1", data, reduced), 0), 0)
    parts, _ = ndimage.label(difference > 0.1 * difference.max())
    largest = parts == np.bincount(parts.ravel())[1:].argmax() + 1
    moving = whole * ndimage.binary_dilation(largest)
    return whole - moving, moving


def turned_states(kind: str, data: Path, reduced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return nine states (9, D, D, D) of a body that turns by ±20° (small) or ±10° (large), and the angles (°)."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    fixed, moving = two_bodies(kind, data, reduced)
    middle = np.array(ndimage.center_of_mass(moving))
    axis = np.array(ndimage.center_of_mass(fixed)) - middle
    axis = np.cross(axis, [1.0, 0.0, 0.0]) if kind == "small" else axis
    axis /= np.linalg.norm(axis)
    sweep = 20.0 if kind == "small" else 10.0
    angles = np.linspace(-sweep, sweep, 9)
    states = []
    for angle in angles:
        back = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix().T
        states.append(fixed + np.maximum(ndimage.affine_transform(moving, back, middle - back @ middle, order=3), 0))
    return np.stack(states).astype(np.float32), angles


def volumes_of(kind: PanelSet, data: Path, reduced: bool) -> np.ndarray:
    """Return the densities of a set, (K, D, D, D)."""
    first = kind.volumes[0]
    if first.startswith("turn:"):
        return turned_states(first.removeprefix("turn:"), data, reduced)[0]
    found = [density(name, data, reduced) for name in kind.volumes if name != "empty"]
    return np.stack(found + [np.zeros_like(found[0])] * (len(kind.volumes) - len(found)))


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
