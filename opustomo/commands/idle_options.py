"""Options that were given but that nothing reads in the case at hand."""

from __future__ import annotations

import argparse
from typing import Any

from opustomo.errors import UserError

_NEEDS: dict[str, tuple[tuple[str, Any], ...]] = {
    "--masks": (("separate", None),),
    "--warp": (("warp_bfactor_scale", 0.25),),
    "--multigpu": (("num_gpus", 4),),
    "--encode-mode grad": (("encoderres", 12), ("beta", "cos"), ("beta_control", 0.5), ("lamb", 1.0)),
}
"""What options need, with their defaults (which may stand in a command line without a note)."""


def idle_options(args: argparse.Namespace) -> list[str]:
    """Return a note for each option that has no effect with the others.

    Raises
    ------
    UserError
        Options contradict each other.
    """
    if args.latents is not None and args.load in (None, "latest"):
        given = "without --load" if args.load is None else "with --load latest, which restores all latents"
        raise UserError(
            f"--latents {args.latents} would not be read {given}; give --load weights.N.pkl, or leave it out"
        )
    met = {
        "--masks": args.masks is not None,
        "--warp": args.warp,
        "--multigpu": args.multigpu,
        "--encode-mode grad": args.encode_mode == "grad",
    }
    return [
        f"--{name.replace('_', '-')} has no effect without {needed}"
        for needed, options in _NEEDS.items()
        for name, default in options
        if not met[needed] and getattr(args, name, default) != default
    ]
