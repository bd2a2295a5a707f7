"""Frequencies of the half plane of the real Fourier transform of an image."""

from __future__ import annotations

import torch
from torch import Tensor


def plane_frequencies(box: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Return the integer frequencies of the half plane of a `box` x `box` image in FFT order.

    Returns
    -------
    x : Tensor, (box//2 + 1,)
        Frequencies 0 … box/2 in Fourier voxels.
    y : Tensor, (box,)
        Frequencies 0 … box/2 - 1, -box/2 … -1 in Fourier voxels.
    """
    x = torch.arange(box // 2 + 1, dtype=torch.float32, device=device)
    y = (torch.fft.fftfreq(box, device=device) * box).round()
    return x, y
