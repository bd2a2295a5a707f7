"""The commands in the documents: all are understood by their parsers, and those of the pages below are run."""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import analysis_scripts.main
import opustomo.main
from opustomo.analysis import figures

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
PROGRAMS = {"dsd": opustomo.main, "dsdsh": analysis_scripts.main}


def commands_in(page: Path) -> list[list[str]]:
    """Command lines of the fenced blocks, without prompt and comment; continued lines are joined."""
    found = []
    for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if line.removeprefix("$ ").startswith(("dsd ", "dsdsh ")):
                found.append(shlex.split(line.removeprefix("$ "), comments=True))
    return found


ALL = [(page.name, words) for page in PAGES for words in commands_in(page)]


@pytest.mark.parametrize(("page", "words"), ALL, ids=[f"{page}: {shlex.join(words)}"[:70] for page, words in ALL])
def test_commands_are_understood(page: str, words: list[str]) -> None:
    program, command, *options = words
    parser = argparse.ArgumentParser(prog=f"{program} {command}")
    importlib.import_module(PROGRAMS[program].COMMANDS[command]).add_arguments(parser)
    try:
        parser.parse_args(options)
    except SystemExit as stop:
        pytest.fail(f"{page}: {shlex.join(words)} ends with {stop.code}")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert target.startswith("http") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_list_of_commands_is_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["text"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written, "run python docs/write_commands.py"


def run_page(page: str, replaced: dict[str, str], appended: dict[str, str], skipped: tuple[str, ...] = ()) -> None:
    """Run the commands of a page in the working folder.

    ``replaced`` are patterns and what stands for them, to make the work small; ``appended`` are words added to the
    commands that start so. Commands that start with one of ``skipped`` are left out.
    """
    for words in commands_in(ROOT / page):
        line = shlex.join(words)
        for pattern, text in replaced.items():
            line = re.sub(pattern, text, line)
        line += "".join(f" {more}" for start, more in appended.items() if line.startswith(start))
        if line.startswith(skipped):
            continue
        program, *rest = shlex.split(line)
        assert PROGRAMS[program].main(rest) == 0, line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty working folder with a space in its name; figures are small."""
    folder = tmp_path / "a place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(figures, "DPI", 30)
    yield folder
    shutil.rmtree(folder)


SMALL_TRAINING = "--templateres 32 --encoderres 8 --num-workers 1 --device cpu --zdim 3"


@pytest.mark.slow
def test_the_tutorial(place: Path) -> None:
    smaller = {r" -n 270\b": " -n 40", r" -n 12\b": " -n 2", r"--checkpoint 12\b": "--checkpoint 1"}
    earlier = {r"\brun 11\b": "run 1", r"\b(z|analyze)\.((?:filter\.)*)11\b": r"\g<1>.\g<2>1"}
    run_page("docs/tutorial.md", {**smaller, **earlier}, {"dsd train_tomo": SMALL_TRAINING})
    volumes = list(place.glob("run/analyze.1/*/reference0.mrc"))
    assert len(volumes) >= 2
    assert list(place.glob("run/analyze.1/kmeans3/pre*.star")) and list(place.glob("run/analyze.filter.1/kmeans2/*"))


@pytest.mark.slow
def test_the_readme_and_old_runs(place: Path, tiny_set: Path) -> None:
    for path in tiny_set.iterdir():
        (place / path.name).symlink_to(path)
    (place / "sim_3state").symlink_to(tiny_set)
    size = {r" 96 4\.0": " 24 12.0", r"--angpix 4\.0": "--angpix 12", r" 4\.0\b": " 12.0", r" -n \d+\b": " -n 1"}
    epoch = {r"\brun 29\b": "run 0", r" 4 12$": " 2 3", r"kmeans 12 ": "kmeans 3 ", r"run 0 12$": "run 0 3"}
    # the second training is that of small machines; one is enough
    skipped = ("dsd train_tomo sim_3state",)
    run_page("README.md", {**size, **epoch, r"pre\{i\}": "pre"}, {"dsd train_tomo": SMALL_TRAINING}, skipped)
    assert (place / "run" / "analyze.0" / "kmeans3" / "reference2.mrc").is_file()
    run_page("docs/from-opus-tomo.md", {**size, **epoch, r"^dsdsh analyze.*": r"\g<0> --skip-umap"}, {})


def test_simulation(place: Path) -> None:
    from opustomo.io.mrc import write_volume

    rng = np.random.default_rng(0)
    volumes = rng.random((2, 16, 16, 16), dtype=np.float32)
    np.save("stack.npy", volumes)
    for i, volume in enumerate(volumes):
        write_volume(f"state{i + 1}.mrc", volume, 12.0)
    run_page("docs/simulate.md", {r" -n \d+": "", r"--box 64": "--box 20"}, {"dsd simulate": "--overwrite -n 4"})
