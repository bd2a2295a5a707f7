"""Text files of IMOD, ctfplotter and CTFFIND as these programs write them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.tilt_series.defocus_files import read_defoci
from opustomo.io.tilt_series.imod import read_com_options, read_dose, read_tlt, read_tlt_dose, read_xf

TILTS = np.array([-40.0, -20.0, 0.0, 20.0, 40.0])


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_tilts_and_doses(tmp_path: Path) -> None:
    assert read_tlt(write(tmp_path / "a.tlt", " -40.00\n-20.\n   0\n20\n40.0\n\n")).tolist() == TILTS.tolist()
    by_angle = write(tmp_path / "a.order", "0.1 3\n-20,6\n19.9 9\n40 12\n-40 15\n")
    assert read_dose(by_angle, TILTS, 5.0).tolist() == [15, 6, 3, 9, 12]
    by_place = write(tmp_path / "b.order", "5\n2\n1\n3\n4\n")
    assert read_dose(by_place, TILTS, 2.0).tolist() == [10, 4, 2, 6, 8]


def test_further_columns_of_tilt_angles(tmp_path: Path) -> None:
    """Order of exposure as AreTomo takes it, from 0 or 1, with the dose of each; or accumulated doses."""
    for text, dose in (
        ("-40 5\n-20 2\n0 1\n20 3\n40 4\n", [15, 6, 3, 9, 12]),
        ("-40,4\n-20,1\n0,0\n20,2\n40,3\n", [15, 6, 3, 9, 12]),
        ("-40 5 1\n-20 2 2\n0 1 3\n20 3 4\n40 4 5\n", [15, 5, 3, 9, 14]),
        ("-40 5 0\n-20 2 0\n0 1 0\n20 3 0\n40 4 0\n", [15, 6, 3, 9, 12]),
        ("-40 10\n-20 4\n0 0\n20 6.5\n40 8\n", [10, 4, 0, 6.5, 8]),
    ):
        path = write(tmp_path / "a.tlt", text)
        assert read_tlt(path).tolist() == TILTS.tolist() and read_tlt_dose(path, 3.0).tolist() == dose
    for text in ("-40\n-20\n", "-40 0\n-20 0\n"):
        assert read_tlt_dose(write(tmp_path / "a.tlt", text), 3.0) is None


def test_order_list_of_aretomo(tmp_path: Path) -> None:
    """Number of the exposure and angle, as RELION 4 takes it; small angles could be numbers too."""
    listed = write(tmp_path / "a_order_list.csv", "1,0.0\n2,-20.1\n3,20.0\n4,40.2\n5,-40\n")
    assert read_dose(listed, TILTS, 2.0).tolist() == [10, 4, 2, 6, 8]
    small = np.array([1.0, 2.0, 3.0])
    assert read_dose(write(tmp_path / "b.order", "1 6\n2 4\n3 2\n"), small, 2.0).tolist() == [6, 4, 2]


def test_transforms_and_command_files(tmp_path: Path) -> None:
    matrices, moved = read_xf(write(tmp_path / "a.xf", " 0.0 -1.0 1.0 0.0 3.5 -2\n 1 0 0 1 0 0\n"))
    assert matrices[0].tolist() == [[0, -1], [1, 0]] and moved[0].tolist() == [3.5, -2]
    text = "# comment\n$tilt -StandardInput\nInputProjections a.ali\nXAXISTILT 1.25\nOFFSET\t-0.5\nLOG 0.0\nDONE\n"
    options = read_com_options(write(tmp_path / "tilt.com", text))
    assert options["XAXISTILT"] == "1.25" and options["OFFSET"] == "-0.5" and options["INPUTPROJECTIONS"] == "a.ali"


def test_ctfplotter_of_every_version(tmp_path: Path) -> None:
    one = "1 1 -40 -40 3000\n2 2 -20 -20 3100\n3 3 0 0 3200\n4 4 20 20 3300\n5 5 40 40 3400\n"
    for text in (one, one.replace("3000\n", "3000 2\n", 1), one.replace("1 1", "0 0").replace("2 2", "1 1")):
        if text.startswith("0 0"):
            text = "".join(f"{i} {i} {t:g} {t:g} {3000 + 100 * i}\n" for i, t in enumerate(TILTS))
        defoci = read_defoci(write(tmp_path / "a.defocus", text), TILTS)
        assert defoci.u_A.tolist() == defoci.v_A.tolist() == [30000, 31000, 32000, 33000, 34000]
    rows = "".join(f"{i + 1} {i + 1} {t} {t} {3000 + i} {2900 + i} {20.5 + i} {90 + i}\n" for i, t in enumerate(TILTS))
    three = read_defoci(write(tmp_path / "b.defocus", "5 0 0. 0. 0. 3\n" + rows), TILTS)
    assert three.u_A[1] == pytest.approx(30010) and three.v_A[1] == pytest.approx(29010)
    assert three.angle_deg == pytest.approx(20.5 + np.arange(5)) and three.phase_shift_deg[2] == pytest.approx(92)
    radians = "3 0 0. 0. 0. 3\n" + "".join(f"{i} {i} 0 0 3000 2900 {np.deg2rad(-35)}\n" for i in range(1, 6))
    assert read_defoci(write(tmp_path / "c.defocus", radians), TILTS).angle_deg == pytest.approx([-35] * 5)


def test_ctfplotter_ranges_of_views(tmp_path: Path) -> None:
    """Views in several lines get the mean; views without line are interpolated by angle."""
    text = "1 2 -40 -20 3000\n2 2 -20 -20 3200\n5 5 40 40 3700\n"
    defoci = read_defoci(write(tmp_path / "a.defocus", text), TILTS)
    assert defoci.u_A == pytest.approx([30000, 31000, 33000, 35000, 37000])


def test_ctffind(tmp_path: Path) -> None:
    head = "# Output from CTFFind version 4.1.14\n# Columns: #1 - micrograph number; #2 - defocus 1 [Angstroms]; …\n"
    rows = "".join(f"{i + 1}.0 {30000 + i} {29000 + i} 15.0 {np.pi / 2} 0.1 5.5\n" for i in range(5))
    defoci = read_defoci(write(tmp_path / "a.txt", head + rows), TILTS)
    assert defoci.u_A[3] == 30003 and defoci.v_A[3] == 29003
    assert defoci.angle_deg[0] == 15 and defoci.phase_shift_deg[0] == pytest.approx(90)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "has no defocus"),
        ("1 1 -40 -40 three\n", "is not a valid defocus row"),
        ("1 1 -40 -40\n", "views, angles and defocus"),
        ("1 9 -40 -40 3000\n", "views 1 to 9, but there are 5"),
        ("1 1 -40 -40 nan\n", "not a finite number"),
        ("1 30000 29000 15 0 0.1 5\n", "there are 1 lines but 5 tilts"),
        ("1 0 0 0 0 3\n1 1 0 0 3000\n", "7 numbers"),
    ],
)
def test_wrong_defocus_files(text: str, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected) as caught:
        read_defoci(write(tmp_path / "my a.defocus", text), TILTS)
    assert "my a.defocus" in str(caught.value)


def test_other_errors(tmp_path: Path) -> None:
    cases = [
        (lambda p: read_tlt(p), "95\n", "is not between"),
        (lambda p: read_tlt(p), "1 2 3 4\n", "one tilt angle per line, but it has 4 columns"),
        (lambda p: read_tlt_dose(p, 3.0), "-20 3\n0 3\n20 3\n", "neither the order of exposure"),
        (lambda p: read_tlt_dose(p, 3.0), "-20 3\n0 -1\n20 6\n", "neither the order of exposure"),
        (lambda p: read_tlt_dose(p, 3.0), "-20 1 3\n0 1 3\n20 2 3\n", "neither the order of exposure"),
        (lambda p: read_tlt(p), "", "the file is empty; it must have one tilt angle per line"),
        (lambda p: read_tlt(p), "1\nnan\n", "row 2 has a number that is not finite"),
        (lambda p: read_tlt(p), "x\n", "one tilt angle per line"),
        (lambda p: read_dose(p, TILTS, 3.0), "0 3\n20 6\n", "within 1 degree of the tilt -40"),
        (lambda p: read_dose(p, TILTS, 3.0), "1\n2\n3\n4\n4\n", "4 distinct indices but 5 tilts"),
        (lambda p: read_xf(p), "0 0 0 0 1 1\n", "cannot be inverted"),
        (lambda p: read_xf(p), "1 0 0 1\n", "six numbers"),
    ]
    for read, text, expected in cases:
        with pytest.raises(UserError, match=expected):
            read(write(tmp_path / "a.txt", text))
    for read in (read_tlt, read_xf, read_com_options, lambda p: read_defoci(p, TILTS)):
        with pytest.raises(UserError, match="cannot be read"):
            read(tmp_path / "none")
