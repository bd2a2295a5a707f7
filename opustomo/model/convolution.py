"""Transposed convolutions computed the short way: same weights, same function, fewer operations.

* kernel 2, stride 2: output blocks do not overlap, so the layer is one matrix product.
* kernel 4, stride 2, padding 1 with few output channels: one well-shaped kernel-2 convolution with eight times the
  channels, one group for each output phase, then a voxel shuffle.
* kernel 4, stride 2, padding 1 convolution of a grid of at most 3³: a single output, so one matrix product with the
  taps that meet data.
* kernel 4, stride 2, padding 1 followed by a trilinear resize to a smaller grid: only the voxels that the resize reads
  are computed. Along one axis output o reads padded inputs (o+1)//2 and (o+1)//2+1, with kernel taps (3, 1) for even o
  and (2, 0) for odd o.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn

Positions = tuple[int, ...]


class BlockUpsample(nn.ConvTranspose3d):
    """ConvTranspose3d with kernel 2 and stride 2, as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(B, C, n, n, n) to (B, C', 2n, 2n, 2n)."""
        batch, channels, n = x.shape[:3]
        flat = x.flatten(2).transpose(1, 2)  # (B, n³, C)
        blocks = (flat @ self.weight.view(channels, -1)).view(batch, n, n, n, self.out_channels, 2, 2, 2)
        out = blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, self.out_channels, 2 * n, 2 * n, 2 * n)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1, 1)


def upsample_layer(in_channels: int, out_channels: int) -> nn.ConvTranspose3d:
    """The kernel-4, stride-2 transposed convolution that doubles a grid."""
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)


def upsample_by_phase(x: Tensor, layer: nn.ConvTranspose3d) -> Tensor:
    """Apply an :func:`upsample_layer` as one kernel-2 convolution: (B, C, n, n, n) to (B, C', 2n, 2n, 2n)."""
    batch, _, n = x.shape[:3]
    # taps k = 2q + p; output parity 1 - p reads padded inputs j + (1 - p) and the one before, later input first
    taps = layer.weight.unflatten(4, (2, 2)).unflatten(3, (2, 2)).unflatten(2, (2, 2)).flip(2, 4, 6)
    kernel = taps.permute(3, 5, 7, 1, 0, 2, 4, 6).flip(0, 1, 2).flatten(0, 3)  # (8 C', C, 2, 2, 2)
    phases = nn.functional.conv3d(x, kernel, padding=1).unflatten(1, (2, 2, 2, -1))
    out = phases.new_empty(batch, phases.shape[4], n, 2, n, 2, n, 2)
    for z, y, x_parity in itertools.product((0, 1), repeat=3):
        cut = phases[:, z, y, x_parity, :, z : z + n, y : y + n, x_parity : x_parity + n]
        out[:, :, :, z, :, y, :, x_parity] = cut
    out = out.view(batch, -1, 2 * n, 2 * n, 2 * n)
    return out if layer.bias is None else out + layer.bias.to(out.dtype).view(-1, 1, 1, 1)


class ClosingConv(nn.Conv3d):
    """Conv3d with kernel 4, stride 2, padding 1, whose usual input is so small that it has a single output."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, n, n, n) to (B, C', 1, 1, 1) for n = 2 or 3; any larger n as ever."""
        n = x.shape[-1]
        if n not in (2, 3):
            return super().forward(x)
        met = slice(1, 1 + n)
        out = nn.functional.linear(x.flatten(1), self.weight[:, :, met, met, met].flatten(1), self.bias)
        return out[:, :, None, None, None]


def resize_matrix(size_in: int, size_out: int) -> Tensor:
    """Linear interpolation from ``size_in`` to ``size_out`` points with common end points; (size_out, size_in)."""
    at = torch.linspace(0.0, size_in - 1.0, size_out)
    low = at.floor().long().clamp(max=size_in - 2)
    matrix = torch.zeros(size_out, size_in)
    rows = torch.arange(size_out)
    matrix[rows, low] = 1.0 - (at - low)
    matrix[rows, low + 1] = at - low
    matrix[matrix.abs() < 1e-6] = 0.0  # end points: no trace of rounding, so that unread voxels stay unread
    return matrix


def read_positions(matrix: Tensor) -> Positions:
    """Columns of an interpolation matrix that are read at all."""
    return tuple(torch.nonzero(matrix.abs().sum(0)).flatten().tolist())


def input_positions(outputs: Positions, size_in: int) -> Positions:
    """Inputs of a kernel-4, stride-2 transposed convolution that reach the given outputs (one axis)."""
    padded = {(o + 1) // 2 + step for o in outputs for step in (0, 1)}
    return tuple(sorted(p - 1 for p in padded if 1 <= p <= size_in))


class UpsampleAt(nn.Module):
    """Outputs of an :func:`upsample_layer` at chosen positions only; the layer keeps the weights.

    Parameters
    ----------
    have
        Sorted positions along an axis at which the input is given.
    want
        Sorted positions along an axis at which the output is wanted.
    """

    order: Tensor

    def __init__(self, have: Positions, want: Positions) -> None:
        super().__init__()
        outside = len(have)  # stands for the zero padding around the grid
        local = {position: i for i, position in enumerate(have)}
        self.counts: list[int] = []
        for parity in (0, 1):
            outputs = [o for o in want if o % 2 == parity]
            # later input first, so that taps ascend: (1, 3) for even outputs, (0, 2) for odd ones
            reads = [local.get((o + 1) // 2 + step - 1, outside) for o in outputs for step in (1, 0)]
            self.counts.append(len(outputs))
            self.register_buffer(f"reads{parity}", torch.tensor(reads, dtype=torch.long), persistent=False)
        position = [o for parity in (0, 1) for o in want if o % 2 == parity]
        self.register_buffer("order", torch.tensor(position).argsort(), persistent=False)

    def forward(self, x: Tensor, layer: nn.ConvTranspose3d) -> Tensor:
        """(B, C, h, h, h) at ``have`` to (B, C', w, w, w) at ``want``."""
        batch, channels = x.shape[:2]
        reads = [self.get_buffer("reads0"), self.get_buffer("reads1")]
        padded = nn.functional.pad(x, (0, 1) * 3)
        # taps k = 2q + p, p = 1 for even outputs: one copy of the weights sorts them by output parity
        taps = layer.weight.unflatten(4, (2, 2)).unflatten(3, (2, 2)).unflatten(2, (2, 2))
        kernels = taps.permute(3, 5, 7, 0, 2, 4, 6, 1).reshape(8, channels * 8, -1).unbind(0)
        planes = []
        for z in (0, 1):
            along_z = padded.index_select(2, reads[z])
            rows = []
            for y in (0, 1):
                along_y = along_z.index_select(3, reads[y])
                cells = []
                for x_parity in (0, 1):
                    count = (self.counts[z], self.counts[y], self.counts[x_parity])
                    patch = along_y.index_select(4, reads[x_parity])
                    patch = patch.view(batch, channels, count[0], 2, count[1], 2, count[2], 2)
                    patch = patch.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4).flatten(1, 3)
                    kernel = kernels[(1 - z) * 4 + (1 - y) * 2 + (1 - x_parity)]
                    cells.append((patch @ kernel).view(batch, *count, -1))
                rows.append(torch.cat(cells, 3))
            planes.append(torch.cat(rows, 2))
        out = torch.cat(planes, 1)  # even positions first, then odd ones, along each axis
        for axis in (1, 2, 3):
            out = out.index_select(axis, self.order)
        out = out.permute(0, 4, 1, 2, 3)
        return out if layer.bias is None else out + layer.bias.to(out.dtype).view(-1, 1, 1, 1)


def apply_along_axes(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply one (m, n) matrix along the three last axes of (B, C, n, n, n)."""
    matrix = matrix.to(x.dtype)
    x = torch.einsum("mx,bczyx->bczym", matrix, x)
    x = torch.einsum("my,bczyx->bczmx", matrix, x)
    return torch.einsum("mz,bczyx->bcmyx", matrix, x)
