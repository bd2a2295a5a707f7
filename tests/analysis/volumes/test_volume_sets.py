import pickle
from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.volumes.decoding import volume_size
from opustomo.analysis.volumes.volume_sets import pixel_size_for_box, volume_set
from opustomo.errors import UserError
from opustomo.physics.boxes import Boxes

CENTERS = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
JOINT = np.hstack([CENTERS, [[7.0, 8.0], [9.0, 10.0]]])
PATH = np.arange(20.0).reshape(10, 2)


@pytest.fixture
def run(tmp_path: Path) -> ResultDir:
    tables = {
        "analyze.5/kmeans2/centers.txt": CENTERS,
        "analyze.5/kmeans2/centers_joint.txt": JOINT,
        "analyze.5/pc1/z_pc.txt": np.tile(CENTERS[0], (10, 1)),
        "defanalyze.5/pc2/z_pc.txt": PATH,
        "analyze.filter.5/kmeans1/centers.txt": CENTERS[1:],
    }
    for name, table in tables.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(tmp_path / name, table)
    return ResultDir(tmp_path)


def test_kmeans_and_joint(run: ResultDir) -> None:
    chosen = volume_set(run, Round(5), "kmeans", 2)
    np.testing.assert_array_equal(chosen.latents, CENTERS)
    assert not chosen.deform
    assert chosen.outdir == run.root / "analyze.5" / "kmeans2"
    joint = volume_set(run, Round(5), "joint", 2)
    np.testing.assert_array_equal(joint.latents, JOINT)
    assert not joint.deform
    # both lie in one folder
    assert joint.outdir == chosen.outdir and joint.prefix == chosen.prefix == "reference"
    assert joint.names == ("cluster 0 with its conformation", "cluster 1 with its conformation")
    assert chosen.names == ("cluster 0", "cluster 1")
    second = volume_set(run, Round(5, filtered=True), "kmeans", 1)
    np.testing.assert_array_equal(second.latents, CENTERS[1:])
    assert second.outdir == run.root / "analyze.filter.5" / "kmeans1"


def test_dpc_moves_the_conformation_on_one_center(run: ResultDir) -> None:
    chosen = volume_set(run, Round(5), "dpc", 2, kmeans=2, center=1)
    np.testing.assert_array_equal(chosen.latents, np.hstack([np.tile(CENTERS[1], (10, 1)), PATH]))
    assert chosen.deform and chosen.outdir == run.root / "defanalyze.5" / "pc2"
    alone = volume_set(run, Round(5), "dpc", 2)
    np.testing.assert_array_equal(alone.latents[0, :3], CENTERS[0])


def test_what_is_missing_is_named(run: ResultDir) -> None:
    with pytest.raises(UserError, match="numbered 0 to 1"):
        volume_set(run, Round(5), "dpc", 2, kmeans=2, center=2)
    with pytest.raises(UserError, match=r"kmeans3.*analyze\.5 contains kmeans2"):
        volume_set(run, Round(5), "kmeans", 3)
    with pytest.raises(UserError, match=r"pc4.*analyze\.5 contains pc1"):
        volume_set(run, Round(5), "pc", 4)
    with pytest.raises(UserError, match=r"Run dsdsh analyze .* 6 2 --k auto first"):
        volume_set(run, Round(6), "pc", 1)
    (run.root / "analyze.5/kmeans2/centers_joint.txt").unlink()
    with pytest.raises(UserError, match="Run the analysis with --joint"):
        volume_set(run, Round(5), "joint", 2)
    (run.root / "analyze.5/kmeans4").mkdir()
    np.savetxt(run.root / "analyze.5/kmeans4/centers.txt", CENTERS)
    with pytest.raises(UserError, match=r"--kmeans K \(available: kmeans2, kmeans4\)"):
        volume_set(run, Round(5), "dpc", 2)


def test_tables_must_hold_numbers(run: ResultDir) -> None:
    path = run.root / "analyze.5/kmeans2/centers.txt"
    path.write_text("1 2 x\n")
    with pytest.raises(UserError, match="not a table of numbers"):
        volume_set(run, Round(5), "kmeans", 2)
    path.write_text("1 2 nan\n")
    with pytest.raises(UserError, match="not finite"):
        volume_set(run, Round(5), "kmeans", 2)


@pytest.mark.parametrize("crop", [20, 30, 46])
def test_pixel_size_of_a_wanted_box(tmp_path: Path, crop: int) -> None:
    config = tmp_path / "config.pkl"
    settings = {
        "model_args": {"zdim": 3, "templateres": 32, "down_vol_size": crop, "Apix": 8.0},
        "lattice_args": {"D": 49},
        "dataset_args": {"downfrac": 1.0},
    }
    config.write_bytes(pickle.dumps(settings))
    boxes = Boxes(48, 8.0, 48, crop)
    assert pixel_size_for_box(config, crop) == pytest.approx(8.0)
    for box in range(2, 200, 2):
        assert volume_size(boxes, pixel_size_for_box(config, box), full_box=False) == box
    for box in (0, 1, 81, -2):
        with pytest.raises(UserError, match="must be even and at least 2"):
            pixel_size_for_box(config, box)
