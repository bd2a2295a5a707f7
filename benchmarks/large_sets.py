"""Time and memory of the parts of training that grow with the number of particles.

    python benchmarks/large_sets.py --particles 50000 200000 [--box 16 --tables 200]

Makes sets whose subtomograms are symbolic links to a few files of noise. Each command runs in a process of its own:
``dsd check``; an epoch of ``dsd train_tomo`` in which every step is left out and latents are drawn at random, so that
the start, the batches, the reading of voxels and the files of the epoch remain; and ``dsdsh analyze`` of its results.
Prints one JSON object per number of particles: seconds of wall clock and of computing, and peak memory in GB.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed
DISTINCT = 64


def make_linked_set(folder: Path, particles: int, tilts: int, box: int, tables: int) -> Path:
    """Write a set whose subtomograms are symbolic links to ``DISTINCT`` files."""
    from noise_set import PARTICLE_COLUMNS, make_set, write_loop

    make_set(folder, DISTINCT, tilts, box, 0)
    rng = np.random.default_rng(1)
    for i in range(DISTINCT, particles):
        os.symlink(f"{i % DISTINCT}.mrc", folder / "subtomo" / f"{i}.mrc")
    for i in range(DISTINCT, tables):
        os.symlink(f"{i % DISTINCT}.star", folder / "ctf" / f"{i}.star")
    eulers = rng.uniform(-180, 180, (particles, 3))
    origins = rng.uniform(-1, 1, (particles, 3))
    rows = [
        f"TS_{i % 500:03d}.tomostar {a:.6f} {abs(b):.6f} {c:.6f} {x:.3f} {y:.3f} {z:.3f} subtomo/{i}.mrc "
        f"ctf/{i % max(tables, DISTINCT)}.mrc"
        for i, ((a, b, c), (x, y, z)) in enumerate(zip(eulers, origins, strict=True))
    ]
    star = folder / "particles.star"
    write_loop(star, "particles", PARTICLE_COLUMNS, rows)
    return star


def train_without_steps(words: list[str]) -> None:
    """Run ``dsd train_tomo`` without the computations for each subtomogram."""
    began = time.time()
    import torch

    from opustomo.model.step_records import StepOutput
    from opustomo.training import cuda_graphs, trainer
    from opustomo.training.encoding import InferredLatents
    from opustomo.training.monitors.records import Encoded

    events: dict[str, float] = {}

    def no_step(self: Any, visit: Any, count: int, *args: Any, **kwargs: Any) -> Any:
        events.setdefault("to_first_step", time.time() - began)
        latent = torch.zeros(len(visit), self.engine.model.config.latent_dim)
        return StepOutput(None, latent, torch.eye(3).expand(len(visit), 3, 3), torch.zeros(len(visit), 3))

    def random_latents(engine: Any, *args: Any) -> Any:
        events["epoch"] = time.time() - began - events["to_first_step"]
        drawn = np.random.default_rng(0).normal(size=engine.latents.values.shape).astype(np.float32)
        drawn[:, 0] += 4.0 * (np.arange(len(drawn)) % 2)
        engine.latents.values.copy_(torch.from_numpy(drawn))
        return InferredLatents(drawn, Encoded(drawn, np.full_like(drawn, np.nan)))

    cuda_graphs.Steps.__call__ = no_step  # type: ignore[method-assign]
    trainer.infer_latents = random_latents  # type: ignore[assignment]
    trainer.Trainer.update_consensus = lambda self: None  # type: ignore[method-assign]
    from opustomo.main import main as dsd

    code = dsd(["train_tomo", *words])
    events["end"] = time.time() - began
    print("EVENTS " + json.dumps({name: round(value, 2) for name, value in events.items()}))
    sys.exit(code)


def measured(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command, and return its seconds and peak memory."""
    started = time.time()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    found = {
        "exit": os.waitstatus_to_exitcode(status),
        "seconds": round(time.time() - started, 1),
        "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_gb": round(usage.ru_maxrss / 2**20, 2),
    }
    for line in log.read_text().splitlines():
        if line.startswith("EVENTS "):
            found |= json.loads(line[7:])
    return found


def main() -> None:
    """Make sets, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, nargs="+", default=[20_000])
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--box", type=int, default=16)
    parser.add_argument("--tables", type=int, default=500, help="distinct names of CTF tables")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--folder", type=Path, help="keep sets and logs here")
    args = parser.parse_args()
    for particles in args.particles:
        with tempfile.TemporaryDirectory(prefix="opustomo-large-", dir=args.folder) as name:
            folder = Path(name)
            started = time.time()
            star = make_linked_set(folder, particles, args.tilts, args.box, args.tables)
            found: dict[str, Any] = {"particles": particles, "making_the_set": round(time.time() - started, 1)}
            python = [sys.executable, "-m", "opustomo"]
            found["check"] = measured([*python, "check", str(star)], folder / "check.log")
            words = [str(star), "-o", f"{folder}/run", "--zdim", "8", "--estpose", "-n", "1", "-b", str(args.batch)]
            words += ["--templateres", "32", "--encoderres", "8", "--checkpoint", "1", "--device", "cpu"]
            train = [sys.executable, __file__, "--without-steps", *words]
            found["epoch_without_steps"] = measured(train, folder / "train.log")
            analyze = [sys.executable, "-m", "analysis_scripts", "analyze", f"{folder}/run", "0", "2", "4"]
            found["analyze"] = measured(analyze, folder / "analyze.log")
            print(json.dumps(found), flush=True)
            for part, log in (("check", "check"), ("epoch_without_steps", "train"), ("analyze", "analyze")):
                if found[part]["exit"]:
                    print((folder / f"{log}.log").read_text()[-1500:], file=sys.stderr)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--without-steps"]:
        train_without_steps(sys.argv[2:])
    else:
        main()
