"""Newton step of a pose: exact for parabolas, right in sign and size for posed volumes; and its prior."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.energy import compare
from opustomo.model.pose_posterior import PoseSlopes, newton_step, pose_step, prior_variance, slopes
from opustomo.model.posing import symmetric_candidates
from opustomo.physics.sampling import cross_of_posed, sample_posed
from tests.energies import filter_target

ANGLE = math.radians(1.46)


def rotations(vectors_deg: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(Rotation.from_rotvec(vectors_deg.numpy(), degrees=True).as_matrix()).float()


def blobs(box: int) -> torch.Tensor:
    """A density without symmetry, (box, box, box), zero at the edges."""
    at = torch.arange(box) - box / 2
    z, y, x = torch.meshgrid(at, at, at, indexing="ij")
    volume = torch.zeros(box, box, box)
    for cx, cy, cz in ((6, 0, 0), (0, 5, 2), (-4, -3, 5), (2, -5, -5)):
        volume += torch.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / 6.0)
    return volume


def test_step_is_the_maximum_of_the_posterior_of_two_parabolas() -> None:
    """NLL (a/2)(δ - m)² and a normal prior about the given pose: the weighted mean of m and -x, and its variance."""
    noise, curvature, minimum, deviation, spread = 2.0, 8.0, 0.3, 0.5, 0.7
    energy_curvature = 2.0 * noise * curvature
    found = PoseSlopes(
        torch.full((1, 6), -energy_curvature * minimum), torch.full((1, 6), energy_curvature), torch.full((6,), 9.0)
    )
    prior = torch.full((6,), spread**2)
    step, variance = newton_step(found, torch.tensor(noise), torch.full((1, 6), deviation), prior)
    precision = spread**-2
    expected = (curvature * minimum - precision * deviation) / (curvature + precision)
    assert step.flatten().tolist() == pytest.approx([expected] * 6)
    assert variance.flatten().tolist() == pytest.approx([1 / (curvature + precision)] * 6)


def test_without_curvature_the_given_pose_is_taken_back_and_reach_limits_the_step() -> None:
    found = PoseSlopes(torch.zeros(1, 6), torch.full((1, 6), -5.0), torch.full((6,), 0.2))
    deviation = torch.tensor([[0.1, -0.1, 0.05, 1.0, -1.0, 0.0]])
    step, variance = newton_step(found, torch.tensor(1.0), deviation, torch.full((6,), 0.09))
    assert step[0].tolist() == pytest.approx([-0.1, 0.1, -0.05, -0.2, 0.2, 0.0])
    assert variance[0].tolist() == pytest.approx([0.09] * 6)


@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
def test_the_prior_is_found_from_noisy_measurements(spread: float) -> None:
    """Empirical Bayes: deviations of a known spread, measured with an error of 1 each, also where that is larger."""
    generator = torch.Generator().manual_seed(1)
    truth = spread * torch.randn(20_000, 6, generator=generator)
    measured = truth + torch.randn(truth.shape, generator=generator)
    prior, deviation = torch.full((2,), 4.0), torch.zeros_like(truth)
    for _ in range(400):
        found = PoseSlopes(deviation - measured, torch.ones_like(truth), torch.full((6,), 100.0))
        step, variance = newton_step(found, torch.tensor(0.5), deviation, prior.repeat_interleave(3))
        deviation = deviation + step
        prior = prior_variance(deviation, variance)
    assert prior.sqrt().tolist() == pytest.approx([spread] * 2, rel=0.03, abs=0.25)
    error = (deviation - truth).square().mean().sqrt()
    assert float(error) == pytest.approx(spread / (1 + spread**2) ** 0.5, rel=0.05, abs=0.02)


def test_a_wrong_pose_is_found_from_the_energies() -> None:
    """Poses off by a degree and half a voxel are corrected in eight steps with a wide prior."""
    torch.manual_seed(0)
    box, count = 32, 4
    template = blobs(box).expand(count, -1, -1, -1)
    truth = rotations(torch.randn(count, 3) * 40)
    shift = torch.randn(count, 3)
    transfer = torch.rand(count, box, box, box // 2 + 1) * 0.5 + 0.5
    target = posed_volumes(template, truth, shift)
    target = torch.fft.irfftn(torch.fft.rfftn(target, dim=(1, 2, 3)) * transfer, s=(box,) * 3, dim=(1, 2, 3))
    given = truth @ rotations(torch.randn(count, 3) * 0.8)
    turn, moved = torch.eye(3).expand(count, 3, 3), shift + torch.randn(count, 3) * 0.4
    start = errors(given, turn, moved, truth, shift)
    spectrum, filtered = torch.fft.rfftn(target, dim=(1, 2, 3)), filter_target(target, transfer)
    for _ in range(8):
        pose, shift_grid = given @ turn, (moved * 2.0 / (box - 1))[:, None]
        posed = posed_volumes(template, pose, moved)
        compared = compare(posed, transfer, spectrum)
        around = (pose[:, None] @ symmetric_candidates()[1:]).mT
        turned = cross_of_posed(template, around, box, shift_grid, (filtered, compared.gradient))
        found = slopes(compared.cross, turned, posed, filtered, torch.tensor(ANGLE))
        wide = torch.tensor([1.0, 100.0])
        step = pose_step(found, torch.tensor(1e-4), given @ turn, torch.zeros(count, 6), wide, 1.0)
        turn, moved = turn @ step.turn, moved + step.shift_px
    end = errors(given, turn, moved, truth, shift)
    assert start[0] > 0.8 and start[1] > 0.3
    assert end[0] < 0.1 and end[1] < 0.05


def test_slopes_are_differences_of_the_energy() -> None:
    """Central differences of E over larger rotations, for a filter that is not isotropic and a wrong pose."""
    torch.manual_seed(0)
    box, count = 32, 4
    at = torch.arange(box) - box / 2
    wedge = (torch.fft.ifftshift(at)[:, None, None].abs() <= at[: box // 2 + 1].flip(0).abs()).float()
    transfer = (0.2 + 0.8 * wedge).expand(count, box, box, box // 2 + 1)
    template, pose = blobs(box).expand(count, -1, -1, -1), rotations(torch.randn(count, 3) * 40)
    still = torch.zeros(count, 3)
    true = posed_volumes(template, pose @ rotations(torch.randn(count, 3)), still)
    target = torch.fft.rfftn(true, dim=(1, 2, 3)) * transfer
    filtered = torch.fft.irfftn(target * transfer, s=(box,) * 3, dim=(1, 2, 3))

    def energy_at(vector_deg: tuple[float, ...]) -> torch.Tensor:
        turned = posed_volumes(template, pose @ rotations(torch.tensor([vector_deg])), still)
        return compare(turned, transfer, target).energies.total[:, 0]

    posed = posed_volumes(template, pose, still)
    compared = compare(posed, transfer, target)
    around = (pose[:, None] @ symmetric_candidates()[1:]).mT
    turned = cross_of_posed(template, around, box, still[:, None], (filtered, compared.gradient))
    found = slopes(compared.cross, turned, posed, filtered, torch.tensor(ANGLE))
    for axis in range(3):
        plus, minus = (energy_at(tuple(sign * 1.46 * (i == axis) for i in range(3))) for sign in (1, -1))
        slope = (plus - minus) / (2 * ANGLE)
        curvature = (plus + minus - 2 * compared.energies.total[:, 0]) / ANGLE**2
        assert torch.allclose(found.slope[:, axis], slope, rtol=0.05, atol=0.02 * float(curvature.max()) * ANGLE)
        assert torch.allclose(found.curvature[:, axis], curvature, rtol=0.3)


def posed_volumes(template: torch.Tensor, rotation: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    """Volumes V(Rᵀx + t)."""
    box = template.shape[-1]
    return sample_posed(template, rotation.mT[:, None], box, (shift * 2.0 / (box - 1))[:, None], box)[:, 0]


def errors(
    given: torch.Tensor, turn: torch.Tensor, moved: torch.Tensor, truth: torch.Tensor, shift: torch.Tensor
) -> tuple[float, float]:
    """Largest error of turn in degrees and of shift in voxels."""
    left = Rotation.from_matrix((truth.mT @ given @ turn).numpy()).magnitude()
    return float(max(left) * 180 / math.pi), float((moved - shift).norm(dim=1).max())
