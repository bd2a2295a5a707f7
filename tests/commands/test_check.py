"""`dsd check` on complete and incomplete sets."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import mrcfile
import numpy as np
import pytest

from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.main import main


@pytest.fixture
def own_set(tiny_set: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(tiny_set, tmp_path / "my set"))


def check(capsys: pytest.CaptureFixture[str], folder: Path, *words: str) -> tuple[int, str]:
    code = main(["check", str(folder / "particles.star"), "--normalizectf", "--no-timing", *words])
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return code, said.out + said.err


def test_a_complete_set(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = ("--json", str(tmp_path / "new" / "found.json"), "--figure", str(tmp_path / "a figure.png"))
    code, said = check(capsys, tiny_set, "-r", str(tiny_set / "mask.mrc"), *outputs, "-b", "4")
    assert code == 0 and "missing:" not in said and "without:" not in said
    assert "correlation of the power of the data with the 3D CTF" in said and "mirrored" in said
    assert "Verdict: usable" in said and said.rstrip().endswith("Then: dsdsh results run")
    content = json.loads((tmp_path / "new" / "found.json").read_text())
    assert content["can_train"] and content["missing"] == [] and content["verdict"]["faults"] == []
    assert content["command"] in said and content["settings"]["batch_size"] == 4
    assert content["preflight"]["memory"]["batch_size"] == 4 and content["preflight"]["mask"]["given"]
    assert (tmp_path / "a figure.png").read_bytes()[:4] == b"\x89PNG"


def printed_command(said: str) -> list[str]:
    lines = [line for line in said.splitlines() if line.startswith("dsd train_tomo ")]
    assert len(lines) == 1
    return shlex.split(lines[0])[1:]


def test_the_printed_command_trains(tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command runs as pasted, here for one epoch; the time comes from a measured step."""
    star, mask, out = tiny_set / "particles.star", tiny_set / "mask.mrc", tmp_path / "my run"
    words = ["check", str(star), "-r", str(mask), "--angpix", "12", "--tilt-limit", "55", "-o", str(out)]
    assert main([*words, "--figure", str(tmp_path / "check.png")]) == 0
    said = capsys.readouterr().out
    assert "particles per second, from a measured step" in said and "GB of disk space" in said
    assert "measured at a load of" in " ".join(said.split())
    command = printed_command(said)
    assert command[:2] == ["train_tomo", str(star)] and command[-2:] == ["-o", str(out)]
    assert command[2:8] == ["-r", str(mask), "--angpix", "12", "--tilt-limit", "55"]
    assert "--normalizectf" in command and "--estpose" in command
    command[command.index("-n") + 1] = "1"
    assert main(command) == 0
    assert (out / "weights.0.pkl").is_file() and (out / "z.0.pkl").is_file()
    shutil.rmtree(out)


def test_given_settings_are_kept(tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = {"--zdim": "3", "--templateres": "48", "-b": "2", "--downfrac": "0.9"}
    code, said = check(capsys, tiny_set, *(word for pair in given.items() for word in pair))
    command = printed_command(said)
    assert code == 0 and all(command[command.index(name) + 1] == value for name, value in given.items())
    assert said.count("It is given on the command line.") == 4


def test_dark_particles_are_not_usable(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (own_set / "subtomo").glob("*.mrc"):
        with mrcfile.open(path, "r+") as handle:
            handle.set_data(-handle.data)
    code, said = check(capsys, own_set, "-r", str(own_set / "mask.mrc"))
    assert code == 1 and "Verdict: not usable" in said and "invert the contrast" in said
    assert "dsd train_tomo" not in said


def test_what_is_merely_absent_lets_training_start(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = own_set / "particles.star"
    star.write_text(star.read_text().replace("rlnCtfImage", "myNote"))
    code, said = check(capsys, own_set)
    assert code == 0
    assert "warning: the particle table has no rlnCtfImage" in said
    assert "warning: no solvent mask" in said and "dsdsh create_mask average.mrc -o mask.mrc --box 24 --apix 12" in said
    assert f"dsd prepare_ctf '{star}'" in said


def test_missing_images_are_counted_and_the_rest_looked_at(
    own_set: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    gone = sorted((own_set / "subtomo").glob("*.mrc"))[:3]
    for path in gone:
        path.unlink()
    code, said = check(capsys, own_set, "--json", str(tmp_path / "f.json"))
    assert code == 1
    assert "missing: " in said and "3 of 16 subtomograms are missing" in said and gone[0].name in said
    assert "--datadir" in said and "only 13 of 16 particles could be inspected" in said
    content = json.loads((tmp_path / "f.json").read_text())
    assert not content["can_train"] and content["preflight"]["contents"]["particles"] == 13
    assert [item["blocks"] for item in content["missing"]] == [True, False]


def test_nothing_there_at_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "particles.star").write_text("data_\nloop_\n_rlnImageName\n_rlnCoordinateX\na.mrc 1\nb.mrc 2\n")
    code, said = check(capsys, tmp_path)
    assert code == 1 and "the set cannot be inspected" in said
    assert "2 of 2 subtomograms are missing, the first is a.mrc" in said
    assert "no poses: the particle table has no rlnAngleRot" in said and "dsdsh prepare" in said


def test_missing_poses_name_the_command_that_makes_them(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = own_set / "particles.star"
    star.write_text(re.sub("rlnAngle", "myAngle", star.read_text()))
    code, said = check(capsys, own_set)
    assert code == 1 and "no rlnAngleRot, rlnAngleTilt, rlnAnglePsi" in said
    assert f"dsdsh prepare '{star}' 24 12" in said and "16 subtomograms, box 24" in said

    write_poses(own_set / "few.pkl", Poses(np.zeros((3, 3)), np.zeros((3, 3))))
    code, said = check(capsys, own_set, "--poses", str(own_set / "few.pkl"))
    assert code == 1 and "holds 3 poses for 16 particles" in said
    code, said = check(capsys, own_set, "--poses", str(own_set / "absent.pkl"))
    assert code == 1 and "absent.pkl" in said


def test_missing_and_damaged_ctf_tables(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = sorted(own_set.rglob("*_ctf.star"))
    tables[0].unlink()
    tables[1].write_text("data_\nloop_\n_rlnNothing\n1\n")
    code, said = check(capsys, own_set)
    assert code == 1 and "1 of 16 CTF tables are missing" in said and tables[0].stem in said
    assert "1 CTF tables cannot be read" in said and "14 subtomograms" in said
    code, said = check(capsys, own_set, "--warp")  # the csv tables are all there
    assert code == 0 and "16 subtomograms" in said


def test_truncated_images_and_wrong_masks(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = sorted((own_set / "subtomo").glob("*.mrc"))[0]
    code, said = check(capsys, own_set, "-r", str(first.with_name("none.mrc")))
    assert code == 1 and "none.mrc" in said and "dsdsh create_mask" in said
    first.write_bytes(first.read_bytes()[:3000])
    code, said = check(capsys, own_set)
    assert code == 1 and "1 subtomograms cannot be read" in said and "truncated" in said


def test_pixel_size_mismatch_stops_unless_forced(tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = check(capsys, tiny_set, "--angpix", "10")
    assert code == 1 and "--angpix is 10 Å, but the header" in said and "--force" in said
    assert "remedy: --angpix" not in said and "no subtomogram" not in said  # the sentence says what to do
    code, said = check(capsys, tiny_set, "--angpix", "10", "--force", "-r", str(tiny_set / "mask.mrc"))
    assert code == 0 and "warning: the headers say 12 Å/pixel, but 10 is used" in said


def test_expected_tilts(tiny_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--tilt-range" not in check(capsys, tiny_set)[1]
    code, said = check(capsys, tiny_set, "--tilt-range", "50", "--tilt-step", "2")
    assert code == 0 and said.count("--tilt-range 50 and --tilt-step 2 disagrees with the CTF tables") == 1


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--downfrac", "0"), "--downfrac"),
        (("--zdim", "0"), "--zdim"),
        (("-b", "0"), "--batch-size"),
        (("--tilt-range", "95"), "--tilt-range"),
        (("--tilt-limit", "-1"), "--tilt-limit"),
    ],
)
def test_impossible_options(
    tiny_set: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], expected: str
) -> None:
    code, said = check(capsys, tiny_set, *words)
    assert code == 1 and expected in said


PICKS = """
data_particles

loop_
_rlnTomoName
_rlnCenteredCoordinateXAngst
_rlnCenteredCoordinateYAngst
_rlnCenteredCoordinateZAngst
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
TS_1 0 0 0 10 20 30
TS_1 100 0 0 10 20 30
"""
TOMOGRAMS = "data_global\n\nloop_\n_rlnTomoName\n_rlnTomoTiltSeriesStarFile\nTS_1 tilt_series/TS_1.star\n"


def said_of(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> str:
    code = main(["check", str(path), *words])
    said = capsys.readouterr()
    assert code == 1 and "Traceback" not in said.err
    return said.out + said.err


def test_relion5_picks_without_extraction(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "my project" / "Extract" / "job5"
    folder.mkdir(parents=True)
    (folder / "particles.star").write_text(PICKS)
    said = said_of(capsys, folder / "particles.star", "--angpix", "8")
    assert "missing: subtomograms: the particle table has no rlnImageName" in said
    assert f"dsd extract_subtomos '{folder}/particles.star' --tomograms tomograms.star --box D --apix 8" in said
    assert "rlnCtfImage" not in said  # it comes with the subtomograms
    (tmp_path / "my project" / "tomograms.star").write_text(TOMOGRAMS)
    assert f"--tomograms '{tmp_path}/my project/tomograms.star'" in said_of(capsys, folder / "particles.star")
    # the tables of tomograms themselves are no particles
    said = said_of(capsys, tmp_path / "my project" / "tomograms.star")
    assert "lists tomograms, not particles" in said and "dsd extract_subtomos particles.star" in said


def test_stacks_and_series_of_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = tmp_path / "particles.star"
    general = "data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n"
    images = PICKS.replace("_rlnAngleRot", "_rlnImageName\n_rlnAngleRot")
    images = images.replace(" 0 0 10", " 0 0 Subtomograms/1_stack2d.mrcs 10")
    star.write_text(general + images)
    said = said_of(capsys, star)
    assert "RELION 5's 2D stacks" in said and "dsd extract_subtomos" in said
    star.write_text(images.replace("Subtomograms/", "000001@Subtomograms/"))
    said = said_of(capsys, star)
    assert "one row per tilt image" in said and f"dsd prepare_subtomos {star} -o subtomos" in said


def test_every_pixel_size_of_the_table_is_reported(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = own_set / "particles.star"
    groups = [f"{number} {size}" for number, size in enumerate((12, 12.5, 13, 13.5, 14), 1)]
    table = read_particles(star)
    table.particles["rlnOpticsGroup"] = [str(1 + row % 5) for row in range(16)]
    for column in ("rlnMagnification", "rlnDetectorPixelSize"):
        del table.particles[column]
    table.write(star)
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnImagePixelSize\n" + "\n".join(groups) + "\n\n"
    star.write_text(optics + star.read_text().replace("data_\n", "data_particles\n", 1))
    code, said = check(capsys, own_set)
    assert code == 0
    assert "the particle table says 12, 12.5, 13, 13.5 and 14 Å per pixel, but 12 is used" in said
    for path in (own_set / "subtomo").glob("*.mrc"):
        with mrcfile.open(path, "r+") as handle:
            handle.voxel_size = 0
    code, said = check(capsys, own_set)
    assert code == 1 and "has pixel sizes of 12, 12.5, 13, 13.5 and 14 Å, and" in said and "--angpix" in said


def test_premultiplied_subtomograms(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = own_set / "particles.star"
    rows = star.read_text().split("loop_", 1)[1]
    optics = "data_optics\n\nloop_\n_rlnOpticsGroup\n_rlnCtfDataAreCtfPremultiplied\n1 1\n\ndata_particles\n\nloop_"
    star.write_text(optics + rows)
    code, said = check(capsys, own_set)
    assert (
        code == 0 and "warning: the subtomograms were multiplied by the CTF" in said and "dsd extract_subtomos" in said
    )


def test_tilt_series_that_lie_beside(own_set: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command names the existing files: text files of IMOD, XML files of WARP."""
    star = own_set / "particles.star"
    star.write_text(star.read_text().replace("rlnCtfImage", "myNote"))
    (own_set / "tilts").mkdir()
    (own_set / "tilts" / "other.tlt").write_text("0\n")
    assert "--tomograms tomograms.star (or --warp DIR, --tilts DIR)" in check(capsys, own_set)[1]
    (own_set / "tilts" / "tomo00.tlt").write_text("0\n")
    without_size = f"dsd prepare_ctf '{star}' --tilts '{own_set}/tilts' --tomo-size NX NY NZ -o ctf"
    assert without_size in check(capsys, own_set)[1]
    (own_set / "tilts" / "tomo00.rec").touch()  # its header states the size
    assert f"dsd prepare_ctf '{star}' --tilts '{own_set}/tilts' -o ctf" in check(capsys, own_set)[1]
    (own_set / "warp_tiltseries").mkdir()
    (own_set / "warp_tiltseries" / "tomo00.xml").write_text("<TiltSeries></TiltSeries>")
    assert f"--warp '{own_set}/warp_tiltseries'" in check(capsys, own_set)[1]


def test_files_from_which_tables_are_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.xml").write_text("<TiltSeries></TiltSeries>")
    (tmp_path / "b.xml").write_text("<ParticleList></ParticleList>")
    assert "dsd extract_subtomos particles.star --warp" in said_of(capsys, tmp_path / "a.xml")
    assert "dsdsh convert_pytom_to_star" in said_of(capsys, tmp_path / "b.xml")
    assert "dsd prepare_ctf" in said_of(capsys, tmp_path / "c.coords")
    assert "Dynamo" in said_of(capsys, tmp_path / "d.tbl")
