"""The model: encoder, decoder and physics in three steps (inference, generative, loss)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from opustomo.model import energy, loss, observation
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.loss import BatchTerms, Neighbors, prior_terms
from opustomo.model.networks import Decoder, Encoder
from opustomo.model.pose_posterior import (
    PoseSlopes,
    effective_parameters,
    pose_step,
    prior_in_voxels,
    slopes,
    start_variance,
)
from opustomo.model.posing import DEFAULT_ANGLE_DEG, Correction, Posing, candidate_rotations
from opustomo.model.random_draws import StepRandom
from opustomo.model.residual_spectra import NoiseSums, gain_sums, model_residual_sums, no_gain, shell_count, whitening
from opustomo.model.step_records import Batch, Generated, Inference, StepOutput, StepState
from opustomo.model.streams import POSES, TARGET, SideStreams
from opustomo.physics.boxes import Boxes, bounding_box, mask_norm
from opustomo.physics.ctf import TiltBatch, ctf_volume, division_filters, sharpening
from opustomo.physics.fourier import crop_center, irfft3, rfft3
from opustomo.physics.sampling import to_template

BFACTOR_JITTER = 0.05 / 3
BETA_JITTER = 0.01 / 4


class Autoencoder(nn.Module):
    """Variational autoencoder of subtomograms with a physical forward model.

    Parameters
    ----------
    model, physics, boxes
        Configuration.
    mask
        (Dc, Dc, Dc) solvent mask on the crop.
    amp
        Run the networks (not the physics) in bfloat16.
    focus
        (Dc, Dc, Dc) mask of the region that determines the latents; None for the whole particle.
    """

    mask: Tensor
    focus: Tensor
    candidates: Tensor
    _angle: Tensor
    _identity: Tensor
    fixed_latent: Tensor
    grain: Tensor
    pose_prior: Tensor
    gain: Tensor
    """Gain of the decoder network per shell (:mod:`opustomo.model.residual_spectra`); training does not use it."""

    def __init__(
        self,
        model: ModelConfig,
        physics: PhysicsConfig,
        boxes: Boxes,
        mask: Tensor,
        *,
        amp: bool = False,
        focus: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.amp = amp
        if tuple(mask.shape) != (boxes.crop,) * 3:
            raise ValueError(f"the mask must be ({boxes.crop},)*3, got {tuple(mask.shape)}")
        self.config, self.physics, self.boxes = model, physics, boxes
        self.encoder = Encoder(model.latent_dim, model.encoderres) if model.encode_mode == "grad" else None
        if self.encoder is not None and physics.grain > 0:
            self.encoder.start_deviation(physics.grain)
        self.decoder = Decoder(model.zdim, model.templateres, model.zaffinedim, model.head_rows)
        self.posing = Posing(boxes, model.bodies)
        if model.bodies is None and not physics.original:
            self.decoder.freeze_head()  # poses are inferred; the head stays for checkpoints of the original's form
        self.norm = mask_norm(mask)
        self._inside = bounding_box(mask, model.templateres)
        self.register_buffer("mask", mask, persistent=False)
        self.focused = focus is not None
        self.register_buffer("focus", torch.ones_like(mask) if focus is None else focus, persistent=False)
        self.register_buffer("gain", no_gain(boxes.render))
        self.register_buffer("pose_prior", self.start_pose_variance())
        for name in NoiseSums._fields:  # white noise of the data's own variance until residuals are known
            self.register_buffer(f"_noise_{name}", torch.ones(shell_count(boxes.render)))
        self.register_buffer(
            "candidates", candidate_rotations("original" if physics.original else "symmetric"), persistent=False
        )
        self.register_buffer("_angle", torch.tensor(math.radians(DEFAULT_ANGLE_DEG)), persistent=False)
        self.register_buffer("_identity", torch.eye(3)[None], persistent=False)
        grain = torch.tensor([physics.grain] * model.zdim + [0.0] * model.zaffinedim)
        self.register_buffer("grain", grain, persistent=False)
        self.register_buffer("fixed_latent", torch.randn(model.latent_dim), persistent=False)
        self.streams = SideStreams()

    def inference(self, batch: Batch, state: StepState) -> Inference:
        """Observe the batch and encode it: spectrum, CTF, mu, logstd and z."""
        with torch.no_grad():
            spectrum = self.observed(batch.volumes, batch.origin_px, batch.tilts, batch.table)
            ctf = self.ctf(batch.tilts, batch.table)
            self.streams.fork(TARGET, ctf.device)
            if self.encoder is None:
                latent = self.fixed_latent.expand(len(batch), -1)
                return Inference(spectrum, ctf, latent, None, latent)
        mu, logstd = self._encoded(spectrum, batch.rotation, state.snr, state.random)
        z = mu
        if state.random is not None:
            z = mu + torch.maximum(torch.exp(logstd), self.grain) * state.random.normal(mu.shape[1])
        return Inference(spectrum, ctf, mu, logstd, z)

    @torch.no_grad()
    def encode(
        self, volumes: Tensor, rotation: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None = None
    ) -> Tensor:
        """Return latent means (B, L) of subtomograms (B, D, D, D) at their poses, without draws; needs an encoder.

        ``tilts`` and ``table`` as in a :class:`Batch`.
        """
        return self.posterior(volumes, rotation, origin_px, tilts, table)[0]

    @torch.no_grad()
    def posterior(
        self, volumes: Tensor, rotation: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B, L), with which training samples latents; as :meth:`encode`."""
        spectrum = self.observed(volumes, origin_px, tilts, table)
        unused = torch.zeros((), device=volumes.device)  # the SNR only scales draws
        mu, logstd = self._encoded(spectrum, rotation, unused, None)
        return mu, torch.maximum(torch.exp(logstd), self.grain)

    def ctf(self, tilts: TiltBatch, table: Tensor | None) -> Tensor:
        """Return the 3D CTFs of a batch in the render box, (B, Dr, Dr, Dr/2+1)."""
        boxes = self.boxes
        distinct = ctf_volume(
            tilts, boxes.render, boxes.render_apix, normalized=self.physics.normalized, nyquist=boxes.box / 2
        )
        return distinct if table is None else distinct[table]

    def observed(self, volumes: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None) -> Tensor:
        """Return centered spectra of subtomograms, divided by their sampling weights where ``divide`` is set."""
        spectrum = observation.centered_spectrum(volumes, origin_px, self.boxes)
        if not self.physics.divide:
            return spectrum
        filters = division_filters(tilts, self.boxes.render, self.boxes.box / 2)
        return spectrum * (filters if table is None else filters[table])

    def _encoded(
        self, spectrum: Tensor, rotation: Tensor, snr: Tensor, random: StepRandom | None
    ) -> tuple[Tensor, Tensor]:
        """Return latent means and log standard deviations of centered spectra."""
        assert self.encoder is not None
        with torch.no_grad():
            drawn = random if self.physics.jitter else None
            seen = self.mask * self.focus if self.focused else self.mask
            posed = observation.encoder_input(spectrum, rotation, seen, self.boxes, snr, drawn)
        with self.precision():
            return self.encoder(posed)

    @property
    def noise(self) -> NoiseSums:
        """Running averages of the residual power; in-place changes change the model."""
        return NoiseSums(*(getattr(self, f"_noise_{name}") for name in NoiseSums._fields))

    def start_pose_variance(self) -> Tensor:
        """Return the variances (2,) of the pose prior at the start of a run: rad² and pixels² of the input box."""
        radius = (0.75 / math.pi * float((self.mask > 0).sum())) ** (1 / 3)  # of a ball of the mask's volume, voxels
        return start_variance(radius, self.boxes.box / self.boxes.render)

    def pose_optimism(self, found: PoseSlopes) -> Tensor:
        """Return by how much inferred poses lower the loss per voxel of the data they were inferred from, (B,)."""
        return 2.0 * self.noise.reference_variance * self.pose_parameters(found) / self.norm

    def pose_parameters(self, found: PoseSlopes) -> Tensor:
        """Return how many of the six numbers of a pose its data determine, (B,)."""
        prior = prior_in_voxels(self.pose_prior, self.boxes.box / self.boxes.render)
        return effective_parameters(found, self.noise.reference_variance, prior)

    @property
    def reads_head(self) -> bool:
        """Whether poses or bodies are moved by the latents."""
        return self.config.estimate_pose and (self.config.bodies is not None or self.physics.original)

    def pose_correction(self, z: Tensor, moves_pose: bool = True) -> Correction:
        """Return the correction of the poses, unless they are final, and the motion of bodies, from latents (B, L)."""
        if not self.reads_head:
            return self.posing.no_correction(len(z), z.device)
        rows = self.decoder.template.pose_rows(z[:, self.config.zdim :])
        if not (moves_pose and self.physics.original):
            rows = torch.cat([rows[:, :-1], torch.zeros_like(rows[:, -1:])], 1)
        return self.posing.correction(rows)

    def template(self, composition: Tensor) -> Tensor:
        """Decode compositions (B, zdim) to densities (B, T, T, T).

        With a focus, only the density inside of it passes gradients on to the compositions: the networks learn the
        rest, but what the rest looks like does not influence the latents.
        """
        if not (self.focused and torch.is_grad_enabled()):
            return self.decoder(composition)
        inside = to_template(self.focus, self.config.templateres)
        return torch.lerp(self.decoder(composition.detach()), self.decoder(composition), inside)

    def generative(self, batch: Batch, inferred: Inference, state: StepState) -> Generated:
        """Decode, pose and image the template, and compare it with the data."""
        boxes, physics = self.boxes, self.physics
        with self.precision():
            template = self.template(inferred.z[:, : self.config.zdim])
        with self.streams.on(TARGET):
            correction = self.pose_correction(inferred.z, state.moves_pose)
        with torch.no_grad(), self.streams.on(TARGET):
            posed_mask = self.posing.posed_mask(self.mask, batch.rotation, correction)
            target, transfer = self._sides(inferred.spectrum, inferred.ctf, posed_mask, state)
            if not physics.original:
                spectrum = rfft3(target)
                white = whitening(self.noise, boxes.render)
                whitened, wanted = transfer * white, spectrum * white
                filtered = irfft3(wanted * whitened)
        self.streams.join(TARGET)
        posed_at = self.posing.sampler(template, batch.rotation, correction)
        if physics.original:
            energies = energy.crop_energies(
                posed_at(self.candidates, correction.shift_px), transfer, target, boxes.crop
            )
            weights = energy.candidate_weights(energies.total, boxes.crop)
            power = vector_norm(target.flatten(1), dim=1).square()
            return Generated(template, correction, energies, weights, None, None, target, transfer, power, None)

        posed = posed_at(self.candidates[:1], correction.shift_px).squeeze(1)
        compared = energy.compare(posed, whitened, wanted)
        around = None
        self.streams.fork(POSES, posed.device)
        self.streams.hold(POSES, posed_at, posed, compared, filtered, inferred)
        with torch.no_grad(), self.streams.on(POSES):
            mask_power = vector_norm(posed_mask.flatten(1), dim=1).square() / boxes.render**3
            noise = model_residual_sums(spectrum, compared.spectrum, transfer, inferred.ctf, mask_power, batch.weight)
            if batch.deviation is not None:
                fields = filtered, compared.gradient
                turned = posed_at.cross(self.candidates[1:], correction.shift_px, fields)
                around = slopes(compared.cross, turned, posed, filtered, self._angle)
        if state.random is None:
            self.streams.join(POSES)
        energies, power, found = compared.energies, compared.target_power, compared.spectrum
        same = torch.ones_like(energies.total)
        return Generated(template, correction, energies, same, around, noise, target, transfer, power, found)

    def reconstruction(self, generated: Generated, held_out: bool) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms ``gen``, ``mse`` and ``snr`` of each particle, (B,) (docs/method.md, sections 4 and 7).

        Poses of held-out particles are fitted to their own data, and ``gen`` includes what this gains on average.
        """
        energy = (generated.weights * generated.energies.total).sum(1)
        power = (generated.weights * generated.energies.power).sum(1)
        gen, mse, snr = loss.reconstruction(energy, power, generated.target_power, self.norm)
        if held_out and generated.slopes is not None:
            gen = gen + self.pose_optimism(generated.slopes)
        return gen, mse, snr

    def loss(
        self, batch: Batch, inferred: Inference, generated: Generated, neighbors: Neighbors | None, state: StepState
    ) -> loss.LossTerms:
        """Return the loss of a batch from the terms of its particles."""
        gen, mse, snr = self.reconstruction(generated, held_out=state.random is None)
        kl = torch.zeros_like(mse)
        if inferred.logstd is not None:
            kl = loss.kl_divergence(inferred.mu, inferred.logstd)
        weight = torch.ones_like(mse) if batch.weight is None else batch.weight
        share = loss.share_of_mean(weight, state.ranks)
        particles = loss.ParticleTerms(gen, mse, snr, kl)
        weights = loss.LossWeights(state.beta, state.beta_control, state.lamb, state.snr, self.norm)
        return loss.combine(
            particles, self._batch_terms(inferred, generated, neighbors, share, state), weights, share, state.ranks
        )

    def _batch_terms(
        self, inferred: Inference, generated: Generated, neighbors: Neighbors | None, share: Tensor, state: StepState
    ) -> BatchTerms | None:
        """Return the smoothness of OPUS-TOMO and the disentanglement prior; None if neither is used."""
        if not self.physics.original and neighbors is None:
            return None
        zero = torch.zeros((), device=self.mask.device)
        smooth, prior = (zero, zero), (zero,) * 4
        if self.physics.original:
            smooth = loss.smoothness(generated.template, self._inside)
        if neighbors is not None and inferred.logstd is not None:
            prior = prior_terms(inferred.mu, inferred.z, neighbors, share, state.ranks)
        return BatchTerms(*smooth, *prior)

    def forward(self, batch: Batch, neighbors: Neighbors | None, state: StepState) -> StepOutput:
        """Infer the latents of a batch, generate its volumes, compare them with the data, and find its poses."""
        inferred = self.inference(batch, state)
        generated = self.generative(batch, inferred, state)
        terms = self.loss(batch, inferred, generated, neighbors, state)
        turn, shift_px, _ = generated.correction
        mu, turn, shift_px, variance = inferred.mu.detach(), turn.detach(), shift_px.detach(), None
        gain = fitted = None
        if generated.slopes is not None:
            assert batch.deviation is not None
            with self.streams.on(POSES):
                # the slopes are those of the pose that includes this motion, and the prior holds for it
                taken = self.posing.motion_of_largest_body(generated.correction.motion)
                turn, shift_px, variance = pose_step(
                    generated.slopes,
                    self.noise.reference_variance,
                    batch.rotation,
                    batch.deviation if taken is None else batch.deviation + taken.vector(),
                    self.pose_prior,
                    self.boxes.box / self.boxes.render,
                )
                if taken is not None:
                    turn, shift_px = taken.then(turn, shift_px)
            if state.random is None:
                parameters = self.pose_parameters(generated.slopes)
                fitted = (parameters if batch.weight is None else batch.weight * parameters).sum()
        if state.random is None and not self.physics.original:
            gain = self._gain_sums(batch, generated)
        return StepOutput(terms, mu, turn, shift_px, variance, generated.noise, gain, fitted)

    def imaged(self, volumes: Tensor, batch: Batch, generated: Generated) -> Tensor:
        """Return half spectra (B, Dr, Dr, Dr/2+1) of volumes (B, T, T, T) as the model compares them with the data."""
        correction = generated.correction
        posed = self.posing.sampler(volumes, batch.rotation, correction)(self._identity, correction.shift_px)
        return rfft3(posed[:, 0]) * generated.transfer

    @torch.no_grad()
    def _gain_sums(self, batch: Batch, generated: Generated) -> Tensor:
        """Return the sums (2, S) from which the gain of the decoder network is estimated."""
        assert generated.spectrum is not None
        consensus = self.imaged(self.decoder.consensus.expand_as(generated.template), batch, generated)
        added = generated.spectrum * generated.transfer - consensus
        return gain_sums(rfft3(generated.target) - consensus, added, batch.weight)

    @torch.no_grad()
    def whitened_comparison(self, batch: Batch, state: StepState) -> tuple[Tensor, Tensor]:
        """Return masked targets and filters of the model as half spectra (B, Dr, Dr, Dr/2+1), noise being white."""
        ctf = self.ctf(batch.tilts, batch.table)
        spectrum = self.observed(batch.volumes, batch.origin_px, batch.tilts, batch.table)
        still = self.posing.no_correction(len(batch), ctf.device)
        target, transfer = self._sides(spectrum, ctf, self.posing.posed_mask(self.mask, batch.rotation, still), state)
        white = whitening(self.noise, self.boxes.render)
        return rfft3(target) * white, transfer * white

    @torch.no_grad()
    def unexplained(self, batch: Batch, state: StepState) -> tuple[Tensor, Tensor]:
        """Return what the model does not explain of centered subtomograms, in their own scale, and their CTFs.

        Both are half spectra (B, Dr, Dr, Dr/2+1). Latents are the means of the encoder.
        """
        inferred = self.inference(batch, state)
        generated = self.generative(batch, inferred, state)
        b_px = torch.ones(len(batch), device=self.mask.device) * (state.bfactor_A2 / self.boxes.render_apix**2)
        ctf = inferred.ctf
        compared = torch.sign(ctf) * ctf.abs() ** self.physics.ctf_alpha * sharpening(self.boxes.render, b_px)
        assert generated.spectrum is not None
        explained = generated.spectrum * generated.transfer
        measured = compared != 0
        explained = torch.where(measured, explained / compared.where(measured, 1.0), 0.0)
        return inferred.spectrum - explained, ctf

    @torch.no_grad()
    def pictures(self, batch: Batch, state: StepState) -> tuple[Tensor, Tensor, Tensor]:
        """Return centered data, imaged model and masked target of a batch, (B, Dc, Dc, Dc) each."""
        inferred = self.inference(batch, state)
        generated = self.generative(batch, inferred, state)
        volumes = irfft3(inferred.spectrum), irfft3(self.imaged(generated.template, batch, generated)), generated.target
        observed, imaged, target = (crop_center(volume, self.boxes.crop) for volume in volumes)
        return observed, imaged, target

    def precision(self) -> torch.autocast:
        """Return the context in which the networks run: bfloat16 with ``amp``, else float32."""
        return torch.autocast(self.mask.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def _sides(self, spectrum: Tensor, ctf: Tensor, posed_mask: Tensor, state: StepState) -> tuple[Tensor, Tensor]:
        """Return the masked target (B, Dr, Dr, Dr) and the filter of the model (B, Dr, Dr, Dr/2+1) of a comparison."""
        b_data, b_model, beta, contrast = self._image_parameters(len(spectrum), state)
        target, transfer = observation.target_and_transfer(spectrum, ctf, b_data, b_model, self.physics.ctf_alpha, beta)
        return target * posed_mask * contrast.view(-1, 1, 1, 1), transfer

    def _image_parameters(self, count: int, state: StepState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return per particle: b of data and model (pixel²), β, and contrast of the target."""
        b = torch.ones(count, device=self.mask.device) * (state.bfactor_A2 / self.boxes.render_apix**2)
        beta = torch.full_like(b, self.physics.ctf_beta)
        if state.random is None or not self.physics.jitter:
            return b, b, beta, torch.ones_like(b)
        change = BFACTOR_JITTER * state.random.normal()
        jitter = BETA_JITTER * state.random.normal()
        if self.physics.ctf_beta > 0:  # a negative power of a CTF of 0 is infinite
            beta = (beta + jitter).clamp(min=0.0)
        contrast = 1.0 + state.snr.sqrt() * state.random.uniform(-0.5, 0.5)
        return b * (1.0 + change), b * (1.0 - change), beta, contrast
