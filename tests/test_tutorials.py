"""The tutorials show the numbers and pictures of the runs of docs/tutorials/build.py."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(str(ROOT / "docs" / "tutorials"))
    build: Any = importlib.import_module("build")
    facts: Any = importlib.import_module("facts")
    simulated: Any = importlib.import_module("simulated")

NAMES = [name for name in sorted(build.TUTORIALS) if (build.HERE / f"{name}.json").exists()]

CHECK = """Pre-flight
  weighting  divided by their weights
             the power of the data
  contrast   bright

Verdict: usable with reservations.
  warning: few particles

Command to train with the proposed settings:

dsd train_tomo data/particles.star -r mask.mrc --normalizectf -o run

It takes about 3 minutes on this machine (9 particles per
second, from a measured step); 1.2 GB of disk space.
The time is that of a step of 4 particles on the CPU, measured at a load of 0.1
on 2 cores; other programs make it longer.
Then: dsdsh results run
"""


@pytest.mark.parametrize("name", NAMES)
def test_pages_show_the_numbers_of_their_run(name: str) -> None:
    written = (ROOT / "docs" / build.PAGES[name]).read_text(encoding="utf-8")
    assert written == build.page(name), "run python docs/tutorials/build.py pages"
    assert "{{" not in written


@pytest.mark.parametrize("name", NAMES)
def test_pictures_are_those_of_the_run(name: str) -> None:
    pictures = json.loads((build.HERE / f"{name}.json").read_text(encoding="utf-8"))["pictures"]
    assert set(pictures) == set(build.TUTORIALS[name].PICTURES)
    text = build.template(name)
    for picture, digest in pictures.items():
        assert build.digest(ROOT / "docs" / "img" / picture) == digest
        assert f"(img/{picture})" in text


def test_changed_numbers_change_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = json.loads((build.HERE / "ribosomes.json").read_text(encoding="utf-8"))
    content["facts"]["best_loss"] = -0.9876
    (tmp_path / "ribosomes.json").write_text(json.dumps(content))
    (tmp_path / "ribosomes.template.md").write_text(build.template("ribosomes"))
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert "-0.9876" in build.page("ribosomes")


def test_facts_of_the_check() -> None:
    found = facts.check_facts(CHECK)
    assert found["check_word"] == "usable with reservations"
    assert found["check_excerpt"].splitlines()[0] == "      weighting  divided by their weights"
    assert found["check_excerpt"].endswith("warning: few particles")
    assert "9 particles per second" in found["check_cost"] and "load of 0.1 on 2 cores" in found["check_cost"]
    assert build.proposed(CHECK) == "dsd train_tomo data/particles.star -r mask.mrc --normalizectf -o run"
    assert build.folded(build.proposed(CHECK), 40).splitlines()[-1] == "    -r mask.mrc --normalizectf -o run"


def test_clusters_are_described_by_what_they_hold() -> None:
    labels, truth = np.array([0, 0, 0, 1, 1]), np.array([1, 1, 0, 2, 2])
    text = simulated.composition(labels, truth)
    assert text == "Cluster 0 holds 2 small subunits and 1 large subunits. Cluster 1 holds 2 complete ribosomes"


def test_a_run_that_contradicts_the_text_stops_the_build() -> None:
    facts.expect(True, "it is so")
    with pytest.raises(SystemExit, match="Rewrite the template"):
        facts.expect(False, "it is so")


def test_commands_of_a_template_in_their_order() -> None:
    found = build.commands("```\ndsd a \\\n  -b 2\n{{training_command}}\n```\ntext\n\n```sh\ndsdsh c\nother\n```\n")
    assert found == ["dsd a -b 2", "{{training_command}}", "dsdsh c"]
