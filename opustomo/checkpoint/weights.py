"""weights.N.pkl: networks under the original's key names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from opustomo.checkpoint.bodies import body_buffers
from opustomo.checkpoint.separation import KEY, separation_entries
from opustomo.errors import UserError
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.separation import Separation

_WRAPPERS = ("module", "_orig_mod")
"""What ``DataParallel`` and ``torch.compile`` put into parameter names."""


def write_weights(path: Path, model: Autoencoder, epoch: int, separation: Separation | None = None) -> None:
    """Write weights.N.pkl: networks and bodies under the original's key names, the crop's mask, the shared latent.

    ``separation``, if the latents of the epoch were separated, goes with them.
    """
    bodies = model.config.bodies
    geometry = {} if bodies is None else body_buffers(bodies, model.boxes)
    content: dict[str, Any] = {
        "epoch": epoch,
        "decoder_state_dict": {**model.decoder.state_dict(), **geometry},
        "mask": model.mask.to(torch.float16).cpu(),
    }
    if model.encoder is None:
        content["fixed_latent"] = model.fixed_latent.cpu()
    else:
        content["encoder_state_dict"] = model.encoder.state_dict()
    if separation is not None:
        content[KEY] = separation_entries(separation)
    dump_torch(path, content)


def read_weights(path: Path) -> dict[str, Any]:
    """Content of a weights.N.pkl, of ours or of the original.

    Names under ``decoder_state_dict`` and ``encoder_state_dict`` (absent in a homogeneous run) are given without what
    ``DataParallel`` and ``torch.compile`` put into them.

    Raises
    ------
    UserError
        The file is missing, unsafe, or holds no decoder.
    """
    content = load_torch(path)
    if not isinstance(content, dict) or not _is_state(content.get("decoder_state_dict")):
        raise UserError(f"{path}: holds no decoder; give the weights.N.pkl of a training run")
    for key in ("decoder_state_dict", "encoder_state_dict"):
        if _is_state(content.get(key)):
            content[key] = {_plain(name): value for name, value in content[key].items()}
        else:
            content.pop(key, None)
    return content


def load_network(network: nn.Module, state: Mapping[str, Any]) -> bool:
    """Load the parameters of a network, whatever else ``state`` holds.

    Returns
    -------
    bool
        Whether the pose head was absent and keeps its start values.

    Raises
    ------
    RuntimeError
        Another parameter is absent, or one has another shape.
    """
    own = network.state_dict()
    head = {name: value for name, value in own.items() if ".affine_out." in name and name not in state}
    network.load_state_dict({name: state[name] for name in own if name in state} | head)
    return bool(head)


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(name, str) for name in value)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
