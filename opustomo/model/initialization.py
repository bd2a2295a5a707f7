"""Initial weights: Xavier-uniform with the gain of the following activation, zero biases."""

from __future__ import annotations

import math

import torch
from torch import nn

from opustomo.model.convolution import BlockUpsample, ClosingConv, Upsample

LEAKY_SLOPE = 0.2


def leaky_gain() -> float:
    """Gain of a LeakyReLU of slope 0.2."""
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
    parametrised = [layer for layer in layers if hasattr(layer, "weight")]
    for position, layer in enumerate(parametrised):
        is_last = position == len(parametrised) - 1
        initialize(layer, last_gain if is_last and last_gain is not None else leaky_gain())
