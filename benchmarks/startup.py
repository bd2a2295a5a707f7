"""Time that training takes to start, and time of `dsd -h` and `dsdsh -h`.

The set consists of many small subtomograms in a temporary folder. Times of help include the start of Python and are the
shortest of three.

    python benchmarks/startup.py --particles 20000 --tilts 41 --box 16 [--shared-tables 0] [--profile]

The script prints one JSON object with times in seconds; files are in the cache of the system. "cpu" is the CPU time,
which is shorter than the wall time on a busy machine.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from noise_set import make_set

Result = TypeVar("Result")


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Result and seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def measure(star: Path) -> dict[str, float]:
    """Seconds that each part of the start takes."""
    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.voxels import VoxelSource, pooled_std
    from opustomo.model.config import ModelConfig, PhysicsConfig
    from opustomo.physics.boxes import Boxes
    from opustomo.quality.checks.inspection import PlannedRun, inspect_particles

    particles, loading = timed(lambda: load_particles(DataConfig(star)))
    source = VoxelSource(particles.images)
    _, scaling = timed(lambda: pooled_std(source, len(particles)))
    boxes = Boxes.from_window(particles.box, particles.apix)
    run = PlannedRun(boxes, None, PhysicsConfig(), ModelConfig(zdim=12), 20)
    _, inspecting = timed(lambda: inspect_particles(particles, source, run))
    return {
        "load_particles": loading,
        "pooled_std": scaling,
        "inspect_particles": inspecting,
        "total": loading + scaling + inspecting,
    }


def help_time(package: str) -> float:
    """Return the seconds until a program has printed its commands."""
    command = [sys.executable, "-c", f"from {package}.main import main; main(['-h'])"]
    return min(timed(lambda: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))[1] for _ in range(3))


def main() -> None:
    """Make a set, and print the measured times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--box", type=int, default=16)
    parser.add_argument("--shared-tables", type=int, default=0, help="distinct CTF tables (0: one per particle)")
    parser.add_argument("--profile", action="store_true", help="print a profile to stderr")
    args = parser.parse_args()
    helping = {"dsd -h": help_time("opustomo"), "dsdsh -h": help_time("analysis_scripts")}
    _, importing = timed(lambda: __import__("opustomo.quality.checks.inspection"))
    with tempfile.TemporaryDirectory(prefix="opustomo-startup-") as name:
        star, making = timed(lambda: make_set(Path(name), args.particles, args.tilts, args.box, args.shared_tables))
        profile = cProfile.Profile()
        if args.profile:
            profile.enable()
        before = time.process_time()
        seconds = measure(star)
        seconds["cpu"] = time.process_time() - before
        if args.profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    sizes = {key: getattr(args, key) for key in ("particles", "tilts", "box", "shared_tables")}
    print(
        json.dumps(
            {**sizes, "seconds": {**helping, "import": importing, **seconds}, "seconds_making_the_set": making},
            indent=2,
        )
    )


if __name__ == "__main__":
    main()
