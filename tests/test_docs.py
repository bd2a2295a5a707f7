"""Pages: their commands parse and run, links lead to pages and headings, and the site builds."""

from __future__ import annotations

import argparse
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import analysis_scripts.main
import opustomo.main
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.latents import dimension_reduction
from opustomo.commands.registry import DSD, DSDSH, load_command
from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
OUTSIDE = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md",
           "examples/README.md": "examples/index.md"}  # fmt: skip
"""Pages outside docs/ and their names in the site."""
PROGRAMS = {"dsd": opustomo.main, "dsdsh": analysis_scripts.main}


def commands_in(page: Path) -> list[list[str]]:
    """Return the command lines of the fenced blocks, without prompt and comment; continued lines are joined."""
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
    load_command({"dsd": DSD, "dsdsh": DSDSH}[program][command]).add_arguments(parser)
    try:
        parser.parse_args(options)
    except SystemExit as stop:
        pytest.fail(f"{page}: {shlex.join(words)} ends with {stop.code}")


def headings(page: Path) -> set[str]:
    """Return the anchors of a page, as GitHub derives them from the headings."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"^#+ +(.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", sorted({*PAGES, *(ROOT / name for name in OUTSIDE)}), ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http:", "https:")):
            continue
        linked = page.parent / target if target else page
        assert linked.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in headings(linked), f"{page.name}: {target}#{anchor}"


def test_the_navigation_contains_every_page_once() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    nav = re.search(r"^nav:\n((?: .*\n)+)", text, re.MULTILINE)
    assert nav is not None
    found = re.findall(r": (\S+\.md)$", nav[1], re.MULTILINE)
    expected = [path.name for path in PAGES if path.parent.name == "docs"] + [*OUTSIDE.values(), "api/index.md"]
    assert sorted(found) == sorted(expected)


@pytest.mark.slow
def test_the_site_builds_without_warnings(tmp_path: Path) -> None:
    pytest.importorskip("mkdocs", reason="needs pip install opustomo[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "tutorial.html").is_file()
    assert "opustomo.io.star" in (tmp_path / "site" / "api" / "io.html").read_text(encoding="utf-8")


def test_modules_named_in_pages_exist() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md"]:
        for name in re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.py)`", page.read_text(encoding="utf-8")):
            assert any((folder / name).exists() for folder in (ROOT, ROOT / "opustomo")), f"{page.name}: {name}"


def test_the_list_of_commands_is_up_to_date() -> None:
    written = runpy.run_path(str(ROOT / "docs" / "write_commands.py"))["text"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == written, "run python docs/write_commands.py"


def run_page(page: str, replaced: dict[str, str], appended: dict[str, str], skipped: tuple[str, ...] = ()) -> None:
    """Run the commands of a page in the working folder.

    ``replaced`` maps patterns to replacements that make the work small; ``appended`` maps the start of a command to
    words that are added to it. Commands that start with one of ``skipped`` are left out.
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
    """An empty working folder with a space in its name.

    Figures are laid out but left empty, and embeddings are two dimensions of the latents: both are quick. UMAP itself
    is run by ``tests/analysis/latents/test_embedding.py``.
    """
    folder = tmp_path / "a place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    monkeypatch.setattr(dimension_reduction, "embed_latents", lambda latents, **options: latents[:, :2].copy())
    yield folder
    shutil.rmtree(folder)


@pytest.mark.slow
def test_the_tutorial_and_then_the_other_pages(place: Path) -> None:
    smaller = {r" -n 240\b": " -n 24", r" -n 8\b": " -n 2 --checkpoint 1", " -b 8 ": " -b 24 "}
    earlier = {r"\brun 7\b": "run 1", r"\b(z|weights|analyze|filter)\.7\b": r"\g<1>.1"}
    training = "--templateres 32 --encoderres 8 --num-workers 1 --device cpu --zdim 3"
    once = {"dsd train_tomo": training, "dsdsh analyze run 1 2 2 --kpc": "--skip-umap"}
    run_page("docs/tutorial.md", {**smaller, **earlier}, once)
    assert list(place.glob("run/analyze.1/kmeans3/pre*.star")) and list(place.glob("run/analyze.filter.1/kmeans2/*"))
    volumes = set(place.glob("run/analyze.1/**/reference0.mrc"))
    assert len(volumes) == 2

    # the other pages on the same run, under the names they use; one training is enough
    for path in (place / "data").iterdir():
        (place / path.name).symlink_to(path)
    size = {r" 96 4\.0": " 32 12.0", r" 4\.0\b": " 12.0", r" 4 12$": " 1 4"}
    last = {r"\brun 29\b": "run 1", r"kmeans 12 ": "kmeans 4 ", " 12:": " 4:", r"run 1 12$": "run 1 4"}
    quick = {"dsdsh analyze": "--skip-umap"}
    run_page("README.md", {**size, **last}, quick, ("dsd train_tomo",))
    assert (place / "run" / "analyze.1" / "kmeans4" / "reference3.mrc").is_file()
    assert list(place.glob("run/analyze.1/kmeans4/pre*.star")) and (place / "good.star").is_file()
    run_page("docs/from-opus-tomo.md", {**size, **last}, quick)
    assert (place / "run" / "analyze.1" / "report.html").is_file()


def test_simulation(place: Path) -> None:
    from opustomo.io.mrc import write_volume

    rng = np.random.default_rng(0)
    volumes = rng.random((2, 16, 16, 16), dtype=np.float32)
    np.save("stack.npy", volumes)
    for i, volume in enumerate(volumes):
        write_volume(f"state{i + 1}.mrc", volume, 12.0)
    run_page("docs/simulate.md", {r" -n \d+": "", r"--box 64": "--box 20"}, {"dsd simulate": "--overwrite -n 4"})
