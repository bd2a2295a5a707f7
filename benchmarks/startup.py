"""How long training takes to start: reads and inspects a set of many small subtomograms, made in a temporary folder.

    python benchmarks/startup.py --particles 20000 --tilts 41 --box 16 [--shared-tables 0] [--profile]

Prints one JSON object; times in seconds, with files warm in the system's cache.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

Result = TypeVar("Result")
CTF_COLUMNS = (
    "rlnAngleTilt rlnDefocusU rlnDefocusV rlnDefocusAngle rlnVoltage rlnSphericalAberration rlnAmplitudeContrast "
    "rlnCtfBfactor rlnCtfScalefactor"
).split()
PARTICLE_COLUMNS = (
    "rlnMicrographName rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginX rlnOriginY rlnOriginZ rlnImageName rlnCtfImage"
).split()


def write_loop(path: Path, block: str, columns: list[str], rows: list[str]) -> None:
    """Write one STAR table."""
    head = "".join(f"_{name} #{place}\n" for place, name in enumerate(columns, 1))
    path.write_text(f"\ndata_{block}\n\nloop_\n{head}" + "\n".join(rows) + "\n")


def make_set(folder: Path, particles: int, tilts: int, box: int, tables: int) -> Path:
    """Write a set of noise; ``tables`` distinct CTF tables (0: one for each particle)."""
    from opustomo.io.mrc import write_volume

    rng = np.random.default_rng(0)
    for name in ("subtomo", "ctf"):
        (folder / name).mkdir()
    first = folder / "subtomo" / "0.mrc"
    write_volume(first, rng.normal(size=(box, box, box)).astype(np.float16), 8.0)
    header = first.read_bytes()[:1024]
    noise = rng.normal(size=(64, box**3)).astype(np.float16)
    for i in range(particles):
        (folder / "subtomo" / f"{i}.mrc").write_bytes(header + noise[i % 64].tobytes())
    angles = np.linspace(-60.0, 60.0, tilts)
    for i in range(tables or particles):
        defocus = rng.uniform(20000, 40000)
        write_loop(
            folder / "ctf" / f"{i}.star",
            "images",
            CTF_COLUMNS,
            [
                f"{t:.6f} {defocus:.6f} {defocus:.6f} 0.000000 300.000000 2.700000 0.070000 {3 * abs(t):.6f} "
                f"{np.cos(np.deg2rad(t)):.6f}"
                for t in angles
            ],
        )
    eulers = rng.uniform(-180, 180, (particles, 3))
    rows = [
        f"TS_{i % 50:03d}.tomostar {rot:.6f} {abs(tilt):.6f} {psi:.6f} 0.5 -0.25 0.125 subtomo/{i}.mrc "
        f"ctf/{i % (tables or particles)}.mrc"
        for i, (rot, tilt, psi) in enumerate(eulers)
    ]
    star = folder / "particles.star"
    write_loop(star, "particles", PARTICLE_COLUMNS, rows)
    return star


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Result and seconds."""
    started = time.perf_counter()
    result = work()
    return result, time.perf_counter() - started


def measure(star: Path) -> dict[str, float]:
    """Seconds that each part of the start takes."""
    from opustomo.data.config import DataConfig
    from opustomo.data.particles import load_particles
    from opustomo.data.source import VoxelSource, pooled_std
    from opustomo.model.config import ModelConfig, PhysicsConfig
    from opustomo.physics.boxes import Boxes
    from opustomo.preflight.inspect import inspect_particles

    particles, loading = timed(lambda: load_particles(DataConfig(star)))
    source = VoxelSource(particles.images)
    _, scaling = timed(lambda: pooled_std(source, len(particles)))
    boxes = Boxes.from_window(particles.box, particles.apix)
    _, inspecting = timed(
        lambda: inspect_particles(particles, source, boxes, None, PhysicsConfig(), ModelConfig(zdim=12), 20)
    )
    return {
        "load_particles": loading,
        "pooled_std": scaling,
        "inspect_particles": inspecting,
        "total": loading + scaling + inspecting,
    }


def main() -> None:
    """Make a set, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=20_000)
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--box", type=int, default=16)
    parser.add_argument("--shared-tables", type=int, default=0, help="distinct CTF tables (0: one per particle)")
    parser.add_argument("--profile", action="store_true", help="print where the time goes, to stderr")
    args = parser.parse_args()
    _, importing = timed(lambda: __import__("opustomo.preflight.inspect"))
    with tempfile.TemporaryDirectory(prefix="opustomo-startup-") as name:
        star, making = timed(lambda: make_set(Path(name), args.particles, args.tilts, args.box, args.shared_tables))
        profile = cProfile.Profile()
        if args.profile:
            profile.enable()
        seconds = measure(star)
        if args.profile:
            profile.disable()
            pstats.Stats(profile, stream=sys.stderr).sort_stats("cumulative").print_stats(45)
    sizes = {key: getattr(args, key) for key in ("particles", "tilts", "box", "shared_tables")}
    print(
        json.dumps({**sizes, "seconds": {"import": importing, **seconds}, "seconds_making_the_set": making}, indent=2)
    )


if __name__ == "__main__":
    main()
