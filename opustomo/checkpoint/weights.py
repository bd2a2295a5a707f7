"""weights.N.pkl: networks under the original's key names, body geometry, and the separation of the latents."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import LEAST_BODIES, BodyGeometry
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.decoder import Decoder
from opustomo.model.separation import Separation
from opustomo.physics.boxes import Boxes

_BUFFERS = {
    "com_bodies": "com_bodies",
    "rotate_directions": "rotate_directions",
    "radius": "radii_bodies",
    "orient_bodies": "orient_bodies",
    "principal_axes": "principal_axes",
}
"""Name of the buffer → member of the geometry."""
_DIVIDED = ("rotate_directions", "radius")
"""Buffers that hold lengths as fractions of the box; com_bodies are voxels."""


def body_buffers(geometry: BodyGeometry, boxes: Boxes) -> dict[str, Tensor]:
    """Entries for ``decoder_state_dict``."""
    return {name: geometry.tensor(member) / (boxes.box if name in _DIVIDED else 1) for name, member in _BUFFERS.items()}


def bodies_from_buffers(
    state: dict[str, Any], boxes: Boxes, own: bool, parents: tuple[int, ...] = ()
) -> BodyGeometry | None:
    """Geometry in a ``decoder_state_dict``, None when it has no bodies.

    Parameters
    ----------
    state
        Of ours or of the original, whose buffers may have a prefix.
    boxes
        Sizes of the run.
    own
        False for results of the original. It forgets the factor from fractions of the box to grid units for shifts, and
        turns about (Dc-1)/2; its geometry comes back such that our decoder moves its bodies as it does.
    parents
        Known from elsewhere; else guessed from the levers.

    Raises
    ------
    KeyError, ValueError
        A buffer is missing or of another shape.
    """
    found = {}
    for key, value in state.items():
        name = key.rsplit(".", 1)[-1]
        if name in _BUFFERS:
            found[name] = np.asarray(torch.as_tensor(value).double())
    incomplete = not own and len(found) < len(_BUFFERS)  # of a decoder that moves no bodies, whatever it holds besides
    if len(found.get("com_bodies", ())) < LEAST_BODIES or incomplete:
        return None
    members = {member: found[name] * (boxes.box if name in _DIVIDED else 1.0) for name, member in _BUFFERS.items()}
    members["in_relatives"] = members["com_bodies"] - members["rotate_directions"]
    guessed = BodyGeometry(**members, parents=parents).parents
    if not own:
        members["com_bodies"] = members["com_bodies"] - 0.5 * boxes.box / boxes.render
        members["rotate_directions"] = members["rotate_directions"] * (boxes.crop - 1) / (2 * boxes.render)
    return BodyGeometry(**members, parents=guessed)


KEY = "separation"
_PARTS = ("mean", "std", "centre", "slope")


def separation_entries(separation: Separation) -> dict[str, Tensor]:
    """Content of the entry: (C,), (C,), (P,) and (P, zdim), float64, so that nothing is lost in taking it back."""
    return {name: torch.from_numpy(np.array(getattr(separation, name), dtype=np.float64)) for name in _PARTS}


def separation_in(content: Mapping[str, Any], path: Path, zdim: int, zaffinedim: int) -> Separation | None:
    """Separation in the ``content`` of the weights ``path``, None when they have none.

    Raises
    ------
    UserError
        It is damaged, or of latents of other sizes.
    """
    stored = content.get(KEY)
    if stored is None:
        return None
    try:
        if not isinstance(stored, Mapping):
            raise TypeError(f"a {type(stored).__name__}")
        found = Separation(*(np.asarray(torch.as_tensor(stored[name]).double()) for name in _PARTS))
        if found.sizes != (zdim, zaffinedim):
            raise ValueError(f"it is of {found.sizes} numbers, the latents have {(zdim, zaffinedim)}")
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: what separates composition and conformation is damaged ({reason}); take another epoch"
        ) from error
    return found


_WRAPPERS = ("module", "_orig_mod")
"""What ``DataParallel`` and ``torch.compile`` put into parameter names."""
_ORIGINAL_MASK = "ref_mask"
_SCALE, _CONSENSUS = "composition_scale", "consensus"


def write_weights(path: Path, model: Autoencoder, epoch: int, separation: Separation | None = None) -> None:
    """Write weights.N.pkl: networks and bodies under the original's key names, the crop's mask, the shared latent.

    ``separation``, if the latents of the epoch were separated, goes with them.
    """
    bodies = model.config.bodies
    geometry = {} if bodies is None else body_buffers(bodies, model.boxes)
    content: dict[str, Any] = {
        "epoch": epoch,
        "decoder_state_dict": {**model.decoder.state_dict(), **geometry},
        _SCALE: model.decoder.composition_scale.cpu(),
        _CONSENSUS: model.decoder.consensus.cpu(),
        "mask": model.mask.to(torch.float16).cpu(),
        "noise": {name: values.cpu() for name, values in model.noise._asdict().items()},
        "pose_prior": model.pose_prior.cpu(),
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
    ``DataParallel`` and ``torch.compile`` put into them. What the original keeps in ``model_state_dict`` only is given
    there too.

    Raises
    ------
    UserError
        The file is missing, unsafe, or holds no decoder.
    """
    content = load_torch(path)
    if isinstance(content, dict):
        _divide_model_state(content)
    if not isinstance(content, dict) or not _is_state(content.get("decoder_state_dict")):
        raise UserError(f"{path}: holds no decoder; give the weights.N.pkl of a training run")
    for key in ("decoder_state_dict", "encoder_state_dict"):
        if _is_state(content.get(key)):
            content[key] = {_plain(name): value for name, value in content[key].items()}
        else:
            content.pop(key, None)
    return content


def solvent_mask(content: Mapping[str, Any], path: Path, crop: int) -> Tensor | None:
    """Return the solvent mask in the content of a weights.N.pkl: (crop, crop, crop), float32; None if it has none.

    It lies in ``mask`` in ours and in the decoder's buffer ``ref_mask`` in the original's.

    Raises
    ------
    UserError
        The mask has another size than the crop of the run, or values that are not finite, or is zero everywhere.
    """
    own = content.get("mask")
    found = own if isinstance(own, Tensor) and own.ndim == 3 else content["decoder_state_dict"].get(_ORIGINAL_MASK)
    if not isinstance(found, Tensor):
        return None
    mask = found.detach().float().squeeze()
    if tuple(mask.shape) != (crop,) * 3:
        shape = "×".join(map(str, found.shape))
        raise UserError(
            f"{path}: the solvent mask in it is {shape} voxels, but the crop of this run is {crop}³; give the weights "
            "and the config.pkl of one run"
        )
    if not torch.isfinite(mask).all() or not (mask > 0).any():
        raise UserError(
            f"{path}: the solvent mask in it is empty or holds values that are not finite; take another epoch"
        )
    return mask


def load_decoder(decoder: Decoder, content: Mapping[str, Any]) -> bool:
    """Load the parameters of a decoder and the scale of its compositions from the content of a weights.N.pkl.

    Returns
    -------
    bool
        Whether the pose head was absent and keeps its start values.

    Raises
    ------
    RuntimeError
        Another parameter is absent, or one has another shape.
    """
    new_head = load_network(decoder, content["decoder_state_dict"])
    # OPUS-TOMO has neither
    scale, consensus = content.get(_SCALE), content.get(_CONSENSUS)
    decoder.composition_scale.copy_(scale if isinstance(scale, Tensor) else torch.ones(()))
    decoder.consensus.copy_(consensus if isinstance(consensus, Tensor) else torch.zeros(()))
    return new_head


def load_noise(model: Autoencoder, content: Mapping[str, Any]) -> None:
    """Let a model take the noise spectrum and the pose prior in the content of a weights.N.pkl, if it holds them."""
    stored, prior = content.get("noise"), content.get("pose_prior")
    if isinstance(prior, Tensor) and prior.shape == model.pose_prior.shape:
        model.pose_prior.copy_(prior)
    for name, values in model.noise._asdict().items():
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Tensor) and stored[name].shape == values.shape:
            values.copy_(stored[name])


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


def _divide_model_state(content: dict[str, Any]) -> None:
    """Put what ``model_state_dict`` holds of encoder and decoder where they belong, unless it is there already."""
    whole = content.get("model_state_dict")
    if not isinstance(whole, Mapping) or not _is_state(whole):
        return
    for part in ("encoder", "decoder"):
        named = {_plain(name): value for name, value in whole.items()}
        found = {name.removeprefix(f"{part}."): value for name, value in named.items() if name.startswith(f"{part}.")}
        key = f"{part}_state_dict"
        if not _is_state(content.get(key)):
            content[key] = found
        elif part == "decoder" and _ORIGINAL_MASK in found:
            content[key] = {_ORIGINAL_MASK: found[_ORIGINAL_MASK], **content[key]}


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(name, str) for name in value)


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
