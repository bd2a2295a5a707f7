"""Time of every converter on a large table, measured on commands that run as a user runs them.

    python benchmarks/conversion_speed.py --rows 400000 [--only convert_star combine_star]

The script prints one JSON object. "wall" is the time in seconds until a command ends, including the start of Python,
and "cpu" the CPU time of all its processes; "wall" is longer on a busy machine. "peak_GB" is the largest memory of one
process. The tables have the columns of RELION 4 after a refinement, with two optics groups and long names.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

APIX, BINNED, TOMOGRAMS, LISTS = 1.35, 10.8, 200, 40
OPTICS = "OpticsGroup OpticsGroupName SphericalAberration Voltage TomoTiltSeriesPixelSize ImagePixelSize ImageSize"
REFINED = (
    "GroupNumber ClassNumber NormCorrection RandomSubset LogLikeliContribution MaxValueProbDistribution "
    "NrOfSignificantSamples"
)
PLACES = "CoordinateX CoordinateY CoordinateZ"
CENTERED_COORDINATES = "CenteredCoordinateXAngst CenteredCoordinateYAngst CenteredCoordinateZAngst"
ANGLES = "AngleRot AngleTilt AnglePsi"
RELION4 = f"{{places}} {ANGLES} TomoName TomoParticleName OpticsGroup OriginXAngst OriginYAngst OriginZAngst ImageName"
SPECIES = "CoordinateX1 CoordinateY1 CoordinateZ1 AngleRot1 AngleTilt1 AnglePsi1 RandomSubset SourceName SourceHash"


def loop(block: str, columns: str, prefix: str = "rln") -> str:
    """Head of a STAR table."""
    return f"data_{block}\n\nloop_\n" + "".join(f"_{prefix}{name} #{i}\n" for i, name in enumerate(columns.split(), 1))


def tomogram(row: int) -> str:
    """Return the name of the tomogram of a row."""
    return f"TS_{row % TOMOGRAMS + 1:03d}"


def relion4(numbers: np.ndarray, places: str, one: bool = False) -> str:
    """Return a table of RELION 4, or of RELION 5 with centered coordinates, optionally of one tomogram."""
    groups = "".join(f"{group} optics{group} 2.7 300.0 {APIX} {BINNED} 64\n" for group in (1, 2))
    rows = (
        f"{x:.6f} {y:.6f} {z:.6f} {rot:.5f} {tilt:.5f} {psi:.5f} {(name := tomogram(0 if one else row))} {name}/{row} "
        f"{row % 2 + 1} {a:.5f} {b:.5f} {c:.5f} PseudoSubtomo/job128/Subtomograms/{name}/{row}_data.mrc "
        f"PseudoSubtomo/job128/Subtomograms/{name}/{row}_weights.mrc 1 1 1.000000 {row % 2 + 1} 1.683177e+05 0.1 12\n"
        for row, (x, y, z, rot, tilt, psi, a, b, c) in enumerate(numbers.tolist())
    )
    head = loop("particles", f"{RELION4.format(places=places)} CtfImage {REFINED}")
    return loop("optics", OPTICS) + groups + "\n" + head + "".join(rows)


def species(numbers: np.ndarray) -> str:
    """A table of an M species."""
    rows = (
        f"{x:.5f} {y:.5f} {z:.5f} {rot:.5f} {tilt:.5f} {psi:.5f} {row % 2 + 1} {tomogram(row)}.tomostar {row:016x}\n"
        for row, (x, y, z, rot, tilt, psi) in enumerate(numbers[:, :6].tolist())
    )
    return loop("", SPECIES, "wrp") + "".join(rows)


def pytom(numbers: np.ndarray, first: int) -> str:
    """One list of PyTom."""
    particles = (
        f'  <Particle Filename="p/{row}.em">\n    <Rotation Z1="{z1}" Paradigm="ZXZ" X="{x}" Z2="{z2}"/>\n'
        f'    <Shift Y="{b}" X="{a}" Z="{c}"/>\n    <PickPosition Y="{py}" X="{px}" Z="{pz}" '
        f'Origin="{tomogram(row)}.mrc"/>\n    <Score Type="FLCFScore" Value="0.5"><PeakPrior Filename="" Smooth="-1"/>'
        '</Score>\n    <Class Name="1"/>\n    <Wedge Type="SingleTiltWedge"><SingleTiltWedge Smooth="0.0"/></Wedge>\n'
        "  </Particle>\n"
        for row, (px, py, pz, z1, x, z2, a, b, c) in enumerate(numbers.tolist(), first)
    )
    return f'<ParticleList Path="/">\n{"".join(particles)}</ParticleList>\n'


def dynamo(numbers: np.ndarray) -> str:
    """A table of Dynamo."""
    rows = (
        f"{row} 1 1 {a:.4f} {b:.4f} {c:.4f} {td:.4f} {tilt:.4f} {na:.4f} 0.25 0 0 1 -60 60 0 0 0 0 {row % TOMOGRAMS} 0 "
        f"1 0 {x:.4f} {y:.4f} {z:.4f} 0 0 0 0 0 0 0 0 0 {APIX} 0 0 0 0 0 0\n"
        for row, (x, y, z, td, tilt, na, a, b, c) in enumerate(numbers.tolist(), 1)
    )
    return "".join(rows)


def make_inputs(folder: Path, rows: int) -> None:
    """Write all tables that the commands read."""
    rng = np.random.default_rng(0)
    numbers = rng.uniform(-180, 180, (rows, 9))
    numbers[:, :3] = rng.uniform(100, 4000, (rows, 3))
    texts: dict[str, Callable[[], str]] = {
        "relion4.star": lambda: relion4(numbers, PLACES),
        "one_tomogram.star": lambda: relion4(numbers, PLACES, one=True),
        "half.star": lambda: relion4(numbers[: rows // 2], PLACES),
        "other_half.star": lambda: relion4(numbers[rows // 2 :], PLACES).replace("Pseudo", "Other"),
        "relion5.star": lambda: relion4(numbers, CENTERED_COORDINATES),
        "species.star": lambda: species(numbers),
        "list.xml": lambda: pytom(numbers, 0),
        "table.tbl": lambda: dynamo(numbers),
    }
    for name, text in texts.items():
        (folder / name).write_text(text())
    (folder / "lists").mkdir()
    for index, part in enumerate(np.array_split(numbers, LISTS)):
        (folder / "lists" / f"{index:03d}.xml").write_text(pytom(part, index * len(part)))
    names = "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ"
    tomograms = "".join(f"{tomogram(row)} {APIX} 4096 4096 1600\n" for row in range(TOMOGRAMS))
    (folder / "tomograms.star").write_text(loop("global", names) + tomograms)


# label → words of dsdsh; {} is the folder
COMMANDS = {
    "convert_warp": "convert_warp {}/species.star 4 -o {}/o.star",
    "convert_pytom": "convert_pytom {}/one_tomogram.star TS_001 -o {}/o.star",
    "convert_pytom_to_star": "convert_pytom_to_star --input {}/list.xml -o {}/o.star",
    "convert_pytom_to_star, many lists": "convert_pytom_to_star --input-dir {}/lists -o {}/o.star",
    "convert_artiax": "convert_artiax {}/one_tomogram.star TS_001 --deduplicate -o {}/o.star",
    "convert_star": "convert_star {}/relion4.star 10.8 -o {}/o.star",
    "convert_star, all options": "convert_star {}/relion4.star 10.8 --rescale-angpix 5 --subset-label rlnClassNumber=1 "
    "--remove-symexp -o {}/o.star",
    "combine_star": "combine_star {}/half.star {}/other_half.star {}/o.star --drop-duplicates",
    "convert_dynamo, to RELION": "convert_dynamo {}/table.tbl --angpix 1.35 -o {}/o.star",
    "convert_dynamo, to Dynamo": "convert_dynamo {}/relion4.star -o {}/o.tbl",
    "convert_dynamo, poses back": "convert_dynamo {}/table.tbl --star {}/relion4.star -o {}/o.star",
    "convert_relion5, to pixels": "convert_relion5 {}/relion5.star --tomograms {}/tomograms.star -o {}/o.star",
    "convert_relion5, to RELION 5": "convert_relion5 {}/relion4.star --tomograms {}/tomograms.star -o {}/o.star",
}


def measure(folder: Path, words: str) -> dict[str, float | str]:
    """Run one command."""
    run = [sys.executable, "-c", "import sys; from analysis_scripts.main import main; sys.exit(main())"]
    began = time.perf_counter()
    done = subprocess.Popen(
        [*run, *(word.replace("{}", str(folder)) for word in words.split())], stdout=subprocess.PIPE
    )
    said = done.stdout.read().decode() if done.stdout is not None else ""
    _, status, used = os.wait4(done.pid, 0)
    wall = time.perf_counter() - began
    if status:
        raise SystemExit(f"{words} failed")
    return {
        "said": next(line for line in said.splitlines() if " in, " in line).split(":")[0],
        "wall": round(wall, 1),
        "cpu": round(used.ru_utime + used.ru_stime, 1),
        "peak_GB": round(used.ru_maxrss / 2**20, 2),
    }


def main() -> None:
    """Write the tables, run the commands, and print the times."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument(
        "--only", nargs="+", default=[""], metavar="NAME", help="run only commands that begin with these words"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="opustomo conversion ") as name:
        folder = Path(name)
        make_inputs(folder, args.rows)
        chosen = {label: words for label, words in COMMANDS.items() if label.startswith(tuple(args.only))}
        result = {label: measure(folder, words) for label, words in chosen.items()}
    print(json.dumps({"rows": args.rows, "load_before": os.getloadavg()[0], "seconds": result}, indent=2))


if __name__ == "__main__":
    main()
