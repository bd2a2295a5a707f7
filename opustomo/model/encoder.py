"""Convolutional encoder of OPUS-TOMO, from posed, masked subtomograms to mean and log standard deviation of latents."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from opustomo.model.convolution import ClosingConv, Downsample, apply_along_axes, resize_matrix_on, through
from opustomo.model.initialization import LEAKY_SLOPE, initialize, initialize_sequence

HIGHEST_LOGSTD = 4.0
CHANNELS = (32, 64, 128, 256, 512, 512)
"""Channels of the grids, each half as long as the one before; features are resized after the first three."""


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
        Side of the grid to which the features are resized half-way (``--encoderres``).
    """

    def __init__(self, latent_dim: int, inner_size: int) -> None:
        super().__init__()
        self.inner_size = inner_size
        self.down1 = _convolutions((1, *CHANNELS[:3]))
        self.down2 = _convolutions(CHANNELS[2:], inner_size)
        width = CHANNELS[-1]
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
        """(B, Dc, Dc, Dc) to mu and logstd, each (B, latent_dim), float32."""
        features = through(self.down1, volumes[:, None])
        resize = resize_matrix_on(features.shape[-1], self.inner_size, features.device)
        features = apply_along_axes(resize, features)  # trilinear
        features = through(self.down2, features)
        pooled = torch.amax(features, dim=(2, 3, 4)).float()
        with torch.autocast(pooled.device.type, enabled=False):  # latents need float32
            features = self.down3(pooled)
            # far above any useful spread; without a limit one bad step can overflow exp(2 logstd) for good
            return self.mu(features), self.logstd(features).clamp(max=HIGHEST_LOGSTD)
