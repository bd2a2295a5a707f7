"""Accuracy of moving bodies on simulated data: a 30S that rotates against the 50S, a static set, and an absent body.

    python benchmarks/motion.py -o work --case ratchet --maps MAPS --ratchet --epochs 30 --device cuda
    python benchmarks/motion.py             # only shows that all cases run: tiny sizes, one epoch, a temporary folder

MAPS contains comp_0_50S.mrc and comp_2_30S.mrc, and with --ratchet the steps ratchet_00.mrc, …; without MAPS, the
built-in densities are used. The 30S rotates about the line through the centers of both subunits, through its own
center, by -SWEEP to SWEEP degrees. Poses in the table have errors of --rot-err and --shift-err. The sets are simulated
by ``dsd simulate``, or with --simulator by another program with the same command line (VOLS.npy -o DIR -n N …).
Finished sets and runs in the folder are reused. The script prints one JSON object and writes it to scores.json.

Targets: axis within 10°; Pearson r of the angles ≥ 0.9; FSC area above that of the run without bodies; static set:
≤ 0.5° reported; absent body: R² of a linear probe on its own latent ≥ 0.9 and on the other one ≤ 0.2. The R² of a
random forest is reported as well; the forest also detects that an absent body does not rotate.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
CASES = ("ratchet", "still", "absent")
TINY = {"count": 36, "box": 32, "apix": 12.0, "steps": 3, "epochs": 1, "templateres": 32, "encoderres": 8}


@dataclass(frozen=True)
class Truth:
    """States of a set: densities (K, D, D, D), angle of the moving body (NaN: absent), its axis; the two bodies."""

    volumes: np.ndarray
    angles_deg: np.ndarray
    axis: np.ndarray
    bodies: tuple[np.ndarray, np.ndarray]


def turned(volume: np.ndarray, axis: np.ndarray, center: np.ndarray, angle_deg: float) -> np.ndarray:
    """Return a density rotated about an axis (x, y, z) through ``center`` (voxels from D/2), cubic interpolation."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    back = Rotation.from_rotvec(np.radians(angle_deg) * axis).as_matrix().T[::-1, ::-1]
    middle = center[::-1] + len(volume) // 2
    return ndimage.affine_transform(volume, back, middle - back @ middle, order=3)


def make_truth(case: str, args: argparse.Namespace) -> Truth:
    """Return the densities of all states of a case."""
    from opustomo.dynamics.body_masks import center_of_mass
    from opustomo.simulate.volumes import gather_volumes

    files = [args.maps / "comp_0_50S.mrc", args.maps / "comp_2_30S.mrc"] if args.maps else []
    builtin = [] if args.maps else ["50S", "30S"]
    (fixed, moving), _ = gather_volumes(files, builtin, args.apix, args.box)
    fixed, moving = np.maximum(fixed, 0), np.maximum(moving, 0)
    center = center_of_mass(moving)
    axis = center_of_mass(fixed) - center
    axis /= np.linalg.norm(axis)
    angles = np.zeros(1) if case == "still" else np.linspace(-args.sweep, args.sweep, args.steps)
    if args.ratchet and case == "ratchet":
        steps = sorted(args.maps.glob("ratchet_*.mrc"))
        volumes, _ = gather_volumes(steps, [], args.apix, args.box)
        angles = 1.2 * (np.arange(len(steps)) - (len(steps) - 1) / 2)  # 0 … 12° in eleven steps
        moving = np.maximum(volumes[len(steps) // 2] - fixed, 0) * (turned(moving, axis, center, 6.0) > 0.02)
    else:
        volumes = np.stack([fixed + turned(moving, axis, center, angle) for angle in angles])
    if case == "absent":
        volumes = np.concatenate([volumes, fixed[None]])
        angles = np.append(angles, np.nan)
    return Truth(volumes.astype(np.float32), angles, axis, (fixed, moving))


def body_masks(truth: Truth, apix: float) -> list[np.ndarray]:
    """Return soft masks of both bodies; a voxel of both belongs to the body of larger density."""
    from scipy import ndimage

    smooth = np.stack([ndimage.gaussian_filter(body, max(1.0, 8.0 / apix)) for body in truth.bodies])
    owner = smooth.argmax(0)
    masks = []
    for number, body in enumerate(smooth):
        inside = (body > 0.15 * body.max()) & (owner == number)
        masks.append(np.clip(ndimage.gaussian_filter(inside.astype(np.float32), 1.0), 0, 1))
    return [np.where(mask > 0.05, mask, 0).astype(np.float32) for mask in masks]


def run_dsd(*words: object) -> None:
    """Run a command line; a failure ends the benchmark."""
    from analysis_scripts.main import main as dsdsh
    from opustomo.main import main as dsd

    text = [str(word) for word in words]
    print("$", *text, file=sys.stderr)
    with contextlib.redirect_stdout(sys.stderr):
        code = (dsd if text[0] == "dsd" else dsdsh)(text[1:])
    if code:
        raise SystemExit(f"failed: {' '.join(text)}")


def simulate(truth: Truth, folder: Path, case: str, args: argparse.Namespace) -> None:
    """Simulate the set unless it exists."""
    if (folder / "particles.star").exists():
        return
    stack = folder.parent / "volumes.npy"
    stack.parent.mkdir(parents=True, exist_ok=True)
    np.save(stack, truth.volumes)
    words: list[object] = [stack, "-o", folder, "-n", args.count, "--apix", args.apix, "--snr", args.snr]
    words += ["--rot-err", args.rot_err, "--shift-err", args.shift_err, "--seed", args.seed, "--shift", 2]
    if case == "absent":
        share = 0.5 / (len(truth.volumes) - 1)
        words += ["--weights", *[share] * (len(truth.volumes) - 1), 0.5]
    if args.simulator:
        device = ["--device", args.device] if args.device else []
        subprocess.run([sys.executable, args.simulator, *map(str, words), *device], check=True, stdout=sys.stderr)
    else:
        run_dsd("dsd", "simulate", *words)


def train(folder: Path, data: Path, args: argparse.Namespace, masks: Path | None) -> None:
    """Train with bodies or only with --estpose unless the run exists."""
    if (folder / f"weights.{args.epochs - 1}.pkl").exists():
        return
    words: list[object] = ["dsd", "train_tomo", data / "particles.star", "-o", folder, "-r", data / "mask.mrc"]
    words += ["--normalizectf", "--estpose", "--zdim", args.zdim, "--zaffinedim", args.zaffinedim, "-n", args.epochs]
    words += ["-b", args.batch_size, "--lr", args.lr, "--templateres", args.templateres, "--num-workers", 4]
    words += ["--encoderres", args.encoderres, "--checkpoint", args.epochs, "--seed", args.seed, "--angpix", args.apix]
    words += ["--beta-control", args.beta_control, "--lamb", args.lamb, "--overwrite"]
    words += ["--device", args.device] if args.device else []
    words += ["--masks", masks] if masks else []
    run_dsd(*words, *args.train)


def fsc(a: np.ndarray, b: np.ndarray) -> float:
    """Return the mean FSC over the shells up to Nyquist."""
    size = len(a)
    at = np.fft.fftfreq(size) * size
    shell = np.round(np.sqrt(at[:, None, None] ** 2 + at[None, :, None] ** 2 + at[None, None, :] ** 2)).astype(int)
    fa, fb = np.fft.fftn(a), np.fft.fftn(b)
    sums = [np.bincount(shell.ravel(), v.ravel()) for v in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)]
    curve = sums[0] / np.sqrt(sums[1] * sums[2] + 1e-20)
    return float(curve[1 : size // 2].mean())


def best_rigid(volumes: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """Return the rotation vector (°) and shift (voxels) that align all volumes to the truth."""
    from scipy import ndimage, optimize

    smooth = [ndimage.gaussian_filter(stack, (0, 1.5, 1.5, 1.5)) for stack in (volumes, truths)]
    middle = [len(volumes) // 2]

    def loss(numbers: np.ndarray) -> float:
        return -sum(np.corrcoef(placed(smooth[0][i], numbers).ravel(), smooth[1][i].ravel())[0, 1] for i in middle)

    options = {"maxiter": 3, "xtol": 1e-2, "ftol": 1e-5}
    return np.asarray(optimize.minimize(loss, np.zeros(6), method="Powell", options=options).x)


def placed(volume: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return a volume rotated about its center by a rotation vector (°) and shifted (voxels)."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    back = Rotation.from_rotvec(np.radians(numbers[:3])).as_matrix().T[::-1, ::-1]
    middle = np.full(3, len(volume) // 2)
    return ndimage.affine_transform(volume, back, middle - back @ (middle + numbers[5:2:-1]), order=1)


def volume_scores(run: Path, truth: Truth, labels: np.ndarray, data: Path, deform: bool, args: argparse.Namespace):
    """Return the mean FSC area of one volume per state, as decoded and after a common rigid alignment."""
    from opustomo.analysis.volumes.decoding import VolumeDecoder
    from opustomo.io.latents import read_latents
    from opustomo.io.mrc import read_volume

    epoch = args.epochs - 1
    mu, conformation = read_latents(run / f"z.{epoch}.pkl")
    latents = np.concatenate([mu, conformation], 1) if conformation is not None else mu
    chosen, used = latents if deform else mu, []
    states = np.unique(labels[labels >= 0])
    for state in states:
        members = np.flatnonzero(labels == state)
        middle = np.median(chosen[members], axis=0)
        used.append(members[np.square(chosen[members] - middle).sum(1).argmin()])
    decoder = VolumeDecoder(run / f"weights.{epoch}.pkl", run / "config.pkl", args.device or "cpu")
    decoder.mask = None
    volumes = decoder.volumes((latents if deform else mu)[used], args.apix, full_box=True).cpu().numpy()
    mask, _ = read_volume(data / "mask.mrc")
    truths = truth.volumes[states]
    raw = float(np.mean([fsc(v * mask, t * mask) for v, t in zip(volumes, truths, strict=True)]))
    pose = best_rigid(volumes * mask, truths * mask)
    aligned = np.mean([fsc(placed(v, pose) * mask, t * mask) for v, t in zip(volumes, truths, strict=True)])
    return {"as_decoded": raw, "aligned": float(aligned), "frame_deg": float(np.linalg.norm(pose[:3]))}


def motion_scores(run: Path, truth: Truth, labels: np.ndarray, args: argparse.Namespace) -> dict[str, object]:
    """Return axis and angles of the moving body relative to the fixed one, for all particles and along PC1."""
    from opustomo.dynamics.motion import MotionModel
    from opustomo.io.latents import read_latents

    epoch = args.epochs - 1
    _, conformation = read_latents(run / f"z.{epoch}.pkl")
    assert conformation is not None
    model = MotionModel(run / f"weights.{epoch}.pkl", run / "config.pkl", args.device or "cpu")
    vectors = model.relative(model.bodies(conformation))[:, 1].rotvecs_deg()
    angles = truth.angles_deg[labels]
    known = np.isfinite(angles)
    axis = np.linalg.svd(vectors[known] - vectors[known].mean(0), full_matrices=False)[2][0]
    found = vectors[known] @ axis
    run_dsd(
        "dsdsh",
        "dynamics",
        run,
        epoch,
        "--skip-vol",
        "--num-pcs",
        1,
        *(["--device", args.device] if args.device else []),
    )
    report = json.loads((run / f"dynamics.{epoch}" / "motion.json").read_text())
    (body,) = report["components"][0]["bodies"]
    scores: dict[str, object] = {
        "pc1_angle_deg": body["angle_deg"],
        "pc1_says_it_moves": body["moves"],
        "particles_1_to_99_percentile_deg": float(np.ptp(np.percentile(found - found.mean(), [1, 99]))),
        "independence": [one["sentence"] for one in report.get("independence", [])],
    }
    if len(truth.angles_deg) > 1:
        slope, _ = np.polyfit(angles[known], found, 1)
        scores |= {
            "axis_error_deg": error_deg(axis, truth.axis),
            "pc1_axis_error_deg": error_deg(np.array(body["axis"]), truth.axis),
            "pearson_r": abs(float(np.corrcoef(found, angles[known])[0, 1])),
            "slope": abs(float(slope)),
        }
    return scores


def error_deg(one: np.ndarray, other: np.ndarray) -> float:
    """Angle between two lines."""
    return float(np.degrees(np.arccos(min(1.0, abs(one @ other)))))


def probe(latent: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """Return the held-out R² of a linear probe (ridge) and of a random forest."""
    from opustomo.analysis.latents.latent_independence import predict_latent

    found = predict_latent(latent, wanted[:, None], ("latent", "truth"), 0)
    return {"ridge": found.ridge, "forest": found.forest}


def score_case(case: str, args: argparse.Namespace) -> dict[str, object]:
    """Simulate, prepare, train with and without bodies, and return the scores."""
    from opustomo.io.latents import read_latents
    from opustomo.io.mrc import write_volume

    folder = args.outdir / case
    data, masks = folder / "data", folder / "bodies"
    truth = make_truth(case, args)
    simulate(truth, data, case, args)
    masks.mkdir(exist_ok=True)
    rows = []
    for number, mask in enumerate(body_masks(truth, args.apix), 1):
        write_volume(masks / f"body{number}.mrc", mask, args.apix)
        rows.append(f"body{number}.mrc {3 - number}")
    table = masks / "bodies.star"
    table.write_text("\ndata_\n\nloop_\n_rlnBodyMaskName #1\n_rlnBodyRotateRelativeTo #2\n" + "\n".join(rows) + "\n")
    geometry = masks / "mask_params"
    run_dsd("dsdsh", "prepare_multi", data / "particles.star", args.box, args.apix, table, 2, "--outmasks", geometry)
    train(folder / "with", data, args, geometry.with_suffix(".pkl"))
    labels = np.load(data / "truth.npz")["labels"]
    scores = {"motion": motion_scores(folder / "with", truth, labels, args)}
    motion = scores["motion"]
    passed: dict[str, bool] = {}
    if case == "ratchet":
        train(folder / "without", data, args, None)
        with_bodies = volume_scores(folder / "with", truth, labels, data, True, args)
        without = volume_scores(folder / "without", truth, labels, data, False, args)
        scores |= {"fsc_area_with": with_bodies, "fsc_area_without": without}
        passed = {
            "axis": motion["axis_error_deg"] <= 10, "pearson": motion["pearson_r"] >= 0.9,
            "fsc": with_bodies["aligned"] > without["aligned"],
        }  # fmt: skip
    if case == "still":
        passed = {"still": motion["pc1_angle_deg"] <= 0.5 and motion["particles_1_to_99_percentile_deg"] <= 0.5}
    if case == "absent":
        mu, conformation = read_latents(folder / "with" / f"z.{args.epochs - 1}.pkl")
        angles = truth.angles_deg[labels]
        there = np.isfinite(angles)
        probes = {
            "presence_from_composition": probe(mu, there.astype(float)),
            "presence_from_conformation": probe(conformation, there.astype(float)),
            "angle_from_conformation": probe(conformation[there], angles[there]),
            "angle_from_composition": probe(mu[there], angles[there]),
        }
        scores["probes"] = probes
        right = ("presence_from_composition", "angle_from_conformation")
        passed = {
            name: value["ridge"] >= 0.9 if name in right else value["ridge"] <= 0.2 for name, value in probes.items()
        }
    return {**scores, "passed": {name: bool(value) for name, value in passed.items()}}


def main() -> None:
    """Run the cases asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("-o", "--outdir", type=Path, help="work folder; without it everything is tiny and thrown away")
    add("--case", choices=(*CASES, "all"), default="all")
    add("--maps", type=Path, help="folder of comp_0_50S.mrc, comp_2_30S.mrc, ratchet_*.mrc")
    add("--ratchet", action="store_true", help="take the ratchet_*.mrc as they are")
    add("--simulator", type=Path, help="program to simulate with instead of dsd simulate")
    for name, value in {
        "count": 1500, "box": 64, "steps": 11, "epochs": 30, "batch-size": 16, "zdim": 8, "zaffinedim": 4,
        "templateres": 96, "encoderres": 12, "seed": 0,
    }.items():  # fmt: skip
        add(f"--{name}", type=int, default=value, help="default: %(default)s")
    for name, value in {
        "apix": 6.0, "snr": 0.05, "sweep": 6.0, "rot-err": 2.0, "shift-err": 1.0, "lr": 2e-4, "beta-control": 0.5,
        "lamb": 1.0,
    }.items():  # fmt: skip
        add(f"--{name}", type=float, default=value, help="default: %(default)s")
    add("--device", help="cuda or cpu (default: a GPU if there is one)")
    add("--train", nargs=argparse.REMAINDER, default=[], help="further words for dsd train_tomo, last")
    args = parser.parse_args()
    if args.ratchet and not args.maps:
        parser.error("--ratchet needs --maps")
    cases = CASES if args.case == "all" else (args.case,)
    with contextlib.ExitStack() as stack:
        if args.outdir is None:
            args.outdir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="opustomo-motion-")))
            vars(args).update(TINY)
        run_cases(cases, args)


def run_cases(cases: tuple[str, ...], args: argparse.Namespace) -> None:
    """Score, print, write."""
    scores = {case: score_case(case, args) for case in cases}
    text = json.dumps(scores, indent=2, ensure_ascii=False)
    (args.outdir / "scores.json").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
