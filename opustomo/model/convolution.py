"""Fast equivalents of stride-2 convolutions and transposed convolutions, with the weights of PyTorch's layers.

* Transposed, kernel 2: output blocks do not overlap, so the layer is one matrix product.
* Transposed, kernel 4, padding 1: a kernel-2 convolution with eight times the channels (one group for each parity of
  the output), followed by a voxel shuffle.
* Kernel 4, padding 1: voxels are gathered in blocks of 2³, followed by a kernel-2 convolution with eight times the
  channels.
* Kernel 4, padding 1 of a grid of at most 3³: there is one output, a matrix product with the taps that meet data.
* Transposed, kernel 4, followed by a trilinear resize to a smaller grid: only the voxels that the resize reads.

On a GPU, grids have their channels last, the layout that its matrix units process fastest.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from opustomo.physics.kernels import have_triton

Positions = tuple[int, ...]
FEW_OUTPUTS = 2
"""Largest side of the output for which a CPU computes a convolution as a matrix product (3 times faster for 256 to 512
channels)."""


class BlockUpsample(nn.ConvTranspose3d):
    """ConvTranspose3d with kernel 2 and stride 2, as a matrix product."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=2, stride=2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return the layer (B, C', 2n, 2n, 2n) of a grid (B, C, n, n, n)."""
        batch, channels, n = x.shape[:3]
        flat = x.flatten(2).transpose(1, 2)  # (B, n³, C)
        blocks = (flat @ self.weight.view(channels, -1)).view(batch, n, n, n, self.out_channels, 2, 2, 2)
        if x.is_cuda:
            last = blocks.permute(0, 1, 5, 2, 6, 3, 7, 4).reshape(batch, 2 * n, 2 * n, 2 * n, self.out_channels)
            out = last.permute(0, 4, 1, 2, 3)
        else:
            out = blocks.permute(0, 4, 1, 5, 2, 6, 3, 7).reshape(batch, self.out_channels, 2 * n, 2 * n, 2 * n)
        return out if self.bias is None else out + self.bias.to(out.dtype).view(-1, 1, 1, 1)


def _has_kernels(x: Tensor) -> bool:
    return x.is_cuda and x.dtype in (torch.float32, torch.bfloat16, torch.float16) and have_triton()


def _leaky(x: Tensor, slope: float | None) -> Tensor:
    return x if slope is None else nn.functional.leaky_relu_(x, slope)


def through(layers: nn.Sequential, x: Tensor) -> Tensor:
    """Apply layers, each followed by its LeakyReLU, in one operation where the layer can do both."""
    modules = list(layers)
    for layer, activation in zip(modules[::2], modules[1::2], strict=True):
        if isinstance(layer, (Upsample, Downsample)):
            x = layer(x, cast(nn.LeakyReLU, activation).negative_slope)
        else:
            x = activation(layer(x))
    return x


def _memory_format(x: Tensor) -> torch.memory_format:
    return torch.channels_last_3d if x.is_cuda else torch.contiguous_format


def _computed_type(x: Tensor) -> torch.dtype:
    """Return the type of the convolutions of ``x``, that of autocast where it is enabled."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _computed(x: Tensor) -> Tensor:
    """Return ``x`` in the layout and the type of the convolutions."""
    return x.to(_computed_type(x), memory_format=_memory_format(x))


def sort_taps(weight: Tensor) -> Tensor:
    """Convert PyTorch's weight (C, C', 4, 4, 4) to one kernel per parity of the output, (8, C', C, 2, 2, 2).

    Along one axis, even outputs 2j read inputs j-1 and j with taps 3 and 1, odd outputs 2j+1 read inputs j and j+1 with
    taps 2 and 0.
    """
    taps = weight.unflatten(4, (2, 2)).unflatten(3, (2, 2)).unflatten(2, (2, 2))  # tap = 2 q + p
    taps = taps.flip(2, 3, 4, 5, 6, 7)  # earlier input first; parity = 1 - p
    return taps.permute(3, 5, 7, 1, 0, 2, 4, 6).flatten(0, 2)


def unsort_taps(kernels: Tensor) -> Tensor:
    """Convert kernels of :func:`sort_taps` to PyTorch's weight (C, C', 4, 4, 4)."""
    taps = kernels.unflatten(0, (2, 2, 2)).permute(4, 3, 5, 0, 6, 1, 7, 2)
    taps = taps.flip(2, 3, 4, 5, 6, 7)
    return taps.flatten(6, 7).flatten(4, 5).flatten(2, 3).contiguous()


def _by_parity(phases: Tensor) -> Tensor:
    """View parities (B, 2, 2, 2, C, n+1, n+1, n+1) in the order of the doubled grid, (B, n, 2, n, 2, n, 2, C).

    Along an axis, output voxel 2j + p is voxel j + p of parity p, so that the stride of p is that of the parity plus
    that of j.
    """
    of_batch, *of_parity, of_channel, sz, sy, sx = phases.stride()
    n = phases.shape[-1] - 1
    size = (len(phases), n, 2, n, 2, n, 2, phases.shape[4])
    pz, py, px = of_parity
    return phases.as_strided(size, (of_batch, sz, sz + pz, sy, sy + py, sx, sx + px, of_channel))


class _Interleave(torch.autograd.Function):
    """Voxel shuffle from parities (B, 2, 2, 2, C, n+1, n+1, n+1) to (B, n, 2, n, 2, n, 2, C), or with C second."""

    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, phases: Tensor, channels_last: bool) -> Tensor:
        ctx.layout = phases.shape, phases.stride(), phases.dtype, channels_last  # type: ignore[attr-defined]
        ordered = _by_parity(phases)
        if not channels_last:
            ordered = ordered.permute(0, 7, 1, 2, 3, 4, 5, 6)
        return ordered.clone(memory_format=torch.contiguous_format)

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor, None]:
        shape, stride, dtype, channels_last = ctx.layout  # type: ignore[attr-defined]
        phases = torch.empty_strided(shape, stride, dtype=dtype, device=grad.device).zero_()
        _by_parity(phases).copy_(grad if channels_last else grad.permute(0, 2, 3, 4, 5, 6, 7, 1))
        return phases, None


class Upsample(nn.Module):
    """Transposed convolution with kernel 4, stride 2 and padding 1, which doubles a grid.

    It is computed as a kernel-2 convolution with a group of channels for each of the eight parities of the output,
    followed by a voxel shuffle. Weights are stored accordingly; state dicts have PyTorch's layout.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.weight = nn.Parameter(torch.empty(8, out_channels, in_channels, 2, 2, 2))
        self.bias = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Return the layer (B, C', 2n, 2n, 2n) of a grid (B, C, n, n, n), and a LeakyReLU of this slope."""
        x = _computed(x)
        weight = self.weight.flatten(0, 1).to(x.dtype, memory_format=_memory_format(x))
        if _has_kernels(x):
            from opustomo.model.kernels.convolution import Interleave

            phases = nn.functional.conv3d(x, weight, padding=1)
            out = Interleave.apply(phases, self.bias, 1.0 if slope is None else slope)
            return cast(Tensor, out.permute(0, 4, 1, 2, 3))
        phases = nn.functional.conv3d(x, weight, self.bias.repeat(8), padding=1)
        split = _Interleave.apply(phases.unflatten(1, (2, 2, 2, -1)), x.is_cuda)
        if x.is_cuda:
            split = split.flatten(5, 6).flatten(3, 4).flatten(1, 2).permute(0, 4, 1, 2, 3)
        else:
            split = split.flatten(6, 7).flatten(4, 5).flatten(2, 3)
        return _leaky(split, slope)

    def to_density(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """Return the layer with one output channel, (B, C, n, n, n) to (B, 2n, 2n, 2n), float32.

        ``added`` (2n, 2n, 2n) is added to the density of each particle.
        """
        x = _computed(x)
        if _has_kernels(x) and x.dtype != torch.float32 and self.in_channels == 16 and self.out_channels == 1:
            from opustomo.model.kernels.convolution import OutputLayer

            density: Tensor = OutputLayer.apply(x, unsort_taps(self.weight)[:, 0], self.bias, added)
            return density
        density = self(x)[:, 0].float().contiguous()
        return density if added is None else density + added

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = unsort_taps(destination[prefix + "weight"])

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        name = prefix + "weight"
        if name in state_dict and state_dict[name].dim() == 5:
            state_dict = state_dict | {name: sort_taps(state_dict[name])}
        super()._load_from_state_dict(state_dict, prefix, *args)


class Downsample(nn.Conv3d):
    """Conv3d with kernel 4, stride 2, padding 1, which halves a grid; on a GPU a kernel-2 convolution of 2³ blocks."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size=4, stride=2, padding=1)

    def forward(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Return the layer (B, C', n//2, n//2, n//2) of a grid (B, C, n, n, n), and a LeakyReLU of this slope."""
        if x.is_cuda:
            return self.blockwise(x, slope)
        few = x.shape[-1] // 2 <= FEW_OUTPUTS
        return _leaky(self.as_product(x) if few else super().forward(x), slope)

    def as_product(self, x: Tensor) -> Tensor:
        """Compute :meth:`forward` as one matrix product, which is faster for few voxels of many channels."""
        windows = nn.functional.pad(x, (1, 1) * 3).unfold(2, 4, 2).unfold(3, 4, 2).unfold(4, 4, 2)
        batch, _, m = windows.shape[:3]
        rows = windows.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(batch * m**3, -1)
        out = nn.functional.linear(rows, self.weight.flatten(1), self.bias)
        return out.view(batch, m, m, m, -1).permute(0, 4, 1, 2, 3)

    def blockwise(self, x: Tensor, slope: float | None = None) -> Tensor:
        """Compute :meth:`forward` on blocks: output j reads padded voxels 2j … 2j+3, which are blocks j and j + 1."""
        kind = _computed_type(x)
        if self.in_channels == 1 and _has_kernels(x) and kind != torch.float32 and not x.requires_grad:
            from opustomo.model.kernels.first_layer import FirstLayer

            out = FirstLayer.apply(x[:, 0].float(), self.weight, self.bias, 1.0 if slope is None else slope, kind)
            return cast(Tensor, out.permute(0, 4, 1, 2, 3))
        x = _computed(x)
        taps = self.weight.unflatten(4, (2, 2)).unflatten(3, (2, 2)).unflatten(2, (2, 2))  # tap = 2 block + place
        weight = taps.permute(0, 3, 5, 7, 1, 2, 4, 6).reshape(self.out_channels, -1, 2, 2, 2)
        weight = weight.to(x.dtype, memory_format=torch.channels_last_3d)
        if _has_kernels(x):
            from opustomo.model.kernels.convolution import Activate, Blocks

            out = nn.functional.conv3d(Blocks.apply(x), weight)
            return cast(Tensor, Activate.apply(out, self.bias, 1.0 if slope is None else slope))
        return _leaky(nn.functional.conv3d(blocks_of(x), weight, self.bias), slope)


def blocks_of(x: Tensor) -> Tensor:
    """Gather voxels (B, C, n, n, n), padded with zeros, in blocks of 2³, (B, 8C, m, m, m) with m = (n + 2)//2."""
    batch, channels, n = x.shape[:3]
    padded = nn.functional.pad(x, (1, 1 - n % 2) * 3)  # the last padding of an odd grid is not read
    m = padded.shape[-1] // 2
    split = padded.permute(0, 2, 3, 4, 1).unflatten(3, (m, 2)).unflatten(2, (m, 2)).unflatten(1, (m, 2))
    return split.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(batch, m, m, m, 8 * channels).permute(0, 4, 1, 2, 3)


class ClosingConv(nn.Module):
    """Conv3d with kernel 4, stride 2, padding 1 of a small grid.

    A grid of 2³ or 3³ voxels has one output, which meets only 2³ or 3³ of the 4³ taps. These are the parameters; the
    other taps never get a gradient and are kept for state dicts, which have PyTorch's layout.

    Parameters
    ----------
    in_channels, out_channels
        Numbers of channels.
    size
        Side of the input in voxels; None if it is not known, in which case all taps are parameters.
    """

    kernel_size = (4, 4, 4)

    def __init__(self, in_channels: int, out_channels: int, size: int | None = None) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self._met = slice(1, 1 + size) if size in (2, 3) else slice(0, 4)
        start = nn.Conv3d(in_channels, out_channels, 4)
        assert start.bias is not None
        weight = start.weight.detach()
        self.weight = nn.Parameter(weight[:, :, self._met, self._met, self._met].clone())
        self.bias = nn.Parameter(start.bias.detach())
        self._all_taps: Tensor
        self.register_buffer("_all_taps", weight, persistent=False)

    @torch.no_grad()
    def set_taps(self, weight: Tensor) -> None:
        """Set the weights from those of all taps, (C', C, 4, 4, 4)."""
        self._all_taps.copy_(weight)
        self.weight.copy_(weight[:, :, self._met, self._met, self._met])

    def all_taps(self) -> Tensor:
        """Return the weights of all taps, (C', C, 4, 4, 4)."""
        weight = self._all_taps.clone()
        weight[:, :, self._met, self._met, self._met] = self.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer (B, C', n//2, n//2, n//2) of a grid (B, C, n, n, n)."""
        if x.shape[-1] == self.weight.shape[-1] < 4:
            out = nn.functional.linear(x.flatten(1), self.weight.flatten(1), self.bias)
            return out[:, :, None, None, None]
        return nn.functional.conv3d(x, self.all_taps(), self.bias, stride=2, padding=1)

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.all_taps().detach()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        name = prefix + "weight"
        if name in state_dict and state_dict[name].shape == self._all_taps.shape:
            with torch.no_grad():
                self._all_taps.copy_(state_dict[name])
            met = state_dict[name][:, :, self._met, self._met, self._met]
            state_dict = state_dict | {name: met}
        super()._load_from_state_dict(state_dict, prefix, *args)


def resize_matrix(size_in: int, size_out: int) -> Tensor:
    """Return the matrix (size_out, size_in) of a linear interpolation between grids with common end points."""
    at = torch.linspace(0.0, size_in - 1.0, size_out)
    low = at.floor().long().clamp(max=size_in - 2)
    matrix = torch.zeros(size_out, size_in)
    rows = torch.arange(size_out)
    matrix[rows, low] = 1.0 - (at - low)
    matrix[rows, low + 1] = at - low
    matrix[matrix.abs() < 1e-6] = 0.0  # without rounding errors at the end points, unread voxels stay unread
    return matrix


@lru_cache(maxsize=8)
def resize_matrix_on(size_in: int, size_out: int, device: torch.device) -> Tensor:
    """Return :func:`resize_matrix` on a device, from a cache."""
    return resize_matrix(size_in, size_out).to(device)


def read_positions(matrix: Tensor) -> Positions:
    """Return the columns of an interpolation matrix that have a weight."""
    return tuple(torch.nonzero(matrix.abs().sum(0)).flatten().tolist())


def input_positions(outputs: Positions, size_in: int) -> Positions:
    """Return the inputs of a kernel-4, stride-2 transposed convolution that contribute to outputs, along one axis."""
    padded = {(o + 1) // 2 + step for o in outputs for step in (0, 1)}
    return tuple(sorted(p - 1 for p in padded if 1 <= p <= size_in))


class UpsampleAt(nn.Module):
    """Selected outputs of an :class:`Upsample`, which holds the weights.

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
            reads = [local.get((o + 1) // 2 + step - 1, outside) for o in outputs for step in (0, 1)]
            self.counts.append(len(outputs))
            self.register_buffer(f"reads{parity}", torch.tensor(reads, dtype=torch.long), persistent=False)
        position = [o for parity in (0, 1) for o in want if o % 2 == parity]
        self.register_buffer("order", torch.tensor(position).argsort(), persistent=False)

    def forward(self, x: Tensor, layer: Upsample) -> Tensor:
        """Return outputs (B, C', w, w, w) at ``want`` from inputs (B, C, h, h, h) at ``have``."""
        batch, channels = x.shape[:2]
        reads = [self.get_buffer("reads0"), self.get_buffer("reads1")]
        padded = nn.functional.pad(x, (0, 1) * 3)
        patches = []
        for z in (0, 1):
            along_z = padded.index_select(2, reads[z])
            for y in (0, 1):
                along_y = along_z.index_select(3, reads[y])
                for x_parity in (0, 1):
                    count = (self.counts[z], self.counts[y], self.counts[x_parity])
                    patch = along_y.index_select(4, reads[x_parity])
                    patch = patch.view(batch, channels, count[0], 2, count[1], 2, count[2], 2)
                    patches.append(patch.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4))
        out = self._joined(self._products(patches, layer))  # even positions first, then odd ones, along each axis
        for axis in (1, 2, 3):
            out = out.index_select(axis, self.order)
        return out.permute(0, 4, 1, 2, 3)

    def _products(self, patches: list[Tensor], layer: Upsample) -> list[Tensor]:
        """Return the product (B, z, y, x, C') of the patches (B, z, y, x, 8C) of each parity with its kernel."""
        kernels = layer.weight.flatten(2)
        if self.counts[0] != self.counts[1]:
            each = zip(patches, kernels.unbind(0), strict=True)
            return [nn.functional.linear(patch, kernel, layer.bias) for patch, kernel in each]
        rows = torch.stack([patch.flatten(0, 3) for patch in patches])  # (8, rows, 8C)
        # in this order the gradient of the kernels has their layout, so that it is not copied
        out = torch.baddbmm(layer.bias[None, :, None], kernels, rows.mT).mT
        return [part.unflatten(0, patches[0].shape[:4]) for part in out.unbind(0)]

    @staticmethod
    def _joined(cells: list[Tensor]) -> Tensor:
        for axis in (3, 2, 1):
            cells = [torch.cat(cells[i : i + 2], axis) for i in range(0, len(cells), 2)]
        return cells[0]


def apply_along_axes(matrix: Tensor, x: Tensor) -> Tensor:
    """Apply one (m, n) matrix along the three last axes of (B, C, n, n, n)."""
    matrix = matrix.to(x.dtype)
    x = torch.einsum("mx,bczyx->bczym", matrix, x)
    x = torch.einsum("my,bczyx->bczmx", matrix, x)
    return torch.einsum("mz,bczyx->bcmyx", matrix, x)
