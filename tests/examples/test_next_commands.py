"""The command printed at the end of each step runs as printed, from picks to maps."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.latents import dimension_reduction
from opustomo.io.image_paths import resolve_images
from opustomo.io.mrc import read_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from tests.commands.quick import use_tiny_networks
from tests.convert.tables import loop
from tests.examples import lab_data
from tests.examples.lab_data import ANGLES, APIX, BOX, VOLUME

PROGRAMS = {"dsd": dsd, "dsdsh": dsdsh}
QUICK = "--templateres 32 --encoderres 8 --zdim 2 -b 4 -n 1 --num-workers 1 --device cpu"


def write_picks(path: Path, rows: slice) -> None:
    """Write some particles as pytom_extract_candidates.py does for tomograms that are binned twice."""
    columns = "CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi LCCmax CutOff DetectorPixelSize"
    places = zip(lab_data.corner_px()[rows] / 2, ANGLES[rows], strict=True)
    lines = (" ".join(map(str, [*at, *turn, 0.4, 0.1, 2 * APIX, "TS_1"])) for at, turn in places)
    path.write_text(loop("", f"{columns} MicrographName", *lines))


@pytest.mark.slow
def test_from_picks_to_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(dimension_reduction, "embed_latents", lambda latents, **options: latents[:, :2].copy())
    monkeypatch.chdir(tmp_path)
    lab_data.imod_project(tmp_path)
    (tmp_path / "series").rename(tmp_path / "tilts")
    write_picks(tmp_path / "a.star", slice(0, 3))
    write_picks(tmp_path / "b.star", slice(3, 8))

    def run(line: str) -> str:
        program, *words = shlex.split(line, comments=True)
        assert PROGRAMS[program](words) == 0, f"{line}\n{capfd.readouterr().err}"
        said = capfd.readouterr()
        return said.out + said.err

    def after(said: str, command: str) -> str:
        found = re.search(rf"^(?:Next:)? *((?:dsd|dsdsh) {command} .*)$", said, re.MULTILINE)
        assert found, said
        return found[1]

    extract = after(run("dsdsh combine_star a.star b.star picks.star"), "extract_subtomos")
    for placeholder, value in (("NX NY NZ", " ".join(map(str, VOLUME))), ("--box D", f"--box {BOX}"), ("Å", str(APIX))):
        assert placeholder in extract
        extract = extract.replace(placeholder, value)
    said = run(f"{extract} --workers 1")
    assert "in voxels of 16 Å (rlnDetectorPixelSize); they were converted to pixels of the tilt series, 8 Å" in said
    for path in resolve_images(read_particles("subtomos/particles.star"), None):
        volume, _ = read_volume(path)
        assert np.abs(np.array(np.unravel_index(volume.argmax(), volume.shape)) - BOX // 2).max() < 1.6
    check = after(run(after(said, "prepare")), "check")
    train = after(run(f"{check.split('#')[0]} --no-timing"), "train_tomo")
    assert "evaluate them with: dsdsh results run" in run(f"{train} {QUICK}")
    evaluate = after(run("dsdsh analyze run latest 2 2"), "eval_vol")
    parse = after(run(after(run(evaluate), "validate")), "parse_pose")
    said = run(parse)
    run(after(said, "reconstruct"))
    assert (tmp_path / "run/analyze.0/kmeans2/pre0.mrc").is_file()
    check = after(run(after(said, "combine_star")), "check")
    assert len(read_particles(tmp_path / "chosen.star")) == 8
    assert "--datadir subtomos" in check  # the table is no longer beside its images
    run(f"{check} --no-timing")
