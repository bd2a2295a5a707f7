"""Settings that a run keeps when it is resumed: model, particles and comparison.

Weights depend on the template, mask, CTF and poses for which they were trained. A resumed run is therefore compared
with the config.pkl of its start, by the values that result from options and by the content of files, not by names.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from opustomo.checkpoint.config import with_present_names
from opustomo.data.config import DataConfig
from opustomo.data.particles import ParticleSet
from opustomo.errors import UserError
from opustomo.io.ctf_tables import TiltTable
from opustomo.io.pickles import load_pickles

NETWORKS = {
    "--zdim": ("model_args", "zdim"),
    "--zaffinedim": ("model_args", "z_affine_dim"),
    "--encode-mode": ("model_args", "encode_mode"),
    "--templateres": ("model_args", "templateres"),
    "--encoderres": ("model_args", "encoderres"),
}
"""Options that determine the networks, and their places in config.pkl."""
COMPARISON = {
    "--estpose": ("opustomo", "model", "estimate_pose"),
    "--angpix": ("dataset_args", "angpix"),
    "--downfrac": ("dataset_args", "downfrac"),
    "--norm": ("dataset_args", "norm"),
    "--ctfalpha": ("opustomo", "physics", "ctf_alpha"),
    "--ctfbeta": ("opustomo", "physics", "ctf_beta"),
    "--normalizectf": ("opustomo", "physics", "ctf_normalized"),
    "--divide": ("opustomo", "physics", "divide"),
    "--bfactor": ("opustomo", "physics", "bfactor_A2"),
    "--preset": ("opustomo", "physics", "original"),
    "--no-ctf": ("dataset_args", "use_ctf"),
    "--warp": ("dataset_args", "warp"),
    "--warp-bfactor-scale": ("dataset_args", "warp_bfactor_scale"),
    "--tilt-limit": ("dataset_args", "tilt_limit_deg"),
    "--valfrac": ("dataset_args", "valfrac"),
    "--seed": ("seed",),
}
"""Options that determine the comparison of model and data, and their places in config.pkl."""
CONTENTS = ("--masks", "STAR", "--poses", "-r", "--focus", "CTF tables", "--split")
"""Inputs that are compared by their content."""
TOLERANCE = 1e-5
"""Relative difference of numbers that is due to rounding, as pixel sizes in headers are of single precision."""


class Difference(NamedTuple):
    """Option whose value differs from that at the start of the run, with both values as text."""

    option: str
    now: str
    then: str


def content_entries(
    data: DataConfig,
    particles: ParticleSet,
    masks: tuple[np.ndarray | None, np.ndarray | None],
    bodies: object,
    permutation: np.ndarray,
    split: Path | None,
) -> dict[str, list[str]]:
    """Return the digest of each input and its description, by option.

    Parameters
    ----------
    data
        Names of the inputs.
    particles, masks, bodies
        The inputs as read; the masks are that of the solvent and that of ``--focus``.
    permutation, split
        (N,) the split into training and held-out particles, and the file given with ``--split``.
    """
    names = [PurePosixPath(name).name for name in particles.star.strings("rlnImageName")]
    poses = particles.poses
    columns = [field.name for field in fields(TiltTable)]
    tables = [getattr(table, name) for table in particles.tables for name in columns]
    return {
        "--masks": [_digest([repr(bodies)]), str(data.bodies or "not given")],
        "STAR": [_digest(names), f"{data.star} ({len(names)} particles)"],
        "--poses": [_digest([poses.eulers_deg, poses.origins]), str(data.poses or f"the poses of {data.star}")],
        "-r": [_digest([part for part in masks[:1] if part is not None]), str(data.mask or "not given")],
        "--focus": [_digest([part for part in masks[1:] if part is not None]), str(data.focus or "not given")],
        "CTF tables": [_digest([particles.table, *tables]), f"those of {data.star}"],
        "--split": [_digest([permutation]), str(split or "that of the run")],
    }


def earlier_settings(folder: Path) -> dict[str, Any] | None:
    """Return the settings in the config.pkl of a run, None if it has none."""
    path = folder / "config.pkl"
    if not path.exists():
        return None
    content = load_pickles(path)[0]
    return with_present_names(content) if isinstance(content, dict) else None


def changes(folder: Path, now: Mapping[str, Any]) -> list[Difference] | None:
    """Return the differences of the settings ``now`` from the run in ``folder``; None if it has no config.pkl."""
    then = earlier_settings(folder)
    if then is None:
        return None
    return differences(now, then, NETWORKS | COMPARISON) + content_differences(now, then)


def require_same_run(folder: Path, now: Mapping[str, Any]) -> None:
    """Refuse to resume the run in ``folder`` with other settings.

    Raises
    ------
    UserError
        If the settings ``now`` differ from those of the start, or config.pkl is missing.
    """
    found = changes(folder, now)
    if found is None:
        raise UserError(
            f"{folder / 'config.pkl'} is missing, so the settings of the run are unknown. Restore it, or continue "
            "with --load weights.N.pkl in another folder."
        )
    if found:
        raise UserError(
            f"A resumed run keeps the settings of its start, but for {folder} {listed(found)}. Omit "
            f"{'this option' if len(found) == 1 else 'these options'} to resume, or start a new run in another folder "
            "with -o."
        )


def require_same_networks(weights: Path, found: Iterable[Difference]) -> None:
    """Refuse weights of networks with other sizes.

    Raises
    ------
    UserError
        If an option that determines the networks is among the differences ``found``.
    """
    other = [one for one in found if one.option in NETWORKS]
    if other:
        raise UserError(f"{weights} belongs to networks of other sizes: {listed(other)}. Give the options of that run.")


def differences(
    now: Mapping[str, Any], then: Mapping[str, Any], options: Mapping[str, tuple[str, ...]]
) -> list[Difference]:
    """Return the options whose values differ; values that only one of the settings has are not compared."""
    found = []
    for option, place in options.items():
        a, b = _at(now, place), _at(then, place)
        if option == "--divide":  # not decided means not divided
            a, b = bool(a), bool(b)
        if place[0] == "model_args" and None in (a, b):  # the original leaves defaults open
            continue
        if a is not _ABSENT and b is not _ABSENT and not _equal(a, b):
            found.append(Difference(option, _shown(option, a), _shown(option, b)))
    return found


def content_differences(now: Mapping[str, Any], then: Mapping[str, Any]) -> list[Difference]:
    """Return the inputs whose contents differ."""
    new, old = (_at(settings, ("opustomo", "contents")) for settings in (now, then))
    if _ABSENT in (new, old):
        return []
    return [
        Difference(option, new[option][1], old[option][1])
        for option in CONTENTS
        if option in new and option in old and new[option][0] != old[option][0]
    ]


def listed(found: Iterable[Difference]) -> str:
    """Return a description of the differences with both values."""
    return " and ".join(_said(one) for one in found)


def _said(one: Difference) -> str:
    if one.now == one.then:
        return f"the content of {one.option} {one.now} has changed"
    return f"{one.option} is {one.now} and was {one.then}"


_ABSENT = object()


def _at(settings: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    value: Any = settings
    for key in place:
        if not isinstance(value, Mapping) or key not in value:
            return _ABSENT
        value = value[key]
    return value


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float, np.number)) and isinstance(b, (int, float, np.number)):
        return math.isclose(float(a), float(b), rel_tol=TOLERANCE)
    return bool(a == b)


def _shown(option: str, value: Any) -> str:
    if option == "--no-ctf":
        value = not value
    if option == "--preset":
        return "original" if value is True else "opustomo"
    if value is None:
        return "not given"
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, (list, tuple)):
        return " ".join(_shown(option, one) for one in value)
    return f"{value:g}" if isinstance(value, (float, np.floating)) else str(value)


def _digest(parts: Iterable[Any]) -> str:
    """Return the SHA-256 digest of texts and arrays in their order."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(repr((part.dtype.str, part.shape)).encode())
            digest.update(np.ascontiguousarray(part).tobytes())
        else:
            digest.update(repr(part).encode() + b"\0")
    return digest.hexdigest()
