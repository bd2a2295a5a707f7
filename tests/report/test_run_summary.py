"""Curves of the report: KL divergence, variance, pose corrections, pairs of classes and FSC of decoded maps."""

import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from opustomo.analysis.figures.volume_display import scale_bar_length
from opustomo.analysis.results import ResultDir
from opustomo.checkpoint.config import run_settings, write_config
from opustomo.data.config import DataConfig
from opustomo.errors import UserError
from opustomo.geometry.rotations import euler_to_matrix, matrix_to_euler
from opustomo.io.latents import write_table
from opustomo.io.mrc import write_volume
from opustomo.io.poses import Poses
from opustomo.io.star_tables import read_particles
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.physics.boxes import Boxes
from opustomo.report import run_summary
from opustomo.report.run_summary import describe_kl, describe_pairs, describe_pose_corrections, map_correlations

BOX, APIX, COUNT = 24, 5.0, 40


@pytest.fixture
def config(tmp_path: Path) -> Path:
    settings = run_settings(ModelConfig(zdim=2), PhysicsConfig(), Boxes(BOX, APIX, BOX, BOX), {}, 0)
    write_config(tmp_path / "config.pkl", settings, ("dsd",))
    return tmp_path / "config.pkl"


def write_star(path: Path, eulers: np.ndarray) -> None:
    names = ["ImageName", "AngleRot", "AngleTilt", "AnglePsi", "OriginX", "OriginY", "OriginZ"]
    rows = [f"p{i}.mrc {a:.6f} {b:.6f} {c:.6f} 1.0 -1.0 0.5" for i, (a, b, c) in enumerate(eulers)]
    path.write_text("\n".join(["data_", "loop_", *(f"_rln{name}" for name in names), *rows]) + "\n")


def test_pose_corrections_are_those_made(config: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    eulers = np.stack([rng.uniform(-180, 180, COUNT), rng.uniform(5, 175, COUNT), rng.uniform(-180, 180, COUNT)], 1)
    write_star(tmp_path / "p.star", eulers)
    star, data = read_particles(tmp_path / "p.star"), DataConfig(star=tmp_path / "p.star")
    given = np.tile([1.0, -1.0, 0.5], (COUNT, 1)) / BOX
    turned = euler_to_matrix(torch.tensor([[0.0, 3.0, 0.0]], dtype=torch.float64))
    matrices = euler_to_matrix(torch.from_numpy(eulers)) @ turned
    refined = Poses(matrix_to_euler(matrices).numpy(), given + np.array([2.0, 0.0, 0.0]) / BOX)
    found = describe_pose_corrections(refined, star, data, config)
    assert found is not None and found["estimated"]
    assert found["angle"]["median"] == pytest.approx(3.0, abs=0.02)
    assert found["shift"]["largest"] == pytest.approx(2.0 * APIX, abs=1e-4)
    assert sum(found["angle"]["counts"]) == sum(found["shift"]["counts"]) == COUNT
    same = describe_pose_corrections(Poses(eulers, given), star, data, config)
    assert same is not None and not same["estimated"]
    # a run on listed particles only
    np.savetxt(tmp_path / "ind.txt", np.arange(10, 20), fmt="%d")
    listed = describe_pose_corrections(
        refined.subset(np.arange(10, 20)),
        star.subset(np.arange(10, 20)),
        DataConfig(star=tmp_path / "p.star", ind=tmp_path / "ind.txt"),
        config,
    )
    assert listed is not None and listed["angle"]["median"] == pytest.approx(3.0, abs=0.02)
    assert describe_pose_corrections(refined, None, None, config) is None


def test_kl_is_read_by_epoch(tmp_path: Path) -> None:
    results = ResultDir(tmp_path)
    assert describe_kl(results) == {}
    (tmp_path / "epochs.csv").write_text("epoch,training_kl,validation_kl\n0,25.5,\n1,207,54.5\n")
    assert describe_kl(results) == {
        "training": {"epochs": [0, 1], "kl": [25.5, 207.0]},
        "validation": {"epochs": [1], "kl": [54.5]},
    }


def test_pairs_of_classes(tmp_path: Path) -> None:
    assert describe_pairs(tmp_path, 3) == []
    table = tmp_path / "validation_pairs.csv"
    table.write_text("class1,class2,outcome,difference,difference_error\n0,1,same,0.01,0.02\n0,2,different,0.5,0.1\n")
    assert describe_pairs(tmp_path, 3)[1] == {
        "first": 0, "second": 2, "outcome": "different", "difference": 0.5, "error": 0.1,
    }  # fmt: skip
    assert describe_pairs(tmp_path, 2) == []  # of an earlier clustering
    table.write_text("class1,class2\n0,1\n")
    with pytest.raises(UserError, match="not a table of dsdsh validate"):
        describe_pairs(tmp_path, 3)


def test_decoded_maps_are_compared_with_back_projections(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(1)
    maps = rng.normal(size=(2, BOX, BOX, BOX)).astype(np.float32)
    folder = tmp_path / "kmeans2"
    write_table(folder / "centers.txt", np.zeros((2, 2)))
    (folder / "labels.pkl").touch()
    (tmp_path / "weights.1.pkl").touch()
    write_volume(folder / "backprojection0.mrc", 3.0 * maps[0], APIX)  # the same map on another scale
    write_volume(folder / "backprojection1.mrc", maps[0], APIX)  # another map
    boxes = Boxes(BOX, APIX, BOX, BOX)
    monkeypatch.setattr(run_summary, "VolumeDecoder", lambda *_: SimpleNamespace(boxes=boxes))
    monkeypatch.setattr(run_summary, "decode_batches", lambda decoder, latents, *_: iter(maps[: len(latents)]))
    curves = map_correlations(ResultDir(tmp_path), 1, folder, None)
    np.testing.assert_allclose(curves[0], 1.0, atol=1e-5)
    assert np.abs(curves[1][4:]).max() < 0.3 and len(curves[1]) == BOX // 2 + 1
    # a back-projection of an earlier clustering is not compared
    os.utime(folder / "backprojection1.mrc", (0, 0))
    assert list(map_correlations(ResultDir(tmp_path), 1, folder, None)) == [0]


@pytest.mark.parametrize(("width", "length"), [(96, 20), (384, 100), (150, 50), (20, 5), (299, 50), (3, 1)])
def test_scale_bars_are_round(width: float, length: float) -> None:
    assert scale_bar_length(width) == length
