"""Every command line runs in a job script, from the folder of the data and from another one.

Both folders have spaces in their names, which the script quotes. Trainings have very small networks and few epochs.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from opustomo.io.latents import read_latents
from opustomo.io.poses import read_poses
from opustomo.io.star_tables import read_particles
from tests.commands.quick import use_tiny_networks
from tests.conformance import lab
from tests.conformance.lines import LINES, Line
from tests.job_script import run_script

ROOT = Path(__file__).resolve().parents[2]
MOVIE = ROOT / "analysis_scripts" / "movie.py"
# what ChimeraX does with --script: it divides the text as a shell would and runs the file with its session
CHIMERAX = """#!/bin/sh
'''exec' "{python}" -SE "$0" "$@"
' '''
import runpy, shlex, sys, types
names = ("chimerax", "chimerax.core", "chimerax.core.commands", "chimerax.core.errors")
modules = {{name: types.ModuleType(name) for name in names}}
sys.modules.update(modules)
said = open("played.txt", "w")
modules["chimerax.core.commands"].run = lambda session, line: print(line, file=said)
modules["chimerax.core.errors"].UserError = type("UserError", (Exception,), {{}})
assert sys.argv[1] == "--script", sys.argv
sys.argv = shlex.split(sys.argv[2])
session = types.SimpleNamespace(models=types.SimpleNamespace(list=lambda: []))
runpy.run_path(sys.argv[0], init_globals={{"session": session}})
"""
# dsd in processes of its own, with very small networks
TINY_DSD = "#!{python}\nimport sys\nfrom tests.training.tiny_run import main\nsys.exit(main(sys.argv[1:]))\n"

PLACES = ("here", "elsewhere")
CASES = [
    pytest.param(line, place, id=f"{place}: {line.words[:110]}")
    for line in LINES
    for place in PLACES
    if line.needs != "torchrun" and (place == "elsewhere" or not line.once)
]


class Job:
    """Command line as a job script, with its working folder."""

    def __init__(self, line: Line, data: Path, folder: Path) -> None:
        self.line, self.folder = line, folder
        self.data = "." if folder == data else str(data)

    def fill(self, text: str, quote: bool = False) -> str:
        """Put the data at hand into a text."""
        data = shlex.quote(self.data) if quote else self.data
        movie = shlex.quote(str(MOVIE)) if quote else str(MOVIE)
        values = {"data": data, "movie": movie, "box": lab.BOX, "oddbox": lab.BOX - 1, "apix": f"{lab.APIX:g}"}
        for name, value in {**values, "vol": 15, "gpus": 2}.items():
            text = text.replace(f"{{{name}}}", str(value))
        return text

    @property
    def script(self) -> str:
        """The script, which stops at the first command that fails."""
        lines = ["#!/bin/sh", "set -e", self.line.before, self.line.ours or self.line.words]
        return self.fill("\n".join(lines), quote=True) + "\n"

    @property
    def made(self) -> list[Path]:
        """Files that the line must write."""
        return [self.folder / self.fill(name) for name in self.line.makes]


@pytest.fixture
def run_line(own_lab: Callable[[str], Path], tmp_path: Path) -> Callable[[Line, str], Job]:
    """Run a line with sh and check its exit code, files and messages."""

    def run(line: Line, place: str) -> Job:
        data = own_lab("my data")
        folder = data if place == "here" else tmp_path / "another place"
        folder.mkdir(exist_ok=True)
        job = Job(line, data, folder)
        for path in job.made:
            path.unlink(missing_ok=True)  # so that it is this line that makes it
        script = tmp_path / "my job.sh"
        script.write_text(job.script)
        code, said = run_script(["sh", str(script)], folder, {}, _programs(line, tmp_path), _small(line))
        assert code == line.code, f"{job.script}\n{said}"
        for text in line.says:
            assert job.fill(text) in said, said
        for path in job.made:
            assert path.is_file() and path.stat().st_size > 0, f"{path}\n{said}"
        return job

    return run


def _small(line: Line) -> list[str]:
    return f"{lab.TINY} {line.small}".split()


def _programs(line: Line, tmp_path: Path) -> Path:
    """Folder for the programs that a script finds first; no spaces, as in places where programs are installed."""
    folder = tmp_path / "bin"
    folder.mkdir()
    if line.needs == "ChimeraX":
        (folder / "ChimeraX").write_text(CHIMERAX.format(python=sys.executable))
        (folder / "ChimeraX").chmod(0o755)
    elif line.needs and shutil.which(line.needs) is None:
        pytest.skip(f"{line.needs} is not on this machine")
    return folder


@pytest.mark.parametrize(("line", "place"), CASES)
def test_a_line_runs_as_it_stands(
    line: Line, place: str, run_line: Callable[[Line, str], Job], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "train_tomo" in line.words:
        use_tiny_networks(monkeypatch)
    run_line(line, place)


PROCESSES, *MORE_PROCESSES = (line for line in LINES if line.needs == "torchrun")


@pytest.mark.slow
def test_a_line_of_several_processes(own_lab: Callable[[str], Path], tmp_path: Path) -> None:
    import subprocess

    line = PROCESSES

    folder, programs = tmp_path / "another place", tmp_path / "bin"
    folder.mkdir()
    programs.mkdir()
    (programs / "dsd").write_text(TINY_DSD.format(python=sys.executable))
    (programs / "dsd").chmod(0o755)
    job = Job(line, own_lab("my data"), folder)
    path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    script = job.script.rstrip("\n") + f" {lab.TINY}\n"
    done = subprocess.run(
        ["sh", "-c", script], cwd=folder, env={**os.environ, **settings}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert all(job.fill(text) in done.stderr for text in line.says), done.stderr
    assert all(file.is_file() for file in job.made)
    assert len(read_latents(folder / "z.0.pkl")[0]) == 16


@pytest.mark.parametrize("line", MORE_PROCESSES, ids=[line.words[:60] for line in MORE_PROCESSES])
def test_a_line_of_several_processes_in_one(
    line: Line, run_line: Callable[[Line, str], Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its options work in one process; the case before runs several processes with torchrun."""
    use_tiny_networks(monkeypatch)
    (tmp_path / "torchrun").mkdir()
    torchrun = tmp_path / "torchrun" / "torchrun"
    torchrun.write_text('#!/bin/sh\n[ "$1" = --nproc_per_node=2 ] && shift && exec "$@"\n')
    torchrun.chmod(0o755)
    monkeypatch.setenv("PATH", str(torchrun.parent), prepend=os.pathsep)
    run_line(replace(line, says=()), "elsewhere")


def _line(words: str) -> Line:
    """The case that begins so."""
    return next(line for line in LINES if line.words.startswith(words))


def test_poses_are_those_of_the_table(run_line: Callable[[Line, str], Job]) -> None:
    job = run_line(_line("dsd parse_pose_star {data}/consensus_data.star -D {oddbox}"), "elsewhere")
    poses, star = read_poses(job.made[0]), read_particles(Path(job.data) / "consensus_data.star")
    np.testing.assert_allclose(poses.origins * lab.BOX, star.origins_px(lab.APIX), atol=1e-6)
    np.testing.assert_allclose(poses.eulers_deg, star.eulers_deg(), atol=1e-3)


def test_stars_of_clusters_hold_every_particle_once(run_line: Callable[[Line, str], Job]) -> None:
    job = run_line(_line("dsd parse_pose_star ../consensus_data.star -D {box} --Apix {apix} --labels"), "elsewhere")
    counts = [len(read_particles(path)) for path in job.made[0].parent.glob("pre*.star")]
    assert sum(counts) == lab.PARTICLES and len(counts) == 31  # 30 clusters and the particles that were left out


def test_stars_are_joined(run_line: Callable[[Line, str], Job]) -> None:
    job = run_line(_line("dsdsh combine_star"), "elsewhere")
    parts = [read_particles(job.made[0].with_name(f"pre{i}.star")) for i in (9, 10)]
    assert len(read_particles(job.made[0])) == len(parts[0]) + len(parts[1]) > 2


def test_the_movie_is_played(run_line: Callable[[Line, str], Job]) -> None:
    job = run_line(_line("ChimeraX"), "elsewhere")
    said = job.made[0].read_text()
    assert said.startswith('open "reference0.mrc"') and '"reference9.mrc" vseries true' in said
    assert "level 0.985" in said and "vseries play #1" in said


def test_every_line_names_what_it_makes_or_why_it_fails() -> None:
    for line in LINES:
        assert line.makes or line.says, line.words
        assert not line.ours or line.differs, line.words
        assert line.ours != line.words
    assert len({(line.words, line.before) for line in LINES}) == len(LINES)


def test_the_page_of_differences_is_up_to_date() -> None:
    page = ROOT / "docs" / "from-opus-tomo.md"
    spec = importlib.util.spec_from_file_location("write_differences", ROOT / "docs" / "write_differences.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = page.read_text(encoding="utf-8")
    assert module.with_lines(text) == text, "run python docs/write_differences.py"
