"""`dsdsh landscape` on a short training."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters.cluster_stars import load_labels
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.pickles import load_pickle
from opustomo.io.star_tables import read_particles


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the short training."""
    return Path(shutil.copytree(trained_run, tmp_path / "run"))


def test_all_files_describe_all_particles(run: Path, tiny_set: Path) -> None:
    epoch = opustomo.Run(run).epochs[-1]
    words = ["--star", str(tiny_set / "particles.star"), "--samples", "12", "--classes", "2", "--points", "3"]
    assert dsdsh(["landscape", str(run), str(epoch), *words]) == 0
    folder = run / f"analyze.{epoch}" / "landscape"
    scores = np.asarray(load_pickle(folder / "scores.pkl"))
    assert len(scores) == 16
    assert np.isfinite(scores).all()
    assert len(np.asarray(load_pickle(folder / "decoded.pkl"))) == 12
    with (folder / "basins.csv").open() as handle:
        basins = list(csv.DictReader(handle))
    labels = load_labels(folder / "basins" / "labels.pkl")
    assert [int(basin["particles"]) for basin in basins] == np.bincount(labels, minlength=len(basins)).tolist()
    for number in np.unique(labels):
        members = read_particles(folder / "basins" / f"pre{number}.star")
        assert len(members) == (labels == number).sum()
    classes = load_labels(folder / "classes2" / "labels.pkl")
    assert np.bincount(classes).tolist() == [len(read_particles(folder / "classes2" / f"pre{i}.star")) for i in (0, 1)]
    mask, apix = read_volume(folder / "mask.mrc")
    first, first_apix = read_volume(folder / "component1.mrc")
    assert first.shape == mask.shape
    assert apix == first_apix
    assert (first[mask <= 0.01] == 0).all()
    for name in ("landscape.png", "classes2/tree.png"):
        assert (folder / name).stat().st_size > 10_000
    # again, with other settings: the earlier landscape is replaced as a whole
    assert dsdsh(["landscape", str(run), str(epoch), *words[:2], "--no-star"]) == 1
    assert dsdsh(["landscape", str(run), str(epoch), "--no-star", "--classes", "3"]) == 0
    assert not (folder / "classes2").exists()
    assert (folder / "classes3" / "labels.pkl").is_file()


def test_mask_limits_the_comparison(run: Path, tmp_path: Path) -> None:
    whole = opustomo.Run(run, device="cpu").landscape()
    box = opustomo.Run(run).boxes
    mask = np.zeros((box.box,) * 3, dtype=np.float32)
    mask[box.box // 2 :] = 1.0
    write_volume(tmp_path / "half.mrc", mask, box.apix)
    half = opustomo.Run(run, device="cpu").landscape(mask=tmp_path / "half.mrc")
    assert half.voxels.shape[1] < 0.8 * whole.voxels.shape[1]
    assert len(half.scores) == 16


def test_errors_are_reported_and_nothing_is_written(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    epoch = str(opustomo.Run(run).epochs[-1])
    write_volume(tmp_path / "mask.mrc", np.ones((8, 8, 8), dtype=np.float32), 12.0)
    assert dsdsh(["landscape", str(run), epoch, "--no-star", "--mask", str(tmp_path / "mask.mrc")]) == 1
    assert "8×8×8" in capsys.readouterr().err
    other = tmp_path / "mine"
    other.mkdir()
    (other / "notes.txt").write_text("mine")
    assert dsdsh(["landscape", str(run), epoch, "--no-star", "-o", str(other)]) == 1
    assert "not those of a landscape" in capsys.readouterr().err
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
    assert not list((run / f"analyze.{epoch}").glob("landscape*"))
