"""Speed of training with moving bodies as a fraction of that with one rigid particle (target: at least 0.6).

    python benchmarks/multibody_step.py                                          # small sizes, CPU or GPU
    python benchmarks/multibody_step.py --box 128 --templateres 128 --batch 8 --bodies 3 --particles 256 --epochs 6

Trains on a set of noise made in a temporary folder, through the same trainer as ``dsd train_tomo``: once with
``--estpose``, once with ``--masks``. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed


def make_geometry(count: int, box: int) -> Any:
    """Bodies side by side along x, in the middle of the box."""
    from opustomo.geometry.rigid_bodies import BodyGeometry

    centers = np.zeros((count, 3))
    centers[:, 0] = np.linspace(-0.2, 0.2, count) * box
    parents = tuple((body + 1) % 2 if body < 2 else body - 1 for body in range(count))
    relatives = centers[list(parents)]
    eyes = np.stack([np.eye(3)] * count)
    radii = np.full((count, 3), 0.35 * box / count / np.sqrt(5))
    return BodyGeometry(centers, relatives, centers - relatives, eyes, radii, eyes, parents)


def main() -> None:
    """Measure and print."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--box", type=int, default=32)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--bodies", type=int, default=2)
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--templateres", type=int, default=32)
    parser.add_argument("--encoderres", type=int, default=12)
    parser.add_argument("--particles", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--amp", action=argparse.BooleanOptionalAction, default=torch.cuda.is_available())
    args = parser.parse_args()
    args.cache_gb = 4
    from noise_set import make_set
    from train_throughput import make_trainer, measure

    cuda = args.device.startswith("cuda")
    found = {}
    with tempfile.TemporaryDirectory(prefix="opustomo-bodies-") as name:
        star = make_set(Path(name), args.particles, args.tilts, args.box, 0)
        for kind, bodies in (("rigid", None), ("moving", make_geometry(args.bodies, args.box))):
            if cuda:
                torch.cuda.empty_cache()
                torch.cuda.reset_peak_memory_stats()
            with redirect_stdout(sys.stderr):
                trainer = make_trainer(star, Path(name) / kind, args, args.batch, bodies)
                found[kind] = measure(trainer, args.epochs)
                trainer.close()
            del trainer
    fraction = found["moving"]["visits_per_second"] / found["rigid"]["visits_per_second"]
    settings = {key: getattr(args, key) for key in ("box", "batch", "bodies", "tilts", "templateres", "amp")}
    device = torch.cuda.get_device_name() if cuda else "cpu"
    verdict = {"speed_fraction": round(fraction, 3), "enough": fraction >= 0.6}
    print(json.dumps({"device": device, **settings, **found, **verdict}, indent=2))


if __name__ == "__main__":
    main()
