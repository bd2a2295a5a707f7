"""Valid ranges of the numeric options of all commands, which are checked before a command runs."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass

from opustomo.errors import UserError

LARGEST_INT = 2**31 - 1
LARGEST = 1e9
"""Upper limit of real-valued options, which is larger than any valid value but causes no overflow."""


@dataclass(frozen=True)
class Range:
    """Interval from ``low`` to ``high``, which are included unless they are open; it never contains NaN.

    ``infinite`` includes infinity as the upper end, and ``even`` excludes odd numbers.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False
    even: bool = False

    def __contains__(self, value: float) -> bool:
        if not _finite(value):
            return self.infinite and value == self.high
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below and not (self.even and value % 2)

    def demand(self, value: float) -> str:
        """Return the requirement that a number outside the range violates, worded to follow "must"."""
        if self.even and value <= self.high:
            return f"be even and at least {_plain(self.low)}"
        if self.low > -math.inf and self.high <= 180:
            ends = "(" if self.open_low else "[", ")" if self.open_high else "]"
            return f"lie in {ends[0]}{_plain(self.low)}, {_plain(self.high)}{ends[1]}"
        if not _finite(value) and not self.infinite:
            return "be a finite number"
        if value > self.high or (self.open_high and value == self.high):
            return f"be at most {_plain(self.high)}"
        if self.low == -math.inf:
            return "be a number"
        return "be positive" if self.low == 0 and self.open_low else f"be at least {_plain(self.low)}"


def _finite(value: float) -> bool:
    return isinstance(value, int) or math.isfinite(value)  # a large int cannot be converted to float


def at_least(low: float, high: float = math.inf) -> Range:
    """Return the closed range from ``low``."""
    return Range(low, high)


POSITIVE = Range(0.0, LARGEST, open_low=True)
PIXEL_SIZE = Range(0.0, 1e6, open_low=True)
TILT = Range(0.0, 90.0, open_low=True, open_high=True)
COUNT = at_least(1, LARGEST_INT)
INDEX = at_least(0, LARGEST_INT)
BOX = at_least(2, 32768)
EVEN_BOX = Range(8, 32768, even=True)
WORKERS = at_least(1, 1024)
SEED = at_least(0, 2**64 - 1)
ANY = Range(-LARGEST, LARGEST)
NOT_NEGATIVE = at_least(0.0, LARGEST)
WIDTH = at_least(0.0, 1e4)

RANGES: dict[str, Range] = {
    **dict.fromkeys(
        ("apix", "angpix", "--apix", "--Apix", "--angpix", "--map-apix", "--image-apix", "--series-apix",
         "--coord-apix", "--coord-angpix", "--tomo-angpix", "--rescale-angpix", "--pixel-size",
         "--detector-pixel-size"),
        PIXEL_SIZE,
    ),
    **dict.fromkeys(("box", "D", "-D", "--D", "--box", "--downsample"), BOX),
    **dict.fromkeys(("--tomo-size", "--image-size"), COUNT),
    **dict.fromkeys(("--workers", "--num-workers"), WORKERS),
    **dict.fromkeys(("-n", "--count", "--num-epochs", "--epochs", "--batch-size", "--accum-step", "--checkpoint",
                     "--keep", "--log-interval", "--num-gpus", "--points", "--num-volumes", "--nearest",
                     "--max-neighbors", "numk", "K", "num", "--numk", "--kmeans", "--ksample", "numb", "--bodies",
                     "--origin-rel", "--dim", "--min-cluster-size", "--samples", "--components", "--classes"), COUNT),
    **dict.fromkeys(("numpc", "--pc", "--num-pcs", "--permutations", "--dfk", "--template-z-ind", "--near-particle",
                     "--between", "--anchors", "--start-index", "--num-bodies", "--particle-volumes"), INDEX),
    **dict.fromkeys(("--wd", "--lamb", "--beta-control", "--bfactor", "--ctfalpha", "--ctfbeta",
                     "--warp-bfactor-scale", "--perturb-rot", "--perturb-trans", "--rot-err", "--shift", "--shift-err",
                     "--astigmatism", "--dose", "--cs", "--high-tilt", "--clip-sigma", "--bfactor-per-dose",
                     "--within", "--avg-neighbors", "--defocus", "--min-depth",
                     "--chain-distance"), NOT_NEGATIVE),
    **dict.fromkeys(("--open", "--close", "--dilate", "--erode", "--soft-edge", "--soft-edge-angst"), WIDTH),
    **dict.fromkeys(("--voltage", "--kv"), Range(0.0, 1e4, open_low=True)),
    **dict.fromkeys(("--lr", "--magnification", "--bin-size", "--scale", "--factor",
                     "--coord-scale", "--weights", "--sphere-radius"), POSITIVE),
    "--seed": SEED,
    "--zdim": at_least(1, 4096),
    "--zaffinedim": at_least(0, 4096),
    "--templateres": at_least(17, 16384),
    "--encoderres": at_least(8, 256),
    "--downfrac": Range(0.0, 1.0, open_low=True),
    "--valfrac": Range(0.0, 1.0, open_high=True),
    "--fdr": Range(0.0, 1.0, open_low=True, open_high=True),
    "--empty": Range(0.0, 1.0, open_high=True),
    "--amplitude": Range(0.0, 1.0),
    "prepare_ctf --amplitude": Range(0.0, 1.0, open_high=True),
    "--axis-tolerance": TILT,
    "convert_warp --cs": POSITIVE,
    "create_mask --box": Range(4, 32768, even=True),
    "extract_subtomos --box": EVEN_BOX,
    "prepare_subtomos --box": EVEN_BOX,
    "simulate --box": Range(16, 4096, even=True),
    "--box-size": Range(2, 32768, even=True),
    "--tilt-range": TILT,
    "--tilt-step": TILT,
    "simulate --tilt-range": Range(-90.0, 90.0),
    "--percentile": Range(0.0, 100.0),
    "--lim": Range(0.0, 100.0),
    "--tilt-limit": Range(-180.0, 180.0),
    **dict.fromkeys(("--norm", "-z", "--z-start", "--z-end", "--threshold", "--sphere-center"), ANY),
    "--snr": Range(0.0, open_low=True, infinite=True),
}  # fmt: skip
"""Valid range of each option or positional argument; ``command option`` takes precedence over ``option``."""

NAMES = ("--prefix", "--tmp-prefix")
"""Options that become parts of file names in a folder given by another option."""
INNER_PATHS = ("--image-name",)
"""Options that are relative paths in such a folder."""


def check_options(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Check the numbers and file names of a command line.

    Raises
    ------
    UserError
        If a number is outside its range, or a name would lead to another folder.
    """
    command = parser.prog.split()[-1]
    for action in parser._actions:
        value = getattr(args, action.dest, None)
        if value is None or value is action.default:
            continue
        title = max(action.option_strings, key=len, default=action.metavar or action.dest)
        for number in _numbers(value):
            limits = range_of(command, action, type(number))
            if number not in limits:
                raise UserError(f"{title} must {limits.demand(number)}, got {_plain(number)}.")
        if isinstance(value, str) and set(NAMES) & set(_titles(action)):
            _check_name(str(title), value)
        if isinstance(value, str) and set(INNER_PATHS) & set(_titles(action)):
            _check_inner_path(str(title), value)


def range_of(command: str, action: argparse.Action, kind: type) -> Range:
    """Return the valid range of an option whose values have type int or float."""
    names = _titles(action)
    for name in [f"{command} {name}" for name in names] + names:
        if name in RANGES:
            return RANGES[name]
    return Range(-LARGEST_INT - 1, LARGEST_INT) if kind is int else Range()


def _titles(action: argparse.Action) -> list[str]:
    return list(action.option_strings) or [action.dest]


def _numbers(value: object) -> Iterable[float]:
    values = value if isinstance(value, (list, tuple)) else [value]
    return [number for number in values if isinstance(number, (int, float)) and not isinstance(number, bool)]


def _plain(number: float) -> str:
    if not isinstance(number, int):
        return str(int(number)) if number.is_integer() and abs(number) < 2**53 else f"{number:.12g}"
    text = str(number)
    return text if len(text) <= 40 else f"a number of {len(text.lstrip('-'))} digits"


def _check_name(title: str, text: str) -> None:
    if not text or "/" in text or text in (".", "..") or not text.isprintable():
        raise UserError(f"{title} is {text!r}, but it must be a file name without folders. Give the folder with -o.")


def _check_inner_path(title: str, text: str) -> None:
    if text.startswith("/") or ".." in text.split("/"):
        raise UserError(f"{title} is {text!r}, which is outside the output folder. Give a relative path without '..'.")
