"""The report in Chromium, operated by real mouse events; skipped without a browser (see also ``test_page.py``)."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report_speed import fabricate, make_page
from opustomo.io.indices import read_indices
from opustomo.io.pickles import load_pickle
from tests.report.browser import CHROMIUM, Browser
from tests.report.conftest import CLUSTERS, COUNT

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")

EXPLORER = "opustomoReport.explorer"


def place_of(browser: Browser, point: int, plot: str = "latent") -> tuple[float, float]:
    """Return the position of a point in the window."""
    browser.run("document.getElementById('latents').scrollIntoView()")
    x, y = browser.run(
        f"(() => {{ const p = {EXPLORER}.{plot}, b = p.over.getBoundingClientRect(), q = p.pixelOf({point});"
        "return [b.left + q[0], b.top + q[1]]; })()"
    )
    return x, y


def circle(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * math.pi, 24)
    return [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles]


def inside(points: np.ndarray, path: list[tuple[float, float]]) -> np.ndarray:
    from matplotlib.path import Path as Polygon

    return np.flatnonzero(Polygon(path).contains_points(points))


@pytest.fixture(scope="module")
def browser(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(page)
        opened.run("opustomoReport.ready")
        yield opened


def test_the_page_opens_without_complaint(browser: Browser) -> None:
    assert browser.errors == []
    assert browser.run("document.querySelectorAll('#cluster-cards .card').length") == 3
    assert browser.run("document.querySelectorAll('#training-charts g[aria-label=line] path').length") == 6
    # labels beside the curves instead of a separate legend
    labels = browser.run(
        "[...document.querySelectorAll('#training-charts .line-label text')].map((n) => n.textContent)"
    )
    assert sorted(set(labels)) == ["held out", "training"] and len(labels) == 6
    assert browser.run("document.querySelectorAll('#scree g[aria-label=rect] rect').length") == 5
    # slices and projections have row labels and scale bars of a round length
    rows = browser.run("[...document.querySelectorAll('#cluster-cards .row-label')].map((n) => n.textContent)")
    assert rows == ["central slices perpendicular to", "projections along"] * 3
    found = "[...document.querySelectorAll('#cluster-cards .scale')]"
    bars = browser.run(found + ".map((n) => [n.innerText, n.style.width])")
    assert bars == [["20 Å", f"{100 * 20 / (16 * 6):.4f}".rstrip("0") + "%"]] * 18
    # without a validation, the page opens with what to run
    opening = browser.run("document.querySelector('main section').innerText")
    assert opening.startswith("Are the classes real?")
    assert "Half-map FSCs have not been computed. Run this command" in opening and "dsdsh validate" in opening
    # nothing wider than the window, nothing scrolled away from the top
    assert browser.run("document.documentElement.scrollWidth <= innerWidth && scrollY === 0")
    # the odd name of a tomogram is text, not a part of the page
    assert "</script>" in browser.run("document.getElementById('tomogram-list').innerText")


def test_hovering_reports_of_the_particle(browser: Browser, run: Path) -> None:
    labels = load_pickle(run / "analyze.4" / "kmeans3" / "labels.pkl")
    browser.move(*place_of(browser, 17))
    assert browser.run(f"{EXPLORER}.latent.hovered") == 17
    text = browser.run("document.getElementById('tip').innerText")
    assert "particle 17" in text and f"cluster {labels[17]}" in text and "AutopickFigureOfMerit" in text
    browser.move(3, 3)
    assert browser.run("getComputedStyle(document.getElementById('tip')).display") == "none"


def test_the_lasso_selects_what_it_surrounds(browser: Browser, run: Path, tmp_path: Path) -> None:
    pixels = np.array([place_of(browser, i) for i in range(COUNT)])
    first, second = circle(*pixels[3], 60), circle(*pixels[np.linalg.norm(pixels - pixels[3], axis=1).argmax()], 45)
    browser.drag(first)
    wanted = inside(pixels, first)
    assert browser.run(f"{EXPLORER}.selection()") == wanted.tolist() and len(wanted) > 2
    browser.drag(second, modifiers=8)  # Shift adds
    wanted = np.union1d(wanted, inside(pixels, second))
    assert browser.run(f"{EXPLORER}.selection()") == wanted.tolist()
    browser.drag(second, modifiers=1)  # Alt takes away
    wanted = np.setdiff1d(wanted, inside(pixels, second))
    assert browser.run(f"{EXPLORER}.selection()") == wanted.tolist()
    assert browser.run("document.getElementById('selected').innerText").startswith(f"{len(wanted)} of {COUNT}")
    for button, name in (("#json", "selection.json"), ("#text", "selection.txt")):
        browser.click(button)
        (tmp_path / name).write_text(browser.run(f"{EXPLORER}.lastDownload"))
        assert read_indices(tmp_path / name, COUNT).tolist() == wanted.tolist()
    assert json.loads((tmp_path / "selection.json").read_text())["particles"] == COUNT
    browser.click("#invert")
    assert browser.run(f"{EXPLORER}.selection()") == np.setdiff1d(np.arange(COUNT), wanted).tolist()
    browser.click("#clear")
    assert browser.run(f"{EXPLORER}.selection()") == []


def test_zooming_keeps_what_is_under_the_pointer(browser: Browser) -> None:
    x, y = place_of(browser, 5)
    browser.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=-400)
    browser.wait(f"{EXPLORER}.latent.transform.k > 1.5")
    assert place_of(browser, 5) == pytest.approx((x, y), abs=1.0)
    browser.click("#whole")
    assert browser.run(f"{EXPLORER}.latent.transform.k") == 1


def test_colors_follow_the_choice(browser: Browser, run: Path) -> None:
    names = browser.run("[...document.getElementById('color').options].map((option) => option.text)")
    assert names[:3] == ["cluster", "tomogram", "viewing direction"] and names[-3] == "AutopickFigureOfMerit"
    seen = set()
    for k in range(4):
        browser.run(
            f"(() => {{ const m = document.getElementById('color'); m.value = {k};"
            "m.dispatchEvent(new Event('change')); })()"
        )
        seen.add(tuple(browser.run(f"Array.from({EXPLORER}.colors)")))
    assert len(seen) == 4
    browser.run(f"{EXPLORER}.chooseColor(0)")
    browser.click("#legend [data-code='1']")
    labels = load_pickle(run / "analyze.4" / "kmeans3" / "labels.pkl")
    assert browser.run(f"Array.from({EXPLORER}.shown)") == (labels == 1).astype(int).tolist()
    browser.click("#all")
    assert browser.run(f"{EXPLORER}.shown.every((shown) => shown === 1)")


def test_points_are_really_drawn(browser: Browser) -> None:
    browser.move(3, 3)
    color = browser.run(
        f"(() => {{ const p = {EXPLORER}.latent, q = p.pixelOf(11).map((v) => Math.round(v * p.ratio));"
        "return Array.from(p.base.getContext('2d').getImageData(q[0], q[1], 1, 1).data).slice(0, 3); })()"
    )
    wanted = browser.run(
        f"(() => {{ const c = {EXPLORER}.colors[11]; return [c & 255, (c >> 8) & 255, (c >> 16) & 255]; }})()"
    )
    assert np.abs(np.array(color) - wanted).max() < 80 and min(color) < 200


def test_tomograms_show_their_own_particles(browser: Browser, run: Path) -> None:
    browser.click("#next")
    assert browser.run("opustomoReport.places.xy.members.length") == 40
    assert browser.run("opustomoReport.places.xy.scales().sx === opustomoReport.places.xz.scales().sx")
    codes = browser.run("Array.from(opustomoReport.places.xz.members, (i) => opustomoReport.places.category.codes[i])")
    assert set(codes) == {1}


def test_without_webgl_the_page_says_so_and_shows_the_rest(page: Path, tmp_path: Path) -> None:
    with Browser(tmp_path / "profile", webgl=False) as opened:
        opened.open(page)
        opened.run("opustomoReport.ready")
        assert "This browser offers no WebGL" in opened.run("document.getElementById('volume-view').innerText")
        assert opened.run("document.getElementById('volume-buttons').children.length") == 0
        assert opened.run("document.querySelectorAll('#cluster-cards .views canvas').length") == 6 * CLUSTERS
        opened.run("opustomoReport.comparison.choose('overlaid')")
        assert all("WebGL" in error for error in opened.errors)


def test_a_hundred_thousand_points(tmp_path: Path) -> None:
    analyzed = fabricate(100_000)
    scores = analyzed.scores
    path = tmp_path / "big.html"
    path.write_text(make_page(analyzed), encoding="utf-8")
    assert path.stat().st_size < 25e6
    with Browser(tmp_path / "profile") as opened:
        opened.open(path)
        x, y = place_of(opened, 123)
        opened.move(x, y)
        hovered = opened.run(f"{EXPLORER}.latent.hovered")
        assert np.abs(scores[hovered, 2:4] - scores[123, 2:4]).max() < 0.1
        lasso = circle(x, y, 50)
        opened.drag(lasso)
        left, top = opened.run(
            f"(() => {{ const b = {EXPLORER}.latent.over.getBoundingClientRect(); return [b.left, b.top]; }})()"
        )
        scale = opened.run(f"{EXPLORER}.latent.scales()")
        pixels = np.stack(
            [left + scale["ox"] + scores[:, 2] * scale["sx"], top + scale["oy"] + scores[:, 3] * scale["sy"]], 1
        )
        wanted, found = inside(pixels, lasso), opened.run(f"{EXPLORER}.selection()")
        assert len(found) > 100 and len(np.setxor1d(wanted, found)) <= 3  # the browser rounds pixels
        # a drawing on blank paper leaves a color at the place of every point
        missing = opened.run(
            f"(() => {{ const p = {EXPLORER}.latent, {{ width, height }} = p.base, c = p.base.getContext('2d');"
            "const blank = c.createImageData(width, height); blank.data.fill(255); c.putImageData(blank, 0, 0);"
            "p.draw();"
            "const seen = new Uint32Array(c.getImageData(0, 0, width, height).data.buffer);"
            "return p.members.filter((i) => { const q = p.pixelOf(i).map((v) => Math.round(v * p.ratio));"
            "return seen[q[1] * width + q[0]] === 0xffffffff; }).length; })()"
        )
        assert missing == 0
        assert opened.errors == []
