"""The options that say what the data are, for all commands that have some of them."""

from __future__ import annotations

import argparse
from typing import Any

from opustomo.data.config import DataConfig

_OPTIONS = {
    "star": "particles", "apix": "angpix", "tilt_range_deg": "tilt_range", "tilt_step_deg": "tilt_step",
    "tilt_limit_deg": "tilt_limit",
}  # fmt: skip
_SAME = ("poses", "mask", "datadir", "ind", "force", "warp", "warp_bfactor_scale")


def data_config(args: argparse.Namespace, **more: Any) -> DataConfig:
    """What the options say of the data; those that a command lacks keep their defaults, ``more`` are further fields."""
    options = _OPTIONS | {name: name for name in _SAME}
    given = {field: getattr(args, option) for field, option in options.items() if hasattr(args, option)}
    return DataConfig(**given, use_ctf=not args.no_ctf, **more)
