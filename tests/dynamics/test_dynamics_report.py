"""`dsdsh dynamics` on fabricated runs with known motion."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.volumes import decoding
from opustomo.checkpoint.weights import body_buffers
from opustomo.dynamics import dynamics_report
from opustomo.io.latents import write_latents
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import dump_torch
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star import read_blocks
from opustomo.io.star_tables import read_particles
from tests.analysis.volumes.test_moving_volumes import (
    BOXES,
    CENTERS_A,
    Blobs,
    head_weights,
    make_geometry,
    write_run,
)

COUNT = 90
TURN_ABOUT_Z = 2
"""a₃, the third number of a body's row; frames are the axes of the box."""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Conformation from -4 to 4 in its first number, which turns body 2 about z through its own center."""
    monkeypatch.setattr(decoding, "Decoder", Blobs)
    monkeypatch.setattr(dynamics_report, "DPI", 40)
    root = write_run(tmp_path / "my run")
    state = {**head_weights(TURN_ABOUT_Z), **body_buffers(make_geometry(), BOXES)}
    dump_torch(root / "weights.0.pkl", {"decoder_state_dict": state})
    rng = np.random.default_rng(0)
    conformation = rng.normal(scale=0.01, size=(COUNT, 3))
    conformation[:, 0] = np.linspace(-4, 4, COUNT)
    write_latents(root / "z.0.pkl", rng.uniform(0.5, 1.5, (COUNT, 2)), conformation)
    eulers = np.stack([rng.uniform(-180, 180, COUNT), rng.uniform(5, 175, COUNT), rng.uniform(-180, 180, COUNT)], 1)
    write_poses(root / "pose.0.pkl", Poses(eulers, np.zeros((COUNT, 3))))
    return root


def write_table(path: Path, count: int) -> Path:
    columns = "rlnAngleRot rlnAngleTilt rlnAnglePsi rlnOriginX rlnOriginY rlnOriginZ rlnImageName".split()
    head = "".join(f"_{name} #{i}\n" for i, name in enumerate(columns, 1))
    path.write_text(f"\ndata_\n\nloop_\n{head}" + "".join(f"0 0 0 0 0 0 p{i}.mrc\n" for i in range(count)))
    return path


def half_turn_deg(number: float) -> float:
    return float(np.degrees(2 * np.arctan(number / 16.0)))


def test_the_screw_is_found(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    star = write_table(tmp_path / "a table.star", COUNT)
    words = ["--num-pcs", "1", "--points", "5", "--permutations", "5", "--star", str(star), "--device", "cpu"]
    assert dsdsh(["dynamics", str(run), "0", *words]) == 0
    folder = run / "dynamics.0"
    content = json.loads((folder / "motion.json").read_text())
    (body,) = content["components"][0]["bodies"]
    assert (body["body"], body["relative_to"], body["moves"]) == (2, 1, True)
    low, high = np.percentile(np.linspace(-4, 4, COUNT), [1, 99])
    wanted = half_turn_deg(high) - half_turn_deg(low)
    assert body["angle_deg"] == pytest.approx(wanted, rel=5e-3)
    assert 0.85 * wanted < body["shown_deg"] < 1.02 * wanted
    assert abs(body["axis"][2]) > 0.995
    np.testing.assert_allclose(body["point_A"][:2], CENTERS_A[1][:2], atol=0.5)
    assert abs(body["shift_A"]) < 0.3 and body["center_shift_A"] < 1.0
    np.testing.assert_allclose(body["path_deg"][-1], body["angle_deg"], rtol=1e-3)
    said = capsys.readouterr().out
    assert "body 2 relative to body 1: rotates by" in said and "nearly independent" in said
    assert len(content["independence"]) == 2

    table = np.genfromtxt(folder / "particles.csv", delimiter=",", names=True)
    truth = np.array([half_turn_deg(value) for value in np.linspace(-4, 4, COUNT)])
    sign = np.sign(body["axis"][2])
    assert np.corrcoef(table["body2_about_axis_deg"] * sign, truth)[0, 1] > 0.999
    assert np.ptp(table["body2_about_axis_deg"]) == pytest.approx(np.ptp(truth), rel=5e-3)

    blocks = read_blocks(run / "bodies.0.star")
    tilts = blocks["images_body_1"]["rlnAngleTilt"].astype(float)  # type: ignore[index]
    assert np.abs(tilts - 90).max() < 1.0
    assert len(read_particles(run / "body2.0.star")) == COUNT

    volumes = [read_volume(folder / "pc1" / f"reference{i}.mrc") for i in range(5)]
    assert volumes[0][1] == pytest.approx(BOXES.render_apix)
    assert all((folder / "pc1" / name).stat().st_size > 100 for name in ("axes.png", "movie.gif", "movie.cxc"))
    arrow = (folder / "pc1" / "axes.bild").read_text().splitlines()[2].split()
    ends = np.array(arrow[1:7], dtype=float).reshape(2, 3) - BOXES.box / 2 * BOXES.apix
    np.testing.assert_allclose(ends.mean(0)[:2], CENTERS_A[1][:2], atol=0.5)


def test_a_mere_swing_is_called_a_shift(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """t₃ moves the center about that of the parent without rotation, so no axis is reported."""
    state = {**head_weights(), **body_buffers(make_geometry(), BOXES)}
    dump_torch(run / "weights.0.pkl", {"decoder_state_dict": state})
    assert dsdsh(["dynamics", str(run), "0", "--num-pcs", "1", "--points", "3", "--permutations", "0"]) == 0
    said = capsys.readouterr().out
    lever = np.linalg.norm((CENTERS_A[1] - CENTERS_A[0])[:2])
    low, high = np.percentile(np.linspace(-4, 4, COUNT), [1, 99])
    chord = 2 * lever * np.sin(np.radians(half_turn_deg(high) - half_turn_deg(low)) / 2)
    assert f"its center moves {chord:.1f}"[:-1] in said and "rotates by" in said
    assert "through" not in said
    assert (run / "dynamics.0" / "pc1" / "axes.bild").read_text().strip() == ""


def test_a_still_set_is_said_to_be_still(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    write_latents(run / "z.0.pkl", rng.normal(size=(COUNT, 2)), rng.normal(scale=0.01, size=(COUNT, 3)))
    assert dsdsh(["dynamics", str(run), "0", "--skip-vol", "--permutations", "0", "--device", "cpu"]) == 0
    said = capsys.readouterr().out
    assert said.count("does not move") == 2 and "Give it with --star" in said
    assert not (run / "dynamics.0" / "pc1").exists()


def test_errors(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mistake(*words: str) -> str:
        assert dsdsh(["dynamics", str(run), *words]) == 1
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        return said

    assert "available epochs are 0" in mistake("3")
    assert "90" in mistake("0", "--star", str(write_table(tmp_path / "short.star", 7)))
    assert "--points must be at least 2" in mistake("0", "--points", "1")
    assert "kmeans4" in mistake("0", "--kmeans", "4")
    assert "--apix must be positive, got 0" in mistake("0", "--apix", "0")
    write_run(run, buffers={})
    assert "has no bodies. Train with --masks" in mistake("0")
    write_latents(run / "z.0.pkl", np.zeros((COUNT, 2)))
    assert "no conformation latents" in mistake("0")
    assert not (run / "dynamics.0").exists()
