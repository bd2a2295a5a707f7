"""How long the page of `dsdsh report` takes with many particles, in a headless Chromium and without a mouse.

    python benchmarks/report_speed.py --points 100000 [--repeats 21]

Prints one JSON object, times in milliseconds of the page's own clock. "open" unpacks the points and shows all for the
first time, drawings included, "first_drawing" is the first of these; "drawing" draws all points anew, as every step of
zooming and panning does. "lasso" finds the points within a circle and draws the selection, as when the button is let
go; "hover" finds the point under the pointer. All but the first two are medians. Without a browser the object has only
"skipped", a sentence.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a source tree that is not installed
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
# takes the place of the page's start; what it finds becomes all there is of the page
TIMED = """
const elapsed = (work) => { const began = performance.now(); work(); return performance.now() - began; };
const median = (work) => {
  const times = Array.from({ length: REPEATS }, (_, k) => elapsed(() => work(k))).sort((a, b) => a - b);
  return times[times.length >> 1];
};
const draw = Scatter.prototype.draw, drawings = [];
Scatter.prototype.draw = function () {
  const took = elapsed(() => draw.call(this));
  if (this.colors && this.box) drawings.push(took); // before that it does nothing
};
const open = elapsed(start), first = drawings[0], explorer = window.opustomoReport.explorer, plot = explorer.latent;
Scatter.prototype.draw = draw;
const [x, y] = plot.pixelOf(123), path = [];
for (let k = 0; k < 24; k++) path.push([x + 50 * Math.cos(k * Math.PI / 12), y + 50 * Math.sin(k * Math.PI / 12)]);
const result = { open, first_drawing: first, drawing: median(() => plot.draw()) };
result.lasso = median(() => explorer.select(plot.pointsInside(path), "replace"));
result.hover = median((k) => plot.hover(plot.pointAt(...plot.pixelOf(k)), { clientX: x, clientY: y }));
for (const name in result) result[name] = +result[name].toFixed(1);
Object.assign(result, { selected: explorer.selection().length, canvas: [plot.base.width, plot.base.height] });
document.body.textContent = "<<" + JSON.stringify(result) + ">>";
"""


def fabricate(count: int) -> Any:
    """An analyzed run: 20 clusters in six components."""
    from opustomo.report.particle_points import Analyzed

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 20, count)
    scores = (rng.normal(size=(20, 6))[labels] * 6 + rng.normal(size=(count, 6))).astype(np.float32)
    return Analyzed(
        indices=np.arange(count),
        total=count,
        scores=scores,
        variance_ratio=np.full(6, 1 / 6),
        embedding=scores[:, 2:4],
        labels=labels,
        centers=np.array([int(np.flatnonzero(labels == i)[0]) for i in range(20)]),
        eulers_deg=rng.uniform(0, 180, (count, 3)),
        held_out=labels % 5 == 0,
    )


def make_page(analyzed: Any) -> str:
    """The page of a run of which nothing but its points is known."""
    from opustomo.report.page import render
    from opustomo.report.particle_points import describe_points

    content = {
        **{"run": "big", "round": "9", "star": None, "subtitle": "", "facts": [], "notes": [], "settings": []},
        **{"command": None, "losses": {}, "convergence": None, "volumes": None, "movies": [], "clusters": []},
        **{"verdict": None, "pairs": [], "kl": {}, "poses": None, "variance": [], "nyquist": None},
        **{"commands": {"validate": "", "convergence": ""}, "pictures": {"clusters": None}},
        "points": describe_points(analyzed, None),
    }
    return render(content, dict.fromkeys(("TITLE", "HEADING", "SELECT", "CLUSTERS", "FOOTER"), "big"))


def measure(browser: str, count: int, repeats: int) -> dict[str, Any]:
    """What the page says of itself."""
    page, begin = make_page(fabricate(count)), "\nstart();\n"
    if page.count(begin) != 1:
        raise SystemExit("the page's scripts no longer end with start(): adapt this benchmark")
    with tempfile.TemporaryDirectory(prefix="opustomo report ") as name:
        path = Path(name) / "page.html"
        path.write_text(page.replace(begin, TIMED.replace("REPEATS", str(repeats))), encoding="utf-8")
        options = ["--headless=new", "--dump-dom", "--no-sandbox", "--disable-gpu", "--no-first-run"]
        options += ["--disable-dev-shm-usage", "--disable-background-networking", "--window-size=1400,1000"]
        command = [browser, *options, f"--user-data-dir={name}/profile", path.as_uri()]
        shown = subprocess.run(command, text=True, capture_output=True, timeout=600)
    found = re.search(r"&lt;&lt;(.*)&gt;&gt;", shown.stdout)
    if found is None:
        raise SystemExit(f"{browser} did not show the page: {shown.stderr[-2000:]}")
    return {"page_MB": round(len(page.encode()) / 1e6, 1), "ms": json.loads(found[1])}


def main() -> None:
    """Find a browser, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000, help="at least 1,000 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    if args.points < 1000:
        parser.error("--points must be at least 1,000, so that every one of the 20 clusters has some")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        print(json.dumps({"skipped": f"No browser: install Chromium or Chrome ({', '.join(BROWSERS)})."}))
        return
    load = os.getloadavg()[0]
    result = measure(browser, args.points, args.repeats)
    print(json.dumps({"points": args.points, "load_before": load, **result}, indent=2))


if __name__ == "__main__":
    main()
