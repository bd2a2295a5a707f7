"""Values in which the stability of clusters is judged: those from which the clusters were made."""

from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters.epoch_convergence import measure_convergence
from opustomo.analysis.results import ResultDir, parse_round
from opustomo.io.latents import write_coordinates, write_latents
from opustomo.io.pickles import load_pickle
from opustomo.io.poses import Poses, write_poses
from opustomo.quality.evidence.cluster_stability import cluster_stability
from opustomo.quality.evidence.validation import clustered_values
from tests.quality.evidence.test_verdicts import unequal_states


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Run whose coordinates show four states, and whose latents are those of two other groups."""
    coordinates, truth = unequal_states()
    count = len(truth)
    rng = np.random.default_rng(3)
    latents = 5.0 * rng.integers(2, size=count)[:, None] + rng.normal(size=(count, 3))
    write_latents(tmp_path / "z.0.pkl", latents.astype(np.float32))
    write_coordinates(tmp_path / "coordinates.0.npy", coordinates.astype(np.float32))
    write_poses(tmp_path / "pose.0.pkl", Poses(np.zeros((count, 3)), np.zeros((count, 3))))
    return tmp_path


@pytest.mark.parametrize("standardized", [True, False])
@pytest.mark.parametrize(
    ("words", "folder"),
    [
        (["--cluster", "hdbscan"], "hdbscan?"),
        (["3", "--cluster", "gmm"], "gmm3"),
        (["3"], "kmeans3"),
        (["6", "--k", "auto"], "kmeans*"),
    ],
)
def test_stability_is_judged_in_the_values_that_were_clustered(
    run: Path, words: list[str], folder: str, standardized: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    if not standardized:
        (run / "coordinates.0.npy").unlink()
    assert dsdsh(["analyze", str(run), "0", "0", *words, "--skip-umap"]) == 0
    assert f" of the {'likelihood coordinates' if standardized else 'latents'}, " in capsys.readouterr().out
    (made,) = run.glob(f"analyze.0/{folder}")
    labels = np.asarray(load_pickle(made / "labels.pkl"))
    clustered = clustered_values(ResultDir.open(run), parse_round("0"), made.name, labels)
    assert clustered.method == made.name.rstrip("0123456789")
    assert clustered.standardized == standardized
    assert clustered.values.shape[1] == (4 if standardized else 3)
    if made.name == "hdbscan4":
        stability = cluster_stability(clustered, labels, 4)
        assert stability is not None and all(stability.comes_back(number) for number in range(4))


def test_a_given_number_and_the_same_chosen_number_give_the_same_clusters(run: Path) -> None:
    words = ["analyze", "--skip-umap", str(run), "0", "0"]
    assert dsdsh([*words, "--k", "auto"]) == 0
    (chosen,) = run.glob("analyze.0/kmeans*")
    labels = np.asarray(load_pickle(chosen / "labels.pkl"))
    assert dsdsh([*words, chosen.name.removeprefix("kmeans")]) == 0
    np.testing.assert_array_equal(load_pickle(chosen / "labels.pkl"), labels)
    centers = np.loadtxt(chosen / "centers_ind.txt", dtype=int)
    assert labels[centers].tolist() == list(range(labels.max() + 1))
    latents = ResultDir.open(run).load_latents(0)[0]
    np.testing.assert_allclose(np.loadtxt(chosen / "centers.txt"), latents[centers], rtol=1e-5)


def test_convergence_compares_the_clusters_that_an_analysis_makes(run: Path) -> None:
    """Latents of the next epoch are in other groups, but the coordinates and therefore the clusters are the same."""
    latents = ResultDir.open(run).load_latents(0)[0]
    write_latents(run / "z.1.pkl", np.random.default_rng(7).permutation(latents))
    write_coordinates(run / "coordinates.1.npy", np.load(run / "coordinates.0.npy"))
    rows = measure_convergence(ResultDir.open(run), 4)
    assert rows[1].ari_previous == pytest.approx(1.0)
    (run / "coordinates.1.npy").unlink()
    assert measure_convergence(ResultDir.open(run), 4)[1].ari_previous < 0.5


def test_particles_of_other_rounds_are_left_out(run: Path) -> None:
    assert dsdsh(["analyze", str(run), "0", "0", "--cluster", "hdbscan", "--skip-umap"]) == 0
    assert dsdsh(["analyze", str(run), "0", "0", "2", "--cluster", "gmm", "--kpc", "hdbscan4:0,1", "--skip-umap"]) == 0
    labels = np.asarray(load_pickle(run / "analyze.filter.0" / "gmm2" / "labels.pkl"))
    clustered = clustered_values(ResultDir.open(run), parse_round("filter.0"), "gmm2", labels)
    np.testing.assert_array_equal(np.isfinite(clustered.values).all(axis=1), labels < 2)
