"""The model: encoder, decoder and physics joined in three steps — inference, generative, loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from opustomo.model import energy, loss, observation
from opustomo.model.anchor import PoseHistory, anchor_penalty, correction_vector, spreads
from opustomo.model.batch import Batch
from opustomo.model.candidates import DEFAULT_ANGLE_DEG, candidate_rotations
from opustomo.model.collective import ALONE, Collective
from opustomo.model.config import ModelConfig, PhysicsConfig
from opustomo.model.decoder import Decoder
from opustomo.model.encoder import Encoder
from opustomo.model.posing import Correction, Posing
from opustomo.model.prior import prior_terms
from opustomo.model.randomness import StepRandom
from opustomo.model.refinement import Slopes, refined, slopes
from opustomo.physics.boxes import Boxes
from opustomo.physics.ctf3d import ctf_volume
from opustomo.physics.fourier import crop_centre, irfft3, rfft3
from opustomo.physics.sampling_weights import division
from opustomo.physics.solvent import bounding_box, mask_norm
from opustomo.physics.tilts import TiltBatch

BFACTOR_JITTER = 0.05 / 3
BETA_JITTER = 0.01 / 4


@dataclass(frozen=True)
class StepState:
    """Schedules and running averages that a step needs; ``random`` is None in validation.

    ``composition`` multiplies the composition latent before it is decoded, ``refine`` is the share of the likeliest
    step that a pose takes (None: it is not looked for), ``conformation_kl`` weights the KL of the conformation in full
    (None: it counts as that of the composition), ``moves_pose`` is False where the poses are final.
    """

    bfactor_A2: float | Tensor
    beta: float | Tensor
    beta_control: float
    lamb: float
    snr: Tensor
    random: StepRandom | None
    anchor: float = 0.0
    anchor_floor: float | Tensor = 0.0
    composition: float | Tensor = 1.0
    refine: float | Tensor | None = None
    conformation_kl: float | Tensor | None = None
    moves_pose: bool = True
    ranks: Collective = ALONE


class Inference(NamedTuple):
    """Result of the inference step: spectrum of the centred data, CTF, and the latents (B, latent_dim)."""

    spectrum: Tensor
    ctf: Tensor
    mu: Tensor
    logstd: Tensor | None
    z: Tensor


class Generated(NamedTuple):
    """Result of the generative step.

    ``correction`` of the poses and motion of bodies, ``energies`` and ``weights`` of all candidates (B, P), ``drawn``
    the energies at one pose each that carry the gradient (None: all candidates do), ``slopes`` what refines poses
    (None: not looked at), ``target`` r (B, Dr, Dr, Dr), zero outside the crop, ``transfer`` what the model side is
    multiplied with in Fourier space.
    """

    template: Tensor
    correction: Correction
    energies: energy.Energies
    weights: Tensor
    drawn: energy.Energies | None
    slopes: Slopes | None
    target: Tensor
    transfer: Tensor


class StepOutput(NamedTuple):
    """What a step hands back to the trainer; all but ``terms.total`` detached."""

    terms: loss.LossTerms
    mu: Tensor
    turn: Tensor
    shift_px: Tensor


class Neighbours(NamedTuple):
    """Stored latents the prior compares with: near (B, n, L) and far (B, m, L)."""

    near: Tensor
    far: Tensor
    near_count: Tensor | None = None
    far_count: Tensor | None = None
    """How many of them are meant, counted from the first; None: all."""


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
    """

    mask: Tensor
    candidates: Tensor
    _angle: Tensor
    fixed_latent: Tensor
    grain: Tensor

    def __init__(
        self, model: ModelConfig, physics: PhysicsConfig, boxes: Boxes, mask: Tensor, *, amp: bool = False
    ) -> None:
        super().__init__()
        self.amp = amp
        if tuple(mask.shape) != (boxes.crop,) * 3:
            raise ValueError(f"the mask must be ({boxes.crop},)*3, got {tuple(mask.shape)}")
        self.config, self.physics, self.boxes = model, physics, boxes
        self.encoder = Encoder(model.latent_dim, model.encoderres) if model.encode_mode == "grad" else None
        self.decoder = Decoder(model.zdim, model.templateres, model.zaffinedim, model.head_rows)
        self.posing = Posing(boxes, model.bodies)
        self.norm = mask_norm(mask)
        self._inside = bounding_box(mask, model.templateres)
        self.register_buffer("mask", mask, persistent=False)
        self.register_buffer("candidates", candidate_rotations(physics.candidates), persistent=False)
        self.register_buffer("_angle", torch.tensor(math.radians(DEFAULT_ANGLE_DEG)), persistent=False)
        grain = torch.tensor([physics.grain] * model.zdim + [0.0] * model.zaffinedim)
        self.register_buffer("grain", grain, persistent=False)
        self.register_buffer("fixed_latent", torch.randn(model.latent_dim), persistent=False)

    def inference(self, batch: Batch, state: StepState) -> Inference:
        """Observe the batch and encode it: spectrum, CTF, mu, logstd and z."""
        boxes, physics = self.boxes, self.physics
        with torch.no_grad():
            spectrum = self._observed(batch.volumes, batch.origin_px, batch.tilts, batch.table)
            ctf = ctf_volume(
                batch.tilts,
                boxes.render,
                boxes.render_apix,
                normalised=physics.normalised,
                nyquist=boxes.box / 2,
            )
            if batch.table is not None:
                ctf = ctf[batch.table]
            if self.encoder is None:
                latent = self.fixed_latent.expand(len(batch), -1)
                return Inference(spectrum, ctf, latent, None, latent)
            jitter = state.snr.clamp(max=physics.jitter_snr)
        mu, logstd = self._encoded(spectrum, batch.rotation, jitter, state.random)
        z = mu
        if state.random is not None:
            z = mu + torch.maximum(torch.exp(logstd), self.grain) * state.random.normal(mu.shape[1])
        return Inference(spectrum, ctf, mu, logstd, z)

    @torch.no_grad()
    def encode(
        self, volumes: Tensor, rotation: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None = None
    ) -> Tensor:
        """Latent means (B, L) of subtomograms (B, D, D, D) at their poses, without draws; needs an encoder.

        ``tilts`` and ``table`` as in a :class:`Batch`.
        """
        return self.posterior(volumes, rotation, origin_px, tilts, table)[0]

    @torch.no_grad()
    def posterior(
        self, volumes: Tensor, rotation: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, each (B, L), with which training samples latents; as :meth:`encode`."""
        spectrum = self._observed(volumes, origin_px, tilts, table)
        unused = torch.zeros((), device=volumes.device)  # the SNR only scales draws
        mu, logstd = self._encoded(spectrum, rotation, unused, None)
        return mu, torch.maximum(torch.exp(logstd), self.grain)

    def _observed(self, volumes: Tensor, origin_px: Tensor, tilts: TiltBatch, table: Tensor | None) -> Tensor:
        """Centred spectra of subtomograms, divided by their sampling weights if that is wanted."""
        spectrum = observation.centred_spectrum(volumes, origin_px, self.boxes)
        if not self.physics.divide:
            return spectrum
        filters = division(tilts, self.boxes.render, self.boxes.box / 2)
        return spectrum * (filters if table is None else filters[table])

    def _encoded(
        self, spectrum: Tensor, rotation: Tensor, snr: Tensor, random: StepRandom | None
    ) -> tuple[Tensor, Tensor]:
        """Latent means and log standard deviations of centred spectra."""
        assert self.encoder is not None
        with torch.no_grad():
            posed = observation.encoder_input(spectrum, rotation, self.mask, self.boxes, snr, random)
        with self._precision():
            return self.encoder(posed)

    def pose_correction(self, z: Tensor, moves_pose: bool = True) -> Correction:
        """Correction of the poses, unless these are final, and the motion of the bodies, from latents (B, L)."""
        if not self.config.estimate_pose:
            return self.posing.no_correction(len(z), z.device)
        rows = self.decoder.template.pose_rows(z[:, self.config.zdim :])
        if not moves_pose:
            rows = torch.cat([rows[:, :-1], torch.zeros_like(rows[:, -1:])], 1)
        return self.posing.correction(rows)

    def generative(self, batch: Batch, inferred: Inference, state: StepState) -> Generated:
        """Decode, pose and image the template; compare it with the data for every candidate rotation."""
        boxes, physics = self.boxes, self.physics
        with self._precision():
            template = self.decoder(inferred.z[:, : self.config.zdim] * state.composition)
        correction = self.pose_correction(inferred.z, state.moves_pose)

        with torch.no_grad():
            b_data, b_model, beta, contrast = self._image_parameters(len(batch), state)
            target, transfer = observation.target_and_transfer(
                inferred.spectrum, inferred.ctf, b_data, b_model, physics.ctf_alpha, beta
            )
            posed_mask = self.posing.posed_mask(self.mask, batch.rotation, correction)
            target = target * posed_mask * contrast.view(-1, 1, 1, 1)
            filtered = energy.filter_target(target, transfer)

        def compare(posed: Tensor) -> energy.Energies:
            if physics.crop_energy:
                return energy.crop_energies(posed, transfer, target, boxes.crop)
            return energy.filtered_energies(posed, transfer, filtered)

        posed_at = self.posing.sampler(template, batch.rotation, correction)
        shift_px = correction.shift_px
        draws = physics.gradient_candidates == "drawn" and state.random is not None
        with torch.set_grad_enabled(torch.is_grad_enabled() and not draws):
            posed = posed_at(self.candidates, shift_px)
            energies = compare(posed)
        weights = energy.candidate_weights(energies.total, boxes.crop)
        drawn = None
        if draws:
            assert state.random is not None
            chosen = energy.draw_candidates(weights, state.random.uniform(0.0, 1.0))
            drawn = compare(posed_at(self.candidates[chosen][:, None], shift_px))
        around = None
        looks = state.refine is not None and batch.history is not None
        if looks and physics.candidates == "symmetric" and not physics.crop_energy:
            with torch.no_grad():
                total, cross = energies.total.detach(), energies.cross[:, 0].detach()
                around = slopes(total, cross, posed[:, 0].detach(), filtered, self._angle)
        return Generated(template, correction, energies, weights, drawn, around, target, transfer)

    def loss(
        self,
        inferred: Inference,
        generated: Generated,
        neighbours: Neighbours | None,
        state: StepState,
        weight: Tensor | None = None,
        history: PoseHistory | None = None,
    ) -> loss.LossTerms:
        """Join reconstruction, KL, smoothness and prior."""
        prior = kl = anchor = motion = None
        if history is not None:
            vector = correction_vector(generated.correction.turn, generated.correction.shift_px)
            anchor = anchor_penalty(vector, history, state.anchor_floor)
        if inferred.logstd is not None:
            kl = loss.kl_divergence(inferred.mu, inferred.logstd)
            if state.conformation_kl is not None:
                moved = slice(self.config.zdim, None)
                motion = loss.kl_divergence(inferred.mu[:, moved], inferred.logstd[:, moved]) * state.conformation_kl
        if inferred.logstd is not None and neighbours is not None:
            part = None if weight is None else loss.share_of_mean(weight, state.ranks)
            prior = prior_terms(inferred.mu, inferred.z, *neighbours, part, state.ranks)
        weights = generated.weights
        expected = (weights * generated.energies.total).sum(1)
        if generated.drawn is not None:  # the value of the mean over candidates, the gradient of the one drawn
            drawn = generated.drawn.total[:, 0]
            expected = expected + (drawn - drawn.detach())
        return loss.combine(
            expected,
            (weights * generated.energies.power).sum(1),
            generated.target.square().sum((1, 2, 3)),
            kl,
            loss.smoothness(generated.template, self._inside),
            prior,
            loss.LossWeights(state.beta, state.beta_control, state.lamb, state.snr, self.norm, state.anchor),
            weight,
            state.ranks,
            anchor,
            motion,
        )

    def forward(self, batch: Batch, neighbours: Neighbours | None, state: StepState) -> StepOutput:
        """One step over a batch."""
        inferred = self.inference(batch, state)
        generated = self.generative(batch, inferred, state)
        terms = self.loss(inferred, generated, neighbours, state, batch.weight, batch.history)
        turn, shift_px = self._refined(batch, generated, state)
        return StepOutput(terms, inferred.mu.detach(), turn, shift_px)

    @torch.no_grad()
    def _refined(self, batch: Batch, generated: Generated, state: StepState) -> tuple[Tensor, Tensor]:
        """The corrections δA and t, with a share of the likeliest step where that was looked for."""
        turn, shift_px, _ = generated.correction
        if generated.slopes is None or batch.history is None or state.refine is None:
            return turn.detach(), shift_px.detach()
        return refined(
            turn,
            shift_px,
            batch.rotation,
            generated.slopes,
            self._left(generated),
            batch.history.own + correction_vector(turn, shift_px),
            spreads(batch.history, state.anchor_floor),
            self.boxes.box / self.boxes.render,
            state.refine,
        )

    @torch.no_grad()
    def _left(self, generated: Generated) -> Tensor:
        """Mean square of a voxel that the model leaves over, (B,)."""
        return (generated.energies.total[:, 0] + generated.target.square().sum((1, 2, 3))) / self.norm

    @torch.no_grad()
    def pictures(self, batch: Batch, state: StepState) -> tuple[Tensor, Tensor, Tensor]:
        """Centred data, model as imaged, masked target of a batch, each (B, Dc, Dc, Dc)."""
        inferred = self.inference(batch, state)
        generated = self.generative(batch, inferred, state)
        correction = generated.correction
        posed_at = self.posing.sampler(generated.template, batch.rotation, correction)
        posed = posed_at(torch.eye(3, device=self.mask.device)[None], correction.shift_px)[:, 0]
        volumes = irfft3(inferred.spectrum), irfft3(rfft3(posed) * generated.transfer), generated.target
        observed, imaged, target = (crop_centre(volume, self.boxes.crop) for volume in volumes)
        return observed, imaged, target

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.mask.device.type, dtype=torch.bfloat16, enabled=self.amp)

    def _image_parameters(self, count: int, state: StepState) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Per particle: b of the data and of the model side (pixel²), β and contrast of the target."""
        b = torch.ones(count, device=self.mask.device) * (state.bfactor_A2 / self.boxes.render_apix**2)
        beta = torch.full_like(b, self.physics.ctf_beta)
        if state.random is None or not self.physics.jitter:
            return b, b, beta, torch.ones_like(b)
        change = BFACTOR_JITTER * state.random.normal()
        jitter = BETA_JITTER * state.random.normal()
        if self.physics.ctf_beta > 0:  # a negative power of a CTF of 0 is infinite
            beta = (beta + jitter).clamp(min=0.0)
        contrast = 1.0 + state.snr.clamp(max=self.physics.jitter_snr).sqrt() * state.random.uniform(-0.5, 0.5)
        return b * (1.0 + change), b * (1.0 - change), beta, contrast
