"""Model weights (weights.N.pkl): networks under the keys of OPUS-TOMO, body geometry and latent separation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from opustomo.errors import UserError
from opustomo.geometry.rigid_bodies import MIN_BODIES, BodyGeometry
from opustomo.io.pickles import dump_torch, load_torch
from opustomo.model.autoencoder import Autoencoder
from opustomo.model.networks import Decoder
from opustomo.model.separation import Separation
from opustomo.physics.boxes import Boxes

_OPTIONS = (("template1.0.weight", "--zdim"), ("affine_out.0.weight", "--zaffinedim"))
"""Ends of parameter names whose second dimension is the value of an option."""


def describe_mismatch(stored: Mapping[str, Any], network: nn.Module) -> str:
    """Return how the parameters of a file differ from those of a network, with both values.

    Parameters
    ----------
    stored
        Parameters by name; names may have prefixes that the network's lack.
    network
        Network that they do not fit.

    Returns
    -------
    str
        For example ``it has --zdim 8, but 6 is required``, without a full stop.
    """
    there = {name: tuple(value.shape) for name, value in stored.items() if isinstance(value, Tensor)}
    here = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    differences = []
    for end, option in _OPTIONS:
        found, wanted = _second_dimension(there, end), _second_dimension(here, end)
        if found is not None and wanted is not None and found != wanted:
            differences.append(f"it has {option} {found}, but {wanted} is required")
    if differences:
        return " and ".join(differences)
    other = next((name for name in here if name in there and here[name] != there[name]), None)
    if other is not None:
        return f"its parameter {other} has shape {there[other]}, but {here[other]} is required"
    missing = [name for name in here if name not in there]
    if missing:
        return f"{len(missing)} of its parameters are missing, the first of them {missing[0]}"
    return "it is damaged"


def _second_dimension(shapes: Mapping[str, tuple[int, ...]], end: str) -> int | None:
    return next((shape[1] for name, shape in shapes.items() if name.endswith(end) and len(shape) > 1), None)


_BUFFERS = {
    "com_bodies": "com_bodies",
    "rotate_directions": "rotate_directions",
    "radius": "radii_bodies",
    "orient_bodies": "orient_bodies",
    "principal_axes": "principal_axes",
}
"""Field of the geometry for each buffer name."""
_BOX_FRACTIONS = ("rotate_directions", "radius")
"""Buffers of lengths in fractions of the box; ``com_bodies`` is in voxels."""


def body_buffers(geometry: BodyGeometry, boxes: Boxes) -> dict[str, Tensor]:
    """Return the entries of the body geometry in ``decoder_state_dict``."""
    return {
        name: geometry.tensor(member) / (boxes.box if name in _BOX_FRACTIONS else 1)
        for name, member in _BUFFERS.items()
    }


def read_body_geometry(
    state: dict[str, Any], boxes: Boxes, own: bool, parents: tuple[int, ...] = ()
) -> BodyGeometry | None:
    """Return the body geometry in a ``decoder_state_dict``, or None if it has no bodies.

    Parameters
    ----------
    state
        State of opustomo or OPUS-TOMO, whose buffers may have a prefix.
    boxes
        Boxes of the run.
    own
        True for weights of opustomo, False for weights of OPUS-TOMO. OPUS-TOMO omits the factor from fractions of the
        box to grid units in shifts and rotates about (Dc-1)/2. Its geometry is converted, so that our decoder
        reproduces its motion.
    parents
        Parent of each body, if known; by default inferred from the lever arms.

    Raises
    ------
    KeyError, ValueError
        If a buffer is missing or has another shape.
    """
    found = {}
    for key, value in state.items():
        name = key.rsplit(".", 1)[-1]
        if name in _BUFFERS:
            found[name] = np.asarray(torch.as_tensor(value).double())
    incomplete = not own and len(found) < len(_BUFFERS)  # decoders of OPUS-TOMO without bodies have some buffers
    if len(found.get("com_bodies", ())) < MIN_BODIES or incomplete:
        return None
    members = {
        member: found[name] * (boxes.box if name in _BOX_FRACTIONS else 1.0) for name, member in _BUFFERS.items()
    }
    members["in_relatives"] = members["com_bodies"] - members["rotate_directions"]
    inferred = BodyGeometry(**members, parents=parents).parents
    if not own:
        members["com_bodies"] = members["com_bodies"] - 0.5 * boxes.box / boxes.render
        members["rotate_directions"] = members["rotate_directions"] * (boxes.crop - 1) / (2 * boxes.render)
    return BodyGeometry(**members, parents=inferred)


KEY = "separation"
_FIELDS = ("mean", "std", "centre", "slope")  # the keys in existing files


def separation_state(separation: Separation) -> dict[str, Tensor]:
    """Return the arrays of a separation, (C,), (C,), (P,) and (P, zdim), in float64 to preserve their precision."""
    return {name: torch.from_numpy(np.array(getattr(separation, name), dtype=np.float64)) for name in _FIELDS}


def read_separation(content: Mapping[str, Any], path: Path, zdim: int, zaffinedim: int) -> Separation | None:
    """Return the separation in the ``content`` of the weights ``path``, or None if there is none.

    Raises
    ------
    UserError
        If it is damaged, or has other dimensions than the latents.
    """
    stored = content.get(KEY)
    if stored is None:
        return None
    try:
        if not isinstance(stored, Mapping):
            raise TypeError(f"a {type(stored).__name__}")
        found = Separation(*(np.asarray(torch.as_tensor(stored[name]).double()) for name in _FIELDS))
        if found.sizes != (zdim, zaffinedim):
            raise ValueError(f"its dimensions are {found.sizes}, but those of the latents are {(zdim, zaffinedim)}")
    except (KeyError, TypeError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"The separation of composition and conformation in {path} is damaged ({reason}). Use another epoch."
        ) from error
    return found


_WRAPPERS = ("module", "_orig_mod")
"""Prefixes that ``DataParallel`` and ``torch.compile`` add to parameter names."""
_ORIGINAL_MASK = "ref_mask"
_SCALE, _CONSENSUS, _FOCUS, _GAIN = "composition_scale", "consensus", "focus", "gain"


def write_weights(path: Path, model: Autoencoder, epoch: int, separation: Separation | None = None) -> None:
    """Write weights.N.pkl with networks and bodies under the keys of OPUS-TOMO, mask, noise spectrum and pose prior.

    ``separation`` is included if the latents of the epoch are separated.
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
        _GAIN: model.gain.cpu(),
    }
    if model.focused:
        content[_FOCUS] = model.focus.to(torch.float16).cpu()
    if model.encoder is None:
        content["fixed_latent"] = model.fixed_latent.cpu()
    else:
        content["encoder_state_dict"] = model.encoder.state_dict()
    if separation is not None:
        content[KEY] = separation_state(separation)
    dump_torch(path, content)


def read_weights(path: Path) -> dict[str, Any]:
    """Read a weights.N.pkl of opustomo or OPUS-TOMO.

    Names in ``decoder_state_dict`` and ``encoder_state_dict`` (absent in a homogeneous run) have no prefixes of
    ``DataParallel`` and ``torch.compile``. They include parameters that OPUS-TOMO stores only in ``model_state_dict``.

    Raises
    ------
    UserError
        If the file is missing or unsafe, or contains no decoder.
    """
    content = load_torch(path)
    if isinstance(content, dict):
        _split_model_state(content)
    if not isinstance(content, dict) or not _is_state(content.get("decoder_state_dict")):
        raise UserError(f"{path} contains no decoder. Give the weights.N.pkl of a training run.")
    for key in ("decoder_state_dict", "encoder_state_dict"):
        if _is_state(content.get(key)):
            content[key] = {_without_wrappers(name): value for name, value in content[key].items()}
        else:
            content.pop(key, None)
    return content


def solvent_mask(content: Mapping[str, Any], path: Path, crop: int) -> Tensor | None:
    """Return the solvent mask in the content of a weights.N.pkl, float32, (crop, crop, crop), or None.

    The key is ``mask`` in weights of opustomo, and the decoder buffer ``ref_mask`` in weights of OPUS-TOMO.

    Raises
    ------
    UserError
        If the size of the mask differs from the crop of the run, or the mask is not finite or is zero everywhere.
    """
    own = content.get("mask")
    found = own if isinstance(own, Tensor) and own.ndim == 3 else content["decoder_state_dict"].get(_ORIGINAL_MASK)
    if not isinstance(found, Tensor):
        return None
    mask = found.detach().float().squeeze()
    if tuple(mask.shape) != (crop,) * 3:
        shape = "×".join(map(str, found.shape))
        raise UserError(
            f"The solvent mask in {path} has {shape} voxels, but the crop of this run is {crop}³. Give the weights and "
            "the config.pkl of the same run."
        )
    if not torch.isfinite(mask).all() or not (mask > 0).any():
        raise UserError(
            f"The solvent mask in {path} is empty or contains values that are not finite. Use another epoch."
        )
    return mask


def focus_mask(content: Mapping[str, Any], crop: int) -> Tensor | None:
    """Return the mask of ``--focus`` in the content of a weights.N.pkl, float32, (crop, crop, crop), or None."""
    found = content.get(_FOCUS)
    if not isinstance(found, Tensor) or tuple(found.shape) != (crop,) * 3:
        return None
    return found.float()


def load_decoder(decoder: Decoder, content: Mapping[str, Any]) -> bool:
    """Load the parameters of a decoder and the scale of its compositions from the content of a weights.N.pkl.

    Returns
    -------
    bool
        Whether the pose head is missing and keeps its initial values.

    Raises
    ------
    RuntimeError
        If another parameter is missing, or a parameter has another shape.
    """
    new_head = load_network(decoder, content["decoder_state_dict"])
    # OPUS-TOMO has neither
    scale, consensus = content.get(_SCALE), content.get(_CONSENSUS)
    decoder.composition_scale.copy_(scale if isinstance(scale, Tensor) else torch.ones(()))
    decoder.consensus.copy_(consensus if isinstance(consensus, Tensor) else torch.zeros(()))
    return new_head


def read_gain(content: Mapping[str, Any]) -> Tensor | None:
    """Return the gain of the decoder network per shell, (S,), from the content of a weights.N.pkl.

    None if it is missing, as in weights of OPUS-TOMO, or 1 in all shells.
    """
    gain = content.get(_GAIN)
    if not isinstance(gain, Tensor) or gain.ndim != 1 or bool((gain == 1).all()):
        return None
    return gain.float()


def load_noise_and_prior(model: Autoencoder, content: Mapping[str, Any]) -> None:
    """Load the noise spectrum and the pose prior from the content of a weights.N.pkl into a model, if present."""
    stored, prior = content.get("noise"), content.get("pose_prior")
    if isinstance(prior, Tensor) and prior.shape == model.pose_prior.shape:
        model.pose_prior.copy_(prior)
    gain = content.get(_GAIN)
    if isinstance(gain, Tensor) and gain.shape == model.gain.shape:
        model.gain.copy_(gain)
    for name, values in model.noise._asdict().items():
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Tensor) and stored[name].shape == values.shape:
            values.copy_(stored[name])


def load_network(network: nn.Module, state: Mapping[str, Any]) -> bool:
    """Load the parameters of a network and ignore other entries of ``state``.

    Returns
    -------
    bool
        Whether the pose head is missing and keeps its initial values.

    Raises
    ------
    RuntimeError
        If another parameter is missing, or a parameter has another shape.
    """
    own = network.state_dict()
    head = {name: value for name, value in own.items() if ".affine_out." in name and name not in state}
    network.load_state_dict({name: state[name] for name in own if name in state} | head)
    return bool(head)


def _split_model_state(content: dict[str, Any]) -> None:
    """Move the entries of ``model_state_dict`` to those of encoder and decoder, unless these exist."""
    whole = content.get("model_state_dict")
    if not isinstance(whole, Mapping) or not _is_state(whole):
        return
    for network in ("encoder", "decoder"):
        named = {_without_wrappers(name): value for name, value in whole.items()}
        found = {
            name.removeprefix(f"{network}."): value for name, value in named.items() if name.startswith(f"{network}.")
        }
        key = f"{network}_state_dict"
        if not _is_state(content.get(key)):
            content[key] = found
        elif network == "decoder" and _ORIGINAL_MASK in found:
            content[key] = {_ORIGINAL_MASK: found[_ORIGINAL_MASK], **content[key]}


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(name, str) for name in value)


def _without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)
