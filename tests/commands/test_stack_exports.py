"""Sets of 2D stacks: units of WarpTools' coordinates, visible tilts, and commands that refuse such sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from analysis_scripts.main import main as dsdsh
from opustomo.convert.relion5 import read_tomograms, to_pixels, to_relion5
from opustomo.convert.relion30 import to_relion30
from opustomo.io.star_conventions import is_stack_set
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.io.tomograms import TomogramScale, particle_centers
from opustomo.main import main
from tests.commands.test_prepare_ctf import tables
from tests.convert.tables import loop, star_of

SERIES, IMAGE, SIZE = 1.5, 6.0, (400, 600, 200)
TILTS = np.array([-40.0, -10.0, 0.0, 20.0, 50.0])
PLACES = np.array([[50.0, 75.0, 25.0], [60.0, 75.0, 25.0], [50.0, 75.0, 35.0]])
FRAMES = ("[1,1,1,1,1]", "[0,1,1,1,1]", "[0, 1, 1, 0, 0]")
GENERAL = "data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\n"


def warptools_set(folder: Path, frames: tuple[str, ...] = FRAMES, general: str = GENERAL) -> Path:
    """As WarpTools exports it: matrices without shifts, a stack that is not there, coordinates in image pixels."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = "TomoName TomoTiltSeriesName TomoFrameCount TomoSizeX TomoSizeY TomoSizeZ TomoHand "
    columns += "TomoTiltSeriesPixelSize Voltage SphericalAberration AmplitudeContrast"
    size = " ".join(map(str, SIZE))
    text = loop("global", columns, f"TS_1.tomostar dummy.mrc 5 {size} -1.0 {SERIES} 300 2.7 0.07")
    rows = []
    for tilt in TILTS:
        turn = Rotation.from_euler("yz", [tilt, 85.0], degrees=True).as_matrix()
        matrix = " ".join(f"[{','.join(f'{value:.9f}' for value in row)},0]" for row in turn)
        rows.append(f"{matrix} [0,0,0,1] 30000 29000 12 0.9 {tilt + 60}")
    columns = "TomoProjX TomoProjY TomoProjZ TomoProjW DefocusU DefocusV DefocusAngle CtfScalefactor "
    text += loop("TS_1.tomostar", columns + "MicrographPreExposure", *rows)
    (folder / "set_tomograms.star").write_text(text)
    optics = loop(
        "optics",
        "OpticsGroup OpticsGroupName TomoTiltSeriesPixelSize ImageDimensionality TomoSubtomogramBinning ImagePixelSize",
        f"1 a {SERIES} 2 4 {IMAGE}",
    )
    columns = "TomoName CoordinateX CoordinateY CoordinateZ AngleRot AngleTilt AnglePsi TomoParticleName OpticsGroup "
    columns += "ImageName OriginXAngst OriginYAngst OriginZAngst" + " TomoVisibleFrames" * bool(frames)
    particles = [
        f"TS_1.tomostar {' '.join(map(str, place))} 1 2 3 TS_1/{i + 1} 1 s/{i}.mrcs 0 0 0"
        + (f' "{frames[i]}"' if frames else "")
        for i, place in enumerate(PLACES)
    ]
    (folder / "set.star").write_text(general + optics + loop("particles", columns, *particles))
    return folder / "set.star"


def prepare(star: Path, out: Path, *words: str) -> int:
    tomograms = str(star.with_name("set_tomograms.star"))
    start = ["prepare_ctf", str(star), "--tomograms", tomograms, "-o", str(out), "--workers", "1"]
    return main([*start, *words])


def test_defoci_of_a_warptools_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first particle is at the center of the tomogram, the others 60 Å along x and z: images of 6 Å/pixel."""
    star = warptools_set(tmp_path / "my set")
    assert prepare(star, tmp_path / "ctf", "--allow-2d-stacks") == 0
    said = capsys.readouterr().out
    assert "read in pixels of the images, 6 Å, as WarpTools writes them" in said
    assert "rlnTomoVisibleFrames hides tilts of 2 of 3 particles, which keep 2 to 4 tilts" in said
    center, right, up = tables(tmp_path / "ctf" / "all.star")
    np.testing.assert_allclose(center.defocus_u_A, 30000, atol=1e-3)
    # seen along the beam a point lies at -x sin t + z cos t, and the hand is -1
    along_x, along_z = 60 * np.sin(np.deg2rad(TILTS)), -60 * np.cos(np.deg2rad(TILTS))
    np.testing.assert_allclose(right.defocus_u_A - 30000, along_x[1:], atol=1e-3)
    np.testing.assert_allclose(up.defocus_v_A - 29000, along_z[1:3], atol=1e-3)
    assert [len(table) for table in (center, right, up)] == [5, 4, 2]
    np.testing.assert_allclose(up.bfactor_A2, 4 * (TILTS[1:3] + 60))


@pytest.mark.parametrize("general", [GENERAL, ""])
def test_stacks_are_refused_with_the_remedy(general: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = warptools_set(tmp_path, general=general)
    assert prepare(star, tmp_path / "ctf") == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "2D stacks of tilt images, which training cannot read" in said
    assert f"dsd extract_subtomos {star} --warp DIR" in said and not (tmp_path / "ctf").exists()
    assert main(["check", str(star)]) == 1
    assert "2D stacks" in (said := capsys.readouterr().out) and "--warp DIR" in said


def test_matrices_without_shifts_are_not_extracted_with(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = warptools_set(tmp_path)
    words = ["--tomograms", str(tmp_path / "set_tomograms.star"), "--box", "20", "--apix", "8"]
    assert main(["extract_subtomos", str(star), "-o", str(tmp_path / "out"), *words]) == 1
    said = capsys.readouterr().err
    assert "the shifts of the tilt images are unknown" in said and "--warp" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ("[0,0,0,0,0]", "of row 2, the particle is visible in no used tilt"),
        ("[1,1,1,1]", "of row 2 has 4 tilts"),
        ("[1,1,2,1,1]", "of row 2 is [1,1,2,1,1], but it must be a list of 0 and 1"),
        ("x", "of row 2 is x"),
    ],
)
def test_wrong_lists_of_frames(frames: str, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = warptools_set(tmp_path, (FRAMES[0], frames, FRAMES[2]))
    assert prepare(star, tmp_path / "ctf", "--allow-2d-stacks") == 1
    said = capsys.readouterr().err
    assert expected in said and said.count("\n") == 1 and not (tmp_path / "ctf").exists()


def corner_A(star: ParticleStar) -> np.ndarray:
    """Places of RELION 5 in Å from the tomogram's corner."""
    found = np.stack([star.numbers(f"rlnCenteredCoordinate{axis}Angst") for axis in "XYZ"], axis=1)
    return np.asarray(found + np.array(SIZE) / 2 * SERIES)


def test_every_converter_counts_in_pixels_of_the_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = read_particles(warptools_set(tmp_path))
    known = read_tomograms(tmp_path / "set_tomograms.star")
    five = to_relion5(star, known).star
    np.testing.assert_allclose(corner_A(five), PLACES * IMAGE, atol=1e-4)
    # in pixels of the tilt series, which the table must tell, because it still is one of 2D stacks
    pixels = to_pixels(five, known).star
    found = np.stack([pixels.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    np.testing.assert_allclose(found, PLACES * IMAGE / SERIES, atol=1e-4)
    again = to_relion5(pixels, known).star
    np.testing.assert_allclose(corner_A(again), PLACES * IMAGE, atol=1e-4)
    assert "opusCoordinatePixelSize" not in again
    for table in (star, pixels):
        centers, apix = particle_centers(table, TomogramScale(view_apix=3.0))
        np.testing.assert_allclose(centers * apix[:, None], PLACES * IMAGE, atol=1e-4)
        old = to_relion30(table, IMAGE, rescale_apix=2.0).star
        found = np.stack([old.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
        np.testing.assert_allclose(found * 2.0, PLACES * IMAGE, atol=1e-4)
    words = ["convert_relion5", str(tmp_path / "set.star"), "--tomograms", str(tmp_path / "set_tomograms.star")]
    assert dsdsh(words) == 0
    assert "read in pixels of the images, 6 Å" in capsys.readouterr().out
    np.testing.assert_allclose(corner_A(read_particles(tmp_path / "set_relion5.star")), PLACES * IMAGE, atol=1e-4)


def test_stacks_and_subtomograms_are_not_combined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = warptools_set(tmp_path)
    columns = "MicrographName CoordinateX CoordinateY CoordinateZ ImageName DetectorPixelSize Magnification"
    star_of(tmp_path, loop("", columns, "a 1 2 3 b.mrc 6 10000"), "other.star")
    assert dsdsh(["combine_star", str(star), str(tmp_path / "other.star"), str(tmp_path / "out.star")]) == 1
    said = capsys.readouterr().err
    assert "Extract subtomograms of the first one too" in said and not (tmp_path / "out.star").exists()
    shutil.copy(star, tmp_path / "copy.star")
    assert dsdsh(["combine_star", str(star), str(tmp_path / "copy.star"), str(tmp_path / "out.star")]) == 0
    assert is_stack_set(read_particles(tmp_path / "out.star"))


def test_real_exports_of_warptools(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Taken for pixels of the tilt series, the defocus would be 31,177 Å, and all particles in one corner."""
    source, name = shared_data / "star_real" / "warptools", "warptools_test_4-tomos_10-ptcls_box-32_angpix-12"
    star, tomograms = tmp_path / "set.star", tmp_path / "set_tomograms.star"
    star.write_bytes((source / f"{name}.star").read_bytes())
    tomograms.write_bytes((source / f"{name}_tomograms.star").read_bytes())
    assert prepare(star, tmp_path / "ctf", "--allow-2d-stacks") == 0
    assert "hides tilts of 20 of 40 particles, which keep 34 to 35 tilts" in capsys.readouterr().out
    table = tables(tmp_path / "ctf" / "all.star")[10]
    assert table.defocus_u_A[7] == pytest.approx(33347.09, abs=0.01)
    sets = ((star, tomograms), (source / "warp2_particles_matching.star", source / "warp2_matching_tomograms.star"))
    for particles, whole in sets:
        known = read_tomograms(whole)
        found = to_relion5(read_particles(particles), known).star
        rows = known.rows(found.strings("rlnTomoName"), "")
        half = known.sizes_px[rows] / 2 * known.apix[rows, None]
        middle = np.stack([found.numbers(f"rlnCenteredCoordinate{axis}Angst") for axis in "XYZ"], axis=1) / half
        assert np.abs(middle).max() < 1 and (middle.max(0) > 0.6).all() and (middle.min(0) < -0.6).all()


def test_real_frames_of_relion5(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seventeen of forty frames show the first particle."""
    source = shared_data / "star_real" / "relion5_tutorial"
    star = read_particles(source / "particles.star")
    table = star.particles.drop(columns=[name for name in star.particles if "TomoSubtomogram" in name])
    ParticleStar(star.path, {**star.blocks, star.particle_block: table}, star.particle_block).write(tmp_path / "p.star")
    words = [str(tmp_path / "p.star"), "--tomograms", str(source / "tomograms.star"), "-o", str(tmp_path / "ctf")]
    assert main(["prepare_ctf", *words, "--workers", "1"]) == 1
    assert "dsd extract_subtomos" in (said := capsys.readouterr().err) and "--tomograms" in said
    assert main(["prepare_ctf", *words, "--workers", "1", "--allow-2d-stacks"]) == 0
    assert "rlnTomoVisibleFrames hides tilts of" in capsys.readouterr().out
    found = tables(tmp_path / "ctf" / "all.star")
    frames = [text.count("1") for text in star.strings("rlnTomoVisibleFrames")]
    assert [len(one) for one in found] == frames and frames[0] == 17
