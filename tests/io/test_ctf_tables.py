"""CTF tables of RELION and WARP: units, signs and invalid content."""

from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.ctf_tables import TILT_COLUMNS, TiltTable, read_relion_table, read_warp_table, wedge_only_table

RELION = {
    "rlnDefocusU": "25000",
    "rlnVoltage": "300",
    "rlnSphericalAberration": "2.7",
    "rlnAmplitudeContrast": "0.07",
    "rlnAngleTilt": "-60.5",
    "rlnCtfBfactor": "480",
    "rlnCtfScalefactor": "0.5",
}
WARP = {
    "TiltAngle": "-60.5",
    "Voltage": "300000",
    "Cs": "0.0027",
    "Amplitude": "0.07",
    "Defocus": "-2.5e-06",
    "DefocusDelta": "1e-7",
    "AstigmatismAngle": "0.5",
    "Bfactor": "-4.8e-18",
    "Scale": "0.5",
}


def write_relion(tmp_path: Path, columns: dict[str, str], rows: int = 2, block: str = "images") -> Path:
    path = tmp_path / "t ctf.star"
    lines = [
        f"data_{block}",
        "loop_",
        *(f"_{name}" for name in columns),
        *[" ".join(columns.values())] * rows,
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_warp(tmp_path: Path, columns: dict[str, str], rows: int = 2) -> Path:
    path = tmp_path / "t ctf.csv"
    path.write_text("\n".join([",".join(columns), *[",".join(columns.values())] * rows]) + "\n")
    return path


def test_relion_units_and_defaults(tmp_path: Path) -> None:
    table = read_relion_table(write_relion(tmp_path, RELION))
    assert len(table) == 2
    assert table.tilt_deg[0] == -60.5
    assert table.defocus_u_A[0] == table.defocus_v_A[0] == 25000
    assert table.astigmatism_deg[0] == table.phase_shift_deg[0] == 0
    assert (table.voltage_kv[0], table.cs_mm[0], table.amplitude_contrast[0]) == (300, 2.7, 0.07)
    assert (table.bfactor_A2[0], table.scale[0]) == (480, 0.5)


def test_relion_astigmatism_and_phase_shift_in_any_block(tmp_path: Path) -> None:
    more = RELION | {"rlnDefocusV": "24000", "rlnDefocusAngle": "30", "rlnPhaseShift": "90"}
    table = read_relion_table(write_relion(tmp_path, more, block="other"))
    assert (table.defocus_v_A[0], table.astigmatism_deg[0], table.phase_shift_deg[0]) == (24000, 30, 90)


def test_warp_units_and_signs(tmp_path: Path) -> None:
    table = read_warp_table(write_warp(tmp_path, WARP))
    assert table.tilt_deg[0] == -60.5
    # negative defocus is underfocus; the delta is u - v of WARP's own sign
    assert table.defocus_u_A[0] == pytest.approx(25000 - 500)
    assert table.defocus_v_A[0] == pytest.approx(25000 + 500)
    assert table.astigmatism_deg[0] == pytest.approx(np.rad2deg(0.5))
    assert (table.voltage_kv[0], table.cs_mm[0]) == (pytest.approx(300), pytest.approx(2.7))
    # a quarter of 480 Å², positive where WARP's negative damps
    assert table.bfactor_A2[0] == pytest.approx(120)
    assert read_warp_table(write_warp(tmp_path, WARP), bfactor_scale=1).bfactor_A2[0] == pytest.approx(480)


def with_bfactors(path: Path, old: str, values: list[str]) -> Path:
    """One row per B factor."""
    head, _, row = path.read_text().rpartition("\n")[0].rpartition("\n")
    path.write_text("\n".join([head.rpartition("\n")[0], *(row.replace(old, value) for value in values)]) + "\n")
    return path


@pytest.mark.parametrize(("signs", "sign"), [((0, 12, 480), 1), ((0, -12, -480), -1), ((0, 0, 0), 0)])
def test_bfactors_damp_whichever_sign_the_table_has(tmp_path: Path, signs: tuple[int, ...], sign: int) -> None:
    relion = read_relion_table(with_bfactors(write_relion(tmp_path, RELION), "480", [str(b) for b in signs]))
    warp = read_warp_table(with_bfactors(write_warp(tmp_path, WARP), "-4.8e-18", [f"{b}e-20" for b in signs]))
    assert relion.bfactor_A2.tolist() == [abs(b) for b in signs]
    np.testing.assert_allclose(warp.bfactor_A2, 0.25 * relion.bfactor_A2)
    assert (relion.bfactor_sign, warp.bfactor_sign) == (sign, sign)
    assert (relion.bfactor_scale, warp.bfactor_scale) == (1, 0.25)


def test_both_signs_of_bfactors_are_refused_and_their_rows_named(tmp_path: Path) -> None:
    rows = ["-13", "-26", "12", "-39", "4.5"]
    with pytest.raises(UserError, match=r"positive in rows 3 \(12\), 5 \(4\.5\) but negative in rows 1 \("):
        read_relion_table(with_bfactors(write_relion(tmp_path, RELION), "480", rows))
    with pytest.raises(UserError, match=r"t ctf\.csv: Bfactor is positive in row 1 \(1e-20\) but negative in rows 2"):
        read_warp_table(with_bfactors(write_warp(tmp_path, WARP), "-4.8e-18", ["1e-20", *["-1e-20"] * 7]))


def test_order_of_tilts_and_columns_is_free(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    names = list(reversed(WARP))
    rows = [",".join(f" {(WARP | {'TiltAngle': angle})[name]} " for name in names) for angle in ("0.02", "-31", "7")]
    path.write_text("\ufeff" + "\r\n".join([",".join(names), *rows, ""]))
    np.testing.assert_array_equal(read_warp_table(path).tilt_deg, [0.02, -31, 7])


@pytest.mark.parametrize("name", list(RELION))
def test_missing_relion_columns(tmp_path: Path, name: str) -> None:
    columns = {key: value for key, value in RELION.items() if key != name}
    with pytest.raises(UserError, match=rf"t ctf\.star.*{name}"):
        read_relion_table(write_relion(tmp_path, columns))


@pytest.mark.parametrize("name", list(WARP))
def test_missing_warp_columns(tmp_path: Path, name: str) -> None:
    columns = {key: value for key, value in WARP.items() if key != name}
    with pytest.raises(UserError, match=rf"t ctf\.csv.* {name}\."):
        read_warp_table(write_warp(tmp_path, columns))


@pytest.mark.parametrize("value", ["nan", "inf", "x"])
def test_values_that_are_no_numbers(tmp_path: Path, value: str) -> None:
    for name in RELION:
        with pytest.raises(UserError, match=f"{name} of row 1"):
            read_relion_table(write_relion(tmp_path, RELION | {name: value}))
    for name in WARP:
        with pytest.raises(UserError, match=f"{name} of row 1"):
            read_warp_table(write_warp(tmp_path, WARP | {name: value}))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"rlnVoltage": "0"}, "voltage of tilt 1 is 0"),
        ({"rlnVoltage": "300000"}, "voltage of tilt 1 is 300000"),
        ({"rlnAmplitudeContrast": "1.2"}, "amplitude contrast"),
        ({"rlnCtfScalefactor": "-0.5"}, "scale of tilt 1 is -0.5"),
        ({"rlnCtfScalefactor": "0"}, "all tilts are 0"),
    ],
)
def test_impossible_values(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        read_relion_table(write_relion(tmp_path, RELION | change))


def test_damaged_tables(tmp_path: Path) -> None:
    for read, name in ((read_relion_table, "absent.star"), (read_warp_table, "absent.csv")):
        with pytest.raises(UserError, match=name):
            read(tmp_path / name)
    with pytest.raises(UserError, match="no tilts"):
        read_warp_table(write_warp(tmp_path, WARP, rows=0))
    with pytest.raises(UserError, match="no tilts"):
        read_relion_table(write_relion(tmp_path, RELION, rows=0))
    path = write_warp(tmp_path, WARP)
    path.write_text(path.read_text() + "1,2,3\n")
    with pytest.raises(UserError, match="line 4 has 3 values"):
        read_warp_table(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"t ctf\.csv"):
        read_warp_table(path)


def test_wedge_only() -> None:
    table = wedge_only_table(50, 2)
    np.testing.assert_allclose(table.tilt_deg, np.arange(-50, 51, 2))
    np.testing.assert_allclose(table.scale, np.cos(np.deg2rad(table.tilt_deg)))
    assert (table.amplitude_contrast == 1).all()
    assert not (table.defocus_u_A.any() or table.bfactor_A2.any() or table.cs_mm.any())
    # 10.1 and 3.3 are no whole steps apart; 0.3 and 0.1 are, but not in binary
    np.testing.assert_allclose(wedge_only_table(10.1, 3.3).tilt_deg, [-9.9, -6.6, -3.3, 0, 3.3, 6.6, 9.9])
    assert len(wedge_only_table(0.3, 0.1)) == 7
    for tilt_range, step in ((0, 2), (90, 2), (50, 0), (50, -1)):
        with pytest.raises(ValueError, match="no tilts"):
            wedge_only_table(tilt_range, step)


def test_columns_of_one_length() -> None:
    table = wedge_only_table(50, 2)
    with pytest.raises(ValueError, match="scale has the shape"):
        TiltTable(**(vars(table) | {"scale": np.ones(3)}))


def test_relion_and_warp_tables_of_the_shared_set_agree(shared_data: Path) -> None:
    folder = shared_data / "sim_3state" / "subtomo"
    relion = read_relion_table(folder / "p000007_ctf.star")
    warp = read_warp_table(folder / "p000007_ctf.csv", bfactor_scale=1)
    for name in TILT_COLUMNS:
        np.testing.assert_allclose(getattr(warp, name), getattr(relion, name), atol=0.01, err_msg=name)


def test_warp_astigmatism_is_the_signed_formula_of_warp(tmp_path: Path) -> None:
    """WARP's own kernel has Defocus + ½ DefocusDelta cos 2(a - angle), both with the csv's sign.

    Checked once against warpylib 1.1.2: its 2D CTF and ours agree to 1e-5 with this sign, and differ by 2.0
    with the other.
    """
    table = read_warp_table(write_warp(tmp_path, WARP | {"DefocusDelta": "-8e-7"}))
    u, v, axis = table.defocus_u_A[0], table.defocus_v_A[0], np.deg2rad(table.astigmatism_deg[0])
    azimuth = np.linspace(0, np.pi, 50)
    ours = 0.5 * (u + v + (u - v) * np.cos(2 * (azimuth - axis)))
    warp_m = -2.5e-6 + 0.5 * -8e-7 * np.cos(2 * (azimuth - 0.5))
    np.testing.assert_allclose(ours, -warp_m * 1e10)
