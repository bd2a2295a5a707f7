"""`dsd parse_pose_star` and `dsdsh prepare`: files, messages and exit codes."""

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

import opustomo.commands
from analysis_scripts.main import main as dsdsh
from opustomo.checkpoint.config import run_settings, write_config
from opustomo.commands.runner import run_cli
from opustomo.io.mrc import write_volume
from opustomo.io.poses import Poses, read_poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes

STAR = """data_optics

loop_
_rlnOpticsGroup
_rlnImagePixelSize
1 2.0

data_particles

loop_
_rlnImageName
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnOriginZAngst
_rlnOpticsGroup
_rlnNote
a.mrc 10 20 30 4.0 -2.0 0 1 "x y"
b.mrc -10 120 0.50 0 0 1.0 1 007
c.mrc 0 0 0 0 0 0 1 z
"""


@pytest.fixture
def star(tmp_path: Path) -> Path:
    path = tmp_path / "my data" / "parts.star"
    path.parent.mkdir()
    path.write_text(STAR)
    return path


def test_prepare_writes_the_pose_file_of_the_original(star: Path) -> None:
    assert dsdsh(["prepare", str(star), "40", "2.0", "--relion31"]) == 0
    out = star.with_name("parts_pose_euler.pkl")
    rot, trans, euler = pickle.loads(out.read_bytes())
    np.testing.assert_allclose(trans, np.array([[2, -1, 0], [0, 0, 0.5], [0, 0, 0]]) / 40)
    np.testing.assert_array_equal(euler, [[10, 20, 30], [-10, 120, 0.5], [0, 0, 0]])
    expected = Rotation.from_euler("ZYZ", euler, degrees=True).as_matrix().transpose(0, 2, 1)
    np.testing.assert_allclose(rot, expected, atol=1e-6)


def test_prepare_and_parse_pose_star_agree(star: Path, tmp_path: Path) -> None:
    assert dsdsh(["prepare", str(star), "40", "4.0"]) == 0
    out = tmp_path / "poses.pkl"
    assert dsd(["parse_pose_star", str(star), "-D", "40", "--Apix", "4.0", "-o", str(out)]) == 0
    prepared, parsed = read_poses(star.with_name("parts_pose_euler.pkl")), read_poses(out)
    np.testing.assert_array_equal(prepared.origins, parsed.origins)
    np.testing.assert_allclose(parsed.origins[0], np.array([1, -0.5, 0]) / 40)
    # without --Apix the pixel size of the optics group, 2 Å, counts
    assert dsd(["parse_pose_star", str(star), "-D", "40", "-o", str(out)]) == 0
    np.testing.assert_allclose(read_poses(out).origins[0], np.array([2, -1, 0]) / 40)


def test_clusters_and_refined_poses(star: Path, tmp_path: Path) -> None:
    labels, refined = tmp_path / "labels.pkl", tmp_path / "pose.3.pkl"
    labels.write_bytes(pickle.dumps(np.array([1, 0, 1])))
    eulers = np.array([[1.0, 2, 3], [4, 5, 6], [7, 8, 9]])
    write_poses(refined, Poses(eulers, np.full((3, 3), 0.1)))
    options = ["--poses", str(refined), "--labels", str(labels), "--outdir", str(tmp_path / "c d")]
    assert dsd(["parse_pose_star", str(star), "-D", "40", *options, "--out-star", str(tmp_path / "all.star")]) == 0
    first, second = (read_particles(tmp_path / "c d" / f"pre{i}.star") for i in (0, 1))
    assert first.strings("rlnNote") == ["007"]
    assert second.strings("rlnNote") == ["x y", "z"]
    np.testing.assert_array_equal(second.eulers_deg(), eulers[[0, 2]])
    # 0.1 of 40 pixels of 2 Å
    np.testing.assert_allclose(first.numbers("rlnOriginZAngst"), [8.0])
    assert list(first.blocks) == ["optics", "particles"]
    np.testing.assert_array_equal(read_particles(tmp_path / "all.star").eulers_deg(), eulers)


def test_labels_alone_leave_every_value_as_it_was(star: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps([0, 0, 0]))
    options = ["--labels", str(tmp_path / "labels.pkl"), "--outdir", str(tmp_path)]
    assert dsd(["parse_pose_star", str(star), "-D", "40", *options]) == 0
    found = read_particles(tmp_path / "pre0.star").particles
    assert found.to_numpy().tolist() == read_particles(star).particles.to_numpy().tolist()


def test_perturbation(star: Path, tmp_path: Path) -> None:
    def perturbed(*options: str) -> Poses:
        out = tmp_path / "p.pkl"
        assert dsd(["parse_pose_star", str(star), "-D", "40", "-o", str(out), *options]) == 0
        return read_poses(out)

    plain = perturbed()
    turned = perturbed("--perturb-rot", "5", "--seed", "1")
    between = np.einsum("nij,nkj->nik", turned.rotations.astype(float), plain.rotations.astype(float))
    angles = np.rad2deg(np.arccos(np.clip((np.trace(between, axis1=1, axis2=2) - 1) / 2, -1, 1)))
    assert 0.1 < angles.max() <= 5.001
    np.testing.assert_array_equal(turned.origins, plain.origins)
    shifted = perturbed("--perturb-trans", "3", "--seed", "1")
    moves = np.abs(shifted.origins - plain.origins) * 40
    assert 0.1 < moves.max() <= 3
    np.testing.assert_allclose(shifted.rotations, plain.rotations, atol=1e-6)
    np.testing.assert_array_equal(shifted.origins, perturbed("--perturb-trans", "3", "--seed", "1").origins)
    assert np.abs(shifted.origins - perturbed("--perturb-trans", "3", "--seed", "2").origins).max() > 0


def mistakes(star: Path, tmp_path: Path) -> dict[str, tuple[list[str], str]]:
    few = tmp_path / "few.pkl"
    write_poses(few, Poses(np.zeros((2, 3)), np.zeros((2, 3))))
    (tmp_path / "labels.pkl").write_bytes(pickle.dumps([0, 0]))
    empty = tmp_path / "empty.star"
    empty.write_text(STAR[: STAR.index("a.mrc")])
    out = ["-o", str(tmp_path / "out.pkl")]
    return {
        "missing STAR": ([str(tmp_path / "absent.star"), "-D", "40", *out], "absent.star"),
        "empty table": ([str(empty), "-D", "40", *out], "no rows"),
        "no box": ([str(star), "-D", "0", *out], "at least 2"),
        "nothing to write": ([str(star), "-D", "40"], "No output is requested"),
        "labels without folder": ([str(star), "-D", "40", "--labels", "x.pkl"], "--outdir"),
        "poses of another set": (
            [str(star), "-D", "40", "--poses", str(few), *out],
            "contains 2 poses, but",
        ),
        "labels of another set": (
            [
                str(star),
                "-D",
                "40",
                "--labels",
                str(tmp_path / "labels.pkl"),
                "--outdir",
                str(tmp_path / "o"),
                *out,
            ],
            "3 particles",
        ),
        "pixel size": ([str(star), "-D", "40", "--Apix", "-1", *out], "--Apix"),
        "perturbation": ([str(star), "-D", "40", "--perturb-rot", "-1", *out], "--perturb-rot"),
    }


CASES = [
    "missing STAR",
    "empty table",
    "no box",
    "nothing to write",
    "labels without folder",
    "poses of another set",
    "labels of another set",
    "pixel size",
    "perturbation",
]


@pytest.mark.parametrize("case", CASES)
def test_errors_are_one_sentence(star: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    words, reason = mistakes(star, tmp_path)[case]
    before = sorted(tmp_path.rglob("*"))
    assert dsd(["parse_pose_star", *words]) == 1
    error = capsys.readouterr().err
    assert error.startswith("dsd parse_pose_star: error: ")
    assert error.count("\n") == 1
    assert reason in error
    assert sorted(tmp_path.rglob("*")) == before


def test_box_is_compared_with_the_first_subtomogram(star: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_volume(star.with_name("a.mrc"), np.zeros((40, 40, 40), dtype=np.float32), 2.0)
    assert dsdsh(["prepare", str(star), "40", "2.0"]) == 0
    assert dsdsh(["prepare", str(star), "48", "2.0"]) == 1
    assert "40×40×40 voxels, but the box length -D is 48" in capsys.readouterr().err


def test_prepare_errors(star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dsdsh(["prepare", str(tmp_path / "absent.star"), "40", "2"]) == 1
    assert dsdsh(["prepare", str(star), "40", "0"]) == 1
    assert dsdsh(["prepare", str(star), "40"]) == 2
    assert "absent.star" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.pkl"))


def test_shared_set_against_its_own_numbers(shared_data: Path, tmp_path: Path) -> None:
    shutil.copy(shared_data / "sim_3state" / "particles.star", tmp_path)
    assert dsdsh(["prepare", str(tmp_path / "particles.star"), "48", "8"]) == 0
    truth = np.load(shared_data / "sim_3state" / "truth.npz")
    poses = read_poses(tmp_path / "particles_pose_euler.pkl")
    np.testing.assert_allclose(poses.origins * 48, truth["origin_used"], atol=1e-5)
    np.testing.assert_allclose(poses.eulers_deg, truth["eulers_used"], atol=1e-5)


def test_a_command_that_is_interrupted_or_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def command(body: str) -> dict[str, str]:
        (tmp_path / "acommand.py").write_text(
            f"HELP = 'help'\ndef add_arguments(parser): pass\ndef run(args):\n    {body}\n"
        )
        monkeypatch.delitem(sys.modules, "opustomo.commands.acommand", raising=False)
        return {"go": "acommand"}

    monkeypatch.setattr(opustomo.commands, "__path__", [*opustomo.commands.__path__, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert run_cli("prog", "", command("raise KeyboardInterrupt"), ["go"]) == 130
    assert run_cli("prog", "", command("raise SystemExit(3)"), ["go"]) == 3
    assert run_cli("prog", "", command("open('/nowhere/at/all')    "), ["go"]) == 1
    assert "prog go: error: /nowhere/at/all: No such file or directory" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError):  # our own mistakes keep their traceback
        run_cli("prog", "", command("1 / 0   "), ["go"])
    assert run_cli("prog", "", {"go": "no_such_module_here"}, ["go"]) == 1
    assert "missing from the installation" in capsys.readouterr().err


def test_help_and_wrong_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert dsd(["-h"]) == 0
    assert "parse_pose_star" in capsys.readouterr().out
    assert dsd(["--version"]) == 0
    assert dsd([]) == 2
    capsys.readouterr()
    assert dsd(["prepare_everything"]) == 2
    assert "no command 'prepare_everything'" in capsys.readouterr().err
    assert dsdsh(["parse_pose", "-h"]) == 0


def test_module_runs_as_a_program(star: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "opustomo", "parse_pose_star", str(star), "-D", "40"]
    done = subprocess.run([*words, "-o", str(tmp_path / "o.pkl")], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    failed = subprocess.run(words, capture_output=True, text=True)
    assert failed.returncode == 1
    assert "Traceback" not in failed.stderr


def test_an_odd_box_is_taken_for_the_even_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The original's grids are odd, and its users give -D 127 for a box of 128."""
    star = tmp_path / "particles.star"
    star.write_text(STAR)
    out = tmp_path / "out.pkl"
    words = ["parse_pose_star", str(star), "--Apix", "4.0", "-o", str(out), "-D"]
    assert dsd([*words, "40"]) == 0
    even = read_poses(out)
    capsys.readouterr()
    assert dsd([*words, "39"]) == 0  # without the subtomogram: one more
    assert "39 is odd; 40 pixels are used" in capsys.readouterr().out
    np.testing.assert_array_equal(read_poses(out).origins, even.origins)
    write_volume(tmp_path / "a.mrc", np.ones((40, 40, 40), np.float32), 4.0)
    for given in ("39", "41"):  # with it: what it says
        assert dsd([*words, given]) == 0
        np.testing.assert_array_equal(read_poses(out).origins, even.origins)
    out.unlink()
    for given in ("37", "43", "42"):
        assert dsd([*words, given]) == 1
        assert f"but the box length -D is {given}" in capsys.readouterr().err and not out.exists()


OTHER_SIZES = """data_optics

loop_
_rlnOpticsGroup
_rlnImagePixelSize
_rlnImageSize
1 10.632 32
2 10.632 32

data_particles

loop_
_rlnAngleRot
_rlnAngleTilt
_rlnAnglePsi
_rlnOriginXAngst
_rlnOriginYAngst
_rlnOriginZAngst
_rlnOpticsGroup
10 20 30 4.0 -2.0 0 1
10 20 30 4.0 -2.0 0 2
"""


@pytest.mark.parametrize("command", ["parse_pose_star", "prepare"])
def test_sizes_that_the_table_contradicts_are_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    path = tmp_path / "p.star"
    path.write_text(OTHER_SIZES)

    def run(box: str, apix: str) -> str:
        if command == "prepare":
            assert dsdsh(["prepare", str(path), box, apix]) == 0
        else:
            assert dsd(["parse_pose_star", str(path), "-D", box, "--Apix", apix, "-o", str(tmp_path / "o.pkl")]) == 0
        return capsys.readouterr().out

    said = run("64", "5")
    assert f"the given box length is 64 pixels, but {path} states 32 (rlnImageSize)" in said
    assert f"the given pixel size is 5 Å, but {path} states 10.632 Å; origins in Å are divided by 5" in said
    assert "Note" not in run("32", "10.632")
    path.write_text(OTHER_SIZES.replace("2 10.632 32", "2 8 48"))
    said = run("32", "10.632")
    assert "states 32, 48 (rlnImageSize)" in said and "states 8 and 10.632 Å" in said


def test_refined_origins_are_not_scaled_by_another_box(
    star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Poses of a run are fractions of its box, which config.pkl contains."""
    run = tmp_path / "a run"
    run.mkdir()
    write_poses(run / "pose.3.pkl", Poses(np.zeros((3, 3)), np.full((3, 3), 0.1)))
    settings = run_settings(ModelConfig(zdim=2), PhysicsConfig(), Boxes(40, 2.0, 40, 40), {}, 0)
    write_config(run / "config.pkl", settings, ("dsd",))
    out = tmp_path / "out.star"
    words = ["parse_pose_star", str(star), "--poses", str(run / "pose.3.pkl"), "--out-star", str(out), "-D"]
    assert dsd([*words, "64"]) == 1
    assert "-D is 64, but the run of" in capsys.readouterr().err
    assert not out.exists()
    assert dsd([*words, "40"]) == 0
    np.testing.assert_allclose(read_particles(out).origins_px(), 4.0)


def test_the_conversion_starts_without_pytorch(tiny_set: Path, tmp_path: Path) -> None:
    words = [
        "parse_pose_star",
        str(tiny_set / "particles.star"),
        "-D",
        "24",
        "--Apix",
        "12",
        "-o",
        str(tmp_path / "p.pkl"),
    ]
    program = f"import sys; from opustomo.main import main; sys.exit(main({words!r}) or 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (tmp_path / "p.pkl").exists(), done.stderr
