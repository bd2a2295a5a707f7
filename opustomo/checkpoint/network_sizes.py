"""Description of the differences between the networks of a file and those that they are loaded into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

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
