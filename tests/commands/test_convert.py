"""Every converter of `dsdsh` on every real table: it succeeds, or reports an error and writes nothing."""

import re
import shutil
from pathlib import Path

import pytest

from analysis_scripts.main import main
from opustomo.io.star_tables import read_particles
from tests.convert.pytom_lists import write_list
from tests.convert.tables import FILES, loop

OTHERS = ("warp_TS_1_points.star", "warp_TS_1.xml")
TOMOGRAM = {
    "one_loop_16": "tomo_ts01",
    "relion30_origins_6": "tomo_1",
    "relion31_57": "TS_01",
    "relion31_6optics": "0003.mrc",
    "relion4_300": "TS_115",
    "relion5_3d_5": "TS_01",
    "warp_relion30_1399": "tomo_ts01.mrc",
}
# command → files it cannot serve; {} stands for the file, {mic} for one of its tomograms
COMMANDS = {
    "convert_star {} 5": (),
    "convert_star {} 5 --rescale-angpix 10 --remove-symexp": (),
    "convert_warp {} 5": FILES,
    "convert_pytom {} {mic}": ("relion5_3d_5", "relion31_6optics"),
    "convert_artiax {} {mic} --deduplicate": ("relion5_3d_5", "relion31_6optics"),
    "convert_dynamo {}": ("relion5_3d_5", "relion31_6optics"),
    "convert_relion5 {} --tomograms {tomograms}": ("relion31_6optics",),
    "combine_star {} {}": (),
}


@pytest.mark.parametrize("command", list(COMMANDS))
@pytest.mark.parametrize("name", [*FILES, *OTHERS])
def test_every_command_on_every_file(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    source = shared_data / "star" / (name if "." in name else f"{name}.star")
    suffix = ".tbl" if command.startswith("convert_dynamo") and source.suffix == ".star" else ".star"
    out = tmp_path / "the results" / f"out{suffix}"
    tomograms = tmp_path / "tomograms.star"
    refused = name in OTHERS or name in COMMANDS[command]
    count = 0
    if name not in OTHERS:
        star = read_particles(source)
        count = len(star)
        column = "rlnTomoName" if "rlnTomoName" in star else "rlnMicrographName"
        apix = 3.105 if name == "relion5_3d_5" else 1.329
        rows = [f"'{text}' {apix} 960 928 500" for text in sorted(set(star.strings(column)))]
        tomograms.write_text(loop("", "TomoName TomoTiltSeriesPixelSize TomoSizeX TomoSizeY TomoSizeZ", *rows))
    values = {"{}": str(source), "{mic}": TOMOGRAM.get(name, "x"), "{tomograms}": str(tomograms)}
    words = [values.get(word, word) for word in command.split()]
    code = main([*words, *(["-o"] if words[0] != "combine_star" else []), str(out)])
    said = capsys.readouterr()
    if refused:
        assert code == 1
        assert said.err.startswith(f"dsdsh {words[0]}: error: ")
        assert said.err.count("\n") == 1
        assert not out.parent.exists()
        return
    assert code == 0, said.err
    ((written, read),) = re.findall(
        rf"^Wrote (\d+) of (\d+) particles to {re.escape(str(out))}$", said.out, re.MULTILINE
    )
    read, written = int(read), int(written)
    assert read == (2 * count if words[0] == "combine_star" else count)
    assert 0 < written <= read
    if suffix == ".star":
        assert len(read_particles(out)) == written
    else:
        assert len(out.read_text().splitlines()) == written
        assert main(["convert_dynamo", str(out), "--star", str(source), "-o", str(tmp_path / "back.star")]) == 0
        assert len(read_particles(tmp_path / "back.star")) == count


def test_pytom_to_warp(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Lists of a folder with a space, then the particles of one tomogram."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my lists"
    folder.mkdir()
    for number, count in ((1, 2), (10, 3)):
        zeros = [(0.0, 0.0, 0.0)] * count
        write_list(folder / f"list_{number}.xml", zeros, [(1.0, 2.0, 3.0)] * count, origin=f"C:\\tomo\\TS_{number}.mrc")
    (folder / "notes.txt").write_text("no list")
    table = tmp_path / "all.star"
    assert main(["convert_pytom_to_star", "--input-dir", str(folder), "--output", str(table), "--workers", "1"]) == 0
    assert f"Wrote 5 of 5 particles to {table}" in capsys.readouterr().out
    assert main(["convert_pytom", str(table), "TS_1"]) == 0
    found = read_particles(tmp_path / "TS_1_norm.star")
    assert found.strings("rlnMicrographName") == ["TS_1.tomostar"] * 2
    assert found.strings("rlnCoordinateZ") == ["12.000000"] * 2
    assert "rlnCtfImage" not in read_particles(table)
    words = ["convert_pytom_to_star", "--input-dir", str(folder), "--output", str(table)]
    assert main([*words, "--ctf-template", "ctf/{ts_name}_{i:03d}.star"]) == 0
    names = [f"ctf/TS_1_00{i}.star" for i in (1, 2)] + [f"ctf/TS_10_00{i}.star" for i in (1, 2, 3)]
    assert read_particles(table).strings("rlnCtfImage") == names
    table.unlink()
    for template, reason in (("{x}", "only {ts_name} and {i}"), ("{ts_name}", "without {i}"), ("{i:q}", "only {ts_")):
        assert main([*words, "--ctf-template", template]) == 1
        assert reason in capsys.readouterr().err and not table.exists()
    capsys.readouterr()
    assert main(["convert_pytom_to_star", "--input-dir", str(folder), "--pattern", "*.em", "-o", str(table)]) == 1
    assert "no file that matches *.em" in capsys.readouterr().err


def test_options_that_make_no_sense(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = tmp_path / "p.star"
    star.write_text(loop("", "ImageName AngleRot CoordinateX CoordinateY CoordinateZ MicrographName", "a 1 2 3 4 t"))
    (tmp_path / "l.xml").write_text("<ParticleList/>")
    for command, reason in (
        (f"convert_star {star} 0", "angpix must be positive, got 0"),
        (f"convert_star {star} 5 --rescale-angpix -1", "--rescale-angpix must be positive"),
        (f"convert_star {star} 5 -o x.txt", "must end in .star"),
        (f"convert_star {star} 5 --subset-label 1", "no column rlnRandomSubset"),
        (f"convert_artiax {star} t --factor nan", "--factor must be a finite number"),
        (f"convert_artiax {star} t --data-block optics", "there is no block data_optics"),
        (f"convert_artiax {star} t --micrograph-col foo", "no column foo"),
        (f"convert_dynamo {star} -o x.star", "must end in .tbl"),
        (f"convert_dynamo {star} --star {star}", "--star requires a Dynamo table"),
        (f"convert_dynamo {star} --tomograms {tmp_path}/no.doc", "list of tomograms does not exist"),
        (f"convert_pytom_to_star --input {tmp_path}/l.xml -o x.star --bin-size 0", "--bin-size must be"),
        (f"combine_star {star} {star}", "Give at least two STAR files"),
    ):
        assert main(command.split()) == 1, command
        said = capsys.readouterr().err
        assert reason in said, said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.xml", "p.star"]
    assert main(["combine_star", str(star), str(star), str(tmp_path / "o.star"), "--drop-duplicates"]) == 0
    assert "Wrote 1 of 2 particles" in capsys.readouterr().out


REAL = (
    "SPEF1MT2_003_8.48Apx_particles",
    "cryocat_relion_3.0",
    "cryocat_relion_3.1_optics2",
    "cryocat_relion_4.0",
    "napari_match_pick",
    "relion2dynamo_4_1",
    "relion2dynamo_refine",
    "relion5_tutorial/particles",
    "sta_testing_bin8",
    "warptools/warp2_particles_matching",
    "warptools/warptools_test_4-tomos_10-ptcls_box-32_angpix-12",
)
SAID = {
    # command, name (or all): what must be said
    ("convert_star {} 5", "SPEF1MT2_003_8.48Apx_particles"): "states a pixel size of 8.48 Å, not 5 Å",
    ("convert_star {} 5", "napari_match_pick"): "states a pixel size of 20.712 Å, not 5 Å",
    ("convert_star {} 5", "cryocat_relion_3.1_optics2"): "states a pixel size of 2.446 and 3.446 Å, not 5 Å",
    ("convert_star {} 5", "warptools/warp2_particles_matching"): "converted from radians to degrees twice",
    ("convert_dynamo {}", "warptools/warp2_particles_matching"): "converted from radians to degrees twice",
    ("prepare {} 64 5", "warptools/warp2_particles_matching"): "converted from radians to degrees twice",
    ("prepare {} 64 5", "relion2dynamo_refine"): "states 32 (rlnImageSize)",
    ("prepare {} 64 5", "cryocat_relion_3.1_optics2"): "states 2.446 and 3.446 Å; origins in Å are divided by 5",
    ("prepare {} 64 5", "sta_testing_bin8"): "has one row per image of a stack, not per particle",
    ("prepare {} 64 5", "relion5_tutorial/particles"): "describes 2D stacks of tilt images",
}
ON_REAL = (
    "convert_star {} 5",
    "convert_star {} 5 --rescale-angpix 10",
    "convert_warp {} 5",
    "convert_dynamo {}",
    "convert_relion5 {} --tomograms {tomograms}",
    "combine_star {} {}",
    "combine_star {} {other}",
    "prepare {} 64 5",
)


@pytest.mark.parametrize("command", ON_REAL)
@pytest.mark.parametrize("name", REAL)
def test_real_tables(
    shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str
) -> None:
    """The command succeeds and reports doubtful values, or reports an error of one sentence and writes nothing."""
    source = Path(shutil.copy(shared_data / "star_real" / f"{name}.star", tmp_path / "particles.star"))
    out = tmp_path / "the results" / ("out.tbl" if command.startswith("convert_dynamo") else "out.star")
    values = {
        "{}": source,
        "{tomograms}": shared_data / "star_real" / "relion5_tutorial" / "tomograms.star",
        "{other}": shared_data / "star_real" / "cryocat_relion_4.0.star",
    }
    words = [str(values.get(word, word)) for word in command.split()]
    tail = {"combine_star": [str(out)], "prepare": []}.get(words[0], ["-o", str(out)])
    code = main([*words, *tail])
    said = capsys.readouterr()
    if code:
        assert said.err.startswith(f"dsdsh {words[0]}: error: ") and said.err.count("\n") == 1
        assert not out.parent.exists() and len(list(tmp_path.iterdir())) == 1
    elif out.suffix == ".star" and out.exists():
        star = read_particles(out)
        voltages = star.value_per_particle("rlnVoltage")
        assert voltages is None or (voltages > 0).all()
        sizes = star.pixel_sizes()
        assert sizes is None or (sizes > 0).all()
    assert SAID.get((command, name), "") in said.out + said.err
