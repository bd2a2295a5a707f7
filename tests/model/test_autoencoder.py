"""The autoencoder: sampling in training, gradients, modes, and invalid input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from opustomo.geometry.rigid_bodies import BodyGeometry
from opustomo.geometry.rotations import matrix_to_quaternion, small_turn_to_matrix
from opustomo.model import networks
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.loss import Neighbors
from opustomo.model.pose_posterior import PoseSlopes
from opustomo.model.posing import Correction, Posing, candidate_rotations
from opustomo.model.random_draws import StepRandom
from opustomo.model.residual_spectra import whitening
from opustomo.model.step_records import Batch, StepOutput, StepState
from opustomo.physics.body_motion import Motion
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf import TiltBatch, division_filters
from opustomo.physics.fourier import irfft3, rfft3
from tests.model.draws import draws_of
from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture
from tests.physics.optics import tilt_table

COUNT = 4
BOXES = Boxes(16, 8.0, 16, 12)
SIZES = ModelConfig(2, 2, 32, 8, estimate_pose=True)
EYES = (((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),) * 2
BODIES = BodyGeometry(
    ((-3.0, 0.0, 0.0), (3.0, 1.0, 0.0)),
    ((3.0, 1.0, 0.0), (-3.0, 0.0, 0.0)),
    ((-6.0, -1.0, 0.0), (6.0, 1.0, 0.0)),
    EYES,
    ((1.5, 1.5, 1.5), (1.5, 1.5, 1.5)), EYES,
)  # fmt: skip


def make_batch(seed: int = 0) -> Batch:
    rng = np.random.default_rng(seed)
    return Batch(
        index=torch.arange(COUNT),
        volumes=torch.from_numpy(rng.normal(size=(COUNT, 16, 16, 16))).float(),
        tilts=TiltBatch.pad([tilt_table(np.arange(-60.0, 61, 6)), tilt_table(np.arange(-30.0, 61, 6), 1)]),
        table=torch.tensor([0, 1, 1, 0]),
        rotation=torch.from_numpy(Rotation.random(COUNT, rng).as_matrix()).float(),
        origin_px=torch.from_numpy(rng.uniform(-1, 1, (COUNT, 3))).float(),
    )


def make_neighbors() -> Neighbors:
    generator = torch.Generator().manual_seed(0)
    return Neighbors(torch.randn(COUNT, 3, 4, generator=generator), torch.randn(COUNT, 5, 4, generator=generator))


def state(random: StepRandom | None) -> StepState:
    return StepState(4.0, 0.5, 0.5, 1.0, torch.tensor(0.05), random)


@pytest.fixture(scope="module")
def model() -> Autoencoder:
    torch.manual_seed(0)
    network = Autoencoder(SIZES, PhysicsConfig(), BOXES, torch.ones(12, 12, 12))
    with torch.no_grad():
        network.decoder.template.conv_out.weight.mul_(500)
    return network


def step(model: Autoencoder, random: StepRandom | None, physics: PhysicsConfig | None = None) -> StepOutput:
    before = model.physics
    model.physics = physics or before
    try:
        return model(make_batch(), make_neighbors(), state(random))
    finally:
        model.physics = before


def test_every_parameter_is_trained(model: Autoencoder) -> None:
    """Encoder and decoder get a finite gradient; the pose head is frozen, as poses are inferred."""
    model.zero_grad()
    step(model, draws_of((0,), COUNT)).terms.total.backward()
    for name, parameter in model.named_parameters():
        if "affine_out" in name:
            assert not parameter.requires_grad and parameter.grad is None
            continue
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert float(parameter.grad.abs().max()) > 0, name


def with_bodies(model: Autoencoder) -> Autoencoder:
    """The same networks with bodies; their rows of the head give no motion yet."""
    moving = Autoencoder(replace(SIZES, bodies=BODIES), PhysicsConfig(), BOXES, torch.ones(12, 12, 12))
    state = model.state_dict()
    for name in ("weight", "bias"):
        key = f"decoder.template.affine_out.2.{name}"
        rows = torch.zeros_like(moving.state_dict()[key])
        rows[-6:] = state[key]
        state[key] = rows
    moving.load_state_dict(state)
    return moving


def test_bodies_that_do_not_move_change_nothing(model: Autoencoder) -> None:
    """The head's last row is the whole particle's; a full mask hides that the mask is not shifted with bodies."""
    with torch.no_grad():
        rigid, moving = step(model, None), step(with_bodies(model), None)
    assert torch.allclose(rigid.turn, moving.turn, atol=1e-6)
    np.testing.assert_allclose(rigid.terms.stacked(), moving.terms.stacked(), rtol=2e-4)


@pytest.mark.parametrize("original", [False, True])
def test_every_row_of_the_head_is_trained(original: bool, model: Autoencoder) -> None:
    """Turns and swings of both bodies get a gradient, and with OPUS-TOMO's way the pose, too."""
    moving = with_bodies(model)
    physics = replace(PhysicsConfig(), original=original)
    moving.candidates = candidate_rotations("original" if original else "symmetric")
    step(moving, draws_of((0,), COUNT), physics).terms.total.backward()
    head = moving.decoder.template.affine_out
    assert head is not None
    gradient = head[2].weight.grad
    assert isinstance(gradient, torch.Tensor)
    assert gradient.shape == (18, networks.HIDDEN)
    trained = gradient.abs().amax(1) > 0
    assert trained[:12].all() and (trained[12:] == original).all() and torch.isfinite(gradient).all()


def test_the_conformation_moves_the_bodies(model: Autoencoder) -> None:
    """The conformation moves the bodies, and the image of the model follows."""
    moving = with_bodies(model)
    with torch.no_grad():
        moving.decoder.template.affine_out[2].weight[:12].normal_(std=5.0)  # type: ignore[index]
        batch, validation = make_batch(), state(None)
        inferred = moving.inference(batch, validation)
        other = inferred._replace(z=inferred.z + torch.tensor([0.0, 0.0, 3.0, 0.0]))
        first, second = (moving.generative(batch, one, validation) for one in (inferred, other))
    assert torch.equal(first.template, second.template)
    assert first.correction.motion is not None and second.correction.motion is not None
    assert float((first.correction.motion.rotations - second.correction.motion.rotations).abs().max()) > 0.01
    assert not torch.allclose(first.energies.power, second.energies.power, rtol=1e-3)


def test_a_template_without_detail_leaves_poses_where_they_were_given(model: Autoencoder) -> None:
    """A faint template has no curvature, so the step leads back to the given pose and the variance is the prior's."""
    own = torch.tensor([[0.01, -0.005, 0.008, 0.3, -0.2, 0.1]]).expand(COUNT, 6)
    batch = replace(make_batch(), deviation=own)
    prior = torch.tensor([0.02, 0.5]).square()
    with torch.no_grad():
        kept = step(model, None)
        model.noise.power.fill_(1e6)
        start = model.pose_prior.clone()
        model.pose_prior.copy_(prior)
        output = model(batch, make_neighbors(), state(None))
        model.noise.power.fill_(1.0)
        model.pose_prior.copy_(start)
    assert kept.variance is None and torch.equal(kept.turn, torch.eye(3).expand(COUNT, 3, 3))
    moved = torch.cat([matrix_to_quaternion(output.turn)[:, 1:] * 2.0, output.shift_px], 1)
    torch.testing.assert_close(moved, -own, atol=3e-4, rtol=0.03)
    torch.testing.assert_close(output.variance, prior.repeat_interleave(3).expand(COUNT, 6), rtol=0.01, atol=0)


@pytest.mark.parametrize("original", [False, True])
def test_the_residual_power_is_that_of_whitened_data(original: bool, model: Autoencoder) -> None:
    """Energies are those of whitened data; with the power of the data as they are, a residual could be negative."""
    before = model.noise.power.clone()
    model.noise.power.copy_(torch.linspace(0.1, 2.0, len(before)))
    physics = replace(model.physics, original=original)
    with torch.no_grad():
        terms = step(model, None, physics).terms
        model.physics, whole = physics, model.physics
        generated = model.generative(make_batch(), model.inference(make_batch(), state(None)), state(None))
        model.physics = whole
        white = torch.ones(()) if original else whitening(model.noise, 16)
    model.noise.power.copy_(before)
    target = irfft3(rfft3(generated.target) * white)
    torch.testing.assert_close(generated.target_power, target.square().sum((1, 2, 3)), rtol=1e-4, atol=0)
    if original:  # the candidates of OPUS-TOMO keep no spectrum of the model
        return
    assert generated.spectrum is not None
    residual = irfft3((rfft3(generated.target) - generated.spectrum * generated.transfer) * white)
    power = irfft3(generated.spectrum * generated.transfer * white).square().sum((1, 2, 3))
    left = residual.square().sum((1, 2, 3))
    assert float(terms.mse) == pytest.approx(float(left.mean()) / model.norm, rel=1e-4)
    assert float(terms.snr) == pytest.approx(float((power / left).mean()), rel=1e-4)


def test_held_out_losses_do_not_gain_by_their_own_poses(model: Autoencoder) -> None:
    """Validation adds the gain of inferred poses: zero without curvature, six numbers with large curvature."""
    batch = replace(make_batch(), deviation=torch.zeros(COUNT, 6))
    flat = PoseSlopes(torch.zeros(COUNT, 6), torch.zeros(COUNT, 6), torch.ones(6))
    sharp = flat._replace(curvature=torch.full((COUNT, 6), 1e9))
    variance = float(model.noise.reference_variance)
    assert model.pose_optimism(flat).tolist() == [0.0] * COUNT
    assert model.pose_optimism(sharp).tolist() == pytest.approx([6 * 2 * variance / model.norm] * COUNT, rel=1e-3)
    with torch.no_grad():
        plain, scored = step(model, None), model(batch, make_neighbors(), state(None))
        generated = model.generative(batch, model.inference(batch, state(None)), state(None))
        assert generated.slopes is not None
        gained = model.pose_optimism(generated.slopes).mean()
    torch.testing.assert_close(scored.terms.gen - plain.terms.gen, gained, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(scored.terms.total - plain.terms.total, gained, rtol=1e-3, atol=1e-7)


def test_the_pose_prior_starts_at_a_voxel(model: Autoencoder) -> None:
    """At the radius of a ball of the mask's volume, here 12³ voxels, a turn moves by a voxel."""
    turn, shift = model.start_pose_variance().tolist()
    radius = (3 * 12**3 / (4 * np.pi)) ** (1 / 3)
    assert turn == pytest.approx(radius**-2) and shift == pytest.approx(1.0)


def test_plain_back_projections_are_divided_where_wanted(model: Autoencoder) -> None:
    """By the weights of each particle's own tilts, in encoding too; the CTF is then the normalized one."""
    batch, seen = make_batch(), {}
    before = model.physics
    settings = {"as it is": {}, "not": {"divide": False}, "divided": {"divide": True}, "was": {"ctf_normalized": True}}
    try:
        for name, physics in settings.items():
            model.physics = PhysicsConfig(**physics)
            with torch.no_grad():
                seen[name] = model.inference(batch, state(None))
                encoded = model.encode(batch.volumes, batch.rotation, batch.origin_px, batch.tilts, batch.table)
            torch.testing.assert_close(encoded, seen[name].mu)
    finally:
        model.physics = before
    plain, divided = seen["as it is"], seen["divided"]
    assert torch.equal(plain.spectrum, seen["not"].spectrum) and torch.equal(plain.ctf, seen["not"].ctf)
    filters = division_filters(batch.tilts, BOXES.render, BOXES.box / 2)[batch.table]
    torch.testing.assert_close(divided.spectrum, plain.spectrum * filters)
    assert torch.equal(divided.ctf, seen["was"].ctf) and torch.equal(plain.spectrum, seen["was"].spectrum)
    assert not torch.allclose(divided.mu, plain.mu)


def test_training_steps_repeat_and_differ(model: Autoencoder) -> None:
    with torch.no_grad():
        first, again, other = (step(model, draws_of((key,), COUNT)) for key in (1, 1, 2))
    assert torch.equal(first.terms.total, again.terms.total)
    assert not torch.equal(first.terms.total, other.terms.total)


def test_validation_is_deterministic(model: Autoencoder) -> None:
    with torch.no_grad():
        assert torch.equal(step(model, None).terms.stacked(), step(model, None).terms.stacked())


def test_jitter_changes_the_images(model: Autoencoder) -> None:
    """OPUS-TOMO draws b, β and contrast; without jitter only z is drawn."""
    batch = make_batch()
    with torch.no_grad():
        inferred = model.inference(batch, state(None))
        targets = []
        for jitter, key in ((True, 1), (True, 2), (False, 1), (False, 2)):
            model.physics, before = replace(model.physics, jitter=jitter), model.physics
            targets.append(
                model.generative(batch, inferred, state(draws_of((key,), COUNT))).target.square().sum((1, 2, 3))
            )
            model.physics = before
    assert not torch.allclose(targets[0], targets[1], rtol=1e-4)
    assert torch.equal(targets[2], targets[3])
    assert torch.allclose(targets[0] / targets[2], torch.ones(COUNT), rtol=0.4)


def test_fixed_mode_shares_one_latent() -> None:
    """No encoder, no KL, no prior; only the decoder trains."""
    torch.manual_seed(0)
    model = Autoencoder(replace(SIZES, encode_mode="fixed"), PhysicsConfig(), BOXES, torch.ones(12, 12, 12))
    assert model.encoder is None
    output = step(model, draws_of((0,), COUNT))
    assert torch.equal(output.mu, model.fixed_latent.expand(COUNT, -1))
    assert float(output.terms.kl) == float(output.terms.attract) == float(output.terms.knn) == 0
    output.terms.total.backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if "affine_out" not in name)


def test_without_pose_estimation_nothing_is_corrected() -> None:
    model = Autoencoder(replace(SIZES, estimate_pose=False), PhysicsConfig(), BOXES, torch.ones(12, 12, 12))
    with torch.no_grad():
        output = step(model, None)
    assert torch.equal(output.turn, torch.eye(3).expand(COUNT, 3, 3))
    assert float(output.shift_px.abs().max()) == 0


def test_particles_do_not_see_each_other(model: Autoencoder) -> None:
    """Without the prior, a batch is the mean of its particles."""
    with torch.no_grad():
        batch = make_batch()
        whole = model(batch, None, state(None))
        alone = [
            model(
                Batch(*(getattr(batch, name)[i : i + 1] if name != "tilts" else batch.tilts
                        for name in ("index", "volumes", "tilts", "table", "rotation", "origin_px"))),
                None,
                state(None),
            )
            for i in range(COUNT)
        ]  # fmt: skip
    assert torch.allclose(torch.cat([o.mu for o in alone]), whole.mu, atol=1e-5)
    for name in ("gen", "mse", "snr", "kl", "tv", "l1"):
        mean = np.mean([float(getattr(o.terms, name)) for o in alone])
        assert float(getattr(whole.terms, name)) == pytest.approx(mean, rel=1e-4), name


def test_half_precision_networks_stay_close(model: Autoencoder) -> None:
    with torch.no_grad():
        exact = step(model, None)
        model.amp = True
        rough = step(model, None)
        model.amp = False
    assert torch.isfinite(rough.terms.stacked()).all()
    assert float(rough.terms.mse) == pytest.approx(float(exact.terms.mse), rel=0.05)
    assert not torch.equal(rough.mu, exact.mu)
    assert rough.mu.dtype == torch.float32


def test_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="mask"):
        Autoencoder(SIZES, PhysicsConfig(), BOXES, torch.ones(10, 10, 10))


@pytest.mark.parametrize(
    "wrong",
    [
        {"zdim": 0},
        {"zaffinedim": 0, "estimate_pose": True},
        {"zaffinedim": -1},
        {"bodies": BODIES},
        {"bodies": BODIES, "estimate_pose": True, "zaffinedim": 0},
        {"templateres": 40},
        {"templateres": 16},
        {"encoderres": 4},
        {"encode_mode": "other"},
    ],
)
def test_impossible_models_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError):
        ModelConfig(**({"zdim": 2} | wrong))


def test_rows_of_the_head() -> None:
    assert [ModelConfig(2, estimate_pose=on).head_rows for on in (False, True)] == [0, 1]
    assert ModelConfig(2, estimate_pose=True, bodies=BODIES).head_rows == 3


def test_latent_dimension() -> None:
    assert ModelConfig(12).latent_dim == 16


def test_final_poses_are_left_alone(model: Autoencoder) -> None:
    z = torch.randn(6, SIZES.latent_dim, generator=torch.Generator().manual_seed(2))
    model.physics, before = replace(model.physics, original=True), model.physics
    assert float(model.pose_correction(z).shift_px.detach().abs().max()) > 1e-5
    final = model.pose_correction(z, moves_pose=False)
    torch.testing.assert_close(final.turn, torch.eye(3).expand(6, 3, 3))
    assert not final.shift_px.any()
    model.physics = before
    assert not model.pose_correction(z).shift_px.any()  # inferred, not predicted


@pytest.mark.parametrize("kind", ["symmetric", "original"])
def test_candidates_of_a_preset(kind: str) -> None:
    physics = PhysicsConfig(original=kind == "original")
    network = Autoencoder(SIZES, physics, BOXES, torch.ones(12, 12, 12))
    mean = Rotation.from_matrix(network.candidates.double().numpy()).mean()
    turn = np.degrees(mean.as_rotvec())
    # The candidates of OPUS-TOMO have no identity and a mean of 1.3° about (1, 1, 0).
    expected = [0, 0, 0] if kind == "symmetric" else [1.3 / 2**0.5, 1.3 / 2**0.5, 0]
    np.testing.assert_allclose(turn, expected, atol=0.03)


def test_the_prior_of_poses_holds_for_the_motion_that_they_take_over() -> None:
    """With poses that are certainly right, a motion of all bodies is taken back instead of being added to the pose."""
    torch.manual_seed(0)
    network = Autoencoder(replace(SIZES, bodies=BODIES), PhysicsConfig(jitter=False), BOXES, torch.ones(12, 12, 12))
    network.pose_prior.fill_(1e-10)
    batch = replace(make_batch(), deviation=torch.zeros(COUNT, 6))
    common = torch.tensor([0.02, -0.015, 0.01])
    correction = network.posing.no_correction(COUNT, torch.device("cpu"))
    turned = small_turn_to_matrix(common).expand(COUNT, 2, 3, 3)
    motion = Motion(turned, torch.full((COUNT, 2, 3), 0.01))
    network.pose_correction = lambda z, moves_pose=True: correction._replace(motion=motion)  # type: ignore[method-assign]
    output = network(batch, None, state(None))
    torch.testing.assert_close(output.turn, torch.eye(3).expand(COUNT, 3, 3), atol=2e-3, rtol=0)
    assert float(output.shift_px.abs().max()) < 0.02


@pytest.mark.parametrize("angle_deg", [0.0, 2.0])
def test_a_pose_step_takes_over_the_motion_of_the_largest_body(angle_deg: float) -> None:
    """If all bodies move alike, the new pose without any motion gives the same image."""
    posing, rng, still = Posing(BOXES, BODIES), np.random.default_rng(0), torch.zeros(COUNT, 3)
    bodies = posing.bodies
    assert bodies is not None
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, 24)] * 3, indexing="ij")
    density = torch.exp(-((z - 0.2) ** 2 + 3 * (y + 0.1) ** 2 + 2 * (x - 0.1) ** 2) / 0.1).expand(COUNT, -1, -1, -1)

    def rotations(deg: float) -> torch.Tensor:
        return torch.from_numpy(Rotation.from_rotvec(np.radians(deg) * rng.normal(size=(COUNT, 3))).as_matrix()).float()

    pose, common, step, moved = rotations(90.0), rotations(8.0), rotations(angle_deg), 0.05 * torch.randn(COUNT, 3)
    shifts = torch.stack([((center - moved)[:, None] @ common)[:, 0] - center for center in bodies.centers], 1)
    motion = Motion(common[:, None].expand(-1, len(bodies), -1, -1), shifts)
    identity = torch.eye(3).expand(COUNT, 3, 3)
    expected = posing.sampler(density, pose, Correction(identity, still, motion))(step[:, None], still)
    taken = posing.motion_of_largest_body(motion)
    assert taken is not None
    turn, shift_px = taken.then(step, still)
    found = posing.sampler(density, pose, Correction(turn, still, None))(torch.eye(3)[None], shift_px)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    unmoved = posing.sampler(density, pose, Correction(step, still, None))(torch.eye(3)[None], still)
    assert float((unmoved - expected).abs().max()) > 0.1
    assert posing.motion_of_largest_body(None) is None


def test_a_step_of_a_model_with_bodies_moves_the_pose_with_the_largest(model: Autoencoder) -> None:
    moving, batch = with_bodies(model), replace(make_batch(), deviation=torch.zeros(COUNT, 6))
    head = moving.decoder.template.affine_out
    assert head is not None
    turns = []
    for turn in (0.0, 0.5):
        with torch.no_grad():
            head[2].bias[6 * BODIES.largest : 6 * BODIES.largest + 3] += turn
            turns.append(moving(batch, make_neighbors(), state(draws_of((0,), COUNT))).turn)
    moved = Rotation.from_matrix((turns[0].mT @ turns[1]).double().numpy()).magnitude()
    assert (np.degrees(moved) > 1.0).all()
