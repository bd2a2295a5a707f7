"""The device a model works on."""

from __future__ import annotations

import torch

from opustomo.errors import UserError


def choose_device(name: str | None) -> str:
    """The device asked for, or a GPU if there is one, else the CPU.

    Raises
    ------
    UserError
        The name is none, or a GPU is asked for that is not there.
    """
    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"--device {name} is no device to work on; use cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError("a GPU was asked for but none is available; run with --device cpu or on a machine with a GPU")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: {torch.cuda.device_count()} GPUs are on this machine, counted from 0")
    return name
