"""The sign of the tilts, determined from the missing wedge of the data."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet, load_particles
from opustomo.data.voxels import VoxelSource
from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.physics.ctf import TiltBatch, ctf_volume
from opustomo.quality.checks.wedge_comparison import (
    WedgeSummary,
    correlation,
    full_plane,
    mean_power,
    mirror_kz,
    plane_of,
    summarize_wedge,
    wedge_planes,
)
from tests.quality.checks.conftest import Load, reversed_tilts


def look(particles: ParticleSet, normalized: bool = True, sample: int = 64) -> WedgeSummary:
    return summarize_wedge(wedge_planes(particles, VoxelSource(particles.images), normalized, sample))


@pytest.mark.parametrize("normalized", [True, False], ids=["normalized", "plain"])
@pytest.mark.parametrize("tilts", [(-30.0, 60.0), (-60.0, 48.0), (-48.0, 60.0)], ids=str)
def test_the_right_sign_is_reported(simulated: Load, tilts: tuple[float, float], normalized: bool) -> None:
    particles = simulated(*tilts, normalized)
    right = look(particles, normalized)
    assert right.verdict == "right" and right.warnings == ()
    assert right.correlation > 0.8

    wrong = look(reversed_tilts(particles), normalized)
    assert wrong.verdict == "mirrored"
    assert wrong.correlation == pytest.approx(right.mirrored, abs=0.01)
    (warning,) = wrong.warnings
    assert "mirrored" in warning and "reverse the sign" in warning


def test_few_particles_suffice(simulated: Load) -> None:
    particles = simulated(-30.0, 60.0, True)
    assert look(particles, sample=3).verdict == "right"
    assert look(reversed_tilts(particles), sample=3).particles == 3
    assert look(reversed_tilts(particles), sample=3).verdict == "mirrored"


def test_symmetric_tilts_tell_nothing(simulated: Load) -> None:
    particles = simulated(-60.0, 60.0, True)
    for some in (particles, reversed_tilts(particles)):
        found = look(some)
        assert found.verdict == "symmetric" and found.warnings == ()
        assert found.correlation > 0.85 and "cannot be determined" in found.line


def test_noise_without_wedge_is_no_match(simulated: Load, tmp_path: Path) -> None:
    particles = simulated(-30.0, 60.0, True)
    rng = np.random.default_rng(1)
    write_volume(tmp_path / "noise.mrc", rng.normal(size=(32, 32, 32)).astype(np.float32), 8.0)
    image = replace(particles.images[0], path=tmp_path / "noise.mrc")
    found = look(replace(particles, images=[image] * len(particles)))
    assert abs(found.correlation) < 0.3
    assert any("does not agree with" in warning for warning in found.warnings)


def test_broken_subtomograms_are_named_and_left_out(simulated: Load, tmp_path: Path) -> None:
    particles = simulated(-30.0, 60.0, True)
    cut = tmp_path / "cut.mrc"
    cut.write_bytes(particles.images[0].path.read_bytes()[:5000])
    broken = replace(particles, images=[replace(particles.images[0], path=cut), *particles.images[1:]])
    planes = wedge_planes(broken, VoxelSource(broken.images), True)
    assert planes.particles == len(particles) - 1 and len(planes.broken) == 1 and "cut.mrc" in planes.broken[0]
    with pytest.raises(UserError, match="None of 16 subtomograms"):
        all_broken = replace(particles, images=[broken.images[0]] * len(particles))
        wedge_planes(all_broken, VoxelSource(all_broken.images), True)


def test_reversing_the_tilts_mirrors_the_ctf_in_kz(simulated: Load) -> None:
    """Why one 3D CTF answers for both signs."""
    particles = simulated(-30.0, 60.0, True)
    planes = [
        plane_of(ctf_volume(TiltBatch.pad(some.tables[:1]), 32, 8.0, normalized=True)[0].abs())[0]
        for some in (particles, reversed_tilts(particles))
    ]
    inner = torch.ones_like(planes[0], dtype=torch.bool)
    inner[16] = False  # -Nyquist has no mirror image
    torch.testing.assert_close(mirror_kz(planes[0])[inner], planes[1][inner], atol=2e-3, rtol=1e-3)
    assert correlation(planes[0], planes[1], inner) < 0.9


def test_the_middle_of_large_boxes_is_looked_at(tmp_path: Path) -> None:
    """A wave along x in the middle of a box of 72 voxels shows at its frequency in 64."""
    wave = np.broadcast_to(np.cos(2 * np.pi * np.arange(72) / 8), (72, 72, 72)).astype(np.float32)
    write_volume(tmp_path / "wave.mrc", wave, 8.0)
    from opustomo.io.mrc import read_header

    power, read, broken = mean_power(VoxelSource([read_header(tmp_path / "wave.mrc")]), np.array([0]), 64)
    assert power.shape == (64, 64, 33) and list(read) == [0] and not broken
    assert int(power.argmax()) == 8


def test_correlation_is_that_of_the_full_plane() -> None:
    rng = np.random.default_rng(0)
    halves = []
    for _ in range(2):
        volume = torch.from_numpy(rng.normal(size=(12, 12)))
        halves.append(torch.fft.rfft2(volume).abs())
    fulls = [np.concatenate([h[:, :7].numpy(), np.roll(h.numpy()[::-1], 1, 0)[:, 5:0:-1]], 1) for h in halves]
    expected = np.corrcoef(fulls[0].ravel(), fulls[1].ravel())[0, 1]
    assert correlation(halves[0], halves[1], torch.ones(12, 7, dtype=torch.bool)) == pytest.approx(expected, abs=1e-6)
    assert np.isnan(correlation(halves[0], halves[1], torch.zeros(12, 7, dtype=torch.bool)))


def test_full_plane_obeys_friedels_law(simulated: Load) -> None:
    particles = simulated(-30.0, 60.0, True)
    planes = wedge_planes(particles, VoxelSource(particles.images), True)
    full = full_plane(planes.model)
    assert full.shape == (32, 33)
    np.testing.assert_allclose(full[1:], full[1:][::-1, ::-1], atol=1e-6)  # center at (16, 16)


@pytest.mark.parametrize("name", ["ribosomes_10499", "sim_3state"])
def test_the_example_sets(shared_data: Path, name: str) -> None:
    found = look(load_particles(DataConfig(shared_data / name / "particles.star")))
    print(f"{name}: {found.line}")
    assert found.verdict == "symmetric" and found.correlation > 0.9 and not found.warnings
