"""The report begins with the verdict and its pictures, and classes have the same color everywhere."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_hex

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.analysis.figures.volume_display import write_set_script
from opustomo.io.pickles import dump_pickle
from opustomo.report.page_assembly import SCRIPTS, read_asset
from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import CLUSTERS, COUNT
from tests.report.page_content import content_of, unpacked

SENTENCE = "Two of the classes are one."


@pytest.fixture
def judged(run: Path, tmp_path: Path) -> Path:
    """A copy of the run with the verdict files of ``dsdsh validate``, and its page."""
    root = tmp_path / "copy"
    shutil.copytree(run, root)
    folder = root / "analyze.4" / "kmeans3"
    counts = np.bincount(load_labels(folder / "labels.pkl")).tolist()
    classes = [
        {"class": i, "particles": count, "verdict": verdict, "reasons": [f"Reason {i}."]}
        for i, (count, verdict) in enumerate(zip(counts, ("supported", "not supported", "not supported"), strict=True))
    ]
    verdict = {"verdict": "not supported", "summary": SENTENCE, "reasons": ["First.", "Second."], "classes": classes}
    (folder / "validation_verdict.json").write_text(json.dumps(verdict | {"stability": None, "motion": None}))
    (folder / "validation_pairs.csv").write_text(
        "class1,class2,outcome,difference,difference_error\n"
        "0,1,different,0.689,0.02\n0,2,different,0.5,0.02\n1,2,same,0.004,0.01\n"
    )
    dump_pickle(root / "defanalyze.4" / "pc.pkl", np.arange(3 * COUNT, dtype=np.float32).reshape(COUNT, 3))
    assert dsdsh(["report", str(root), "latest", "--star", str(root / "all.star")]) == 0
    return root / "analyze.4" / "report.html"


def test_verdict_pairs_and_conformations_are_in_the_page(judged: Path) -> None:
    content = content_of(judged)
    assert content["verdict"]["summary"] == SENTENCE
    assert [(pair["first"], pair["second"], pair["outcome"]) for pair in content["pairs"]] == [
        *((0, 1, "different"), (0, 2, "different"), (1, 2, "same"))
    ]
    measures = {measure["name"]: measure for measure in content["points"]["measures"]}
    second = measures["conformation PC2"]
    np.testing.assert_array_equal(unpacked(content["points"]["columns"][second["column"]]), np.arange(COUNT) * 3 + 1)
    variance = np.loadtxt(judged.parent / "explained_variance_ratio.txt")
    np.testing.assert_allclose(content["variance"], variance)
    assert content["pictures"]["clusters"] == 6.0 and content["surfaces"]["groups"]["PC1"]["apix"] == 6.0 * 16 / 64


def test_classes_have_one_color_everywhere(judged: Path, tmp_path: Path) -> None:
    wanted = [to_hex(color) for color in cluster_colors(CLUSTERS)]
    content = content_of(judged)
    assert [cluster["color"] for cluster in content["clusters"]] == wanted
    assert content["points"]["categories"][0]["colors"] == wanted
    # no other category of few colors and no curve has a color of a class
    others = [entry for entry in content["points"]["categories"] if entry["name"] == "training or held out"]
    assert not {color for entry in others for color in entry["colors"]} & set(wanted)
    scripts = "".join(read_asset(f"{name}.js") for name in SCRIPTS)
    assert not set(re.findall(r"#[0-9a-f]{6}", scripts)) & set(wanted)
    write_set_script(tmp_path / "set.cxc", [tmp_path / f"{i}.mrc" for i in range(CLUSTERS)], 1.0, list("abc"))
    assert re.findall(r"color #\d (#\w+)", (tmp_path / "set.cxc").read_text()) == wanted


@pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")
def test_the_page_opens_with_the_verdict(judged: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.open(judged)
        assert browser.errors == []
        text = browser.run("document.querySelector('main section').innerText")
        assert text.startswith("Are the classes real?") and text.index(SENTENCE) < text.index("Maps of the classes")
        assert text.index("Maps of the classes") < text.index("First.") < text.index("Reason 2.")
        cells = browser.run(
            "[...document.querySelectorAll('#verdict-picture rect title')].map((n) => n.textContent.split(',')[0])"
        )
        assert cells == [
            *["classes 0 and 1: different"] * 2,
            *["classes 0 and 2: different"] * 2,
            *["classes 1 and 2: the same"] * 2,
        ]
        assert browser.run("document.querySelectorAll('#verdict-picture canvas').length") == CLUSTERS
