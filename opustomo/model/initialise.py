"""Initial weights (spec 2): Xavier-uniform with the gain of the following activation, zero biases."""

from __future__ import annotations

import math

import torch
from torch import nn

LEAKY_SLOPE = 0.2


def leaky_gain() -> float:
    """Gain of a LeakyReLU of slope 0.2."""
    return nn.init.calculate_gain("leaky_relu", LEAKY_SLOPE)


@torch.no_grad()
def initialise(layer: nn.Module, gain: float = 1.0) -> None:
    """Draw the weights of a linear, convolution or transposed-convolution layer in place.

    Fans of a transposed convolution count kernel volume / stride³; one with an even kernel repeats one block over all
    eight output phases, so that the first output is smooth (no checkerboard).
    """
    if isinstance(layer, nn.ConvTranspose3d):
        volume = math.prod(layer.kernel_size) / math.prod(layer.stride)
        fans = (layer.in_channels + layer.out_channels) * volume
    elif isinstance(layer, nn.Conv3d):
        fans = (layer.in_channels + layer.out_channels) * math.prod(layer.kernel_size)
    elif isinstance(layer, nn.Linear):
        fans = float(layer.in_features + layer.out_features)
    else:
        raise ValueError(f"no rule to initialise a {type(layer).__name__}")
    bound = gain * math.sqrt(6.0 / fans)
    layer.weight.uniform_(-bound, bound)
    if isinstance(layer, nn.ConvTranspose3d) and layer.kernel_size[0] % 2 == 0:
        block = layer.weight[:, :, ::2, ::2, ::2]
        for axis in (2, 3, 4):
            block = block.repeat_interleave(2, dim=axis)
        layer.weight.copy_(block)
    if layer.bias is not None:
        layer.bias.zero_()


def initialise_sequence(layers: nn.Sequential, last_gain: float | None = None) -> None:
    """Initialise the parametrised layers of a sequence; all with the leaky gain, the last one with ``last_gain``."""
    parametrised = [layer for layer in layers if hasattr(layer, "weight")]
    for position, layer in enumerate(parametrised):
        is_last = position == len(parametrised) - 1
        initialise(layer, last_gain if is_last and last_gain is not None else leaky_gain())
