"""Per-particle state: moving averages of latents, neighbors for the prior, and composed poses."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.rotations import euler_to_matrix
from opustomo.io.poses import Poses
from opustomo.model.loss import Neighbors, prior_terms
from opustomo.model.random_draws import StepRandom
from opustomo.training import particle_memory
from opustomo.training.particle_memory import LatentMemory, PoseMemory

CPU = torch.device("cpu")


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_latents(groups: np.ndarray, dim: int = 3, seed: int = 0) -> LatentMemory:
    return LatentMemory(groups, dim, CPU, seed)


def neighbors(latents: LatentMemory, index: torch.Tensor, seed: int = 0) -> Neighbors:
    """Neighbors among a pool drawn for the batch."""
    pool = latents.draw_pool(index.numpy(), np.random.default_rng(seed))
    return latents.neighbors(index, torch.from_numpy(pool), StepRandom(draws(seed), len(index)))


def rows_of(table: torch.Tensor, rows: torch.Tensor) -> np.ndarray:
    """Return for each row of ``rows`` (M, L) the index of the equal row in ``table``, -1 if there is none."""
    equal = torch.cdist(rows.double(), table.double(), compute_mode="donot_use_mm_for_euclid_dist") < 1e-5
    return torch.where(equal.any(1), equal.int().argmax(1), -1).numpy()


def test_latents_start_as_normal_draws_of_the_seed() -> None:
    first = make_latents(np.zeros(4000, dtype=int)).values
    assert abs(float(first.mean())) < 0.03 and abs(float(first.std()) - 1) < 0.03
    torch.testing.assert_close(first, make_latents(np.zeros(4000, dtype=int)).values, rtol=0, atol=0)
    assert (first != make_latents(np.zeros(4000, dtype=int), seed=1).values).any()


def test_new_means_enter_with_three_tenths() -> None:
    latents = make_latents(np.zeros(5, dtype=int))
    before = latents.values.clone()
    mu = torch.randn(2, 3, generator=draws())
    latents.update(torch.tensor([3, 1]), mu)
    torch.testing.assert_close(latents.values[[3, 1]], 0.7 * before[[3, 1]] + 0.3 * mu)
    torch.testing.assert_close(latents.values[[0, 2, 4]], before[[0, 2, 4]], rtol=0, atol=0)
    for _ in range(60):
        latents.update(torch.tensor([3, 1]), mu.half())  # half precision must not lower that of the memory
    assert latents.values.dtype == torch.float32
    torch.testing.assert_close(latents.values[[3, 1]], mu.half().float(), rtol=0, atol=1e-6)


def test_near_and_far_are_those_of_other_groups_ranked_by_distance() -> None:
    groups = np.repeat([2, 5, 7], [40, 200, 110])
    latents = make_latents(groups)
    index = torch.tensor([0, 13, 39])
    found = neighbors(latents, index)
    assert found.near.shape == (3, 64, 3) and found.far.shape == (3, 256, 3)
    others = latents.values[40:]
    for row, particle in enumerate(index):
        distance = (others - latents.values[particle]).norm(dim=1)
        order = distance.argsort()
        assert set(rows_of(others, found.near[row])) == set(order[:64].tolist())
        # far = 0.8 · (the 256 farthest) + 0.2 · (256 random ones), all of other groups
        random = (found.far[row] - 0.8 * others[order.flip(0)[:256]]) / 0.2
        drawn = rows_of(others, random)
        assert (drawn >= 0).all()
        assert 100 < len(set(drawn.tolist())) < 256  # random with repeats, not one draw for all
        near = (found.near[row] - latents.values[particle]).norm(dim=1)
        far = (found.far[row] - latents.values[particle]).norm(dim=1)
        assert near.max() < far.mean()


def test_at_most_eight_other_groups_are_drawn_from() -> None:
    groups = np.repeat(np.arange(48), 40)
    latents = make_latents(groups, 48)
    latents.values = 100.0 * torch.eye(48)[torch.from_numpy(groups)] + 0.01 * latents.values
    used: set[int] = set()
    for seed in range(12):
        near = neighbors(latents, torch.tensor([0, 40, 41]), seed).near  # a batch of groups 0 and 1
        drawn = {int(g) for g in near.argmax(-1).unique()}
        assert len(drawn) <= 8 and not drawn & {0, 1}
        used |= drawn
    assert len(used) > 20  # others each time


def test_large_groups_are_drawn_from_in_proportion(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(particle_memory, "NEAR", 10**6)  # near is then the whole pool
    groups = np.repeat([0, 1, 2], [10, 20_000, 5_000])
    latents = make_latents(groups, 1)
    latents.values[:, 0] = torch.from_numpy(groups).float()
    near = neighbors(latents, torch.tensor([4])).near[0, :, 0]
    assert len(near) == 12_800
    assert float((near == 1).float().mean()) == pytest.approx(0.8, abs=0.02)
    assert not (near == 0).any()


@pytest.mark.parametrize(("others", "near", "far"), [(255, 63, 252), (100, 25, 100), (10, 2, 8), (4, 1, 4)])
def test_few_other_particles_give_a_quarter_near_and_the_rest_far(others: int, near: int, far: int) -> None:
    latents = make_latents(np.repeat([0, 9], [6, others]))
    found = neighbors(latents, torch.tensor([1, 2]))
    assert found.near.shape == (2, near, 3) and found.far.shape == (2, far, 3)
    assert (rows_of(latents.values[6:], found.near.flatten(0, 1)) >= 0).all()


def test_a_single_group_compares_with_the_particles_outside_the_batch() -> None:
    latents = make_latents(np.full(30, 11))
    index = torch.arange(10)
    found = neighbors(latents, index)
    assert found.near.shape == (10, 5, 3) and found.far.shape == (10, 20, 3)
    assert (rows_of(latents.values[10:], found.near.flatten(0, 1)) >= 0).all()


@pytest.mark.parametrize("groups", [[0, 0, 0], [0, 1, 2], [7], [3, 3]])
def test_a_batch_of_the_whole_set_works(groups: list[int]) -> None:
    latents = make_latents(np.array(groups))
    found = neighbors(latents, torch.arange(len(groups)))
    assert found.near.shape[0] == found.far.shape[0] == len(groups)
    assert found.near.shape[1] >= 1 and found.far.shape[1] >= 1
    assert torch.isfinite(found.near).all() and torch.isfinite(found.far).all()


def test_neighbors_belong_to_the_generator() -> None:
    latents = make_latents(np.arange(600) % 20)
    one, two = (neighbors(latents, torch.tensor([0, 20]), 4) for _ in range(2))
    torch.testing.assert_close(one.near, two.near, rtol=0, atol=0)
    torch.testing.assert_close(one.far, two.far, rtol=0, atol=0)
    assert (one.far != neighbors(latents, torch.tensor([0, 20]), 5).far).any()


@pytest.mark.parametrize("others", [4, 100, 255, 256, 400])
def test_a_padded_pool_means_the_same(others: int) -> None:
    """GPU steps have fixed shapes; entries beyond the count have no effect."""
    latents = make_latents(np.repeat([0, 9], [6, others]))
    index, pool = torch.tensor([1, 2]), torch.arange(6, 6 + others)
    padded = torch.cat([pool, torch.zeros(latents.pool_capacity - others, dtype=torch.long)])
    plain = latents.neighbors(index, pool, StepRandom(draws(), 2))
    held = latents.neighbors(index, padded, StepRandom(draws(), 2), torch.tensor(others))
    assert held.near.shape == (2, 64, 3) and held.far.shape == (2, 256, 3)
    near, far = int(held.near_count), int(held.far_count)
    assert (near, far) == (plain.near.shape[1], plain.far.shape[1])
    torch.testing.assert_close(held.near[:, :near], plain.near)
    random = (held.far[:, :far] - 0.8 * _farthest(latents, index, pool, far)) / 0.2
    assert (rows_of(latents.values[6:], random.flatten(0, 1)) >= 0).all()
    mu = torch.randn(2, 3, generator=draws())
    meant = prior_terms(mu, mu, Neighbors(held.near[:, :near], held.far[:, :far]))
    torch.testing.assert_close(torch.stack(prior_terms(mu, mu, held)), torch.stack(meant))


def _farthest(latents: LatentMemory, index: torch.Tensor, pool: torch.Tensor, count: int) -> torch.Tensor:
    order = torch.cdist(latents.values[index], latents.values[pool]).argsort(1, descending=True)[:, :count]
    return latents.values[pool][order]


BOX = 48
COUNT = 20


def make_poses(seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    eulers = Rotation.random(COUNT, random_state=seed).as_euler("ZYZ", degrees=True)
    return Poses(eulers, rng.uniform(-3, 3, (COUNT, 3)) / BOX)


def turns(degrees: float, seed: int = 5) -> torch.Tensor:
    """(COUNT, 3, 3) turns by exactly so many degrees about random axes."""
    axes = np.random.default_rng(seed).normal(size=(COUNT, 3))
    axes /= np.linalg.norm(axes, axis=1, keepdims=True)
    return torch.from_numpy(Rotation.from_rotvec(np.deg2rad(degrees) * axes).as_matrix()).float()


def degrees_between(one: torch.Tensor, two: torch.Tensor) -> np.ndarray:
    relative = (one.double().mT @ two.double()).numpy()
    return np.rad2deg(Rotation.from_matrix(relative).magnitude())


def matrices(poses: Poses) -> torch.Tensor:
    return euler_to_matrix(torch.from_numpy(poses.eulers_deg))


EVERY = torch.arange(COUNT)


def test_at_first_the_poses_are_those_read_in() -> None:
    poses = make_poses()
    found = PoseMemory(poses, BOX, CPU)
    rotation, origin = found.current(EVERY)
    torch.testing.assert_close(rotation.double(), matrices(poses), rtol=0, atol=1e-6)
    np.testing.assert_allclose(origin.numpy(), poses.origins * BOX, atol=1e-5)
    np.testing.assert_array_equal(found.poses().eulers_deg, poses.eulers_deg)
    np.testing.assert_allclose(found.poses().origins, poses.origins, atol=1e-7)


def test_one_visit_takes_in_three_tenths_of_turn_and_shift() -> None:
    poses, turn = make_poses(), turns(10.0)
    shift = torch.randn(COUNT, 3, generator=draws())
    found = PoseMemory(poses, BOX, CPU)
    found.update(EVERY, turn, shift)
    rotation, origin = found.current(EVERY)
    start = matrices(poses)
    np.testing.assert_allclose(degrees_between(start, rotation), 3.0, atol=1e-3)
    np.testing.assert_allclose(degrees_between(start @ turn.double(), rotation), 7.0, atol=1e-3)  # A δA, not δA A
    moved = torch.einsum("bij,bj->bi", start @ turn.double(), shift.double())  # o + A δA t
    expected = poses.origins * BOX + 0.3 * moved.numpy()
    np.testing.assert_allclose(origin.numpy(), expected, atol=1e-5)


def test_residual_corrections_lead_to_the_true_pose() -> None:
    """Predictions of the remaining correction are applied completely."""
    poses = make_poses()
    true_rotation = matrices(poses).float() @ turns(12.0)
    true_origin = torch.from_numpy(poses.origins * BOX).float() + torch.randn(COUNT, 3, generator=draws())
    found = PoseMemory(poses, BOX, CPU)
    for visit in range(1, 41):
        rotation, origin = found.current(EVERY)
        shift = torch.einsum("bji,bj->bi", true_rotation, true_origin - origin)  # t = (A δA)ᵀ (o_true - o)
        found.update(EVERY, rotation.mT @ true_rotation, shift)
        rotation, _ = found.current(EVERY)
        if visit == 5:
            np.testing.assert_allclose(degrees_between(rotation, true_rotation), 12.0 * 0.7**5, rtol=1e-2)
    rotation, origin = found.current(EVERY)
    assert degrees_between(rotation, true_rotation).max() < 0.01
    torch.testing.assert_close(origin, true_origin, rtol=0, atol=1e-4)


def test_only_the_particles_visited_change() -> None:
    poses = make_poses()
    found = PoseMemory(poses, BOX, CPU)
    visited = torch.tensor([3, 17])
    found.update(visited, turns(5.0)[:2], torch.ones(2, 3))
    rest = np.setdiff1d(np.arange(COUNT), visited)
    written = found.poses()
    np.testing.assert_array_equal(written.eulers_deg[rest], poses.eulers_deg[rest])
    np.testing.assert_allclose(written.origins[rest], poses.origins[rest], atol=1e-7)
    assert (written.eulers_deg[visited] != poses.eulers_deg[visited]).any(1).all()


@pytest.mark.parametrize("degrees", [0.0, 0.001, 0.02, 0.1, 3.0, 40.0])
def test_the_poses_written_are_the_poses_in_use(degrees: float) -> None:
    found = PoseMemory(make_poses(), BOX, CPU)
    for seed in range(3):
        found.update(EVERY, turns(degrees, seed), torch.full((COUNT, 3), 0.5))
    written = found.poses()
    rotation, origin = found.current(EVERY)
    assert degrees_between(matrices(written), rotation).max() < 2e-4
    np.testing.assert_allclose(written.origins * BOX, origin.numpy(), atol=1e-5)


def test_many_visits_keep_rotations_rotations() -> None:
    found = PoseMemory(make_poses(), BOX, CPU)
    for seed in range(300):
        found.update(EVERY, turns(8.0, seed), torch.zeros(COUNT, 3))
    rotation, _ = found.current(EVERY)
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(COUNT, 3, 3), rtol=0, atol=2e-6)
    assert (torch.linalg.det(rotation) > 0.999).all()


def test_deviation_is_what_the_visits_have_turned_and_moved() -> None:
    poses, shift = make_poses(), torch.randn(COUNT, 3, generator=draws())
    found = PoseMemory(poses, BOX, CPU)
    assert not found.deviation(EVERY).any()
    turn = turns(2.0)
    found.update(EVERY, turn, shift)
    deviation = found.deviation(EVERY)
    vectors = Rotation.from_matrix(turn.double().numpy()).as_rotvec()
    np.testing.assert_allclose(deviation[:, :3].numpy(), 0.3 * vectors, atol=1e-5)
    rotation, origin = found.current(EVERY)  # u = A t in the particle's frame
    expected = torch.einsum("bji,bj->bi", rotation, origin - torch.from_numpy(poses.origins * BOX).float())
    torch.testing.assert_close(deviation[:, 3:], expected, rtol=0, atol=1e-4)


def test_inferred_corrections_are_taken_in_full_with_their_variance() -> None:
    found = PoseMemory(make_poses(), BOX, CPU, torch.tensor([1e-3, 2.0]))
    assert found.prior_variance().tolist() == pytest.approx([1e-3, 2.0])
    turn, shift, variance = turns(2.0), torch.ones(COUNT, 3), torch.full((COUNT, 6), 1e-4)
    weight = torch.ones(COUNT)
    weight[1] = 0.0
    found.update(EVERY, turn, shift, weight, variance)
    vectors = Rotation.from_matrix(turn.double().numpy()).as_rotvec() * weight[:, None].numpy()
    deviation = found.deviation(EVERY)
    np.testing.assert_allclose(deviation[:, :3].numpy(), vectors, atol=1e-5)
    np.testing.assert_allclose(deviation[:, 3:].numpy(), weight[:, None].expand(-1, 3).numpy(), atol=1e-4)
    expected = (deviation.square().mean(0) + found.variance.mean(0)).view(2, 3).mean(1)
    torch.testing.assert_close(found.prior_variance(), expected)
    assert found.variance[:2, 0].tolist() == pytest.approx([1e-4, 1e-3])


def test_deviations_of_loaded_poses_count_from_the_given_ones() -> None:
    """The pose prior of a run from weights includes the deviations of its poses."""
    poses = make_poses()
    found = PoseMemory(poses, BOX, CPU)
    found.update(EVERY, turns(20.0), torch.ones(COUNT, 3))
    refined = found.poses()
    again = PoseMemory(poses, BOX, CPU)
    again.set_poses(refined)
    assert degrees_between(matrices(refined), again.current(EVERY)[0]).max() < 2e-4
    torch.testing.assert_close(again.deviation(EVERY), found.deviation(EVERY), rtol=0, atol=1e-4)
    torch.testing.assert_close(again.prior_variance(), found.prior_variance(), rtol=1e-3, atol=1e-6)
