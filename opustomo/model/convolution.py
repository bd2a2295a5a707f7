"""Transposed convolutions computed the short way: same weights, same function, fewer operations.

* kernel 2, stride 2: output blocks do not overlap, so the layer is one matrix product.
* kernel 4, stride 2, padding 1 followed by a trilinear resize to a smaller grid: only the voxels that the resize reads
  are computed. Along one axis output o reads padded inputs (o+1)//2 and (o+1)//2+1, with kernel taps (3, 1) for even o
  and (2, 0) for odd o.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

Positions = tuple[int, ...]


class BlockUpsample(nn.ConvTranspose3d):
    """ConvTranspose3d with kernel 2 and stride 2, as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:  # noqa: ARG002
        """(B, C, n, n, n) to (B, C', 2n, 2n, 2n)."""
        batch, channels, n = x.shape[:3]
        flat = x.flatten(2).transpose(1, 2)  # (B, n³, C)
        blocks = (flat @ self.weight.view(channels, -1)).view(batch, n, n, n, self.out_channels, 2, 2, 2)
        out = blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, self.out_channels, 2 * n, 2 * n, 2 * n)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1, 1)


def upsample_layer(in_channels: int, out_channels: int) -> nn.ConvTranspose3d:
    """The kernel-4, stride-2 transposed convolution that doubles a grid."""
    return nn.ConvTranspose3d(in_channels, out_channels, kernel_size=4, stride=2, padding=1)


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


def upsample_at(x: Tensor, layer: nn.ConvTranspose3d, have: Positions, want: Positions) -> Tensor:
    """Outputs of an :func:`upsample_layer` at chosen positions only.

    Parameters
    ----------
    x
        (B, C, h, h, h): the layer's input at positions ``have`` along each axis; the others are not read.
    layer
        Supplies weight and bias.
    have, want
        Sorted positions along an axis, of the input and of the output.

    Returns
    -------
    Tensor
        (B, C', w, w, w), the output at ``want`` along each axis.
    """
    batch, channels, count = x.shape[:3]
    padded = nn.functional.pad(x, (0, 1) * 3)  # index `count` stands for the zero padding outside the grid
    local = {position: i for i, position in enumerate(have)}
    parities = [[o for o in want if o % 2 == parity] for parity in (0, 1)]
    indices = [
        torch.tensor(
            [local.get((o + 1) // 2 + step - 1, count) for o in outputs for step in (0, 1)],
            device=x.device,
            dtype=torch.long,
        )
        for outputs in parities
    ]
    taps = [(3, 1), (2, 0)]
    planes = []
    for pz in (0, 1):
        rows = []
        for py in (0, 1):
            cells = []
            for px in (0, 1):
                nz, ny, nx = len(parities[pz]), len(parities[py]), len(parities[px])
                patch = padded[:, :, indices[pz]][:, :, :, indices[py]][:, :, :, :, indices[px]]
                patch = patch.view(batch, channels, nz, 2, ny, 2, nx, 2).permute(0, 2, 4, 6, 1, 3, 5, 7)
                kernel = layer.weight[:, :, taps[pz]][:, :, :, taps[py]][:, :, :, :, taps[px]]
                kernel = kernel.permute(0, 2, 3, 4, 1).reshape(channels * 8, -1)
                cell = patch.reshape(batch, nz * ny * nx, channels * 8) @ kernel
                cells.append(cell.view(batch, nz, ny, nx, -1))
            rows.append(torch.cat(cells, 3))
        planes.append(torch.cat(rows, 2))
    gathered = torch.cat(planes, 1)  # even positions first, then odd ones, along each axis
    order = torch.tensor([*parities[0], *parities[1]]).argsort().to(x.device)
    gathered = gathered[:, order][:, :, order][:, :, :, order].permute(0, 4, 1, 2, 3)
    return gathered if layer.bias is None else gathered + layer.bias.to(gathered.dtype).view(-1, 1, 1, 1)


def apply_along_axes(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply one (m, n) matrix along the three last axes of (B, C, n, n, n)."""
    matrix = matrix.to(x.dtype)
    x = torch.einsum("mx,bczyx->bczym", matrix, x)
    x = torch.einsum("my,bczyx->bczmx", matrix, x)
    return torch.einsum("mz,bczyx->bcmyx", matrix, x)
