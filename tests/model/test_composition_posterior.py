"""Posterior of compositions: the quadratic likelihood, and the weights of the population."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.model.autoencoder import Autoencoder
from opustomo.model.composition_posterior import (
    Evidence,
    Population,
    comparison_size,
    evidence,
    find_population,
    likelihood_coordinates,
    population_weights,
    posterior_means,
)
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.step_records import Batch, Inference, StepState
from opustomo.physics.boxes import Boxes, mask_on_crop
from opustomo.physics.ctf import TiltBatch
from tests.physics.optics import tilt_table

COUNT = 3


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    """Return an untrained model whose volumes have values of about 1."""
    torch.manual_seed(0)
    boxes = Boxes(24, 8.0, 24, 20)
    made = Autoencoder(ModelConfig(4, templateres=32, encoderres=8), PhysicsConfig(), boxes, mask_on_crop(None, boxes))
    with torch.no_grad():
        drawn = made.decoder(torch.randn(4, 4))
        made.decoder.template.conv_out.weight *= 1.0 / float(drawn.std())
        at = torch.linspace(-2.0, 2.0, 32)
        made.decoder.consensus.copy_(torch.exp(-(at[:, None, None] ** 2) - at[:, None] ** 2 - 2.0 * at**2))
        made.noise.power.mul_(torch.linspace(0.5, 2.0, 13))
    return made.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    rng = np.random.default_rng(0)
    return Batch(
        index=torch.arange(COUNT),
        volumes=torch.from_numpy(rng.normal(size=(COUNT, 24, 24, 24))).float(),
        tilts=TiltBatch.pad([tilt_table(np.arange(-60.0, 61, 6)), tilt_table(np.arange(-30.0, 61, 6), 1)]),
        table=torch.tensor([0, 1, 1]),
        rotation=torch.from_numpy(Rotation.random(COUNT, rng).as_matrix()).float(),
        origin_px=torch.from_numpy(rng.uniform(-1, 1, (COUNT, 3))).float(),
    )


@pytest.fixture(scope="module")
def compositions() -> torch.Tensor:
    return torch.randn(4, 4, generator=torch.Generator().manual_seed(1))


STATE = StepState(100.0, 0.0, 0.0, 0.0, torch.tensor(0.0), None, moves_pose=False)


@torch.no_grad()
def log_likelihoods(model: Autoencoder, batch: Batch, compositions: torch.Tensor) -> torch.Tensor:
    """Return -E / 2σ² of each particle and composition as training computes it, relative to the first, (B, M)."""
    seen = model.inference(batch, STATE)
    columns = []
    for composition in compositions:
        latent = composition.expand(len(batch), -1)
        inferred = Inference(seen.spectrum, seen.ctf, latent, None, latent)
        energies = model.generative(batch, inferred, STATE).energies.total[:, 0]
        columns.append(-0.5 * energies / model.noise.reference_variance)
    found = torch.stack(columns, 1)
    return found - found[:, :1]


def test_the_quadratic_equals_the_energies_of_training(
    model: Autoencoder, batch: Batch, compositions: torch.Tensor
) -> None:
    """Four components span four volumes; the box of the comparison keeps all frequencies."""
    population = find_population(model, compositions, size=model.boxes.render)
    found = evidence(model, population, batch, STATE).of(population.coordinates)
    expected = log_likelihoods(model, batch, compositions)
    assert float(expected[:, 1:].abs().min()) > 1.0
    difference = (found - found[:, :1]).float() - expected
    assert float(difference.norm()) < 0.1 * float(expected.norm())  # trilinear interpolation on another grid


def test_a_small_box_keeps_the_likelihood_of_smooth_differences(
    model: Autoencoder, batch: Batch, compositions: torch.Tensor
) -> None:
    """With zero gain above shell 5, a box of 16 voxels gives the likelihood of the whole box."""
    kept = model.gain.clone()
    try:
        model.gain.copy_((torch.arange(13) <= 5).float())
        assert comparison_size(model, compositions) == 16
        small, full = (find_population(model, compositions, size) for size in (16, 24))
        values = [evidence(model, found, batch, STATE).of(found.coordinates) for found in (small, full)]
        small_box, whole_box = (found - found[:, :1] for found in values)
        torch.testing.assert_close(small_box, whole_box, rtol=0.05, atol=0.02 * float(whole_box.abs().max()))
    finally:
        model.gain.copy_(kept)


def population(latents: torch.Tensor) -> Population:
    return Population(latents, latents.double(), torch.zeros(0), 16)


def observations(true: torch.Tensor, information: float, seed: int) -> Evidence:
    """Return the evidence of coordinates (N, K) observed with independent noise of variance 1 / information."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(true.shape, generator=generator, dtype=torch.float64) * information**-0.5
    quadratic = information * torch.eye(true.shape[1], dtype=torch.float64).expand(len(true), -1, -1)
    return Evidence(information * (true + noise), quadratic)


def test_weights_are_those_of_the_classes() -> None:
    """Two compositions, of which 80 and 20 % of the particles are; a third one does not occur."""
    points = torch.tensor([[-1.0], [1.0], [8.0]])
    true = points[torch.arange(1000) // 800].double()
    weights = population_weights(observations(true, 4.0, 0).of(points.double()))
    assert weights.tolist() == pytest.approx([0.8, 0.2, 0.0], abs=0.03)


def test_noisy_latents_of_an_encoder_gather_at_their_classes() -> None:
    """The encoder errs by 0.5 between classes that are 2 apart; data with an error of 0.4 bring them together."""
    true = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])[torch.arange(400) % 2]
    encoded = true + 0.5 * torch.randn(400, 2, generator=torch.Generator().manual_seed(3))
    inferred = posterior_means(observations(true.double(), 1 / 0.4**2, 4), population(encoded)).float()
    before, after = ((values - true).square().mean().sqrt() for values in (encoded, inferred))
    assert float(after) < 0.6 * float(before)


def test_data_without_information_leave_the_mean_of_the_population() -> None:
    latents = torch.randn(50, 3, generator=torch.Generator().manual_seed(5))
    nothing = Evidence(torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 3, 3, dtype=torch.float64))
    inferred = posterior_means(nothing, population(latents))
    torch.testing.assert_close(inferred, latents.double().mean(0).expand(7, -1))


def test_coordinates_scatter_by_their_standard_errors_and_do_not_gather() -> None:
    """Two states in three components, seen with very different errors; the third component is hardly seen at all."""
    errors = torch.tensor([0.05, 2.0, 1e6], dtype=torch.float64)
    true = torch.tensor([[0.0, 0.0, 0.0], [0.5, 0.0, 0.0]], dtype=torch.float64)[torch.arange(2000) % 2]
    noise = torch.randn(true.shape, generator=torch.Generator().manual_seed(6), dtype=torch.float64) * errors
    quadratic = torch.diag(errors**-2).expand(2000, -1, -1)
    turned = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64))[0]
    linear = ((true + noise) / errors**2) @ turned.T
    found = likelihood_coordinates(Evidence(linear, turned @ quadratic @ turned.T))
    assert found.shape == (2000, 2)
    states = found[::2], found[1::2]
    for state in states:
        assert state.std(0).tolist() == pytest.approx([1.0, 1.0], abs=0.06)
    assert float((states[0].mean(0) - states[1].mean(0)).norm()) == pytest.approx(0.5 / 0.05, abs=0.2)


def test_data_without_information_have_no_coordinates() -> None:
    nothing = Evidence(torch.zeros(7, 3, dtype=torch.float64), torch.zeros(7, 3, 3, dtype=torch.float64))
    assert likelihood_coordinates(nothing).shape == (7, 0)
