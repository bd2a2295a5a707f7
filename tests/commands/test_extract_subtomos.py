"""`dsd extract_subtomos` on rendered tilt series: subtomograms and tables agree with the forward model."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.io.ctf_tables import read_relion_table
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_conventions import is_stack_set
from opustomo.io.star_tables import ParticleStar, read_particles
from opustomo.main import main
from tests.physics.posed_sets import PosedSet
from tests.prepare import imaged_series
from tests.prepare.extracted_series import (
    AGREE,
    IMAGE_APIX,
    MAKERS,
    VOLUME,
    Series,
    extract,
    extracted,
    relion_series,
    score,
    traveling,
    warp_series,
    write_star,
)
from tests.prepare.imaged_series import (
    APIX,
    AZIMUTH_DEG,
    TILTS,
)

DISAGREE = 0.95


@pytest.fixture(scope="module", params=MAKERS)
def series(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Series:
    return MAKERS[request.param](tmp_path_factory.mktemp("series") / f"my {request.param}")


@pytest.fixture(scope="module")
def fitting(series: Series) -> PosedSet:
    """Return the subtomograms that are extracted with the right options."""
    return extracted(extract(series))


def test_fits_the_forward_model(series: Series, capsys: pytest.CaptureFixture[str]) -> None:
    out = extract(series)
    said = capsys.readouterr().out
    assert "3 subtomograms from 1 tomograms" in said and "--normalizectf --angpix 8" in said
    found = extracted(out)
    assert score(found).min() > AGREE
    star = read_particles(out / "particles.star")
    assert star.strings("myNote") == ["a", "b", "c"] and star.pixel_sizes() == pytest.approx([APIX] * 3)
    assert list(star.blocks["optics"]["rlnCtfDataAreCtfPremultiplied"]) == ["0"]
    for path in out.rglob("*.mrc"):
        assert mrcfile.validate(path, print_file=io.StringIO()) and read_volume(path)[1] == pytest.approx(APIX)
    if "warp" in str(series.folder):
        assert len(found.tables[0]) == len(TILTS) - 1 and "frames were rotated by up to 1.50°" in said


def test_wrong_hand_disagrees(series: Series, fitting: PosedSet) -> None:
    """Particles 5000 Å from the axis: the wrong sign of the depth moves defoci of high tilts by 8000 Å."""
    other = "-1" if "imod" not in str(series.folder) else "1"
    right, wrong = score(fitting), score(extracted(extract(series, "--hand", other)))
    assert right.min() > AGREE and (wrong < right - 0.02).all() and np.median(wrong) < DISAGREE


def test_wrong_tilt_sign_disagrees(series: Series, fitting: PosedSet) -> None:
    """Tables whose tilts have the other sign; and for IMOD, slices put back the other way round."""
    mirrored = replace(fitting, tables=[replace(table, tilt_deg=-table.tilt_deg) for table in fitting.tables])
    assert score(mirrored).max() < DISAGREE
    if "imod" in str(series.folder):
        assert score(extracted(extract(series, "--tilt-sign", "1", "--hand", "1"))).max() < DISAGREE


@pytest.fixture(scope="module")
def turned_series(tmp_path_factory: pytest.TempPathFactory) -> Series:
    """A tilt axis at 70°, at which an azimuth that is turned the wrong way shows."""
    return relion_series(tmp_path_factory.mktemp("turned") / "series", 300.0, axis_deg=70.0, size=(400, 400))


def test_poses_lead_back_to_the_tomogram(series: Series) -> None:
    """RELION's rlnTomoSubtomogramRot, Tilt, Psi times the particle's matrix is the pose that went in; with
    --keep-frame it is the pose itself, and the slices fit a little worse."""

    def matrices(star: ParticleStar, start: str) -> np.ndarray:
        eulers = np.stack([star.numbers(f"{start}{angle}") for angle in ("Rot", "Tilt", "Psi")], axis=1)
        return Rotation.from_euler("ZYZ", eulers, degrees=True).as_matrix().swapaxes(1, 2)

    star = read_particles(extract(series) / "particles.star")
    turned = matrices(star, "rlnAngle")
    origins = star.origins_px() * APIX
    if "rlnTomoSubtomogramRot" in star:
        frames = matrices(star, "rlnTomoSubtomogram")
        turned, origins = frames @ turned, np.einsum("nij,nj->ni", frames, origins)
    else:
        assert "imod" in str(series.folder)
    assert np.allclose(turned, series.particles.matrices, atol=1e-6)
    assert np.allclose(origins, series.particles.origins_A, atol=1e-5)
    out = extract(series, "--keep-frame")
    kept = read_particles(out / "particles.star")
    assert "rlnTomoSubtomogramRot" not in kept
    assert np.allclose(kept.eulers_deg(), series.particles.eulers_deg, atol=1e-5)
    assert score(extracted(out)).min() > 0.95


def test_azimuth_of_astigmatism_follows_the_slice(turned_series: Series) -> None:
    found = extracted(extract(turned_series))
    wrong = replace(found, tables=[replace(t, astigmatism_deg=-t.astigmatism_deg) for t in found.tables])
    right = score(found)
    assert right.min() > AGREE and (score(wrong) < right - 0.01).all()
    assert np.allclose(extracted(extract(turned_series, "--no-invert")).images, -found.images)
    # the slice's x axis appears at 70° in the image
    assert found.tables[0].astigmatism_deg == pytest.approx(AZIMUTH_DEG - 70.0, abs=3.0)


def test_other_ways(series: Series) -> None:
    """Recentered, plain back-projection, half precision: all fit."""
    out = extract(series, "--recentre", "--raw", "--float16")
    found = extracted(out, normalized=False)
    assert np.abs(found.origins_px).max() < 1e-6 and score(found).min() > AGREE
    moved = read_particles(out / "particles.star")
    if "rlnCoordinateX" in moved:
        pixels = (series.particles.coordinates_A - series.particles.origins_A) / IMAGE_APIX + np.array(VOLUME) // 2
        assert np.allclose(moved.numbers("rlnCoordinateX"), pixels[:, 0], atol=1e-5)


def small_series(folder: Path) -> Series:
    """A stack of noise of four tilts, and one particle at its center."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    write_volume(folder / "TS_1.ali", rng.normal(5.0, 9.0, (4, 60, 50)).astype(np.float32), 4.0)
    (folder / "TS_1.tlt").write_text("-50\n0\n20\n50\n")
    (folder / "TS_1.defocus").write_text("1 4 -50 50 3000\n")
    names = "".join(f"_rlnCenteredCoordinate{axis}Angst\n" for axis in "XYZ")
    (folder / "p.star").write_text(f"data_\n\nloop_\n_rlnTomoName\n{names}TS_1 0 0 0\n")
    return Series(folder, imaged_series.draw_particles(0.0), ("--tilts", str(folder), "--series-apix", "4"))


def test_images_are_brought_to_one_scale(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By default, each image has mean 0 and standard deviation 1; picks without angles are accepted."""
    series = small_series(tmp_path / "a series")
    images = mrcfile.read(series.folder / "TS_1.ali").copy()
    words = [*series.words, "--box", "20", "--apix", "4"]
    star = str(series.folder / "p.star")
    # as AreTomo names its files
    (series.folder / "TS_1_Imod").mkdir()
    (series.folder / "TS_1.tlt").rename(series.folder / "TS_1_Imod" / "TS_1_st.tlt")
    (series.folder / "TS_1_Imod" / "tilt.com").write_text("SHIFT 0 3\n")
    assert main(["extract_subtomos", star, "-o", str(tmp_path / "a"), *words, "--workers", "1"]) == 0
    assert "Note: " in (said := capsys.readouterr().out) and "SHIFT 0 3 is ignored" in said
    scaled = images * np.array([1, 5, 0.2, 3])[:, None, None].astype(np.float32) + 7
    write_volume(series.folder / "TS_1.ali", scaled, 4.0)
    assert main(["extract_subtomos", star, "-o", str(tmp_path / "b"), *words, "--workers", "1"]) == 0
    one, other = (read_volume(tmp_path / name / "TS_1" / "TS_1_000001.mrc")[0] for name in "ab")
    assert np.allclose(one, other, atol=1e-4) and one.std() > 0.05
    table = read_particles(tmp_path / "a" / "particles.star")
    assert "rlnAngleRot" not in table and table.pixel_sizes() == pytest.approx([4.0])


def test_tilts_that_do_not_show_a_particle_are_left_out(tmp_path: Path) -> None:
    """At x = 90 Å an image 200 Å wide shows it at all tilts, at z = 120 Å not at ±50°."""
    series = small_series(tmp_path / "s")
    star = series.folder / "p.star"
    star.write_text(star.read_text().replace("TS_1 0 0 0\n", "TS_1 90 0 0\nTS_1 30 0 120\nTS_1 0 0 0\n"))
    out = tmp_path / "out"
    assert main(["extract_subtomos", str(star), "-o", str(out), *series.words, "--box", "20", "--apix", "4"]) == 0
    tilts = [read_relion_table(out / "TS_1" / f"TS_1_00000{i}_ctf.star").tilt_deg.tolist() for i in (1, 2, 3)]
    assert tilts == [[50, 0, -20, -50], [50, 0, -20], [50, 0, -20, -50]]


def test_tilts_hidden_by_visible_frames_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The subtomogram is that of a series without these tilts; the table no longer is one of 2D stacks."""
    series = small_series(tmp_path / "s")
    star = series.folder / "p.star"
    text = star.read_text()
    head = text.replace("_rlnTomoName", "_rlnTomoVisibleFrames\n_rlnTomoName")
    star.write_text(head.replace("TS_1 0 0 0\n", "[1,1,1,1] TS_1 0 0 0\n[0,1,1,0] TS_1 0 0 0\n"))
    words = [*series.words, "--box", "20", "--apix", "4", "--workers", "1", "--keep-scale"]
    assert main(["extract_subtomos", str(star), "-o", str(tmp_path / "all"), *words]) == 0
    assert "rlnTomoVisibleFrames hides tilts of 1 of 2 particles, which keep 2 tilts" in capsys.readouterr().out
    hidden = tmp_path / "all" / "TS_1" / "TS_1_000002_ctf.star"
    assert read_relion_table(hidden).tilt_deg.tolist() == [0, -20]
    star.write_text(text)
    with mrcfile.open(series.folder / "TS_1.ali", "r+") as file:
        file.set_data(file.data[1:3].copy())
    (series.folder / "TS_1.tlt").write_text("0\n20\n")
    rows = (series.folder / "TS_1.defocus").read_text().splitlines()
    (series.folder / "TS_1.defocus").write_text(rows[0].replace("1 4", "1 2") + "\n")
    assert main(["extract_subtomos", str(star), "-o", str(tmp_path / "two"), *words]) == 0
    one, other = (tmp_path / name / "TS_1" for name in ("all", "two"))
    found = read_volume(one / "TS_1_000002.mrc")[0]
    assert np.allclose(found, read_volume(other / "TS_1_000001.mrc")[0], atol=1e-5) and found.std() > 0
    assert not is_stack_set(read_particles(tmp_path / "all" / "particles.star"))


def test_coordinates_of_a_warptools_export(tmp_path: Path) -> None:
    """They count in pixels of the images, and afterwards in those of the tilt series, as for RELION 4."""
    series = warp_series(tmp_path / "my warp", far_A=1000.0)
    star = series.folder / "p.star"
    pixels = (series.particles.coordinates_A + 2.0 * np.array(VOLUME) / 2) / 16.0
    write_star(
        series.folder, series.particles, {f"rlnCoordinate{a}": pixels[:, i] for i, a in enumerate("XYZ")}, "TS_1"
    )
    text = star.read_text().replace("_rlnImagePixelSize\n", "_rlnImagePixelSize\n_rlnTomoTiltSeriesPixelSize\n")
    star.write_text("data_general\n\n_rlnTomoSubTomosAre2DStacks 1\n\n" + text.replace("1 2.0 1\n", "1 16.0 2.0 1\n"))
    sizes = ("--tomo-size", *map(str, VOLUME))
    found = extracted(extract(replace(series, words=(*series.words, *sizes))))
    assert score(found).min() > AGREE
    table = read_particles(next(series.folder.glob("out *")) / "particles.star")
    assert table.blocks["general"] == {"rlnTomoSubTomosAre2DStacks": "0"}
    written = np.stack([table.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    assert np.allclose(written, 8 * pixels, atol=1e-4)
    # what the user says of the coordinates counts more
    out = extract(replace(series, words=(*series.words, *sizes)), "--coord-apix", "15.9")
    table = read_particles(out / "particles.star")
    written = np.stack([table.numbers(f"rlnCoordinate{axis}") for axis in "XYZ"], axis=1)
    assert np.allclose(written, 7.95 * pixels, atol=1e-4)


def test_several_tomograms(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of two tomograms in turn; the same when jobs travel to other processes and are done in another order."""
    series = small_series(tmp_path / "s")
    for path in list(series.folder.glob("TS_1*")):
        (series.folder / path.name.replace("TS_1", "TS_2")).write_bytes(path.read_bytes())
    star = series.folder / "p.star"
    star.write_text(star.read_text() + "TS_2 12 0 0\nTS_1 0 16 0\nTS_2 0 0 20\n")
    words = [*series.words, "--box", "20", "--apix", "4"]
    for name in ("one", "two"):
        if name == "two":
            monkeypatch.setattr("opustomo.prepare.subtomogram_extraction.run_jobs", traveling)
        assert main(["extract_subtomos", str(star), "-o", str(tmp_path / name), *words, "--workers", "1"]) == 0
        assert "4 subtomograms from 2 tomograms" in capsys.readouterr().out
    names = read_particles(tmp_path / "two" / "particles.star").strings("rlnImageName")
    assert names == [f"TS_{t}/TS_{t}_00000{i}.mrc" for t, i in ((1, 1), (2, 1), (1, 2), (2, 2))]
    for name in names:
        assert np.array_equal(read_volume(tmp_path / "one" / name)[0], read_volume(tmp_path / "two" / name)[0])


def test_errors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    series = small_series(tmp_path / "s")
    star, out = series.folder / "p.star", tmp_path / "out"

    def said(*words: str, box: str = "20", apix: str = "8", tilts: tuple[str, ...] = series.words) -> str:
        start = ["extract_subtomos", str(star), "-o", str(out), "--box", box, "--apix", apix, "--workers", "1"]
        assert main([*start, *tilts, *words]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1 and not (out / "particles.star").exists()
        return message

    assert "--box must be even" in said(box="21")
    assert "--apix 3 is smaller than the pixel size 4 Å of the tilt images of TS_1" in said(apix="3")
    assert "Give one of --tomograms, --warp and --tilts" in said(tilts=())
    assert "STAR file does not exist" in said(tilts=("--tomograms", str(tmp_path / "none.star")))
    star.write_text(star.read_text().replace("TS_1 0 0 0", "TS_1 999 0 0"))
    assert "p.star: the particle of row 1, at 999, 0, 0 Å from the center of TS_1, is in no tilt image" in said()
    assert not out.exists()
    (series.folder / "TS_1.tlt").write_text("-50\n0\n20\n40\n50\n")
    (series.folder / "TS_1.defocus").write_text("1 5 -50 50 3000\n")
    assert "TS_1.ali: the stack has 4 sections, but tilt 5 is section 5" in said()
    (series.folder / "TS_1.ali").unlink()
    assert "does not list the images of TS_1" in said()
