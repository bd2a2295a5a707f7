"""Time that the page of `dsdsh report` takes with many particles, in Chromium and Firefox without a GPU.

    python benchmarks/report_speed.py --points 100000 [--repeats 21] [--save page.html]

The page has 20 clusters, two movies and 60 sampled particles, whose volumes have 64³ voxels, and 50 tomograms. Prints
one JSON object, times in milliseconds of the page's own clock from the navigation: "started" when its script starts,
"opened" when all sections are shown and what is in view is drawn, "volumes" when the volumes are unpacked. "drawing"
redraws all points, as every step of zooming and panning does. "lasso" finds the points within a circle and draws the
selection, as the page does when the mouse button is released. "hover" finds the point under the pointer. These three
times are medians. Browsers that are not installed are omitted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also from a source tree that is not installed
TIMED = """(() => {
  const median = (work) => {
    const times = Array.from({ length: REPEATS }, (_, k) => {
      const began = performance.now();
      work(k);
      return performance.now() - began;
    });
    return times.sort((a, b) => a - b)[REPEATS >> 1];
  };
  const { explorer, times } = window.opustomoReport, plot = explorer.latent, [x, y] = plot.pixelOf(123);
  const angles = Array.from({ length: 24 }, (_, k) => k * Math.PI / 12);
  const path = angles.map((angle) => [x + 50 * Math.cos(angle), y + 50 * Math.sin(angle)]);
  const result = { ...times, drawing: median(() => plot.draw()) };
  result.lasso = median(() => explorer.select(plot.pointsInside(path), "replace"));
  result.hover = median((k) => plot.hover(plot.pointAt(...plot.pixelOf(k)), { clientX: x, clientY: y }));
  for (const name in result) result[name] = +result[name].toFixed(1);
  return { ...result, selected: explorer.selection().length, canvas: [plot.base.width, plot.base.height] };
})()"""


def fabricate(count: int) -> Any:
    """Write an analyzed run with 20 clusters in six components."""
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


def make_star(count: int) -> Any:
    """Write a table with a score and positions in 50 tomograms."""
    import pandas as pd

    from opustomo.io.star_tables import read_particles

    rng = np.random.default_rng(1)
    columns = {
        f"rlnCoordinate{axis}": rng.uniform(0, size, count).round(1)
        for axis, size in zip("XYZ", (900, 900, 300), strict=True)
    }
    columns |= {"rlnAutopickFigureOfMerit": rng.normal(size=count).round(4), "rlnImageName": np.full(count, "a.mrc")}
    columns |= {"rlnMicrographName": np.array([f"TS_{i:02d}" for i in range(50)])[rng.integers(0, 50, count)]}
    columns |= {f"rlnAngle{name}": np.zeros(count) for name in ("Rot", "Tilt", "Psi")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "all.star"
        import starfile

        starfile.write(pd.DataFrame(columns), path)
        return read_particles(path)


def make_surfaces(analyzed: Any) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return volumes of 64³ voxels: balls with waves."""
    from scipy.ndimage import gaussian_filter

    from opustomo.report.report_volumes import VolumeGroup, describe_surfaces, sample_particles

    at = np.arange(64) - 32
    radius = np.sqrt((at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).astype(np.float32))

    def balls(number: int, seed: int) -> list[np.ndarray]:
        rng = np.random.default_rng(seed)
        noise = [3 * gaussian_filter(rng.normal(size=(64, 64, 64)).astype(np.float32), 1.0) for _ in range(3)]
        return [
            (1 / (1 + np.exp((radius - 18 - k % 7) / 2)) + 0.05 * noise[k % 3]) * (radius < 28) for k in range(number)
        ]

    sample = sample_particles(analyzed.scores, 60)
    scores = {"about": "", "scores": list(range(10))}
    groups = {"cluster": VolumeGroup(balls(20, 0), 4.0, {}), "PC1": VolumeGroup(balls(10, 1), 4.0, scores)}
    groups |= {"PC2": VolumeGroup(balls(10, 2), 4.0, scores)}
    groups |= {"sampled": VolumeGroup(balls(len(sample.rows), 3), 4.0, {"particles": sample.rows})}
    described = describe_surfaces(groups)
    assert described is not None
    return described, {"nearest": sample.nearest, "distance": sample.distance}


def make_page(analyzed: Any, star: Any = None, volumes: bool = False) -> str:
    """Write the page of a run that has only points, tomograms and volumes."""
    from opustomo.report.page_assembly import render
    from opustomo.report.particle_points import describe_points
    from opustomo.report.run_summary import describe_clusters

    points, surfaces = describe_points(analyzed, star), None
    counts = np.bincount(analyzed.labels).tolist()
    clusters = describe_clusters(Path("absent"), counts, points["categories"][0]["colors"])
    if volumes:
        surfaces, nearest = make_surfaces(analyzed)
        points["columns"] |= nearest
    content = {
        **{"run": "big", "round": "9", "star": None, "subtitle": "", "facts": [], "notes": [], "settings": []},
        **{"history": [], "losses": {}, "convergence": None, "volumes": None, "surfaces": surfaces},
        **{"verdict": None, "pairs": [], "kl": {}, "poses": None, "variance": [], "nyquist": None},
        **{"commands": {"validate": "", "convergence": "", "select": ""}, "pictures": {"clusters": None}},
        **{"clusters": clusters, "points": points},
    }
    return render(content, dict.fromkeys(("TITLE", "HEADING", "VOLUMES", "CLUSTERS", "FOOTER"), "big"))


def measure(browser: Any, page: Path, repeats: int) -> dict[str, Any]:
    """Return the times that the page measures in one browser."""
    with tempfile.TemporaryDirectory(prefix="opustomo report ") as name, browser(Path(name) / "profile") as opened:
        opened.open(page)
        opened.run("window.opustomoReport.ready.then(() => true)")
        return dict(opened.run(TIMED.replace("REPEATS", str(repeats))))


def main() -> None:
    """Find the browsers, and print the measured times."""
    from tests.report.browser import CHROMIUM, Browser
    from tests.report.firefox import FIREFOX, XVFB, Firefox

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=100_000, help="at least 1,000 (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--save", type=Path, help="also write the page to this file")
    args = parser.parse_args()
    if args.points < 1000:
        parser.error("--points must be at least 1,000, so that every one of the 20 clusters has some")
    found = {"chromium": Browser} if CHROMIUM else {}
    found |= {"firefox": Firefox} if FIREFOX and XVFB else {}
    if not found:
        print(json.dumps({"skipped": "No browser: install Chromium, or Firefox and Xvfb."}))
        return
    with tempfile.TemporaryDirectory() as folder:
        page = args.save or Path(folder) / "page.html"
        page.write_text(make_page(fabricate(args.points), make_star(args.points), volumes=True), encoding="utf-8")
        result: dict[str, Any] = {"points": args.points, "page_MB": round(page.stat().st_size / 1e6, 1)}
        for name, browser in found.items():
            result[name] = {"load_before": os.getloadavg()[0], **measure(browser, page, args.repeats)}
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
