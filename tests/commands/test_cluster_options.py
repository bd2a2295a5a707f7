import argparse

import pytest

from opustomo.commands.options import add_clustering, cluster_method, requested_clustering
from opustomo.errors import UserError


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_clustering(parser)
    return parser.parse_args(words)


def test_kmeans_is_the_default() -> None:
    clustering = requested_clustering(parsed(), 7, None, "numk")
    assert (clustering.method, clustering.number) == ("kmeans", 7)
    assert requested_clustering(parsed(), None, 20, "--ksample").number == 20
    assert requested_clustering(parsed("--k", "5"), None, None, "numk").folder == "kmeans5"


def test_automatic_number_with_the_given_one_as_largest() -> None:
    clustering = requested_clustering(parsed("--k", "auto", "--gmm"), 9, None, "numk")
    assert (clustering.method, clustering.number, clustering.max_number) == ("gmm", None, 9)


def test_hdbscan_says_that_a_number_is_not_used(capsys: pytest.CaptureFixture[str]) -> None:
    clustering = requested_clustering(parsed("--cluster", "hdbscan", "--min-cluster-size", "12"), 9, None, "numk")
    assert (clustering.number, clustering.min_cluster_size) == (None, 12)
    assert "so 9 is not used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "number", "message"),
    [
        (["--k", "5"], 6, "--k is 5, but numk is 6"),
        (["--k", "many"], None, "must be auto or a number"),
        ([], None, "Give numk, or --k auto"),
        (["--min-cluster-size", "5"], 6, "requires --cluster hdbscan"),
        (["--gmm", "--cluster", "kmeans"], 6, "contradict"),
    ],
)
def test_contradictions(words: list[str], number: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        requested_clustering(parsed(*words), number, None, "numk")


def test_method_of_existing_clusters() -> None:
    assert cluster_method(parsed("--gmm")) == "gmm"
    assert cluster_method(parsed("--cluster", "hdbscan")) == "hdbscan"
