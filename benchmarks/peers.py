"""3D classification of RELION beside a run of opustomo on a simulated set: classes, maps, poses and time.

    python benchmarks/peers.py ../shared/data/sim_3state -K 3 -o peers [--what relion-given relion-local ours]

The set is a folder as the simulators write it: ``particles.star``, ``mask.mrc``, ``volumes.npy`` and ``truth.npz`` with
labels, Euler angles and origins. ``relion_refine --K`` starts from the reconstruction of all particles, once at the
given poses (``--skip_align``) and once with a local search. Ours trains ``--epochs`` epochs, clusters by k-means and
decodes a volume per cluster. Prints one JSON object per program: adjusted Rand index, FSC of each true state with the
class map that holds most of its particles (mean over shells within the mask, as in docs/quality.md), median pose error
and time. RELION 3.1 is a package of Debian: apt-get install relion.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


def timed(command: list[str], folder: Path, log: Path) -> dict[str, float]:
    """Run a command; minutes of wall clock and of computing."""
    started = time.time()
    with log.open("a") as out:
        out.write(" ".join(command) + "\n")
        out.flush()
        process = subprocess.Popen(command, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    if os.waitstatus_to_exitcode(status):
        sys.exit(f"{command[0]} failed, see {log}:\n{log.read_text()[-1500:]}")
    return {
        "minutes": round((time.time() - started) / 60, 2),
        "cpu_minutes": round((usage.ru_utime + usage.ru_stime) / 60, 2),
    }


def joined(*parts: dict[str, float]) -> dict[str, float]:
    """Sum the times of commands."""
    return {name: round(sum(part[name] for part in parts), 2) for name in parts[0]}


def program(name: str) -> list[str]:
    """`dsd` or `dsdsh` of this source tree."""
    return [sys.executable, "-m", {"dsd": "opustomo", "dsdsh": "analysis_scripts"}[name]]


def classify_relion(data: Path, out: Path, args: argparse.Namespace, search: bool) -> dict[str, Any]:
    """3D classification at given poses or with a local search; scores of its last iteration."""
    from scipy.ndimage import gaussian_filter

    from opustomo.io.mrc import read_volume, write_volume
    from opustomo.io.star_tables import read_particles

    log, exported = out / "relion.log", out / "relion"
    if not exported.is_dir():
        words = [str(data / "particles.star"), "-o", str(exported), "--normalizectf"]
        timed([*program("dsdsh"), "export_relion", *words], out, log)
    apix = read_volume(data / "mask.mrc")[1]
    start = exported / "start.mrc"
    if not start.exists():
        timed(["relion_reconstruct", "--i", "particles.star", "--o", "start.mrc", "--3d_rot", "--ctf"], exported, log)
    name = "local" if search else "given"
    (exported / name).mkdir(exist_ok=True)
    volume, _ = read_volume(start)
    write_volume(exported / "smooth.mrc", gaussian_filter(volume, 1.0).astype(np.float32), apix)
    words = ["--i", "particles.star", "--o", f"{name}/run", "--ref", "smooth.mrc", "--ini_high", "60"]
    words += ["--K", str(args.K), "--iter", str(args.iterations), "--firstiter_cc", "--ctf", "--flatten_solvent"]
    words += ["--zero_mask", "--particle_diameter", str(args.diameter), "--pad", "2", "--oversampling", "1"]
    words += ["--j", str(args.threads), "--dont_check_norm", "--random_seed", "1"]
    if search:
        words += ["--healpix_order", "4", "--sigma_ang", "1.5", "--offset_range", "3", "--offset_step", "1"]
    else:
        words += ["--skip_align"]
    spent = timed(["relion_refine", *words], exported, log)
    last = f"{exported}/{name}/run_it{args.iterations:03d}"
    table = read_particles(Path(last + "_data.star"))
    # RELION sorts particles by micrograph
    places = {name: place for place, name in enumerate(table.strings("rlnImageName"))}
    given = read_particles(exported / "particles.star").strings("rlnImageName")
    order = np.array([places[name] for name in given])
    labels = np.array([int(value) for value in table.strings("rlnClassNumber")])[order] - 1
    maps = [read_volume(Path(f"{last}_class{k + 1:03d}.mrc"))[0] for k in range(args.K)]
    origins = table.origins_px(apix)[order] if search else None
    return spent | scores(data, labels, maps, table.eulers_deg()[order], origins)


def train_ours(data: Path, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Train, cluster and decode; scores of the last epoch."""
    from opustomo.io.mrc import read_volume
    from opustomo.io.pickles import load_pickle
    from opustomo.io.poses import read_poses

    run, log, last = out / "run", out / "ours.log", str(args.epochs - 1)
    apix = read_volume(data / "mask.mrc")[1]
    words = [str(data / "particles.star"), "-r", str(data / "mask.mrc"), "-o", str(run), "--estpose"]
    words += ["--normalizectf", "--zdim", "6", "-n", str(args.epochs), "--checkpoint", str(args.epochs)]
    words += ["-b", str(args.batch), *args.options.split()]
    training = timed([*program("dsd"), "train_tomo", *words], out, log)
    analysis = timed([*program("dsdsh"), "analyze", str(run), last, "2", str(args.K)], out, log)
    decoding = timed([*program("dsdsh"), "eval_vol", str(run), last, "kmeans", str(args.K), str(apix)], out, log)
    kmeans = run / f"analyze.{last}" / f"kmeans{args.K}"
    labels = np.asarray(load_pickle(kmeans / "labels.pkl"))
    maps = [read_volume(kmeans / f"reference{k}.mrc")[0] for k in range(args.K)]
    poses = read_poses(run / f"pose.{last}.pkl")
    origins = poses.origins * int(np.load(data / "volumes.npy", mmap_mode="r").shape[-1])
    return joined(training, analysis, decoding) | scores(data, labels, maps, poses.eulers_deg, origins)


def scores(
    data: Path, labels: np.ndarray, maps: list[np.ndarray], eulers: np.ndarray, origins: np.ndarray | None
) -> dict[str, Any]:
    """Adjusted Rand index, mean masked FSC of the best class of each state, median pose errors."""
    import torch
    from sklearn.metrics import adjusted_rand_score

    from opustomo.demo.scores import pose_error
    from opustomo.geometry.rotations import euler_to_matrix
    from opustomo.io.mrc import read_volume
    from opustomo.physics.fourier import pad_center
    from opustomo.physics.fsc import shell_correlation

    truth = np.load(data / "truth.npz")
    states, volumes, mask = truth["labels"], np.load(data / "volumes.npy"), read_volume(data / "mask.mrc")[0]
    box = volumes.shape[-1]
    areas = []
    for state in np.unique(states):
        members = np.bincount(labels[states == state], minlength=len(maps))
        found = torch.from_numpy(np.ascontiguousarray(maps[int(members.argmax())], dtype=np.float64))
        if found.shape[-1] > box:
            sys.exit(f"a class map has {found.shape[-1]} voxels along a side, but the set {box}")
        inside = torch.from_numpy(mask.astype(np.float64))
        pair = pad_center(found, box) * inside, torch.from_numpy(volumes[state].astype(np.float64)) * inside
        areas.append(float(shell_correlation(*pair)[1 : box // 2].mean()))
    result: dict[str, Any] = {
        "ari": round(float(adjusted_rand_score(states, labels)), 3),
        "fsc": [round(area, 3) for area in areas],
        "particles": np.bincount(labels, minlength=len(maps)).tolist(),
    }
    if origins is not None:
        both = (torch.from_numpy(np.asarray(e, dtype=np.float64)) for e in (eulers, truth["eulers"]))
        matrices = [euler_to_matrix(e).numpy() for e in both]
        error = pose_error(matrices[0], origins, matrices[1], truth["origin"])
        result |= {"turn_deg": round(error.angle_deg, 2), "shift_px": round(error.shift_px, 2)}
    return result


def main() -> None:
    """Run the programs, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("-K", type=int, required=True, help="number of classes")
    parser.add_argument("-o", "--output", type=Path, required=True)
    every = ("relion-given", "relion-local", "ours")
    parser.add_argument("--what", nargs="+", choices=every, default=list(every))
    parser.add_argument("--iterations", type=int, default=25, help="of relion_refine")
    parser.add_argument("--diameter", type=float, default=300.0, help="of the particle in RELION, Å")
    parser.add_argument("--threads", type=int, default=2, help="of relion_refine")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--options", default="--templateres 48 --lr 1e-4", help="further options of train_tomo")
    args = parser.parse_args()
    data, out = args.data.resolve(), args.output.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for what in args.what:
        found = (
            train_ours(data, out, args) if what == "ours" else classify_relion(data, out, args, what.endswith("local"))
        )
        print(json.dumps({"set": data.name, "what": what, **found}), flush=True)


if __name__ == "__main__":
    main()
