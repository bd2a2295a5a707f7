"""`dsdsh place` on a short training."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters.clustering import Clustering
from opustomo.analysis.results import Round
from opustomo.analysis.tomograms.tomogram_placement import PlacementRequest
from opustomo.io.mrc import read_header, read_volume, write_volume
from opustomo.io.star import write_blocks
from opustomo.io.star_tables import read_particles


@pytest.fixture(scope="module")
def placed(trained_run: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with an analyzed run, its STAR file with places in two tomograms, and one of the tomograms."""
    root = tmp_path_factory.mktemp("place")
    shutil.copytree(trained_run, root / "run")
    table = read_particles(tiny_set / "particles.star").particles.copy()
    rng = np.random.default_rng(0)
    table["rlnMicrographName"] = ["TS_1.mrc" if i < 10 else "TS_2.mrc" for i in range(len(table))]
    for axis, size in zip("XYZ", (60, 50, 40), strict=True):
        table[f"rlnCoordinate{axis}"] = [f"{value:.2f}" for value in rng.uniform(0.2 * size, 0.8 * size, len(table))]
        table[f"rlnOrigin{axis}"] = "0.0"
    write_blocks(root / "places.star", {"particles": table})
    write_volume(root / "TS_1.mrc", rng.normal(size=(40, 50, 60)).astype(np.float32), 12.0)
    epoch = str(opustomo.Run(root / "run").epochs[-1])
    assert dsdsh(["analyze", str(root / "run"), epoch, "1", "2", "--skip-umap"]) == 0
    return root


def test_files_of_a_placement(placed: Path, caplog: pytest.LogCaptureFixture) -> None:
    epoch = str(opustomo.Run(placed / "run").epochs[-1])
    words = ["place", str(placed / "run"), epoch, "--star", str(placed / "places.star")]
    assert dsdsh([*words, "--tomogram", str(placed / "TS_1.mrc")]) == 0
    folder = placed / "run" / f"analyze.{epoch}" / "kmeans2" / "place_TS_1"
    header = read_header(folder / "particles.mrc")
    assert header.shape == (40, 50, 60)
    assert header.apix == pytest.approx(12.0)
    with (folder / "neighbors.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert [int(row["particle"]) for row in rows] == list(range(10))
    script = (folder / "place.cxc").read_text()
    for number in sorted({row["cluster"] for row in rows}):
        assert f'open "cluster{number}.mrc"' in script
        assert (folder / f"cluster{number}.mrc").is_file()
    assert "TS_1.mrc" in script
    for name in ("place.png", "neighbors.png"):
        assert (folder / name).stat().st_size > 10_000
    # each particle's own volume, one cluster, coarser, and the tomogram by its name: replaces the first
    size = ["--tomo-size", "60", "50", "40", "--tomo-angpix", "12"]
    assert dsdsh([*words, "--tomogram", "TS_1.mrc", "--own", "--only", "0", "--angpix", "24", "--refined", *size]) == 0
    assert not caplog.records, "the colors of the picture are within their range"
    assert read_header(folder / "particles.mrc").shape == (20, 25, 30)
    assert not (folder / "cluster1.mrc").exists()
    whole, part = read_volume(folder / "particles.mrc")[0], read_volume(folder / "cluster0.mrc")[0]
    assert whole.max() == part.max() > 0


def test_a_placement_in_python(placed: Path, tmp_path: Path) -> None:
    run = opustomo.Run(placed / "run", star=placed / "places.star", device="cpu")
    tomogram, clustering = str(placed / "TS_1.mrc"), Clustering(2)
    which = Round(run.epochs[-1])
    found = run.place(
        PlacementRequest(run.results, which, run.particles, tomogram, clustering, (1,), outdir=tmp_path / "placed")
    )
    expected = np.flatnonzero(run.clusters(2).labels[:10] == 1)
    assert found.rows.tolist() == expected.tolist()
    assert (tmp_path / "placed" / "place.cxc").is_file()
    assert not (tmp_path / "placed" / "cluster0.mrc").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tomogram", "TS_3"], "no particle belongs to the tomogram 'TS_3'"),
        (["--tomogram", "TS_2"], "TS_2 is not a file"),
        (["--tomogram", "TS_2", "--only", "2"], "2 is not among the clusters 0-1"),
        (["--tomogram", "TS_2", "-k", "5"], "contains kmeans2"),
        (["--tomogram", "TS_2", "--tomo-size", "9", "9", "9", "--tomo-angpix", "1"], "lie outside of the tomogram"),
    ],
)
def test_errors(placed: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    epoch = str(opustomo.Run(placed / "run").epochs[-1])
    outdir = placed / "nothing"
    code = dsdsh(
        ["place", str(placed / "run"), epoch, "--star", str(placed / "places.star"), *words, "-o", str(outdir)]
    )
    assert code == 1
    assert message in capsys.readouterr().err
    assert not outdir.exists()
