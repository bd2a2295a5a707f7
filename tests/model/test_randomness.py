"""Random draws depend on the step and on the position of a particle in the global batch."""

from __future__ import annotations

import pytest
import torch

from tests.model.draws import draws_of

DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


def draws(key: tuple[int, ...], total: int = 8, local: slice | None = None, device: str = "cpu") -> list[torch.Tensor]:
    """A few draws of a step, in one order."""
    random = draws_of(key, total, local, device)
    return [random.normal(), random.uniform(-1.0, 2.0), random.normal(5), random.uniform(0.0, 1.0, 2, 3)]


@DEVICES
def test_same_step_same_numbers(device: str) -> None:
    for a, b in zip(draws((1, 2, 3), device=device), draws((1, 2, 3), device=device), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("other", [(1, 2, 4), (1, 3, 3), (2, 2, 3), (3, 2, 1), (1, 2)])
def test_other_steps_draw_other_numbers(other: tuple[int, ...]) -> None:
    for a, b in zip(draws((1, 2, 3)), draws(other), strict=True):
        assert not torch.isclose(a, b).any()


@DEVICES
@pytest.mark.parametrize("parts", [[slice(0, 4), slice(4, 8)], [slice(0, 3), slice(3, 4), slice(4, 8)]])
def test_processes_share_the_draws_of_the_global_batch(parts: list[slice], device: str) -> None:
    whole = draws((7, 0, 1), device=device)
    pieces = zip(*(draws((7, 0, 1), local=part, device=device) for part in parts), strict=True)
    for all_of_it, split in zip(whole, pieces, strict=True):
        assert torch.equal(all_of_it, torch.cat(split))


def test_shapes_and_distributions() -> None:
    normal, uniform, vectors, arrays = draws((5, 0, 0), total=20000)
    assert (normal.shape, uniform.shape, vectors.shape, arrays.shape) == ((20000,), (20000,), (20000, 5), (20000, 2, 3))
    assert float(normal.mean()) == pytest.approx(0, abs=0.03)
    assert float(normal.std()) == pytest.approx(1, abs=0.03)
    assert -1 <= float(uniform.min()) < -0.99 and 1.99 < float(uniform.max()) < 2
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.03)
    assert abs(float(torch.corrcoef(vectors.T)[0, 1])) < 0.03


def test_consecutive_steps_are_independent() -> None:
    """Seeds that follow each other must not give shifted copies."""
    steps = torch.stack([draws_of((0, 0, step), 1000).normal() for step in range(20)])
    correlation = torch.corrcoef(steps) - torch.eye(20)
    assert float(correlation.abs().max()) < 0.15
