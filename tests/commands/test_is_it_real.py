"""Commands of docs/is-it-real.md, run on a smaller set."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import analysis_scripts.main
import opustomo.main
from opustomo.analysis.figures import latent_figures
from opustomo.io.pickles import dump_pickle

PAGE = Path(__file__).resolve().parents[2] / "docs" / "is-it-real.md"
PROGRAMS = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}


def test_every_command_of_the_page_runs(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a place"
    (folder / "run").mkdir(parents=True)
    for path in trained_run.iterdir():
        if path.is_file():
            (folder / "run" / path.name).symlink_to(path)
    monkeypatch.chdir(folder)
    monkeypatch.setattr(latent_figures, "DPI", 30)
    (folder / "run" / "analyze.1").mkdir()
    dump_pickle(folder / "run" / "analyze.1" / "umap.pkl", np.random.default_rng(0).normal(size=(16, 2)))
    assert analysis_scripts.main.main(["analyze", "run", "1", "1", "3", "--skip-umap"]) == 0
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    assert len(lines) == 5
    smaller = {r" 29 12$": " 1 3", r" 29$": " 1", "--box 48 -n 150": "--box 20 -n 6", "--apix 8": "--apix 16"}
    for line in lines:
        for pattern, text in {**smaller, "convergence run": "convergence run -k 3"}.items():
            line = re.sub(pattern, text, line)
        program, *words = shlex.split(line)
        assert PROGRAMS[program](words) == 0, line
    for name in ("sim/map_fsc.csv", "run/convergence.png", "run/analyze.1/report.html"):
        assert (folder / name).is_file()
    # the table of files on the page is complete
    named = set(re.findall(r"^\| `([\w.{}]+)`", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    made = {path.name for path in (folder / "run" / "analyze.1" / "kmeans3").glob("*") if "valid" in path.name}
    made |= {"backprojection{i}.mrc", "validation_reference.csv"}  # the last one only with --reference
    made.add("difference{i}.mrc")  # of classes with more particles than these
    assert named == made and (folder / "run" / "analyze.1" / "kmeans3" / "backprojection2.mrc").is_file()
