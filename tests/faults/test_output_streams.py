"""Closed, full or non-Unicode output streams; interpreters without docstrings; missing working folders."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAR = """data_
loop_
_rlnAngleRot #1
_rlnAngleTilt #2
_rlnAnglePsi #3
_rlnImageName #4
1 2 3 a.mrc
4 5 6 b.mrc
"""
# a command that writes much, with an Å in it, and needs no torch
HELP = "train_tomo -h"


def run(
    words: str, *, flags: str = "", redirect: str = "", cwd: Path | None = None, **variables: str
) -> tuple[int, str, str]:
    """Run `dsd` in a shell; its exit code, output and errors."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    line = f"{sys.executable} {flags} -m opustomo {words} {redirect}"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, env=environment, cwd=cwd, check=False
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize("redirect", ["> /dev/full", "| head -c 20"])
@pytest.mark.parametrize("words", ["-h", HELP, "view_config {run}"])
def test_an_output_that_takes_nothing_more(words: str, redirect: str, tmp_path: Path) -> None:
    from opustomo.io.pickles import dump_pickles

    dump_pickles(tmp_path / "config.pkl", {"names": ["x" * 100] * 1000})
    code, out, error = run(words.format(run=tmp_path), redirect=redirect)
    assert "Traceback" not in error and "Exception ignored" not in error
    if "full" in redirect:
        assert code == 1
        assert error.count("\n") == 1 and "Standard output cannot be written (No space left on device)" in error
    else:
        assert len(out) == 20 and error == ""


@pytest.mark.parametrize("redirect", [">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "2> /dev/full"])
def test_streams_that_are_closed_from_the_start(redirect: str, tmp_path: Path) -> None:
    (tmp_path / "p.star").write_text(STAR)
    code, out, error = run(f"parse_pose_star {tmp_path}/p.star -D 24 -o {tmp_path}/poses.pkl", redirect=redirect)
    assert code == 0
    assert "Traceback" not in out + error
    from opustomo.io.poses import read_poses

    # nothing that was meant for a stream has gone into the file
    assert len(read_poses(tmp_path / "poses.pkl")) == 2
    code, out, error = run(f"view_config {tmp_path}/none", redirect=redirect)
    assert code == 1 and "Traceback" not in out + error and out == ""


@pytest.mark.parametrize("redirect", ["2> /dev/full", "2>&1 | head -c 5"])
def test_progress_that_nobody_reads_stops_nothing(redirect: str, tmp_path: Path) -> None:
    words = f"simulate --builtin 50S -o {tmp_path}/set --box 16 -n 4 --tilt-step 30 --device cpu"
    code, out, error = run(words, redirect=redirect)
    assert code == (0 if "full" in redirect else 1), error  # there the result, too, has no reader
    assert "Traceback" not in out + error and "Exception ignored" not in out + error
    assert len(list((tmp_path / "set" / "subtomo").glob("*.mrc"))) == 4


def test_an_output_that_is_not_unicode() -> None:
    code, out, error = run(HELP, PYTHONIOENCODING="ascii")
    assert code == 0 and error == ""
    assert "pixel size in \\xc5" in out
    code, out, error = run(HELP, LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 0 and error == "" and "pixel size in \\xc5" in out
    code, _, error = run("view_config ./Å", LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
    assert code == 1 and error.count("\n") == 1 and "does not exist" in error


# a module that Python imports when it starts, and which notes whether there are docstrings
NOTE_STARTS = (
    "import os, sys\nwith open(os.environ['STARTS'], 'a') as file:\n    print(sys.flags.optimize, file=file)\n"
)


@pytest.mark.parametrize(("flags", "variables"), [("-OO", {}), ("", {"PYTHONOPTIMIZE": "2"}), ("-OO -X dev", {})])
def test_an_interpreter_without_docstrings_starts_again(flags: str, variables: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NOTE_STARTS)
    variables = variables | {"STARTS": str(tmp_path / "starts"), "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    code, out, error = run(HELP, flags=flags, **variables)
    assert code == 0 and "pixel size in Å" in out and error == ""
    assert (tmp_path / "starts").read_text().split() == ["2", "1"]


def test_healpy_needs_no_more_than_docstrings() -> None:
    """It groups the views in several commands, and cannot be imported without docstrings."""
    program = "import healpy, sys; print(healpy.ang2pix(2, 0.5, 0.5, nest=True), sys.flags.optimize)"
    done = subprocess.run([sys.executable, "-O", "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.split()[1] == "1", done.stderr


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    line = f"rmdir {gone}; {sys.executable} -m opustomo view_config {tmp_path}"
    done = subprocess.run(
        ["bash", "-c", line], cwd=gone, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "The current folder no longer exists" in done.stderr
