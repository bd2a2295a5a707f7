"""ChimeraX command files and the script that plays a series, run in a simulated session."""

from __future__ import annotations

import re
import runpy
import sys
import types
from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.figures.volume_display import contour_level, write_series_script, write_set_script

MOVIE = Path(__file__).resolve().parents[3] / "analysis_scripts" / "movie.py"


class ChimeraXUserError(Exception):
    """Replacement of the exception of ChimeraX."""


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commands that a script ran; ChimeraX's modules are replaced by ones that write them down."""
    lines: list[str] = []
    modules = {name: types.ModuleType(name) for name in ("chimerax", "chimerax.core", "chimerax.core.commands")}
    modules["chimerax.core.errors"] = types.ModuleType("chimerax.core.errors")
    modules["chimerax.core.commands"].run = lambda session, line: lines.append(line)  # type: ignore[attr-defined]
    modules["chimerax.core.errors"].UserError = ChimeraXUserError  # type: ignore[attr-defined]
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return lines


def play(monkeypatch: pytest.MonkeyPatch, *words: str, open_models: tuple[int, ...] = ()) -> None:
    """Run movie.py as ChimeraX does: words in sys.argv, the session among the globals."""
    models = [types.SimpleNamespace(id=(number,)) for number in open_models]
    session = types.SimpleNamespace(models=types.SimpleNamespace(list=lambda: models))
    monkeypatch.setattr(sys, "argv", [str(MOVIE), *words])
    runpy.run_path(str(MOVIE), init_globals={"session": session}, run_name="ChimeraX_sandbox_1")


def make_series(folder: Path, count: int = 11) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"reference{i}.mrc" for i in range(count)]
    for name in [*names, "reference.mrc", "reference1b.mrc", "my_reference3.mrc", "joint0.mrc"]:
        (folder / name).touch()
    return names


def test_movie_plays_the_series_in_order(said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    names = make_series(tmp_path / "pc 1")
    monkeypatch.chdir(tmp_path / "pc 1")
    play(monkeypatch, "reference", "0.985")
    assert said[0] == "open " + " ".join(f'"{name}"' for name in names) + " vseries true id 1"
    assert said[1].startswith("volume #1 ") and said[1].endswith(" level 0.985")
    assert said[-1].startswith("vseries play #1 ")


def test_movie_takes_a_path_and_leaves_open_models_alone(
    said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_series(tmp_path / "pc 1", 2)
    monkeypatch.chdir(tmp_path)
    play(monkeypatch, "pc 1/reference", "3sd", open_models=(1, 4))
    assert said[0] == 'open "pc 1/reference0.mrc" "pc 1/reference1.mrc" vseries true id 5'
    assert said[1].endswith(" sdLevel 3") and "#5" in said[1] and "#5" in said[-1]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("reference",), "usage"),
        (("other", "1"), "There are no volumes other0.mrc"),
        (("reference", "high"), "'high' is not a contour level"),
    ],
)
def test_errors_are_reported_before_anything_is_opened(
    words: tuple[str, ...], reason: str, said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    make_series(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChimeraXUserError, match=reason):
        play(monkeypatch, *words)
    assert said == []


def test_movie_needs_nothing_but_the_standard_library() -> None:
    found = set(re.findall(r"^\s*(?:from|import) (\w+)", MOVIE.read_text(), re.MULTILINE))
    assert found <= {"__future__", "glob", "os", "re", "sys", "chimerax"}


def test_importing_movie_does_nothing() -> None:
    assert callable(runpy.run_path(str(MOVIE))["main"])


def test_the_level_divides_two_phases() -> None:
    rng = np.random.default_rng(0)
    solvent, particle = rng.normal(1.0, 0.3, 8000), rng.normal(5.0, 0.5, 1000)
    level = contour_level(np.concatenate([solvent, particle, np.zeros(50_000)]))
    assert 2.0 < level < 4.0
    assert contour_level(np.zeros((4, 4, 4))) == 0.0 == contour_level(np.full((2, 2), 3.0))


def test_command_files(tmp_path: Path) -> None:
    paths = [tmp_path / f"my volume{i}.mrc" for i in range(3)]
    write_series_script(tmp_path / "series.cxc", paths, 0.1234567)
    lines = [line for line in (tmp_path / "series.cxc").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == 'open "my volume0.mrc" "my volume1.mrc" "my volume2.mrc" vseries true'
    assert "level 0.12346" in lines[1] and lines[-1].startswith("vseries play #1")
    write_set_script(tmp_path / "set.cxc", paths, 2.0, ["a", "cluster 1 (7 particles)", "c"])
    text = (tmp_path / "set.cxc").read_text()
    assert 'open "my volume1.mrc" id 2 name "cluster 1 (7 particles)"' in text
    assert text.count("level 2") == 3 and len(set(re.findall(r"color #\d (#[0-9a-f]{6})", text))) == 3
