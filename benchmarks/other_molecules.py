"""Sets of molecules on which nothing was chosen, trained with the command that ``dsd check`` prints.

    python benchmarks/other_molecules.py --tools TOOLS --data DATA [--sets clpb-unequal …] [--jobs 6]
    python benchmarks/other_molecules.py --reduced --sets clpb-small          # small boxes, few epochs, for a CPU

TOOLS and DATA are those of ``benchmarks/panel.py``. States are a complex and the same complex without one or two of its
parts (k-means of the positions of its density), or with one part turned about its hinge. Every set is simulated,
checked, trained with the printed command, and judged by ``dsdsh results``. Prints one JSON object per set: the command,
scores of the referee, the ceiling of a classification with the true densities, the bound of the poses, and the verdict.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from panel import ROOT, referee
from panel_sets import FULL_APIX, REDUCED_APIX, density

SEED = 77
REDUCED = "-n 120 --gap 16"
"""Words for the simulator that shorten a set; its boxes have half the size."""
REDUCED_EPOCHS = 3
EDGE = 0.8
"""Standard deviation in voxels of the soft edge of a part."""
INSIDE = 0.15
"""Share of the maximum above which a voxel belongs to the complex."""


@dataclass(frozen=True)
class OtherSet:
    """A complex, the number of parts that it is divided into, its states, and words for the simulator.

    ``without`` lists the parts that each further state lacks; with ``turned``, the states are nine positions of this
    part from -20° to 20° instead.
    """

    complex: str
    parts: int
    without: tuple[tuple[int, ...], ...]
    simulate: str
    turned: int | None = None


SETS = {
    "p97-plain": OtherSet(
        "3cf3", 8, ((0,), (3,), (0, 3)), "-n 600 --snr 0.05 --rot-err 6 --shift-err 1 --raw --tilt-range 50"
    ),
    "p97-cell": OtherSet(
        "3cf3", 8, ((0,), (3,), (0, 3)),
        "-n 1500 --snr 0.02 --rot-err 3 --shift-err 0.7 --misalign 0.4 --crowd 10 --gap 32 --ctf-err 400",
    ),
    "clpb-unequal": OtherSet("1qvr", 8, ((1,), (5,)), "-n 800 --snr 0.03 --rot-err 4 --shift-err 1 --weights 80 15 5"),
    "clpb-small": OtherSet(
        "1qvr", 8, ((1,), (5,)), "-n 300 --snr 0.1 --rot-err 3 --shift-err 0.7 --tilt-range 40 --tilt-step 2"
    ),
    "hsp90-turning": OtherSet("2cg9", 4, (), "-n 1000 --snr 0.05 --rot-err 3 --shift-err 0.7", turned=0),
    "proteasome": OtherSet("3ipm", 2, (), "-n 400 --snr 0.03 --rot-err 8 --shift-err 2"),
}  # fmt: skip


def divided(volume: np.ndarray, parts: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the part of every voxel (D, D, D) and the centers of the parts (parts, 3)."""
    from sklearn.cluster import KMeans

    inside = np.argwhere(volume > INSIDE * volume.max())
    model = KMeans(parts, n_init=5, random_state=0).fit(inside, sample_weight=volume[tuple(inside.T)])
    every = np.stack(np.meshgrid(*map(np.arange, volume.shape), indexing="ij"), -1).reshape(-1, 3)
    return model.predict(every).reshape(volume.shape), model.cluster_centers_


def soft(mask: np.ndarray) -> np.ndarray:
    """Return a mask with a soft edge."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(mask.astype(np.float32), EDGE).clip(0, 1))


def states(kind: OtherSet, data: Path, reduced: bool) -> np.ndarray:
    """Return the densities (K, D, D, D) of a set, in boxes of half the size if it is reduced."""
    from scipy import ndimage
    from scipy.spatial.transform import Rotation

    whole = np.maximum(density(kind.complex, data, reduced), 0)
    label, centers = divided(whole, kind.parts)
    if kind.turned is None:
        kept = [whole * (1 - soft(np.isin(label, parts))) for parts in kind.without]
        return np.stack([whole, *kept]).astype(np.float32)
    moving = whole * soft(label == kind.turned)
    fixed = whole - moving
    middle = np.array(ndimage.center_of_mass(fixed))
    own = np.argwhere((label == kind.turned) & (whole > INSIDE * whole.max()))
    hinge = own[np.linalg.norm(own - middle, axis=1).argmin()].astype(float)
    axis = np.cross(centers[kind.turned] - middle, [1.0, 0.3, 0.2])
    axis /= np.linalg.norm(axis)
    turned = []
    for angle in np.linspace(-20.0, 20.0, 9):
        back = Rotation.from_rotvec(np.radians(angle) * axis).as_matrix().T
        turned.append(fixed + np.maximum(ndimage.affine_transform(moving, back, hinge - back @ hinge, order=3), 0))
    return np.stack(turned).astype(np.float32)


def run_module(module: str, words: list[object], log: Path) -> str:
    """Run a command of this tree, keep what it prints in a file, and return it."""
    start = f"import sys; from {module} import main; sys.exit(main(sys.argv[1:]))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    call = [sys.executable, "-P", "-c", start, *map(str, words)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment)
    log.write_text(done.stdout + done.stderr)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(map(str, words))}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}")
    return done.stdout


def judge(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """Simulate, check, train and judge a set, and print the result."""
    from ceiling import ceilings, pose_bound

    kind, folder, started = SETS[name], Path(args.folder / name), time.time()
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "volumes.npy", states(kind, args.data, args.reduced))
    size = ["--apix", REDUCED_APIX, *REDUCED.split()] if args.reduced else ["--apix", FULL_APIX]
    referee(args.tools, "simulate_subtomograms.py", folder / "volumes.npy", "-o", folder, "--seed", SEED,
            *shlex.split(kind.simulate), *size)  # fmt: skip
    run = folder / "run"
    check: list[object] = ["check", folder / "particles.star", "-r", folder / "mask.mrc", "--no-timing", "-o", run]
    check += ["-n", REDUCED_EPOCHS] if args.reduced else []
    said = run_module("opustomo.main", check, folder / "check.txt")
    command = next(line for line in said.splitlines() if line.startswith("dsd train_tomo "))
    run_module("opustomo.main", [*shlex.split(command)[1:], "--overwrite"], folder / "train.txt")
    epoch = max(int(path.name.split(".")[1]) for path in run.glob("z.*.pkl"))
    words: list[object] = [folder, "--z", run / f"z.{epoch}.pkl", "--pose", run / f"pose.{epoch}.pkl"]
    found = json.loads(referee(args.tools, "score_result.py", *words, *["--continuous"] * (kind.turned is not None)))
    normalized = "--raw" not in kind.simulate
    bounds = pose_bound(folder, normalized)
    if len(np.load(folder / "volumes.npy", mmap_mode="r")) > 1:
        bounds |= ceilings(folder, normalized, refined=run / f"pose.{epoch}.pkl")
    results = run_module("analysis_scripts.main", ["results", run], folder / "results.txt")
    verdict = [line for line in results.splitlines() if line.startswith("Verdict")]
    row = {"set": name, "command": command, "epoch": epoch, "seconds": round(time.time() - started), **found}
    row |= {"bounds": bounds, "verdict": verdict[-1] if verdict else None}
    print(json.dumps(row), flush=True)
    return row


def main() -> None:
    """Judge all sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=Path, default=ROOT.parent / "shared/tools")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared/data")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--reduced", action="store_true", help="120 particles in small boxes and few epochs, for a CPU")
    parser.add_argument("--folder", type=Path, default=Path("/tmp/opustomo-other"), help="where sets and runs go")
    parser.add_argument("--jobs", type=int, default=1, help="how many sets at a time")
    args = parser.parse_args()
    sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]
    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(lambda name: judge(name, args), args.sets))


if __name__ == "__main__":
    main()
