"""The main views of the report in Chromium and Firefox, operated by real mouse events."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opustomo.analysis.figures.figure_style import cluster_colors
from opustomo.io.pickles import load_pickle
from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import CLUSTERS, COUNT, SAMPLED
from tests.report.firefox import FIREFOX, XVFB, Firefox

PAGE = "window.opustomoReport"
MISSING = {
    Browser: None if CHROMIUM else "Chromium is not installed",
    Firefox: None if FIREFOX and XVFB else "Firefox or Xvfb is not installed",
}


@pytest.fixture(scope="module", params=[Browser, Firefox], ids=["chromium", "firefox"])
def browser(
    request: pytest.FixtureRequest, page: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Browser | Firefox]:
    if MISSING[request.param]:
        pytest.skip(MISSING[request.param])
    with request.param(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page)
        opened.run(f"{PAGE}.ready.then(() => true)")
        yield opened


def see(browser: Browser | Firefox, part: str, view: str) -> None:
    """Scroll to a part of the page and wait until its volumes are drawn."""
    browser.run(f"document.getElementById('{part}').scrollIntoView()")
    browser.wait(f"{view}.visible && !{view}.stale && {view}.meshes.length > 0")


def middle(browser: Browser | Firefox, element: str) -> tuple[float, float]:
    x, y = browser.run(
        f"(() => {{ const b = document.getElementById('{element}').getBoundingClientRect();"
        "return [b.left + b.width / 2, b.top + b.height / 2]; })()"
    )
    return x, y


def picture(browser: Browser | Firefox, element: str, path: Path) -> np.ndarray:
    """Return the visible image of an element, (rows, columns, 3)."""
    left, top, width, height = browser.run(
        f"(() => {{ const b = document.getElementById('{element}').getBoundingClientRect();"
        "return [b.left, b.top, b.width, b.height]; })()"
    )
    browser.picture(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").crop((int(left), int(top), int(left + width), int(top + height))))


def fraction_like(image: np.ndarray, color: np.ndarray) -> float:
    """Return the fraction of pixels with the hue of a color."""
    pixels = image.reshape(-1, 3) / 255.0
    tinted = pixels - pixels.min(1, keepdims=True)
    wanted = color - color.min()
    length = np.linalg.norm(tinted, axis=1)
    cosine = tinted @ wanted / np.maximum(length * np.linalg.norm(wanted), 1e-9)
    return float(((cosine > 0.97) & (length > 0.15)).mean())


def test_every_cluster_is_drawn_in_its_color_and_turns(browser: Browser | Firefox, tmp_path: Path) -> None:
    assert browser.errors == []
    view = f"{PAGE}.comparison.view"
    see(browser, "volumes", view)
    image = picture(browser, "volume-view", tmp_path / "before.png")
    for part, color in zip(np.array_split(image, CLUSTERS, axis=1), cluster_colors(CLUSTERS), strict=True):
        assert fraction_like(part, color) > 0.05
    assert browser.run(f"{view}.scale.innerText").endswith("Å")
    x, y = middle(browser, "volume-view")
    before = browser.run(f"{view}.camera.position.toArray()")
    browser.drag([(x, y), (x + 30, y + 10), (x + 120, y + 40)])
    browser.wait(f"Math.abs({view}.camera.position.x - {before[0]}) > 1")
    after = browser.run(f"{view}.camera.position.toArray()")
    assert np.linalg.norm(after) == pytest.approx(np.linalg.norm(before))  # turned, not moved
    turned = picture(browser, "volume-view", tmp_path / "after.png")
    assert np.abs(turned.astype(int) - image).mean() > 1
    browser.run(f"{view}.resetView()")
    assert browser.run(f"{view}.camera.position.toArray()") == pytest.approx(before)
    assert browser.errors == []


def test_a_higher_contour_encloses_less_in_every_view(browser: Browser | Firefox) -> None:
    views = [f"{PAGE}.{name}.view" for name in ("comparison", "particle")]
    see(browser, "volumes", views[0])

    def radius() -> float:
        return float(browser.run(
            f"(() => {{ const g = {views[0]}.meshes[0].geometry; g.computeBoundingSphere();"
            "return g.boundingSphere.radius; })()"
        ))  # fmt: skip

    start = browser.run(f"{PAGE}.comparison.library.contour.level")
    before = radius()
    browser.run(
        "(() => { const s = document.querySelector('#volume-buttons input[type=range]');"
        "s.value = 0.9; s.dispatchEvent(new Event('input')); })()"
    )
    browser.wait(f"!{views[0]}.stale")
    assert radius() < before
    texts = browser.run("[...document.querySelectorAll('.slider output')].map((node) => node.textContent)")
    assert texts == ["90 %"] * 3  # one level for all views
    browser.run(f"{PAGE}.comparison.library.contour.set({start})")


def test_two_volumes_side_by_side_and_overlaid(browser: Browser | Firefox) -> None:
    view = f"{PAGE}.comparison.view"
    see(browser, "volumes", view)
    for layout, panes, meshes in (("side", 2, 2), ("overlaid", 1, 3), ("all", CLUSTERS, CLUSTERS)):
        browser.run(f"document.querySelector('[data-layout={layout}]').click()")
        browser.wait(f"!{view}.stale")
        # the depth of a translucent volume is a mesh of its own
        assert browser.run(f"[{view}.panes.length, {view}.meshes.length]") == [panes, meshes]
    options = browser.run("[...document.getElementById('second').options].map((option) => option.value)")
    assert len(options) == CLUSTERS + 2 * 10 + SAMPLED and options[0] == "cluster/0"


def test_a_clicked_particle_shows_its_volume(browser: Browser | Firefox, run: Path) -> None:
    labels = load_pickle(run / "analyze.4" / "kmeans3" / "labels.pkl")
    explorer, particle = f"{PAGE}.explorer", f"{PAGE}.particle"
    browser.run("document.getElementById('latents').scrollIntoView()")
    nearest = browser.run(f"Array.from({PAGE}.report.points.columns.nearest)")
    assert len(nearest) == COUNT
    for point in (7, 40):
        x, y = browser.run(
            f"(() => {{ const p = {explorer}.latent, b = p.over.getBoundingClientRect(), q = p.pixelOf({point});"
            "return [b.left + q[0], b.top + q[1]]; })()"
        )
        browser.move(x, y)
        browser.drag([(x, y)])
        clicked = browser.run(f"{particle}.chosen")
        assert (
            clicked
            == browser.run(f"{explorer}.latent.marked")
            == browser.run(f"{explorer}.latent.pointAt(...{explorer}.latent.pixelOf({point}))")
        )
        text = browser.run("document.getElementById('particle-text').innerText")
        assert text.startswith(f"Particle {clicked}, cluster {labels[clicked]}.")
        shown = browser.run(f"{particle}.view.panes[0].surfaces.map(({{ volume }}) => [volume.kind, volume.number])")
        assert shown == [["sampled", nearest[clicked]]]
    browser.run("document.getElementById('with-center').click()")
    assert browser.run(f"{particle}.view.panes[0].surfaces[1].volume.number") == labels[clicked]
    assert browser.run(f"{explorer}.selection()") == []


def test_any_two_components(browser: Browser | Firefox, run: Path) -> None:
    names = browser.run("[...document.getElementById('upward').options].map((option) => option.text)")
    assert names[:3] != [] and names[0] == "UMAP 1" and "PC5" in names
    chosen = next(k for k, name in enumerate(names) if name == "PC4")
    browser.run(
        f"(() => {{ const m = document.getElementById('upward'); m.value = {chosen};"
        "m.dispatchEvent(new Event('change')); })()"
    )
    scores = load_pickle(run / "analyze.4" / "pc.pkl")
    y = browser.run(f"Array.from({PAGE}.explorer.latent.y)")
    np.testing.assert_allclose(y, scores[:, 3], rtol=1e-5)


def test_movies_move_and_stop(browser: Browser | Firefox) -> None:
    movies = f"{PAGE}.movies"
    see(browser, "components", f"{movies}.view")
    for _ in range(3):
        frame = browser.run(f"{movies}.frame")
        browser.wait(f"{movies}.frame !== {frame}")
    browser.run(f"{movies}.pause()")
    frame = browser.run(f"{movies}.frame")
    assert (
        browser.run("new Promise((done) => setTimeout(() => done(window.opustomoReport.movies.frame), 500))") == frame
    )
    label = browser.run("document.querySelector('#movie-view .pane').innerText")
    assert label.startswith("PC1 ") and "% of variance" in label and "score" in label


def test_distributions_have_one_line_per_shown_cluster(browser: Browser | Firefox) -> None:
    browser.run("document.getElementById('distributions').scrollIntoView()")
    browser.wait("document.querySelector('#distribution-charts figure')")
    lines = "document.querySelectorAll('#distribution-charts figure:first-child g[aria-label=line] path').length"
    titles = browser.run("[...document.querySelectorAll('#distribution-charts figcaption')].map((n) => n.innerText)")
    assert titles == ["AutopickFigureOfMerit", "tilt angle of the particle (°)", "height z in the tomogram (px)"]
    assert browser.run(lines) == CLUSTERS
    browser.run("document.querySelector('#legend [data-code=\"1\"]').click()")
    browser.wait(f"{lines} === 1")
    browser.run("document.getElementById('all').click()")
    assert browser.errors == []
