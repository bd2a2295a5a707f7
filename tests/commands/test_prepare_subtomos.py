"""`dsd prepare_subtomos` on rendered particle series: subtomograms and tables agree with the forward model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.io.mrc import write_volume
from opustomo.io.star_tables import read_particles
from opustomo.main import main
from opustomo.prepare.particle_tables import header_note
from tests.prepare import imaged_series
from tests.prepare.extracted_series import AGREE, extracted, score, traveling
from tests.prepare.imaged_series import APIX, ASTIGMATISM_A, AZIMUTH_DEG, BOX, DEFOCUS_A, DOSE, TILTS

FINE_APIX = APIX / 2
COUNT = 3


def image_of(rotation: np.ndarray, origin_px: np.ndarray, tilt: int) -> np.ndarray:
    """One image of the particle, (BOX, BOX); Fourier-cropped from half the pixel size."""
    window = imaged_series.WINDOW
    seen = (imaged_series.blob_centers() @ rotation.T)[:, :2] / FINE_APIX - 2 * origin_px + window // 2
    fine = imaged_series._projection(seen, imaged_series.BLOB_SIGMA_A / FINE_APIX)
    spectrum = np.fft.fftshift(np.fft.fft2(fine))
    transfer = imaged_series._transfer(tilt, 0.0, FINE_APIX)
    whole = np.fft.fftshift(np.fft.fft2(np.fft.irfft2(transfer, s=fine.shape)))
    quarter = slice(window // 4, -window // 4)
    coarse = np.fft.ifft2(np.fft.ifftshift((spectrum * whole)[quarter, quarter])).real / 4
    middle = slice(window // 4 - BOX // 2, window // 4 + BOX // 2)
    return coarse[middle, middle].astype(np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RELION 3.1's table of images: orientation of each, tilt axis at 70°, origins in Å, refined by half a degree."""
    folder = tmp_path_factory.mktemp("m") / "my series"
    rng = np.random.default_rng(3)
    rows = []
    for particle in range(COUNT):
        pose = Rotation.from_euler("ZYZ", rng.uniform(-180, 180, 3), degrees=True).as_matrix().T
        images = []
        for tilt, angle in enumerate(TILTS):
            turn = Rotation.from_euler("ZYZ", [0, angle, -70 + rng.normal(0, 0.3)], degrees=True).as_matrix().T
            origin = rng.uniform(-1.5, 1.5, 2)
            images.append(image_of(turn @ pose, origin, tilt))
            eulers = Rotation.from_matrix((turn @ pose).T).as_euler("ZYZ", degrees=True)
            numbers = [
                *eulers,
                *(origin * APIX),
                DEFOCUS_A[tilt] + ASTIGMATISM_A / 2,
                DEFOCUS_A[tilt] - ASTIGMATISM_A / 2,
            ]
            numbers += [AZIMUTH_DEG, 4 * DOSE[tilt], np.cos(np.deg2rad(angle))]
            rows.append(
                f"{tilt + 1:06d}@stacks/p{particle}.mrcs " + " ".join(f"{v:.6f}" for v in numbers) + f" n{particle} 1"
            )
        (folder / "stacks").mkdir(parents=True, exist_ok=True)
        write_volume(folder / "stacks" / f"p{particle}.mrcs", np.stack(images), APIX)
    optics = "_rlnOpticsGroup\n_rlnVoltage\n_rlnSphericalAberration\n_rlnAmplitudeContrast\n_rlnImagePixelSize\n"
    optics += "1 300 2.7 0.07 8"
    names = "ImageName AngleRot AngleTilt AnglePsi OriginXAngst OriginYAngst".split()
    names += "DefocusU DefocusV DefocusAngle CtfBfactor CtfScalefactor".split()
    head = "".join(f"_rln{name}\n" for name in names) + "_myNote\n_rlnOpticsGroup\n"
    text = f"data_optics\n\nloop_\n{optics}\n\ndata_particles\n\nloop_\n{head}" + "\n".join(rows) + "\n"
    (folder / "series.star").write_text(text)
    return folder


def test_fits_the_forward_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    assert main(["prepare_subtomos", str(folder / "series.star"), "-o", str(out), "--workers", "1"]) == 0
    assert f"{COUNT * len(TILTS)} images" in (said := capsys.readouterr().out) and "3 subtomograms" in said
    found = extracted(out)
    scores = score(found)
    assert scores.min() > AGREE
    star = read_particles(out / "particles.star")
    assert star.strings("myNote") == ["n0", "n1", "n2"] and "rlnDefocusU" not in star
    assert np.abs(found.origins_px).max() == 0
    # the middle of -30 … 60 degrees becomes 0
    assert np.allclose(found.tables[0].tilt_deg, TILTS - 15.0, atol=1.0)
    mirrored = replace(found, tables=[replace(table, tilt_deg=-table.tilt_deg) for table in found.tables])
    assert (score(mirrored) < scores - 0.01).all()
    turned = replace(found, tables=[replace(t, astigmatism_deg=-t.astigmatism_deg) for t in found.tables])
    assert (score(turned) < scores - 0.005).all()


def test_other_ways(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several jobs, back-projection, half precision, larger pixels, other folders, and particles given by a column."""
    monkeypatch.setattr("opustomo.prepare.particle_series.PARTICLES_PER_JOB", 1)
    monkeypatch.setattr("opustomo.prepare.particle_series.run_jobs", traveling)
    (folder / "sub").mkdir()
    text = (folder / "series.star").read_text().replace("@stacks/", "@C:\\x\\stacks\\")
    (folder / "sub" / "series.star").write_text(text)
    words = ["--datadir", str(folder / "stacks"), "--group-col", "myNote", "--raw", "--float16", "--workers", "2"]
    out = folder / "out2"
    assert main(["prepare_subtomos", str(folder / "sub" / "series.star"), "-o", str(out), *words]) == 0
    found = extracted(out, normalized=False)
    assert score(found).min() > AGREE
    dark = folder / "out3"
    words = [*words[:5], "--invert", "--workers", "1"]
    assert main(["prepare_subtomos", str(folder / "sub" / "series.star"), "-o", str(dark), *words]) == 0
    assert np.allclose(extracted(dark).images, -found.images, atol=2e-3 * np.abs(found.images).max())


def off_axis_series(folder: Path, tilts: list[int], degrees: float) -> Path:
    """The table with some images of the second particle turned about their own y axes, B factors as M writes them."""
    lines = (folder / "series.star").read_text().splitlines()
    for row, line in enumerate(lines):
        words = line.split()
        if "@stacks/" not in line:
            continue
        words[-4] = f"-{words[-4]}"
        if "@stacks/p1." in line and int(words[0].split("@")[0]) - 1 in tilts:
            image = Rotation.from_euler("ZYZ", np.array(words[1:4], float), degrees=True)
            turned = image * Rotation.from_euler("y", degrees, degrees=True)
            words[1:4] = [f"{angle:.6f}" for angle in turned.as_euler("ZYZ", degrees=True)]
        lines[row] = " ".join(words)
    (folder / "off axis.star").write_text("\n".join(lines) + "\n")
    return folder / "off axis.star"


@pytest.mark.filterwarnings("ignore:Gimbal lock")
def test_images_off_the_common_axis(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They do not stop the set, do not pull at the axis, and are left out or kept, counted and reported."""
    table = off_axis_series(folder, [0, 1, 30], 7.0)

    def prepared(*words: str) -> tuple[list[int], str, np.ndarray]:
        out = folder / "out off"
        assert main(["prepare_subtomos", str(table), "-o", str(out), "--workers", "1", *words]) == 0
        said = capsys.readouterr().out
        found = extracted(out)
        assert (score(found)[[0, 2]] > AGREE).all() and all(t.bfactor_sign == 1 for t in found.tables)
        return [len(t) for t in found.tables], said, score(found)

    counts, said, scores = prepared()
    assert counts == [31, 28, 31] and scores.min() > AGREE - 0.01
    assert "3 images of 1 of the 3 particles (1 to 3 of each) are more than 5° off" in said
    assert "left out (--off-axis keep keeps them)" in said and "B factors are negative in the file" in said
    assert main(["check", str(table)]) == 1
    assert (
        "like the 2D series of M (B factors are negative in the file, damping exp(+B s²/4)" in capsys.readouterr().out
    )
    counts, said, _ = prepared("--off-axis", "keep")
    assert counts == [31, 31, 31] and "were kept as tilts about it" in said
    counts, said, _ = prepared("--axis-tolerance", "12")
    assert counts == [31, 31, 31] and "off the tilt axis" not in said


def test_a_real_series_of_m(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Negative B factors damp: taken literally the missing wedge of these data correlates by 0.27 with the model."""
    words = [str(shared_data / "star_real" / "sta_testing_bin8.star"), "-o", str(tmp_path / "out"), "--workers", "1"]
    assert main(["prepare_subtomos", *words]) == 0
    said = capsys.readouterr().out
    assert "219 images" in said and "2 images of 2 of the 6 particles (1 of each)" in said
    assert "a dose of up to 126.8 e/Å²" in said
    found = tmp_path / "found.json"
    words = [str(tmp_path / "out" / "particles.star"), "--normalizectf", "--json", str(found)]
    assert main(["check", *words]) == 0
    assert "positive in the file, damping" in capsys.readouterr().out
    assert json.loads(found.read_text())["preflight"]["wedge"]["correlation"] > 0.65


@pytest.mark.parametrize(
    ("old", "new", "words", "expected"),
    [
        ("", "", ("--box", "7"), "--box must be even"),
        ("", "", ("--apix", "4"), "--apix 4 is smaller than the pixel size 8 Å"),
        ("000001@stacks/p0.mrcs", "p0.mrcs", (), "rlnImageName of row 1 is p0.mrcs"),
        ("@stacks/p1", "@stacks/p9", (), "1 stacks are missing, the first is stacks/p9.mrcs"),
        ("000005@", "000099@", (), "has 31 images, but the table refers to image 99"),
        ("rlnDefocusU", "rlnElse", (), "no column rlnDefocusU"),
        ("_rlnVoltage", "_rlnElse", (), "have rlnVoltage"),
        ("rlnDefocusAngle", "rlnTomoVisibleFrames", (), "dsd extract_subtomos on the tilt series"),
        (
            "",
            "",
            ("--group-col", "rlnOpticsGroup"),
            "with --group-col, otherwise increase --axis-tolerance",
        ),
        ("", "", ("--axis-tolerance", "95"), "--axis-tolerance must lie in (0, 90)"),
        (f" {4 * DOSE[5]:.6f} ", f" {-4 * DOSE[5]:.6f} ", (), f"negative in rows 6 ({-4 * DOSE[5]:g}), 37 ("),
    ],
)
def test_errors(
    old: str, new: str, words: tuple[str, ...], expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "bad.star").write_text((folder / "series.star").read_text().replace(old, new))
    out = folder / "bad"
    assert main(["prepare_subtomos", str(folder / "bad.star"), "-o", str(out), *words, "--workers", "1"]) == 1
    said = capsys.readouterr().err
    assert expected in said and not (out / "particles.star").exists()


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("2 200 2.7 0.07 8", "rlnVoltage is 300 in row 1 and 200 in row 32. Split the table by it"),
        ("2 300 2.7 0.07 9", "the images have pixel sizes of 8 and 9 Å. Split the table by pixel size"),
    ],
)
def test_images_of_several_optics_groups(
    group: str, expected: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The values of the first image are not those of all."""
    text = (folder / "series.star").read_text()
    text = text.replace("1 300 2.7 0.07 8\n", f"1 300 2.7 0.07 8\n{group}\n").replace(" n1 1\n", " n1 2\n")
    (folder / "groups.star").write_text(text)
    assert main(["prepare_subtomos", str(folder / "groups.star"), "-o", str(folder / "no"), "--workers", "1"]) == 1
    assert expected in capsys.readouterr().err and not (folder / "no" / "particles.star").exists()


def test_headers_that_contradict_the_table(folder: Path, tmp_path: Path) -> None:
    star = read_particles(folder / "series.star")
    said = header_note(star, 8.0, 10.0)
    assert said is not None and "the headers of the stacks state 10 Å per pixel" in said and "states 8 Å" in said
    assert header_note(star, 8.0, 1.0) is None and header_note(star, 8.0, 8.01) is None
