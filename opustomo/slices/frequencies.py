"""Frequencies of the half plane of an image's real Fourier transform."""

from __future__ import annotations

import torch
from torch import Tensor


def plane_frequencies(box: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """Integer frequencies of the half plane of a `box` x `box` image, in native FFT order.

    Returns
    -------
    (x, y)
        Tensors of shape (box//2 + 1,) = 0 … box/2 and (box,) = 0 … box/2 - 1, -box/2 … -1, in voxels.
    """
    x = torch.arange(box // 2 + 1, dtype=torch.float32, device=device)
    y = (torch.fft.fftfreq(box, device=device) * box).round()
    return x, y
