"""Particle sets of noise, for timing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

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
