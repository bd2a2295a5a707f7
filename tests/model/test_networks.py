"""Encoder and decoder: parameter names and sizes of OPUS-TOMO, and fast paths with equal values."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from opustomo.model.convolution import BlockUpsample, ClosingConv, Downsample, Upsample, sort_taps, unsort_taps
from opustomo.model.networks import ConvTemplate, Decoder, Encoder, initialize, small_rotation
from tests.narrow_networks import NARROW_WIDTHS, use_widths

ENCODER_SHAPES = {
    "down1.0": (32, 1, 4, 4, 4),
    "down1.2": (64, 32, 4, 4, 4),
    "down1.4": (128, 64, 4, 4, 4),
    "down2.0": (256, 128, 4, 4, 4),
    "down2.2": (512, 256, 4, 4, 4),
    "down2.4": (512, 512, 4, 4, 4),
    "down3.0": (512, 512),
    "mu": (16, 512),
    "logstd": (16, 512),
}
DECODER_SHAPES = {
    "template1.0": (512, 12),
    "template1.2": (2048, 512),
    "template2.0": (2048, 1024, 2, 2, 2),
    "template2.2": (1024, 512, 2, 2, 2),
    "template3.0": (512, 256, 4, 4, 4),
    "template3.2": (256, 128, 4, 4, 4),
    "template4.0": (128, 64, 4, 4, 4),
    "template4.2": (64, 32, 4, 4, 4),
    "template4.4": (32, 16, 4, 4, 4),
    "conv_out": (16, 1, 4, 4, 4),
}
HEAD_SHAPES = {"affine_out.0": (512, 4), "affine_out.2": (6, 512)}
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(12 + 4, 12)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    torch.manual_seed(0)
    return Decoder(12, 48, 4, 1)


def expected_state(shapes: dict[str, tuple[int, ...]], prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Weights and biases; transposed convolutions have their inputs first."""
    transposed = ("template2", "template3", "template4", "conv_out")
    out: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        out[f"{prefix}{name}.weight"] = shape
        out[f"{prefix}{name}.bias"] = (shape[1],) if name.startswith(transposed) else (shape[0],)
    return out


def shapes_of(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def millions(module: nn.Module) -> float:
    return round(sum(p.numel() for p in module.state_dict().values()) / 1e6, 2)


def test_encoder_has_the_originals_parameters(encoder: Encoder) -> None:
    assert shapes_of(encoder) == expected_state(ENCODER_SHAPES)
    assert millions(encoder) == 28.20


def test_decoder_has_the_originals_parameters(decoder: Decoder) -> None:
    """Geometry that can be rebuilt is not stored in checkpoints."""
    assert shapes_of(decoder) == expected_state(DECODER_SHAPES | HEAD_SHAPES, "template.")
    assert millions(decoder) == 33.21


def test_decoder_without_poses_has_no_head() -> None:
    bare = Decoder(12, 32, 4, 0)
    assert shapes_of(bare) == expected_state(DECODER_SHAPES, "template.")
    assert millions(bare) == 33.21
    with pytest.raises(ValueError, match="no pose head"):
        bare.template.pose_rows(torch.zeros(1, 4))


def randomized(module: nn.Module) -> nn.Module:
    """A copy with biases and all weights away from their start."""
    module = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    return module


def plain_decoder(state: dict[str, Tensor], composition: Tensor, size: int) -> Tensor:
    """The decoder of OPUS-TOMO (ConvTemplate), by torch's own functions on weights in PyTorch's layout."""

    def up(x: Tensor, name: str) -> Tensor:
        padding = 0 if name.startswith("template2") else 1
        return functional.conv_transpose3d(x, state[f"{name}.weight"], state[f"{name}.bias"], 2, padding)

    x = composition
    for name in ("template1.0", "template1.2"):
        x = functional.leaky_relu(functional.linear(x, state[f"{name}.weight"], state[f"{name}.bias"]), 0.2)
    x = x[:, :, None, None, None]
    for name in ("template2.0", "template2.2", "template3.0", "template3.2"):
        x = functional.leaky_relu(up(x, name), 0.2)
    x = functional.interpolate(x, size=(size // 16,) * 3, mode="trilinear", align_corners=True)
    for name in ("template4.0", "template4.2", "template4.4"):
        x = functional.leaky_relu(up(x, name), 0.2)
    return up(x, "conv_out")[:, 0]


@DEVICES
@pytest.mark.parametrize("size", [32, 48, 64, 96, 128])
def test_decoder_equals_plain_layers(size: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint read: values, and gradients of every parameter; few channels but in the smallest template."""
    if size > 32:
        use_widths(monkeypatch, *NARROW_WIDTHS)
    torch.manual_seed(size)
    decoder = Decoder(12, size)
    state = {
        name: (value + 0.01 * torch.randn_like(value)).to(device)
        for name, value in decoder.template.state_dict().items()
        if not name.startswith("affine")
    }
    template = ConvTemplate(12, size).to(device)
    template.load_state_dict(state)
    assert all(torch.equal(value, state[name]) for name, value in template.state_dict().items())
    z = torch.randn(1 if size > 64 else 2, 12).to(device)
    plain_parameters = {name: value.requires_grad_() for name, value in state.items()}
    ours, plain = template(z), plain_decoder(plain_parameters, z, size)
    assert ours.shape == (len(z), size, size, size)
    assert float(((ours - plain).norm() / plain.norm()).detach()) < 2e-5
    weight = torch.randn_like(plain)
    parameters = dict(template.named_parameters())
    got = torch.autograd.grad((ours * weight).sum(), list(parameters.values()))
    wanted = torch.autograd.grad((plain * weight).sum(), [plain_parameters[name] for name in parameters])
    for name, a, b in zip(parameters, got, wanted, strict=True):
        in_layout = unsort_taps(a) if a.dim() == 6 else a
        # an activation near 0 can have the other slope on a GPU, which sums in another order
        assert float((in_layout - b).norm()) < (5e-3 if device == "cuda" else 2e-3) * float(b.norm()), name


@pytest.mark.parametrize("channels", [1, 3])
def test_upsampling_equals_the_transposed_convolution(channels: int) -> None:
    plain = nn.ConvTranspose3d(4, channels, 4, stride=2, padding=1).double()
    ours = Upsample(4, channels).double()
    ours.load_state_dict(plain.state_dict())
    x = torch.randn(2, 4, 5, 5, 5, dtype=torch.float64)
    assert torch.allclose(ours(x), plain(x), atol=1e-12)
    assert torch.equal(ours.state_dict()["weight"], plain.weight)


def test_upsampling_has_the_gradient_it_states() -> None:
    torch.manual_seed(0)
    layer = Upsample(2, 2).double()
    nn.init.normal_(layer.weight)
    x = torch.randn(1, 2, 3, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))


def test_taps_are_sorted_and_back() -> None:
    weight = torch.randn(3, 5, 4, 4, 4)
    assert sort_taps(weight).shape == (8, 5, 3, 2, 2, 2)
    assert torch.equal(unsort_taps(sort_taps(weight)), weight)


def test_block_upsampling_equals_the_transposed_convolution() -> None:
    layer = BlockUpsample(4, 3).double()
    x = torch.randn(2, 4, 3, 3, 3, dtype=torch.float64)
    expected = functional.conv_transpose3d(x, layer.weight, layer.bias, 2)
    assert torch.allclose(layer(x), expected, atol=1e-12)


@pytest.mark.parametrize("planned", [True, False])
@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_closing_convolution_equals_the_layer(size: int, planned: bool) -> None:
    layer = ClosingConv(3, 4, size if planned else None).double()
    weight = torch.randn(4, 3, 4, 4, 4, dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": torch.randn(4, dtype=torch.float64)})
    assert torch.equal(layer.state_dict()["weight"], weight)
    x = torch.randn(2, 3, size, size, size, dtype=torch.float64)
    assert torch.allclose(layer(x), functional.conv3d(x, weight, layer.bias, 2, 1), atol=1e-12)


def test_closing_convolution_of_another_size_than_planned() -> None:
    layer = ClosingConv(3, 4, 2).double()
    x = torch.randn(2, 3, 3, 3, 3, dtype=torch.float64)
    expected = functional.conv3d(x, layer.state_dict()["weight"], layer.bias, 2, 1)
    assert torch.allclose(layer(x), expected, atol=1e-12)


def test_closing_convolution_trains_the_taps_that_meet_data() -> None:
    layer = ClosingConv(3, 4, 2).double()
    weight = torch.randn(4, 3, 4, 4, 4, dtype=torch.float64)
    layer.load_state_dict({"weight": weight, "bias": torch.zeros(4, dtype=torch.float64)})
    x = torch.randn(2, 3, 2, 2, 2, dtype=torch.float64)
    plain = weight.clone().requires_grad_()
    functional.conv3d(x, plain, None, 2, 1).square().sum().backward()
    layer(x).square().sum().backward()
    with torch.no_grad():
        layer.weight -= 0.1 * layer.weight.grad
    assert torch.allclose(layer.state_dict()["weight"], weight - 0.1 * plain.grad, atol=1e-12)


@pytest.mark.parametrize(("crop", "inner"), [(16, 8), (30, 12), (24, 14)])
def test_encoder_equals_plain_layers(crop: int, inner: int, encoder: Encoder) -> None:
    network = randomized(encoder)
    assert isinstance(network, Encoder)
    network.inner_size = inner
    volumes = torch.randn(2, crop, crop, crop)

    def run(x: Tensor, layers: nn.Sequential) -> Tensor:
        for layer in layers[::2]:
            weight = layer.state_dict()["weight"]
            x = functional.leaky_relu(functional.conv3d(x, weight, layer.bias, 2, 1), 0.2)
        return x

    x = functional.interpolate(run(volumes[:, None], network.down1), (inner,) * 3, mode="trilinear", align_corners=True)
    x = network.down3(run(x, network.down2).amax((2, 3, 4)))
    mu, logstd = network(volumes)
    assert torch.allclose(mu, network.mu(x), atol=1e-4, rtol=1e-3)
    assert torch.allclose(logstd, network.logstd(x), atol=1e-4, rtol=1e-3)


def test_first_output_is_smooth(decoder: Decoder) -> None:
    """The first output has no checkerboard, because all eight phases of an upsampling start with equal weights."""
    state = decoder.state_dict()
    upsampling = [name for name, value in state.items() if value.dim() == 5]
    assert len(upsampling) == 8
    for name in upsampling:
        # tap k = 2q + p along each axis; p, with the place of the output, has no effect
        taps = state[name].unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        assert torch.equal(taps, taps[:, :, :, :1, :, :1, :, :1].expand_as(taps)), name
        assert float(taps.std()) > 0, name
    with torch.no_grad():
        volume = decoder(torch.randn(1, 12))[0]
    inner = volume[8:-8, 8:-8, 8:-8]
    step = torch.stack([inner.diff(dim=axis).square().mean() for axis in range(3)]).mean()
    assert float(step) < 0.25 * float(inner.var())  # of white noise it is twice the variance


@pytest.mark.parametrize(
    ("layer", "bound"),
    [
        (nn.Linear(300, 200), math.sqrt(6 / 500)),
        (nn.Conv3d(20, 30, 4), math.sqrt(6 / (50 * 64))),
        (Upsample(40, 30), math.sqrt(6 / (70 * 8))),
        (BlockUpsample(40, 30), math.sqrt(6 / 70)),
    ],
)
def test_initial_weights_are_xavier_uniform(layer: nn.Module, bound: float) -> None:
    initialize(layer, gain=2.0)
    weight = layer.weight.detach()
    assert 0.98 * 2 * bound < float(weight.abs().max()) <= 2 * bound
    assert float(weight.std()) == pytest.approx(2 * bound / math.sqrt(3), rel=0.03)
    assert float(layer.bias.detach().abs().max()) == 0


def test_gain_is_that_of_the_activation_and_one_at_outputs(encoder: Encoder, decoder: Decoder) -> None:
    gain = math.sqrt(2 / (1 + 0.2**2))
    assert float(encoder.down3[0].weight.detach().abs().max()) == pytest.approx(gain * math.sqrt(6 / 1024), rel=0.01)
    assert float(encoder.mu.weight.detach().abs().max()) == pytest.approx(math.sqrt(6 / 528), rel=0.01)
    assert float(decoder.template.conv_out.weight.detach().abs().max()) == pytest.approx(
        math.sqrt(6 / (17 * 8)), rel=0.05
    )
    head = decoder.template.affine_out
    assert head is not None
    assert float(head[2].weight.detach().std()) == pytest.approx(0.5 / 512, rel=0.05)
    assert float(head[2].bias.detach().abs().max()) == 0


def test_unknown_layer_is_refused() -> None:
    with pytest.raises(ValueError, match="BatchNorm3d"):
        initialize(nn.BatchNorm3d(2))


def test_pose_rows(decoder: Decoder) -> None:
    """(B, poses, 6)."""
    rows = Decoder(2, 32, 3, 4).template.pose_rows(torch.randn(5, 3))
    assert rows.shape == (5, 4, 6)
    assert float(decoder.template.pose_rows(torch.randn(5, 4)).detach().abs().max()) < 0.1


def test_small_rotation() -> None:
    """Quaternion (16, a): no rotation at zero; about the axis a by 2 atan(|a|/16)."""
    assert torch.equal(small_rotation(torch.zeros(2, 3)), torch.eye(3).expand(2, 3, 3))
    about_z = small_rotation(torch.tensor([0.0, 0.0, 3.0], dtype=torch.float64))
    angle = 2 * math.atan(3 / 16)
    expected = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    assert torch.allclose(about_z, expected.double())


@pytest.mark.parametrize("way", [Downsample.blockwise, Downsample.as_product, Downsample.forward])
@pytest.mark.parametrize("size", [4, 6, 7, 9])
def test_other_ways_of_downsampling_equal_the_convolution(size: int, way: Callable[..., torch.Tensor]) -> None:
    """Values and gradients, even and odd grids."""
    layer = Downsample(3, 5).double()
    x = torch.randn(2, 3, size, size, size, dtype=torch.float64, requires_grad=True)
    ours, plain = way(layer, x), functional.conv3d(x, layer.weight, layer.bias, 2, 1)
    assert torch.allclose(ours, plain, atol=1e-12)
    weight = torch.randn_like(plain)
    inputs = [x, layer.weight]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs), torch.autograd.grad((plain * weight).sum(), inputs),
        strict=True,
    ):  # fmt: skip
        assert torch.allclose(a, b, atol=1e-12)
