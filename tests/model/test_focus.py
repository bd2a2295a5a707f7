"""`--focus` in the model: the region inside the mask determines compositions, but the whole particle is modeled."""

import pytest
import torch
from torch import Tensor

from opustomo.model.autoencoder import Autoencoder
from opustomo.model.config import PhysicsConfig
from tests.model.test_autoencoder import BOXES, SIZES, make_batch, state


@pytest.fixture
def focused() -> Autoencoder:
    """Model with a focus on the upper half of the crop."""
    torch.manual_seed(0)
    upper = torch.zeros(12, 12, 12)
    upper[6:] = 1.0
    return Autoencoder(SIZES, PhysicsConfig(), BOXES, torch.ones(12, 12, 12), focus=upper)


def gradients(model: Autoencoder, part: slice) -> tuple[float, float]:
    """Return the largest gradients that a part of the density passes on to compositions and networks."""
    model.zero_grad()
    compositions = torch.randn(2, 2, generator=torch.Generator().manual_seed(1)).requires_grad_()
    model.template(compositions)[:, part].square().sum().backward()
    weight = model.decoder.template.conv_out.weight.grad
    assert compositions.grad is not None and weight is not None
    return float(compositions.grad.abs().max()), float(weight.abs().max())


def test_compositions_learn_from_inside_and_networks_from_everything(focused: Autoencoder) -> None:
    outside, inside = gradients(focused, slice(0, 12)), gradients(focused, slice(20, 32))
    assert outside[0] == 0.0 and outside[1] > 0.0
    assert inside[0] > 0.0 and inside[1] > 0.0


def test_densities_are_those_of_the_decoder(focused: Autoencoder) -> None:
    compositions = torch.randn(2, 2)
    torch.testing.assert_close(focused.template(compositions), focused.decoder(compositions))


def test_the_encoder_sees_the_focus_only(focused: Autoencoder) -> None:
    seen: list[Tensor] = []
    assert focused.encoder is not None
    focused.encoder.register_forward_pre_hook(lambda module, arguments: seen.append(arguments[0]))
    focused.inference(make_batch(), state(None))
    assert seen[0][:, 6:].abs().mean() > 0.1
    assert not seen[0][:, :6].any()
