"""The options that say what the data are, for all commands that have them."""

from __future__ import annotations

import argparse
from typing import Any

from opustomo.data.config import DataConfig


def data_config(args: argparse.Namespace, **more: Any) -> DataConfig:
    """What the options say of the data; ``more`` are further fields."""
    return DataConfig(
        star=args.particles,
        poses=args.poses,
        mask=args.mask,
        datadir=args.datadir,
        ind=args.ind,
        force=args.force,
        apix=args.angpix,
        warp=args.warp,
        warp_bfactor_scale=args.warp_bfactor_scale,
        use_ctf=not args.no_ctf,
        tilt_range_deg=args.tilt_range,
        tilt_step_deg=args.tilt_step,
        tilt_limit_deg=args.tilt_limit,
        **more,
    )
