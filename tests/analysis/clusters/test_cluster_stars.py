from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.clusters.cluster_stars import load_labels, write_cluster_stars
from opustomo.errors import UserError
from opustomo.io.pickles import dump_pickle
from opustomo.io.star_tables import read_particles

STAR = """
data_optics

loop_
_rlnOpticsGroup #1
_rlnImagePixelSize #2
1 8.000
2 4.000

data_particles

loop_
_rlnImageName #1
_rlnAngleRot #2
_rlnAngleTilt #3
_rlnAnglePsi #4
_rlnOpticsGroup #5
_wrpSomethingOwn #6
"""


@pytest.fixture
def star_path(tmp_path: Path) -> Path:
    path = tmp_path / "the particles.star"
    rows = [f"sub/p{i:04d}.mrc {i}.500000 0.1{i} -7.00 {1 + i % 2} 00{i}" for i in range(9)]
    path.write_text(STAR + "\n".join(rows) + "\n")
    return path


def test_parts_hold_every_row_once_and_every_block(star_path: Path, tmp_path: Path) -> None:
    star = read_particles(star_path)
    labels = np.array([2, 0, 1, 1, 0, 2, 2, 0, 1])
    written = write_cluster_stars(star, labels, tmp_path / "out put")
    assert [path.name for path in written] == ["pre0.star", "pre1.star", "pre2.star"]
    for cluster, path in enumerate(written):
        part = read_particles(path)
        assert list(part.blocks) == ["optics", "particles"]
        assert list(part.particles.columns) == list(star.particles.columns)
        expected = star.particles[labels == cluster].to_numpy().tolist()
        assert part.particles.to_numpy().tolist() == expected
        np.testing.assert_array_equal(part.blocks["optics"], star.blocks["optics"])


def test_rest_of_a_second_round_is_left_out(star_path: Path, tmp_path: Path) -> None:
    star = read_particles(star_path)
    labels = np.array([3, 0, 1, 3, 0, 3, 3, 2, 1])
    written = write_cluster_stars(star, labels, tmp_path / "out", num_clusters=3)
    assert [len(read_particles(path)) for path in written] == [2, 2, 1]
    assert not (tmp_path / "out" / "pre3.star").exists()


def test_numbers_must_agree(star_path: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has 9 particles, but there are 8 cluster labels"):
        write_cluster_stars(read_particles(star_path), np.zeros(8, dtype=int), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("labels", [[-1] * 9, [0.5] * 9, ["a"] * 9, [[0]] * 9, [np.nan] * 9])
def test_labels_must_be_cluster_numbers(star_path: Path, tmp_path: Path, labels: list[object]) -> None:
    with pytest.raises(UserError, match="cluster labels are invalid"):
        write_cluster_stars(read_particles(star_path), np.array(labels), tmp_path / "out")


def test_labels_from_pickles(tmp_path: Path) -> None:
    dump_pickle(tmp_path / "labels.pkl", [1, 0, 2])
    assert load_labels(tmp_path / "labels.pkl").tolist() == [1, 0, 2]
    dump_pickle(tmp_path / "broken.pkl", {"mu": 3})
    with pytest.raises(UserError, match="does not contain cluster labels"):
        load_labels(tmp_path / "broken.pkl")
    with pytest.raises(UserError, match="does not exist"):
        load_labels(tmp_path / "none.pkl")
