"""Records of a step of the model: its batch and state, and the results of inference, generation and the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from opustomo.model import energy, loss
from opustomo.model.collective import ALONE, Collective
from opustomo.model.pose_posterior import PoseSlopes
from opustomo.model.posing import Correction
from opustomo.model.random_draws import StepRandom
from opustomo.model.residual_spectra import NoiseSums
from opustomo.physics.ctf import TiltBatch


@dataclass(frozen=True)
class Batch:
    """Subtomograms of a step with their current poses.

    Attributes
    ----------
    index
        (B,) particle indices.
    volumes
        (B, D, D, D) voxels divided by the data's standard deviation.
    tilts
        Distinct CTF tables of the batch, fields (U, T).
    table
        (B,) index of the table of each particle; None for one each, in order.
    rotation
        (B, 3, 3) RELION A.
    origin_px
        (B, 3) shift that centers the particle, in pixels of the input box.
    weight
        (B,) 1, or 0 for a place without a usable subtomogram; None stands for ones.
    deviation
        (B, 6) of the poses from the given ones: rotation vector (rad) and shift (pixels), reference frame; None where
        poses are not inferred.
    """

    index: Tensor
    volumes: Tensor
    tilts: TiltBatch
    table: Tensor | None
    rotation: Tensor
    origin_px: Tensor
    weight: Tensor | None = None
    deviation: Tensor | None = None

    def __len__(self) -> int:
        return len(self.index)


@dataclass(frozen=True)
class StepState:
    """Schedules and running averages of a step.

    Attributes
    ----------
    bfactor_A2, beta, beta_control, lamb
        B factor of the comparison (Å²) and weights of the loss (:class:`opustomo.model.loss.LossWeights`).
    snr
        Running signal-to-noise ratio, scalar.
    random
        Random draws of training; None in validation.
    moves_pose
        Whether the pose head of OPUS-TOMO corrects poses; False if poses are final.
    ranks
        Processes that share the batch.
    """

    bfactor_A2: float | Tensor
    beta: float | Tensor
    beta_control: float
    lamb: float
    snr: Tensor
    random: StepRandom | None
    moves_pose: bool = True
    ranks: Collective = ALONE


class Inference(NamedTuple):
    """Result of the inference step.

    Attributes
    ----------
    spectrum, ctf
        Half spectra of the centered data and 3D CTFs, (B, Dr, Dr, Dr/2+1).
    mu, logstd, z
        Mean, log standard deviation (None without an encoder) and sample of the latents, (B, latent_dim).
    """

    spectrum: Tensor
    ctf: Tensor
    mu: Tensor
    logstd: Tensor | None
    z: Tensor


class Generated(NamedTuple):
    """Result of the generative step.

    Attributes
    ----------
    template
        Densities (B, T, T, T).
    correction
        Correction of the poses and motion of the bodies.
    energies, weights
        Energies and weights of the poses that are compared, (B, P).
    slopes
        Slopes of the energy around the current pose; None if not computed.
    noise
        Residual power of the batch; None for the algorithm of OPUS-TOMO.
    target, transfer
        Masked data (B, Dr, Dr, Dr), and the filter of the model side (B, Dr, Dr, Dr/2+1).
    target_power
        Σ r² of the masked data on the scale of the energies, that is, of whitened data, (B,).
    spectrum
        Half spectra of the posed templates without gradient; None for the candidates of OPUS-TOMO.
    """

    template: Tensor
    correction: Correction
    energies: energy.Energies
    weights: Tensor
    slopes: PoseSlopes | None
    noise: NoiseSums | None
    target: Tensor
    transfer: Tensor
    target_power: Tensor
    spectrum: Tensor | None


class StepOutput(NamedTuple):
    """Result of a step; all but ``terms.total`` is detached.

    Attributes
    ----------
    terms
        Loss of the batch.
    mu
        Means of the latents, (B, latent_dim).
    turn, shift_px, variance
        Corrections of the poses, (B, 3, 3) and (B, 3), and variances of their posterior, (B, 6); None if not inferred.
    noise
        Residual power of the batch; None for the algorithm of OPUS-TOMO.
    gain
        Sums for the gain of the decoder network in validation, (2, S).
    fitted
        Number of parameters of the poses that the data of the batch determine, in validation, a scalar.
    """

    terms: loss.LossTerms
    mu: Tensor
    turn: Tensor
    shift_px: Tensor
    variance: Tensor | None = None
    noise: NoiseSums | None = None
    gain: Tensor | None = None
    fitted: Tensor | None = None
