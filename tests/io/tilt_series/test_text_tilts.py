"""AreTomo's .aln, SerialEM's .mdoc and WARP's .tomostar files, compared with independent readers of the first two."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.tilt_series.aretomo import read_aln, read_aln_tilts
from opustomo.io.tilt_series.serialem import exposure_order, read_mdoc, read_mdoc_tilts
from opustomo.io.tilt_series.series import TextTilts, match_tilts
from opustomo.io.tilt_series.warp import read_tomostar_tilts

ARETOMO3 = """# AreTomo Alignment / Priims bprmMn
# RawSize = 400 300 5
# NumPatches = 2
# DarkFrame =     0    1   -40.00
# AlphaOffset =     1.50
# BetaOffset =     0.25
# Thickness = 120
# SEC     ROT         GMAG       TX          TY      SMEAN     SFIT    SCALE     BASE     TILT
    2   -85.5000    1.00000      3.250     -2.500     1.00     1.00     1.00     0.00    -18.50
    4   -85.6000    1.00000     -1.000      4.000     1.00     1.00     1.00     0.00      1.50
    3   -85.7000    1.00000      0.500      0.250     1.00     1.00     1.00     0.00     21.50
    5   -85.8000    1.00000      7.000     -8.125     1.00     1.00     1.00     0.00     41.50
# Local Alignment
   0   0   -10.00    20.00     0.50     0.25   1.0
"""
MDOC = """PixelSpacing = 1.971
Voltage = 300
ImageFile = TS_1.mrc
ImageSize = 4096 4096

[T = SerialEM: Titan Krios µ                06-Jun-23  23:19:47    ]

[T =     Tilt axis angle = 82.9, binning = 1  spot = 5  camera = 1]

[ZValue = 0]
TiltAngle = -20.0064
ExposureDose = 2
PixelSpacing = 1.971
SubFramePath = D:\\frames\\TS_1_02.tif
DateTime = 06-Jun-23  23:59:46

[ZValue = 1]
TiltAngle = 0.001
ExposureDose = 2.5
SubFramePath = D:\\frames\\TS_1_01.tif
DateTime = 06-Jun-2023  09:19:46

[ZValue = 2]
TiltAngle = 20.01
ExposureDose = 3
SubFramePath = D:\\frames\\TS_1_03.tif
DateTime = 07-Jun-23  00:01:05
"""
TOMOSTAR = """
data_

loop_
_wrpMovieName #1
_wrpAngleTilt #2
_wrpAxisAngle #3
_wrpDose #4
_wrpAverageIntensity #5
_wrpMaskedFraction #6
  ../frames/TS_1_02.tif   20.01  -93.500  3.0  3.854  0.000
  ../frames/TS_1_01.tif   -0.02  -93.500  0.0  3.854  0.000
  ../frames/TS_1_03.tif  -20.00  -93.500  6.0  3.854  0.000
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_alignment_of_aretomo3(tmp_path: Path) -> None:
    """Sections count from 1; the angle offset is in TILT already; the dark frame is left out."""
    tilts = read_aln_tilts(write(tmp_path / "a.aln", ARETOMO3))
    assert tilts.tilt_deg.tolist() == [-18.5, 1.5, 21.5, 41.5] and tilts.sections is not None
    assert tilts.nominal_deg is not None and tilts.nominal_deg.tolist() == [-20, 0, 20, 40]
    assert tilts.sections.tolist() == [1, 3, 2, 4] and tilts.stack_size == (400, 300, 5)
    assert tilts.axis_deg.tolist() == [-85.5, -85.6, -85.7, -85.8]
    assert tilts.shifts is not None and tilts.shifts[3].tolist() == [7.0, -8.125]
    said = " ".join(tilts.notes)
    assert "local alignments (2 patches)" in said and "BetaOffset 0.25" in said and "1 dark frames" in said
    assert "the others are left out" not in said


def test_sections_of_versions_1_and_2_count_from_0(tmp_path: Path) -> None:
    text = "".join(line + "\n" for line in ARETOMO3.splitlines() if "Offset" not in line)
    text = text.replace("# RawSize = 400 300 5", "# RawSize = 400 300 6")
    found = read_aln_tilts(write(tmp_path / "a.aln", text))
    assert found.sections is not None and found.sections.tolist() == [2, 4, 3, 5]
    # the last section of the stack tells that they count from 1
    found = read_aln_tilts(write(tmp_path / "b.aln", text.replace("300 6", "300 5")))
    assert found.sections is not None and found.sections.tolist() == [1, 3, 2, 4]
    assert found.nominal_deg is not None and found.nominal_deg.tolist() == found.tilt_deg.tolist()


@pytest.mark.parametrize("name", ["made", "test.aln", "aretomo1_model_5.aln"])
def test_alignments_beside_alnfile(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Tilts, dark frames, and IMOD's transforms, which lead back from aligned to raw images."""
    alnfile = pytest.importorskip("alnfile")
    path = tmp_path / name
    text = ARETOMO3 if name == "made" else (request.getfixturevalue("shared_data") / "star_real" / name).read_text()
    write(path, text if "AlphaOffset" in text else text.replace("# SEC", "# AlphaOffset = 0\n# BetaOffset = 0\n# SEC"))
    golden = alnfile.read(path)
    write(path, text)
    tilts = read_aln_tilts(path)
    assert tilts.tilt_deg.tolist() == golden["tilt"].tolist()
    assert len({*(golden["sec"] - tilts.sections)}) == 1
    assert tilts.axis_deg.tolist() == golden["rot"].tolist()
    transforms = alnfile.df_to_xf(golden)
    turn = np.deg2rad(tilts.axis_deg)
    mine = np.moveaxis(np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]), -1, 0)
    np.testing.assert_allclose(np.linalg.inv(transforms[:, :, :2]), mine, atol=1e-12)
    back = -np.einsum("tij,tj->ti", mine, transforms[:, :, 2])
    np.testing.assert_allclose(back, tilts.shifts, atol=1e-9)


def test_real_alignments(shared_data: Path) -> None:
    folder = shared_data / "star_real"
    one = read_aln_tilts(folder / "aretomo1_model_5.aln")
    assert len(one) == 61 and one.sections is not None and one.sections.tolist() == list(range(60, -1, -1))
    assert one.notes == () and one.stack_size == (512, 512, 61)
    three = read_aln_tilts(folder / "test.aln")
    assert three.sections is not None and three.sections.tolist() == [0, 1, 2, 3]
    assert read_aln(folder / "test.aln").dark[:, 2].tolist() == [-66, -64.5, 66, 67.5]
    assert any("lists 4 tilts, but RawSize and DarkFrame imply 86" in note for note in three.notes)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("# SEC", "# SAC", "there is no line '# SEC ROT"),
        (" 21.50\n", " 21.50 1\n", "line 11 must have 10 finite numbers"),
        ("-85.7000", "x", "line 11 is not numeric"),
        ("    3   -85.7", "    4   -85.7", "not distinct integers"),
        ("    5   -85.8", "    6   -85.8", "lists section 6, but the raw stack has 5"),
        (" 41.50\n", " 91.50\n", "the angle of tilt 4 is 91.5"),
        ("    1   -40.00", "    1", "line 4 must have 3 finite numbers"),
        ("     1.50\n", "     nan\n", "line 5 must hold one finite number after AlphaOffset"),
    ],
)
def test_wrong_alignments(old: str, new: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a.aln: .*{expected}"):
        read_aln_tilts(write(tmp_path / "a.aln", ARETOMO3.replace(old, new)))


def test_alignments_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="lists no tilts"):
        read_aln_tilts(write(tmp_path / "a.aln", ARETOMO3[: ARETOMO3.index("    2   -85.5")]))
    with pytest.raises(UserError, match="cannot be read"):
        read_aln_tilts(tmp_path / "none.aln")


def test_mdoc(tmp_path: Path) -> None:
    """Doses accumulate by time, which the sections do not follow, over midnight and with years of two digits."""
    tilts = read_mdoc_tilts(write(tmp_path / "a.mdoc", MDOC), 9.0)
    assert tilts.tilt_deg.tolist() == [-20.0064, 0.001, 20.01] and tilts.axis_deg.tolist() == [82.9] * 3
    assert tilts.dose is not None and tilts.dose.tolist() == [4.5, 2.5, 7.5]
    assert tilts.apix == 1.971 and tilts.images == ("TS_1_02.tif", "TS_1_01.tif", "TS_1_03.tif")
    assert tilts.shifts is None and tilts.notes == ()
    assert exposure_order(tmp_path / "a.mdoc", read_mdoc(tmp_path / "a.mdoc"))[0].tolist() == [1, 0, 2]
    prior = MDOC.replace("ExposureDose = 2\n", "ExposureDose = 2\nPriorRecordDose = 40\n")
    prior = prior.replace("ExposureDose = 2.5", "ExposureDose = 2.5\nPriorRecordDose = 37")
    prior = prior.replace("ExposureDose = 3", "ExposureDose = 3\nPriorRecordDose = 43")
    told = read_mdoc_tilts(write(tmp_path / "a.mdoc", prior), 9.0)
    assert told.dose is not None and told.dose.tolist() == [42, 39.5, 46]


def test_mdoc_without_doses_or_times(tmp_path: Path) -> None:
    text = MDOC.replace("ExposureDose = 2.5", "ExposureDose = 0")
    tilts = read_mdoc_tilts(write(tmp_path / "a.mdoc", text), 3.0)
    assert tilts.dose is not None and tilts.dose.tolist() == [6, 3, 9]
    assert "no dose was recorded; each exposure adds 3 e/Å²" in tilts.notes[0]
    text = text.replace("DateTime = 07-Jun-23", "DateTime = yesterday")
    text = text.replace("Tilt axis angle = 82.9, b", "TiltAxisAngle = -85.3  B")
    tilts = read_mdoc_tilts(write(tmp_path / "a.mdoc", text), 3.0)
    assert tilts.dose is not None and tilts.dose.tolist() == [3, 6, 9] and "DateTime is missing" in tilts.notes[0]
    assert tilts.axis_deg[0] == -85.3


@pytest.mark.parametrize("name", ["made.mdoc", "017.mdoc", "tilt_series.mdoc"])
def test_mdocs_beside_mdocfile(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, caplog: pytest.LogCaptureFixture
) -> None:
    mdocfile = pytest.importorskip("mdocfile")
    caplog.set_level(logging.ERROR, "mdocfile")
    path = write(tmp_path / name, MDOC)
    if name != "made.mdoc":
        path = request.getfixturevalue("shared_data") / "star_real" / name
    golden = mdocfile.read(path)
    tilts = read_mdoc_tilts(path, 3.0)
    assert tilts.sections is not None and tilts.sections.tolist() == golden["ZValue"].tolist()
    assert tilts.tilt_deg.tolist() == golden["TiltAngle"].tolist() and tilts.dose is not None
    assert list(tilts.images) == [Path(str(p).replace("\\", "/")).name for p in golden["SubFramePath"]]
    assert tilts.apix == golden["PixelSpacing"][0]
    if name == "017.mdoc":
        assert tilts.axis_deg[0] == pytest.approx(golden["RotationAngle"][0] - 90)
        np.testing.assert_allclose(tilts.dose, golden["PriorRecordDose"] + golden["ExposureDose"])
        # the times say the same as the recorded doses
        place, _ = exposure_order(path, read_mdoc(path))
        assert np.argsort(place).tolist() == np.argsort(golden["PriorRecordDose"].to_numpy()).tolist()
    if name == "tilt_series.mdoc":
        assert sorted(tilts.dose) == [3.0 * i for i in range(1, 42)] and "no dose was recorded" in tilts.notes[0]


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[ZValue", "[FrameSet", r"section \[FrameSet"),
        ("TiltAngle = 0.001", "Tilt = 0.001", r"\[ZValue = 1\] has no TiltAngle"),
        ("TiltAngle = 0.001", "TiltAngle = x", r"TiltAngle of \[ZValue = 1\] is 'x'"),
        ("TiltAngle = 0.001", "TiltAngle = -90", "the angle of tilt 2 is -90"),
        ("[ZValue = 1]", "[ZValue = 0]", r"two sections \[ZValue = 0\]"),
        ("ExposureDose = 3", "ExposureDose = -3", "an ExposureDose is -3"),
        ("[ZValue = 1]", "[ZValue = -1]", r"ZValue is -1"),
    ],
)
def test_wrong_mdocs(old: str, new: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"a.mdoc: .*{expected}"):
        read_mdoc_tilts(write(tmp_path / "a.mdoc", MDOC.replace(old, new)), 3.0)
    with pytest.raises(UserError, match=r"there is no section \[ZValue"):
        read_mdoc_tilts(write(tmp_path / "b.mdoc", "PixelSpacing = 1\n"), 3.0)
    with pytest.raises(UserError, match="cannot be read"):
        read_mdoc_tilts(tmp_path / "none.mdoc", 3.0)


def test_tomostar(tmp_path: Path) -> None:
    """WARP reverses the sign of the stage's angles, and counts doses before the exposure."""
    tilts = read_tomostar_tilts(write(tmp_path / "TS_1.tomostar", TOMOSTAR))
    assert tilts.tilt_deg.tolist() == [-20.01, 0.02, 20.0] and tilts.axis_deg.tolist() == [-93.5] * 3
    assert tilts.dose is not None and tilts.dose.tolist() == [3, 0, 6] and tilts.shifts is None
    assert tilts.images == ("TS_1_02.tif", "TS_1_01.tif", "TS_1_03.tif")
    placed = TOMOSTAR.replace("_wrpAverageIntensity", "_wrpAxisOffsetX").replace(
        "_wrpMaskedFraction", "_wrpAxisOffsetY"
    )
    tilts = read_tomostar_tilts(write(tmp_path / "TS_1.tomostar", placed))
    assert tilts.shifts is not None and tilts.shifts[0].tolist() == [3.854, 0] and tilts.shifts_in_A
    for change in (("wrpDose", "wrpElse"), ("  3.0  ", "  x  ")):
        with pytest.raises(UserError, match=r"TS_1\.tomostar: .*wrpDose"):
            read_tomostar_tilts(write(tmp_path / "TS_1.tomostar", TOMOSTAR.replace(*change)))


def test_tilts_of_two_lists(tmp_path: Path) -> None:
    """Tilts are matched by section and common offset, or by angle; opposite signs are reported."""
    tilts = TextTilts(Path("a.aln"), np.array([-18.0, 2, 22, 42]), np.zeros(4))
    sections = replace(tilts, sections=np.array([1, 3, 2, 4]), stack_size=(9, 9, 5))
    listed = np.array([-40.0, -20.1, 20.2, 0.1, 40])
    assert match_tilts(sections, listed, tmp_path).tolist() == [1, 3, 2, 4]
    nominal = replace(tilts, nominal_deg=tilts.tilt_deg - 2)
    assert match_tilts(nominal, np.array([0.0, 20, -20, 40, -40]), tmp_path).tolist() == [2, 0, 1, 3]
    with pytest.raises(UserError, match="no angle is within 1 degree of the tilt -18"):
        match_tilts(tilts, listed, tmp_path)
    with pytest.raises(UserError, match="is the nearest one to 2 tilts"):
        match_tilts(replace(tilts, tilt_deg=np.array([-20.0, 0, 0.5, 20])), listed, tmp_path)
    with pytest.raises(UserError, match="Give the other --tilt-sign"):
        match_tilts(tilts, -tilts.tilt_deg, tmp_path)
