"""Networks of OPUS-TOMO: the encoder, the decoder ConvTemplate, and their initial weights."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from opustomo.geometry.rotations import quaternion_to_matrix
from opustomo.model import convolution
from opustomo.model.convolution import (
    BlockUpsample,
    ClosingConv,
    Downsample,
    Upsample,
    apply_along_axes,
    resize_matrix_on,
    through,
)

LEAKY_SLOPE = 0.2


def leaky_gain() -> float:
    """Return the gain of a LeakyReLU of slope 0.2."""
    return nn.init.calculate_gain("leaky_relu", LEAKY_SLOPE)


@torch.no_grad()
def initialize(layer: nn.Module, gain: float = 1.0) -> None:
    """Draw the weights of a linear, convolution or transposed-convolution layer in place.

    Fans of a transposed convolution count kernel volume / stride³, and it repeats one block over all eight output
    parities, so that the first output is smooth (no checkerboard).
    """
    if isinstance(layer, Upsample):
        fans = (layer.in_channels + layer.out_channels) * 8.0
    elif isinstance(layer, BlockUpsample):
        fans = float(layer.in_channels + layer.out_channels)
    elif isinstance(layer, (nn.Conv3d, ClosingConv)):
        fans = (layer.in_channels + layer.out_channels) * float(math.prod(layer.kernel_size))
    elif isinstance(layer, nn.Linear):
        fans = float(layer.in_features + layer.out_features)
    else:
        raise ValueError(f"no rule to initialize a {type(layer).__name__}")
    bound = gain * math.sqrt(6.0 / fans)
    if isinstance(layer, ClosingConv):
        layer.set_taps(torch.empty(layer.out_channels, layer.in_channels, 4, 4, 4).uniform_(-bound, bound))
    else:
        layer.weight.uniform_(-bound, bound)
    if isinstance(layer, Upsample):
        layer.weight.copy_(layer.weight[:1].expand_as(layer.weight))
    elif isinstance(layer, BlockUpsample):
        layer.weight.copy_(layer.weight[:, :, :1, :1, :1].expand_as(layer.weight))
    if layer.bias is not None:
        layer.bias.zero_()


def initialize_sequence(layers: nn.Sequential, last_gain: float | None = None) -> None:
    """Initialize the parametrized layers of a sequence; all with the leaky gain, the last one with ``last_gain``."""
    parametrized = [layer for layer in layers if hasattr(layer, "weight")]
    for position, layer in enumerate(parametrized):
        is_last = position == len(parametrized) - 1
        initialize(layer, last_gain if is_last and last_gain is not None else leaky_gain())


HIGHEST_LOGSTD = 4.0
ENCODER_CHANNELS = (32, 64, 128, 256, 512, 512)
"""Channels of the encoder. Each layer halves the grid; features are resized after the first three."""


def _convolutions(channels: tuple[int, ...], size: int | None = None) -> nn.Sequential:
    """Return convolutions that each halve a grid of ``size`` voxels, which is None if it is not known."""
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layer = ClosingConv(before, after, size) if before == after else Downsample(before, after)
        layers += [layer, nn.LeakyReLU(LEAKY_SLOPE, inplace=True)]
        size = None if size is None else size // 2
    return nn.Sequential(*layers)


class Encoder(nn.Module):
    """Encoder with the parameter names of OPUS-TOMO.

    Parameters
    ----------
    latent_dim
        zdim + zaffinedim.
    inner_size
        Size of the grid to which the features are resized half-way (``--encoderres``).
    """

    def __init__(self, latent_dim: int, inner_size: int) -> None:
        super().__init__()
        self.inner_size = inner_size
        self.down1 = _convolutions((1, *ENCODER_CHANNELS[:3]))
        self.down2 = _convolutions(ENCODER_CHANNELS[2:], inner_size)
        width = ENCODER_CHANNELS[-1]
        self.down3 = nn.Sequential(nn.Linear(width, width), nn.LeakyReLU(LEAKY_SLOPE))
        self.mu = nn.Linear(width, latent_dim)
        self.logstd = nn.Linear(width, latent_dim)
        for part in (self.down1, self.down2, self.down3):
            initialize_sequence(part)
        for head in (self.mu, self.logstd):
            initialize(head)

    def start_deviation(self, value: float) -> None:
        """Set the standard deviation of untrained posteriors to ``value``.

        The means of an untrained encoder differ by about 0.01 between particles. With a standard deviation of 1, as in
        OPUS-TOMO, little information about a particle reaches the decoder until the encoder learns to lower it.
        """
        nn.init.constant_(self.logstd.bias, math.log(value))

    def forward(self, volumes: Tensor) -> tuple[Tensor, Tensor]:
        """Encode volumes (B, Dc, Dc, Dc) to mean and log standard deviation, each (B, latent_dim), float32."""
        features = through(self.down1, volumes[:, None])
        resize = resize_matrix_on(features.shape[-1], self.inner_size, features.device)
        features = apply_along_axes(resize, features)  # trilinear
        features = through(self.down2, features)
        pooled = torch.amax(features, dim=(2, 3, 4)).float()
        with torch.autocast(pooled.device.type, enabled=False):  # latents need float32
            features = self.down3(pooled)
            # far above any useful spread; without a limit, one bad step can let exp(2 logstd) overflow permanently
            return self.mu(features), self.logstd(features).clamp(max=HIGHEST_LOGSTD)


HIDDEN = 512
"""Widths of the hidden layers of composition and conformation."""
DECODER_CHANNELS = (2048, 1024, 512, 256, 128, 64, 32, 16)
"""Channels of the grids from 1³ up to half the template."""
MIDDLE_SIZE = 16
HEAD_STD = 0.5 / 512
QUATERNION_REAL = 16.0


def _activation() -> nn.Module:
    return nn.LeakyReLU(LEAKY_SLOPE, inplace=True)


def _upsampling(layer: type[nn.Module], channels: tuple[int, ...]) -> nn.Sequential:
    """Return layers that each double the grid, with their activations."""
    return nn.Sequential(*(part for pair in pairwise(channels) for part in (layer(*pair), _activation())))


class ConvTemplate(nn.Module):
    """Template network with the parameter names of OPUS-TOMO.

    Parameters
    ----------
    zdim
        Dimension of the composition latent.
    templateres
        Box size T of the template, a multiple of 16.
    zaffinedim
        Dimension of the conformation latent, the input of the head ``affine_out``.
    poses
        Number of rows of six outputs of the head: bodies + 1, or 0 for no head.
    """

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.templateres = templateres
        self.template1 = nn.Sequential(
            nn.Linear(zdim, HIDDEN), _activation(), nn.Linear(HIDDEN, DECODER_CHANNELS[0]), _activation()
        )
        self.template2 = _upsampling(convolution.BlockUpsample, DECODER_CHANNELS[:3])
        self.template3 = _upsampling(convolution.Upsample, DECODER_CHANNELS[2:5])
        self.template4 = _upsampling(convolution.Upsample, DECODER_CHANNELS[4:])
        self.conv_out = convolution.Upsample(DECODER_CHANNELS[-1], 1)
        for part in (self.template1, self.template2, self.template3, self.template4):
            initialize_sequence(part)
        initialize(self.conv_out)
        self.affine_out: nn.Sequential | None = None
        if poses:
            self.affine_out = nn.Sequential(nn.Linear(zaffinedim, HIDDEN), _activation(), nn.Linear(HIDDEN, 6 * poses))
            initialize_sequence(self.affine_out, last_gain=1.0)
            nn.init.normal_(self.affine_out[2].weight, std=HEAD_STD)  # type: ignore[arg-type]

        # The resize after template3 reads few of its voxels when T is small; then only those are computed.
        matrix = convolution.resize_matrix(MIDDLE_SIZE, templateres // 16)
        middle = convolution.read_positions(matrix)
        self._sparse: nn.ModuleList | None = None
        if len(middle) ** 3 <= MIDDLE_SIZE**3 // 4:
            matrix = matrix[:, list(middle)]
            before = convolution.input_positions(middle, MIDDLE_SIZE // 2)
            every = tuple(range(MIDDLE_SIZE // 4))
            self._sparse = nn.ModuleList(
                [convolution.UpsampleAt(every, before), convolution.UpsampleAt(before, middle)]
            )
        self.register_buffer("_resize", matrix, persistent=False)
        self._resize: Tensor

    def _to_middle(self, features: Tensor) -> Tensor:
        """Return the 128-channel grid of (T/16)³ voxels from the 512-channel grid of 4³ voxels."""
        if self._sparse is None:
            features = convolution.through(self.template3, features)
        else:
            for step, (layer, activation) in zip(
                self._sparse,
                ((self.template3[0], self.template3[1]), (self.template3[2], self.template3[3])),
                strict=True,
            ):
                features = activation(step(features, layer))
        return convolution.apply_along_axes(self._resize, features)

    def forward(self, composition: Tensor, added: Tensor | None = None) -> Tensor:
        """Return densities (B, T, T, T), float32, of latents (B, zdim), plus a volume ``added`` (T, T, T)."""
        features = self.template2(self.template1(composition)[:, :, None, None, None])
        features = convolution.through(self.template4, self._to_middle(features))
        return self.conv_out.to_density(features, added)

    def pose_rows(self, conformation: Tensor) -> Tensor:
        """Return rows (B, poses, 6), three numbers of a rotation and three of a shift, of latents (B, zaffinedim)."""
        if self.affine_out is None:
            raise ValueError("this decoder has no pose head")
        return self.affine_out(conformation).float().unflatten(-1, (-1, 6))


class Decoder(nn.Module):
    """Sum of consensus volume and template network, with the parameter names of checkpoints (``template.…``)."""

    composition_scale: Tensor
    consensus: Tensor

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.template = ConvTemplate(zdim, templateres, zaffinedim, poses)
        # below 1 while bodies learn to move first; stored beside the networks, whose names are the original's
        self.register_buffer("composition_scale", torch.ones(()), persistent=False)
        # zero in checkpoints of OPUS-TOMO, whose network generates the whole density
        self.register_buffer("consensus", torch.zeros((templateres,) * 3), persistent=False)

    def forward(self, composition: Tensor) -> Tensor:
        """Return densities (B, T, T, T) of compositions (B, zdim)."""
        return self.template(composition * self.composition_scale, self.consensus)

    def difference(self, composition: Tensor) -> Tensor:
        """Return the difference (B, T, T, T) from the consensus volume that the network generates."""
        difference: Tensor = self.template(composition * self.composition_scale)
        return difference

    def freeze_head(self) -> None:
        """Keep the pose head as it was initialized."""
        if self.template.affine_out is not None:
            self.template.affine_out.requires_grad_(False)


def small_rotation(numbers: Tensor) -> Tensor:
    """Return rotation matrices (..., 3, 3) of the normalized quaternions (16, a₁, a₂, a₃); zeros give the identity."""
    real = torch.full_like(numbers[..., :1], QUATERNION_REAL)
    return quaternion_to_matrix(torch.cat([real, numbers], -1))
