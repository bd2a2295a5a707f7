from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.results import ResultDir, Round
from opustomo.analysis.selection import ClusterChoice, chosen_particles, parse_cluster_choice, round_particles
from opustomo.errors import UserError
from opustomo.io.pickles import dump_pickle


def test_reads_ranges_and_single_clusters() -> None:
    assert parse_cluster_choice("20:2-5,8") == ClusterChoice(20, (2, 3, 4, 5, 8))
    assert parse_cluster_choice(" 4: 3, 0 - 1 ") == ClusterChoice(4, (0, 1, 3))
    assert parse_cluster_choice("gmm6:5") == ClusterChoice(6, (5,), "gmm")
    assert parse_cluster_choice("kmeans6:5") == ClusterChoice(6, (5,))


@pytest.mark.parametrize("text", ["20", "20:", "20:a", "20:2-", "20:2;3", "2-5", ":1", "20:-1", "agg20:1"])
def test_other_forms_are_reported(text: str) -> None:
    with pytest.raises(UserError, match="not of the form K:clusters"):
        parse_cluster_choice(text)


@pytest.mark.parametrize("text", ["20:5-2", "20:20", "20:3,18-20"])
def test_clusters_that_do_not_exist(text: str) -> None:
    with pytest.raises(UserError, match="not among the clusters 0-19"):
        parse_cluster_choice(text)


def test_particles_of_the_chosen_clusters(tmp_path: Path) -> None:
    (tmp_path / "analyze.7" / "kmeans3").mkdir(parents=True)
    dump_pickle(tmp_path / "analyze.7" / "kmeans3" / "labels.pkl", np.array([0, 2, 1, 2, 0]))
    results = ResultDir(tmp_path)
    assert chosen_particles(results, Round(7), ClusterChoice(3, (1, 2)), 5).tolist() == [1, 2, 3]
    with pytest.raises(UserError, match=r"5 labels, but z\.7\.pkl has 6 particles"):
        chosen_particles(results, Round(7), ClusterChoice(3, (1, 2)), 6)
    with pytest.raises(UserError, match=r"kmeans4.*analyze.7 contains kmeans3"):
        chosen_particles(results, Round(7), ClusterChoice(4, (1,)), 5)
    with pytest.raises(UserError, match=r"[Rr]un dsdsh analyze .* 8 2 3 first"):
        chosen_particles(results, Round(8), ClusterChoice(3, (1,)), 5)


def test_particles_of_a_later_round(tmp_path: Path) -> None:
    results = ResultDir(tmp_path)
    assert round_particles(results, Round(7), 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(UserError, match=r"Run dsdsh analyze .* 7 with --kpc first"):
        round_particles(results, Round(7, 1), 4)
    with pytest.raises(UserError, match=r"Run dsdsh analyze .* filter\.7 with --kpc first"):
        round_particles(results, Round(7, 2), 4)
    (tmp_path / "analyze.filter.7").mkdir()
    dump_pickle(tmp_path / "analyze.filter.7" / "ind.filter.7.pkl", np.array([1, 3]))
    assert round_particles(results, Round(7, 1), 4).tolist() == [1, 3]
    with pytest.raises(UserError, match="table has 3 particles"):
        round_particles(results, Round(7, 1), 3)
