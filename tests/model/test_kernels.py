"""GPU kernels of the networks and the loss equal plain PyTorch in values and gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from opustomo.model.convolution import Downsample, Upsample, unsort_taps
from tests.gpu_kernels import DEVICE, INTERPRETED, interpreter, plain_torch  # noqa: F401

pytestmark = [pytest.mark.kernels, pytest.mark.usefixtures("interpreter")]


@pytest.fixture(autouse=True)
def exact() -> None:
    torch.backends.cudnn.allow_tf32 = False


def compare(
    ours: Callable[[Tensor], Tensor],
    plain: Callable[[Tensor], Tensor],
    x: Tensor,
    parameters: list[nn.Parameter],
    tolerance: float = 1e-5,
) -> None:
    """Values, and gradients in the input and the parameters."""
    results = []
    weight = None
    for work in (ours, plain):
        value = x.detach().clone().requires_grad_()
        with nullcontext() if work is ours else plain_torch():
            out = work(value)
            weight = torch.randn_like(out) if weight is None else weight
            results.append([out, *torch.autograd.grad((out * weight).sum(), [value, *parameters])])
    for got, wanted in zip(*results, strict=True):
        assert float((got - wanted).norm()) <= tolerance * float(wanted.norm())


def filled(layer: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.1)
    return layer.to(DEVICE)


@pytest.mark.parametrize("size", [3, 8])
def test_upsampling(size: int) -> None:
    layer = filled(Upsample(16, 8))
    compare(
        lambda x: layer(x, 0.2),
        lambda x: functional.leaky_relu(_transposed(x, layer.weight, layer.bias), 0.2),
        torch.randn(2, 16, size, size, size, device=DEVICE),
        [layer.weight, layer.bias],
    )


def _transposed(x: Tensor, kernels: nn.Parameter, bias: Tensor) -> Tensor:
    return functional.conv_transpose3d(x, unsort_taps(kernels), bias, 2, 1)


@pytest.mark.parametrize("size", [4, 7, 10])
def test_downsampling(size: int) -> None:
    layer = filled(Downsample(8, 16))
    compare(
        lambda x: layer(x, 0.2),
        lambda x: functional.leaky_relu(functional.conv3d(x, layer.weight, layer.bias, 2, 1), 0.2),
        torch.randn(2, 8, size, size, size, device=DEVICE),
        [layer.weight, layer.bias],
    )


@pytest.mark.parametrize("size", [6, 7])
def test_first_layer(size: int) -> None:
    """In half precision, against the same inputs in float32; the input has no gradient."""
    half = torch.float16 if INTERPRETED else torch.bfloat16
    from opustomo.model.kernels.first_layer import FirstLayer

    layer, x = filled(Downsample(1, 32)), torch.randn(2, 1, size, size, size, device=DEVICE).to(half).float()
    layer.weight.data.copy_(layer.weight.data.to(half).float())  # products are exact, and no output changes its sign
    weight = torch.randn(2, 32, size // 2, size // 2, size // 2, device=DEVICE)
    found = FirstLayer.apply(x[:, 0], layer.weight, layer.bias, 0.2, half).permute(0, 4, 1, 2, 3)
    wanted = functional.leaky_relu(functional.conv3d(x, layer.weight, layer.bias, 2, 1), 0.2)
    for got, plain in zip(gradients(found.float(), weight, layer), gradients(wanted, weight, layer), strict=True):
        assert float((got - plain).norm()) <= 1e-2 * float(plain.norm())


def gradients(out: Tensor, weight: Tensor, layer: nn.Module) -> list[Tensor]:
    return [out, *torch.autograd.grad((out * weight).sum(), list(layer.parameters()))]


@pytest.mark.parametrize("size", [4, 5] if INTERPRETED else [4, 5, 16])
def test_output_layer(size: int) -> None:
    """In half precision, against the same inputs in float32."""
    half = torch.float16 if INTERPRETED else torch.bfloat16  # the interpreter multiplies no bfloat16 matrices
    layer = filled(Upsample(16, 1))
    x = torch.randn(2, 16, size, size, size, device=DEVICE).to(half).float()
    added = torch.randn((2 * size,) * 3, device=DEVICE)
    compare(
        lambda x: layer.to_density(x.to(half), added),
        lambda x: _transposed(x, layer.weight, layer.bias)[:, 0] + added,
        x,
        [layer.weight, layer.bias],
        1e-2,
    )
