"""Messages about a full disk name the requested file, not a temporary one, and no partial files remain."""

from __future__ import annotations

import resource
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.io.atomic import atomic_path
from opustomo.io.mrc import write_volume
from opustomo.main import main as dsd

PROGRAMS = {"dsd": dsd, "dsdsh": dsdsh}
STAR = """data_
loop_
_rlnAngleRot #1
_rlnAngleTilt #2
_rlnAnglePsi #3
_rlnImageName #4
"""
LINES = {
    "dsd parse_pose_star {tmp}/p.star -D 24 -o {tmp}/out/poses.pkl": "out/poses.pkl",
    "dsdsh prepare {tmp}/p.star 24 12": "p_pose_euler.pkl",
    "dsdsh convert_star {tmp}/p.star 12 -o {tmp}/out/some.star": "out/some.star",
    "dsdsh create_mask {tmp}/map.mrc -o {tmp}/out/mask.mrc": "out/mask.mrc",
    "dsd simulate --builtin 50S -o {tmp}/set --box 16 -n 2 --tilt-step 20 --device cpu": "set",
}


@pytest.mark.parametrize("line", LINES)
def test_commands_on_a_full_disk(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No file of the process may outgrow 2,000 bytes: writes then fail as on a full disk."""
    (tmp_path / "p.star").write_text(STAR + "".join(f"{i} {i} 3 {i}.mrc\n" for i in range(500)))
    write_volume(tmp_path / "map.mrc", np.random.default_rng(0).normal(size=(16, 16, 16)), 4.0)
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    program, *words = line.format(tmp=tmp_path).split()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, limits[1]))
    try:
        code = PROGRAMS[program](words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    said = capsys.readouterr().err
    assert code == 1, said
    last = said.splitlines()[-1]
    assert f"error: {tmp_path / LINES[line]}" in last and "File too large" in last and "free space" in last
    assert ".tmp" not in said
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before


def test_errors_inside_a_temporary_folder_name_the_final_one(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "set") as temporary:
        (temporary / "a").mkdir(parents=True)
        (temporary / "a" / "b.mrc").open("r")
    assert caught.value.filename == str(tmp_path / "set" / "a" / "b.mrc")
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "set"):
        pass  # nothing was written, so that there is nothing to rename
    assert caught.value.filename == str(tmp_path / "set") and ".tmp" not in str(caught.value)


@pytest.mark.parametrize("path", ["", ".", "/"])
def test_a_folder_in_place_of_a_file(path: str) -> None:
    with pytest.raises(IsADirectoryError) as caught, atomic_path(path):
        pass
    assert caught.value.filename == str(Path(path))


def test_writers_that_do_not_say_why(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "x.raw"):
        raise OSError("1000 requested and 512 written")  # numpy's tofile
    assert caught.value.filename == str(tmp_path / "x.raw")
    assert "1000 requested and 512 written" in str(caught.value.strerror)
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "x.raw"):
        raise FileNotFoundError(2, "No such file or directory", "/another/file")
    assert caught.value.filename == "/another/file"
