"""The notebooks in examples/ run on a short training, with the settings of the tests."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from opustomo.analysis.figures import latent_figures
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.star_tables import read_particles

FOLDER = Path(__file__).resolve().parents[2] / "examples"


@pytest.fixture
def place(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Working folder with a copy of the run, and one with a link for a notebook that does not write into it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(latent_figures, "DPI", 30)
    (tmp_path / "run").mkdir()
    for path in trained_run.iterdir():
        if path.name.startswith("weights"):
            (tmp_path / "run" / path.name).symlink_to(path)
        elif path.is_file() and path.name != "state.pkl":
            shutil.copy(path, tmp_path / "run")
    yield tmp_path
    plt.close("all")


def execute(name: str, **settings: object) -> dict[str, object]:
    """Execute all cells of a notebook; `settings` replace the values of its first code cell."""
    cells = json.loads((FOLDER / name).read_text(encoding="utf-8"))["cells"]
    space: dict[str, object] = {}
    first = True
    for cell in cells:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == [] and cell["execution_count"] is None
        exec(compile("".join(cell["source"]), f"{name}, {cell['id']}", "exec"), space)
        if first:
            assert set(settings) <= set(space), f"the first cell of {name} sets no {set(settings) - set(space)}"
            space |= settings
            first = False
    return space


def test_explore(place: Path) -> None:
    clusters = execute("explore.ipynb")["clusters"]
    assert len(plt.get_fignums()) == 3
    names = ["cluster0.mrc", "cluster1.mrc", "cluster2.mrc", "difference0.mrc"]
    assert sorted(path.name for path in (place / "volumes").iterdir()) == names
    part = read_particles(place / "cluster0.star")
    assert len(part) == (clusters.labels == 0).sum()  # type: ignore[attr-defined]


def test_is_my_ligand_there(place: Path, tiny_set: Path) -> None:
    mask, apix = read_volume(tiny_set / "mask.mrc")
    half = np.array(mask)
    half[: len(half) // 2] = 0
    write_volume(place / "ligand_mask.mrc", half, apix)
    space = execute("is_my_ligand_there.ipynb")
    assert (place / "run" / "analyze.focus.1" / "kmeans2" / "validation_verdict.json").is_file()
    assert len(read_particles(place / "with_ligand.star")) == len(space["chosen"])  # type: ignore[arg-type]
    assert len(read_particles(place / "ligand_only" / "particles.star")) == 16
    assert (place / "run" / "analyze.focus.1" / "report.html").is_file()


def test_which_picks_are_false(place: Path) -> None:
    space = execute("which_picks_are_false.ipynb", CLUSTERS=2)
    kept = read_particles(place / "true_picks.star")
    assert len(kept) == space["keep"].sum() > 0  # type: ignore[attr-defined]
    assert len(space["evidence"]) == 2  # type: ignore[arg-type]
    assert (place / "run" / "analyze.1" / "report.html").is_file()


def test_how_does_it_move(place: Path) -> None:
    space = execute("how_does_it_move.ipynb", CLUSTERS=2)
    frames = space["frames"]
    assert len(list((place / "motion").glob("frame*.mrc"))) == len(frames) == 10  # type: ignore[arg-type]
    np.testing.assert_array_equal(read_volume(place / "motion" / "frame9.mrc")[0], frames[9])  # type: ignore[index]
    assert (place / "run" / "analyze.1" / "report.html").is_file()
