from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from opustomo.training.optimizer import AdamW


def pair() -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The same parameters twice; the last one never gets a gradient."""
    torch.manual_seed(0)
    values = [torch.randn(3, 4), torch.randn(5), torch.randn(2)]
    return [nn.Parameter(v.clone()) for v in values], [nn.Parameter(v.clone()) for v in values]


def descend(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        mine.grad = torch.randn_like(mine)
        other.grad = mine.grad.clone()


def test_steps_are_those_of_adamw_of_torch() -> None:
    ours, theirs = pair()
    optimizer, reference = AdamW(ours, 0.1), torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1)
    for _ in range(5):
        descend(ours, theirs)
        optimizer.step(torch.tensor(0.01), torch.tensor(0.0))
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)


def test_a_state_of_adamw_of_torch_is_resumed() -> None:
    """State files of earlier versions contain such states."""
    ours, theirs = pair()
    reference = torch.optim.AdamW(theirs, lr=0.01, weight_decay=0.1)
    for _ in range(3):
        descend(ours, theirs)
        reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        mine.data.copy_(other.data)
    optimizer = AdamW(ours, 0.1)
    optimizer.load_state_dict(reference.state_dict())
    descend(ours, theirs)
    optimizer.step(torch.tensor(0.01), torch.tensor(0.0))
    reference.step()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other)
    again = AdamW(ours, 0.1)
    again.load_state_dict(optimizer.state_dict())
    assert float(again.steps) == 4 and torch.equal(again.moments[1][1], optimizer.moments[1][1])


@pytest.mark.parametrize(("gradient", "omitted"), [(2.0, 1.0), (float("nan"), 1.0), (2.0, 0.0)])
def test_a_step_that_is_to_be_omitted_changes_nothing(gradient: float, omitted: float) -> None:
    w = nn.Parameter(torch.ones(3))
    optimizer = AdamW([w], 0.0)
    w.grad = torch.full((3,), gradient)
    optimizer.step(torch.tensor(0.1), torch.tensor(omitted))
    unchanged = torch.equal(w, torch.ones(3)) and not optimizer.moments[0][0].any() and not optimizer.steps
    assert unchanged == bool(omitted)


def test_the_compiler_of_torch_is_not_imported() -> None:
    program = (
        "import sys, torch\n"
        "from opustomo.training.optimizer import AdamW\n"
        "w = torch.nn.Parameter(torch.ones(3)); w.grad = torch.ones(3)\n"
        "AdamW([w], 0.0).step(torch.tensor(0.1), torch.tensor(0.0))\n"
        "sys.exit('torch._dynamo' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
