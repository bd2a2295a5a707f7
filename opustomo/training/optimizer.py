"""AdamW (Loshchilov and Hutter 2019) with PyTorch's fused kernel.

``torch.optim`` imports PyTorch's compiler with the first optimizer, which takes one to two seconds and which the kernel
does not need. States are stored in the form of ``torch.optim.AdamW``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


class AdamW:
    """AdamW with the usual decay rates (0.9 and 0.999), which waits for nothing on the device.

    Parameters
    ----------
    parameters
        Parameters to be updated; those that need no gradient are left as they are.
    weight_decay
        Decoupled weight decay per unit of the learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = list(parameters), weight_decay
        self.moments = {
            place: (torch.zeros_like(parameter), torch.zeros_like(parameter))
            for place, parameter in enumerate(self.parameters)
            if parameter.requires_grad
        }
        self.steps = torch.zeros((), device=self.parameters[0].device)

    def clear_gradients(self) -> None:
        """Release all gradients."""
        for parameter in self.parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self, learning_rate: Tensor, omitted: Tensor) -> None:
        """Update the parameters that have a gradient.

        Parameters
        ----------
        learning_rate
            Scalar.
        omitted
            Scalar: 1 to leave parameters and moments as they are, else 0.
        """
        gradients = {place: gradient for place in self.moments if (gradient := self.parameters[place].grad) is not None}
        self.steps += 1.0 - omitted
        torch._fused_adamw_(
            [self.parameters[place] for place in gradients],
            list(gradients.values()),
            [self.moments[place][0] for place in gradients],
            [self.moments[place][1] for place in gradients],
            [],
            [self.steps] * len(gradients),
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            weight_decay=self.weight_decay,
            eps=1e-8,
            amsgrad=False,
            maximize=False,
            grad_scale=None,
            found_inf=omitted,
        )

    def state_dict(self) -> dict[str, Any]:
        """Return the moments and the number of steps by the place of each parameter."""
        state = {
            place: {"step": self.steps, "exp_avg": first, "exp_avg_sq": second}
            for place, (first, second) in self.moments.items()
        }
        return {"state": state, "param_groups": [{"params": list(range(len(self.parameters)))}]}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned, or the state of ``torch.optim.AdamW``, in place.

        States of earlier versions have moments of taps that are no longer parameters; they are zero and left out (see
        :class:`opustomo.model.convolution.ClosingConv`).
        """
        self.steps.zero_()
        for place, (first, second) in self.moments.items():
            stored = state["state"].get(place)
            if stored is None:  # the parameter has had no gradient yet
                first.zero_()
                second.zero_()
                continue
            self.steps.copy_(torch.maximum(self.steps, torch.as_tensor(stored["step"]).to(self.steps)))
            for moment, name in ((first, "exp_avg"), (second, "exp_avg_sq")):
                value = stored[name]
                if value.shape != moment.shape:
                    value = value[:, :, *(slice(1, 1 + moment.shape[-1]),) * 3]
                moment.copy_(value)
