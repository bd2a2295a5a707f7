"""Evidence for clusters with known truth."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.io.masks import load_mask
from opustomo.io.mrc import read_volume
from opustomo.io.tomograms import coordinates_of, scores_of, tomograms_of
from opustomo.physics.fsc import shell_correlation
from opustomo.quality.evidence.cluster_evidence import HeldOutLosses, Validation, shuffled_within, validate_clusters
from opustomo.quality.evidence.half_maps import Assignment, ReadOptions, back_project, half_sets
from opustomo.quality.evidence.validation_files import write_validation


@pytest.fixture(scope="module")
def particles(tiny_set: Path) -> ParticleSet:
    return load_particles(DataConfig(star=tiny_set / "particles.star"))


@pytest.fixture(scope="module")
def labels(tiny_set: Path) -> np.ndarray:
    """True states; two particles belong to no class, and class 2 is empty."""
    labels = np.load(tiny_set / "truth.npz")["labels"].copy()
    labels[[0, 5]] = 3
    return labels


@pytest.fixture(scope="module")
def validation(particles: ParticleSet, labels: np.ndarray, tiny_set: Path) -> Validation:
    held_out = np.array([1, 2, 3, 7])
    losses = np.array([-1.0, -2.0, np.nan, -4.0])
    mask = load_mask(tiny_set / "mask.mrc", particles.box, particles.apix)
    return validate_clusters(
        particles, labels, 3, mask, HeldOutLosses(held_out, losses), ReadOptions(ctf_normalized=True)
    )


def test_counts_are_those_of_the_labels(validation: Validation, particles: ParticleSet, labels: np.ndarray) -> None:
    halves, _ = half_sets(particles.star)
    tomograms = tomograms_of(particles.star)
    assert tomograms is not None
    for cluster, evidence in enumerate(validation.clusters):
        members = labels == cluster
        assert evidence.particles == members.sum()
        assert evidence.halves == ((members & (halves == 0)).sum(), (members & (halves == 1)).sum())
        assert [evidence.per_tomogram[i] for i in range(len(tomograms))] == [
            (members & (np.array(particles.star.strings("rlnMicrographName")) == name)).sum()
            for name in tomograms.names
        ]
    assert validation.clusters[2].volume is None and validation.clusters[2].curve is None


def test_losses_are_averaged_by_class(validation: Validation, labels: np.ndarray) -> None:
    told = {1: -1.0, 2: -2.0, 7: -4.0}
    for cluster, evidence in enumerate(validation.clusters):
        own = [loss for index, loss in told.items() if labels[index] == cluster]
        assert evidence.held_out == len(own)
        if own:
            assert evidence.loss == pytest.approx(np.mean(own))
        else:
            assert np.isnan(evidence.loss)


def test_curves_are_those_of_the_classes_own_half_maps(
    validation: Validation, particles: ParticleSet, labels: np.ndarray
) -> None:
    halves, _ = half_sets(particles.star)
    members = np.where(labels == 1, halves, -1)[None]
    sums = back_project(particles, Assignment(members, 2), reading=ReadOptions(ctf_normalized=True), padding=1)
    curve = validation.clusters[1].curve
    assert curve is not None and curve.masked is not None
    np.testing.assert_allclose(curve.unmasked, shell_correlation(sums.volume(0), sums.volume(1)), atol=1e-3)


def test_the_control_keeps_the_numbers_in_both_halves() -> None:
    rng = np.random.default_rng(1)
    labels, halves = rng.integers(0, 5, 400), rng.integers(0, 2, 400)
    inside = labels < 4
    shuffled = shuffled_within(labels, halves, inside, rng)
    for half in (0, 1):
        before, after = labels[inside & (halves == half)], shuffled[inside & (halves == half)]
        assert (np.bincount(before, minlength=4) == np.bincount(after, minlength=4)).all()
    assert (shuffled[~inside] == labels[~inside]).all()
    assert 0.15 < (shuffled == labels)[inside].mean() < 0.4  # a quarter by chance


def test_a_class_agrees_with_its_state_more_than_with_the_other(validation: Validation, tiny_set: Path) -> None:
    states = torch.from_numpy(np.load(tiny_set / "volumes.npy"))
    volumes = [evidence.volume for evidence in validation.clusters[:2]]
    table = np.array(
        [[float(shell_correlation(v, state)[1:].mean()) for state in states] for v in volumes if v is not None]
    )
    assert (table.argmax(1) == [0, 1]).all()


def test_files_say_the_same(validation: Validation, tmp_path: Path, labels: np.ndarray) -> None:
    written = write_validation(tmp_path / "my k means", validation, 12.0)
    names = [path.name for path in written]
    assert names == [
        *("validation.csv", "validation_tomograms.csv", "validation_fsc.csv"),
        *("backprojection0.mrc", "backprojection1.mrc", "validation.png"),
    ]
    assert all(path.stat().st_size for path in written)
    with written[0].open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["particles"]) for row in rows] == np.bincount(labels, minlength=3)[:3].tolist()
    assert rows[2]["resolution_0.143_A"] == "" and rows[2]["held_out_loss"] == ""
    curve = validation.clusters[0].curve
    assert curve is not None
    assert float(rows[0]["resolution_0.143_A"]) == pytest.approx(curve.resolution_A(0.143), rel=1e-4)
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1.0, abs=1e-5)
    with written[1].open() as file:
        tomograms = list(csv.DictReader(file))
    assert sum(int(row["particles"]) for row in tomograms) == 14
    volume, apix = read_volume(written[3])
    assert apix == pytest.approx(12.0) and validation.clusters[0].volume is not None
    np.testing.assert_array_equal(volume, validation.clusters[0].volume.numpy())


def test_places_and_scores_come_from_the_columns_there_are(particles: ParticleSet) -> None:
    star = particles.star
    coordinates = coordinates_of(star)
    assert coordinates is not None and coordinates.shape == (16, 3)
    assert coordinates[:, 1].tolist() == [float(y) for y in star.strings("rlnCoordinateY")]
    bare = star._with_particles(star.particles[["rlnImageName", "rlnCoordinateX"]])
    assert coordinates_of(bare) is None and tomograms_of(bare) is None
    table = star.particles.copy()
    table["rlnAutopickFigureOfMerit"] = [str(i / 10) for i in range(16)]
    table["rlnNormCorrection"] = "1.0"
    table["rlnLogLikeliContribution"] = ["?"] + ["1"] * 15
    found = scores_of(star._with_particles(table))
    assert list(found) == ["rlnAutopickFigureOfMerit"] and found["rlnAutopickFigureOfMerit"][3] == pytest.approx(0.3)
