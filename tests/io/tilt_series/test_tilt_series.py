"""RELION 4, RELION 5 and IMOD describe the same geometry."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from opustomo.errors import UserError
from opustomo.geometry.tilt_geometry import TiltGeometry, slice_frame
from opustomo.io.tilt_series.imod import ImodFiles, ImodSettings, Microscope, read_imod_series
from opustomo.io.tilt_series.relion import read_relion_series

TILTS = np.array([-50.0, -20.0, 0.0, 20.0, 50.0])
APIX = 2.0
VOLUME, IMAGE = (400, 300, 100), (360, 380)
GLOBAL = """
data_global

loop_
_rlnTomoName #1
_rlnVoltage #2
_rlnSphericalAberration #3
_rlnAmplitudeContrast #4
_rlnMicrographOriginalPixelSize #5
_rlnTomoHand #6
_rlnTomoTiltSeriesPixelSize #7
_rlnTomoSizeX #8
_rlnTomoSizeY #9
_rlnTomoSizeZ #10
_rlnTomoTiltSeriesStarFile #11
TS_1 300 2.7 0.1 0.5 {hand} 2.0 400 300 100 Tomograms/job1/tilt_series/TS_1.star
"""
AXIS, X_TILT = 84.0, 2.0
SHIFTS = np.array([[3.0, -4.0], [10.0, 0.0], [0.0, 0.0], [-6.0, 8.0], [1.0, 1.0]])


def expected_rotations() -> np.ndarray:
    """RELION 5's order of right-handed turns, by scipy: about x, then y, then z."""
    return np.stack([Rotation.from_euler("xyz", [X_TILT, t, AXIS], degrees=True).as_matrix() for t in TILTS])


def relion5(folder: Path, hand: int = -1, drop: str = "", change: tuple[str, str] = ("", "")) -> Path:
    columns = {
        "rlnMicrographName": [f"MotionCorr/frames/TS_1_{i}.mrc" for i in range(5)],
        "rlnTomoXTilt": [X_TILT] * 5,
        "rlnTomoYTilt": TILTS,
        "rlnTomoZRot": [AXIS] * 5,
        "rlnTomoXShiftAngst": SHIFTS[:, 0],
        "rlnTomoYShiftAngst": SHIFTS[:, 1],
        "rlnDefocusU": 30000 + 100 * np.arange(5),
        "rlnDefocusV": 29000 + 100 * np.arange(5),
        "rlnDefocusAngle": [33.0] * 5,
        "rlnMicrographPreExposure": [12, 6, 0, 3, 9],
    }
    columns.pop(drop, None)
    rows = "\n".join(" ".join(str(value) for value in row) for row in zip(*columns.values(), strict=True))
    table = folder / "Tomograms" / "job1" / "tilt_series" / "TS_1.star"
    table.parent.mkdir(parents=True, exist_ok=True)
    table.write_text("data_TS_1\n\nloop_\n" + "".join(f"_{name}\n" for name in columns) + rows.replace(*change) + "\n")
    path = folder / "Tomograms" / "job1" / "tomograms.star"
    path.write_text(GLOBAL.format(hand=hand))
    return path


def test_relion5(tmp_path: Path) -> None:
    path = relion5(tmp_path / "my project")
    (series,) = read_relion_series(path)
    assert np.allclose(series.geometry.rotations, expected_rotations())
    assert series.name == "TS_1" and series.apix == APIX and series.volume_px == VOLUME and series.geometry.hand == -1
    assert series.optics.bfactor_A2.tolist() == [48, 24, 0, 12, 36] and series.optics.amplitude_contrast == 0.1
    assert np.allclose(series.optics.scale, expected_rotations()[:, 2, 2])
    assert series.images[2].name.endswith("TS_1_2.mrc")
    points = np.random.default_rng(0).uniform(-100, 100, (7, 3))
    image, depth = series.geometry.project(points)
    seen = np.einsum("tij,nj->nti", expected_rotations(), points)
    assert np.allclose(image, seen[..., :2] + SHIFTS) and np.allclose(depth, -seen[..., 2])


@pytest.mark.parametrize("sign", [1, -1])
def test_bfactors_of_relion_damp_whichever_sign_they_have(sign: int, tmp_path: Path) -> None:
    path = relion5(tmp_path)
    table = tmp_path / "Tomograms" / "job1" / "tilt_series" / "TS_1.star"
    signed = []
    for line in table.read_text().replace("rlnMicrographPreExposure", "rlnCtfBfactor").splitlines():
        rest, _, last = line.rpartition(" ")
        signed.append(f"{rest} {sign * float(last)}" if last.isdigit() else line)
    table.write_text("\n".join(signed) + "\n")
    assert read_relion_series(path)[0].optics.bfactor_A2.tolist() == [12, 6, 0, 3, 9]
    table.write_text(table.read_text().replace(f" {sign * 6.0}\n", f" {-sign * 6.0}\n"))
    with pytest.raises(UserError, match=r"TS_1\.star: rlnCtfBfactor is positive in row.* but negative in row"):
        read_relion_series(path)


def test_relion4_matrices_are_the_same_geometry(tmp_path: Path) -> None:
    """Written from RELION 5's angles: pixels of the corner to pixels of the corner."""
    rotations = expected_rotations()
    rows = []
    for rotation, shift in zip(rotations, SHIFTS, strict=True):
        moved = shift / APIX + np.array(IMAGE) / 2 - rotation[:2] @ (np.array(VOLUME) / 2)
        rows.append(" ".join(f"[{','.join(f'{v:.9f}' for v in (*rotation[i], moved[i]))}]" for i in (0, 1)))
    text = GLOBAL.format(hand=1).replace("Tomograms/job1/tilt_series/TS_1.star", "stack/TS_1.mrc:mrc")
    text = text.replace("rlnTomoTiltSeriesStarFile", "rlnTomoTiltSeriesName")
    columns = "_rlnTomoProjX\n_rlnTomoProjY\n_rlnDefocusU\n"
    text += f"\ndata_TS_1\n\nloop_\n{columns}" + "\n".join(f"{row} 30000" for row in rows) + "\n"
    path = tmp_path / "tomograms.star"
    path.write_text(text)
    asked = []

    def image_size(name: str) -> tuple[int, int]:
        asked.append(name)
        return IMAGE

    (series,) = read_relion_series(path, image_size)
    assert np.allclose(series.geometry.rotations, rotations) and np.allclose(
        series.geometry.shifts_A, SHIFTS, atol=1e-5
    )
    assert asked == ["stack/TS_1.mrc"] and [image.section for image in series.images] == list(range(5))
    with pytest.raises(UserError, match="requires the size of the tilt images"):
        read_relion_series(path)


def imod(folder: Path, **changes: str) -> ImodFiles:
    turn = np.deg2rad(-AXIS)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    moved = -(SHIFTS / APIX) @ matrix.T
    texts = {
        "tlt": "\n".join(map(str, TILTS)),
        "xf": "\n".join(" ".join(f"{v:.8f}" for v in (*matrix.ravel(), *d)) for d in moved),
        "com": f"$tilt\nXAXISTILT {X_TILT}\n",
        "defocus": "".join(f"{i + 1} {i + 1} {t} {t} {3000 + 10 * i}\n" for i, t in enumerate(TILTS)),
        "order": "-50 12\n-20 6\n0 0\n20 3\n50 9\n",
        **changes,
    }
    for name, text in texts.items():
        (folder / f"a.{name}").write_text(text)
    return ImodFiles(**{name: folder / f"a.{name}" for name in texts}, stack=folder / "a.st")


def test_imod_raw_stack_is_relion5s_geometry(tmp_path: Path) -> None:
    """aligned = A raw + d, so raw = A⁻¹ (aligned - d): RELION's turn about z and shift."""
    settings = ImodSettings(APIX, microscope=Microscope(200.0, 2.0, 0.08), volume_px=VOLUME)
    series = read_imod_series("a", imod(tmp_path), settings)
    assert np.allclose(series.geometry.rotations, expected_rotations(), atol=1e-6)
    assert np.allclose(series.geometry.shifts_A, SHIFTS, atol=1e-5)
    assert series.optics.voltage_kv == 200 and series.optics.defocus_u_A[1] == 30100
    assert series.optics.bfactor_A2.tolist() == [48, 24, 0, 12, 36]
    assert series.optics.scale == pytest.approx(np.cos(np.deg2rad(TILTS)))


@pytest.mark.parametrize("hand", [1, -1])
def test_defocus_of_a_particle_moved_along_x_and_z(hand: int, tmp_path: Path) -> None:
    """Closed formula for RELION's hand: defocus grows by hand·(z cos t - x sin t) for the angles of the .tlt file."""
    geometry = read_imod_series(
        "a", imod(tmp_path, com="", xf="1 0 0 1 0 0\n" * 5), ImodSettings(APIX, hand=hand)
    ).geometry
    t = np.deg2rad(TILTS)
    center, right, up, back = (
        geometry.project(np.array([at]))[1][0] for at in ([0, 0, 0], [500, 0, 0], [0, 0, 70], [0, 300, 0])
    )
    assert np.allclose(center, 0) and np.allclose(back, 0)
    assert np.allclose(right, hand * -500 * np.sin(t)) and np.allclose(up, hand * 70 * np.cos(t))


def test_slice_frame_undoes_a_common_turn() -> None:
    """Tilts about an axis that is not y become slices about y, exactly, in a turned frame."""
    rng = np.random.default_rng(1)
    turn = Rotation.from_euler("xz", [3.0, 1.5], degrees=True).as_matrix()
    in_image = np.stack([Rotation.from_euler("z", a, degrees=True).as_matrix() for a in rng.uniform(-180, 180, 5)])
    about_y = np.stack([Rotation.from_euler("y", t, degrees=True).as_matrix() for t in TILTS])
    frame = slice_frame(in_image @ about_y @ turn)
    assert frame.residual_deg < 1e-6 and frame.turn_deg == pytest.approx(np.hypot(3.0, 1.5), abs=0.01)
    points = rng.normal(size=(20, 3))
    image = TiltGeometry(in_image @ about_y @ turn, np.zeros((5, 2))).project(points)[0]
    x, y, z = (points @ frame.frame.T).T
    t = np.deg2rad(frame.tilt_deg)
    on_slice = np.stack([x[:, None] * np.cos(t) - z[:, None] * np.sin(t), np.broadcast_to(y[:, None], (20, 5))], -1)
    assert np.allclose(np.einsum("tij,ntj->nti", frame.in_plane, on_slice), image, atol=1e-9)
    kept = slice_frame(in_image @ about_y @ turn, turn=False)
    assert np.array_equal(kept.frame, np.eye(3)) and 2.0 < kept.residual_deg < 4.0


@pytest.mark.parametrize(
    ("drop", "change", "expected"),
    [
        ("rlnTomoYTilt", ("", ""), "no column rlnTomoYTilt; align the tilt series"),
        ("rlnDefocusU", ("", ""), "no column rlnDefocusU; estimate the CTF"),
        ("", ("33.0", "x"), "rlnDefocusAngle of row 1 is 'x'"),
    ],
)
def test_wrong_relion_files(drop: str, change: tuple[str, str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=expected):
        read_relion_series(relion5(tmp_path, drop=drop, change=change))


def test_missing_relion_files(tmp_path: Path) -> None:
    path = relion5(tmp_path)
    (path.parent / "tilt_series" / "TS_1.star").unlink()
    with pytest.raises(UserError, match="neither beside it nor in a folder above"):
        read_relion_series(path)
    (tmp_path / "a.star").write_text("data_\nloop_\n_rlnImageName\na\n")
    with pytest.raises(UserError, match="no block has rlnTomoName"):
        read_relion_series(tmp_path / "a.star")


def test_what_is_not_followed_is_reported(tmp_path: Path) -> None:
    com = f"XAXISTILT {X_TILT}\nSHIFT 0.0 12.5\nLOCALFILE a.local\n"
    shift, local = read_imod_series("a", imod(tmp_path, com=com), ImodSettings(APIX)).notes
    assert "SHIFT 0.0 12.5 is ignored" in shift and "a.com" in shift and "LOCALFILE" in local
    assert read_imod_series("a", imod(tmp_path, com="SHIFT 0.0 0\n"), ImodSettings(APIX)).notes == ()


def test_imod_files_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"4 transforms, but .* has 5 tilts"):
        read_imod_series("a", imod(tmp_path, xf="1 0 0 1 0 0\n" * 4), ImodSettings(APIX))
    with pytest.raises(UserError, match="XAXISTILT is 'x'"):
        read_imod_series("a", imod(tmp_path, com="XAXISTILT x\n"), ImodSettings(APIX))
