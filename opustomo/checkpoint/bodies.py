"""Geometry of bodies as checkpoints hold it: the buffers of the original's decoder."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from opustomo.geometry.bodies import LEAST_BODIES, BodyGeometry
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
