"""The forward model agrees with independent simulators, and wrong physics disagrees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.physics.ctf import TiltBatch, division_filters
from opustomo.physics.fourier import irfft3, rfft3
from opustomo.physics.sampling import sample_posed
from tests.physics import posed_sets
from tests.physics.posed_sets import PosedSet

AGREE = 0.98
DISAGREE = 0.95
SIZES = (32, 40, 48, 64)
ONE_SIDED = np.arange(-30.0, 61.0, 3.0)
SYMMETRIC = np.arange(-60.0, 61.0, 3.0)
WEIGHTING = pytest.mark.parametrize("normalized", [True, False], ids=["normalized", "plain"])


def score(particles: PosedSet) -> np.ndarray:
    """Correlations of the right forward model with the subtomograms."""
    posed = posed_sets.pose(particles.density, posed_sets.matrices_of(particles))
    model = posed_sets.predict(particles, posed, particles.tables, particles.origins_px)
    return posed_sets.correlations(particles, model)


@WEIGHTING
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", ["comp_0", "comp_5"])
def test_agrees_with_shared_simulator(
    name: str, size: int, normalized: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subtomograms, STAR file and CTF tables from its command line, read with our readers."""
    particles = posed_sets.from_shared_files(name, size, normalized, tmp_path, monkeypatch, count=3)
    assert score(particles).min() > AGREE


@WEIGHTING
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tilts", [SYMMETRIC, ONE_SIDED], ids=["symmetric", "one-sided"])
def test_agrees_with_own_simulator(tilts: np.ndarray, size: int, normalized: bool) -> None:
    """This test needs no files outside of the repository."""
    particles = posed_sets.from_own_simulator(posed_sets.blobs(1, size), tilts, normalized, count=3)
    assert score(particles).min() > AGREE


@pytest.mark.parametrize(
    "make", [posed_sets.from_own_simulator, posed_sets.from_shared_simulator], ids=["own", "shared"]
)
@pytest.mark.parametrize("tilts", [SYMMETRIC, ONE_SIDED], ids=["symmetric", "one-sided"])
def test_plain_subtomograms_divided_agree_with_the_normalized_model(
    tilts: np.ndarray, make: Callable[..., PosedSet]
) -> None:
    """And neither does without the other."""
    plain = make(posed_sets.blobs(1, 32), tilts, False, count=3)
    filters = division_filters(TiltBatch.pad(plain.tables), 32)
    divided = replace(plain, images=irfft3(rfft3(torch.from_numpy(plain.images)) * filters).numpy(), normalized=True)
    assert score(divided).min() > AGREE
    assert score(replace(divided, normalized=False)).max() < DISAGREE
    assert score(replace(plain, normalized=True)).max() < DISAGREE


def mirrored_tilts(particles: PosedSet) -> torch.Tensor:
    posed = posed_sets.pose(particles.density, posed_sets.matrices_of(particles))
    tables = [replace(table, tilt_deg=-table.tilt_deg) for table in particles.tables]
    return posed_sets.predict(particles, posed, tables, particles.origins_px)


def reversed_eulers(particles: PosedSet) -> torch.Tensor:
    posed = posed_sets.pose(particles.density, posed_sets.matrices_of(particles).mT)
    return posed_sets.predict(particles, posed, particles.tables, particles.origins_px)


def flipped_origin(particles: PosedSet) -> torch.Tensor:
    posed = posed_sets.pose(particles.density, posed_sets.matrices_of(particles))
    return posed_sets.predict(particles, posed, particles.tables, -particles.origins_px)


def other_hand(particles: PosedSet) -> torch.Tensor:
    posed = posed_sets.pose(posed_sets.mirror_z(particles.density), posed_sets.matrices_of(particles))
    return posed_sets.predict(particles, posed, particles.tables, particles.origins_px)


@pytest.fixture(scope="module", params=["own", "shared"])
def one_sided_sets(request: pytest.FixtureRequest) -> list[PosedSet]:
    """Return sets of one-sided tilt series with both weightings; symmetric ones hardly show the sign of tilts."""
    density = posed_sets.blobs(1, 32)
    make = posed_sets.from_own_simulator if request.param == "own" else posed_sets.from_shared_simulator
    return [make(density, ONE_SIDED, normalized, count=8) for normalized in (True, False)]


@pytest.mark.parametrize("wrong", [mirrored_tilts, reversed_eulers, flipped_origin, other_hand])
def test_wrong_convention_disagrees(wrong: Callable[[PosedSet], torch.Tensor], one_sided_sets: list[PosedSet]) -> None:
    """Only a pose that is almost its own inverse fits with the wrong order of Euler angles."""
    for particles in one_sided_sets:
        right = score(particles)
        broken = posed_sets.correlations(particles, wrong(particles))
        assert right.min() > AGREE
        # the test of agreement takes the worst particle; here most of them fall below, not only that one
        assert broken.min() < DISAGREE
        assert np.median(broken) < np.median(right) - 0.02
        assert np.quantile(broken, 0.75) < AGREE


def test_turning_half_a_voxel_off_center_disagrees(one_sided_sets: list[PosedSet]) -> None:
    """A grid's own center is (D-1)/2; RELION and the FFT turn about D/2."""
    for particles in one_sided_sets:
        right = score(particles)
        size = particles.density.shape[0]
        back = posed_sets.matrices_of(particles).mT
        off_center = (back.sum(-1) - 1.0) / (size - 1)
        volume = posed_sets.finer(particles.density).expand(len(back), -1, -1, -1)
        posed = sample_posed(volume, back[:, None], size, off_center[:, None])[:, 0]
        model = posed_sets.predict(particles, posed, particles.tables, particles.origins_px)
        broken = posed_sets.correlations(particles, model)
        moved = off_center.norm(dim=1).numpy() * (size - 1) / 2  # voxels
        assert (broken < right)[moved > 0.3].all()
        assert broken.mean() < DISAGREE
