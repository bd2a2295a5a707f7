"""Validation of command line options, and conversion of the options that describe data and clusters."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opustomo.data.config import DataConfig
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.analysis.results import ResultDir, Round

EPOCH_HELP = "epoch N (counted from 0), latest for the last saved epoch, or filter.N for a second round"

_OPTIONS = {
    "star": "particles", "apix": "angpix", "tilt_range_deg": "tilt_range", "tilt_step_deg": "tilt_step",
    "tilt_limit_deg": "tilt_limit",
}  # fmt: skip
_SAME = ("poses", "mask", "datadir", "ind", "force", "warp", "warp_bfactor_scale")


def data_config(args: argparse.Namespace, **more: Any) -> DataConfig:
    """Return the data configuration given by the options of a command.

    Options that a command does not have keep their defaults. ``more`` sets further fields of the configuration.
    """
    options = _OPTIONS | {name: name for name in _SAME}
    given = {field: getattr(args, option) for field, option in options.items() if hasattr(args, option)}
    return DataConfig(**given, use_ctf=not args.no_ctf, **more)


def selected_round(folder: Path, name: str) -> tuple[ResultDir, Round]:
    """Open a result directory and parse the name of an epoch or round; print the epoch that ``latest`` denotes."""
    from opustomo.analysis.results import LATEST, ResultDir

    results = ResultDir.open(folder)
    which = results.round(name)
    if name.strip().endswith(LATEST):
        print(f"The last saved epoch of {folder} is {which.epoch}.")
    return results, which


LARGEST_INT = 2**31 - 1
LARGEST = 1e9
"""Upper limit of real-valued options, which is larger than any valid value but causes no overflow."""


@dataclass(frozen=True)
class Range:
    """Interval from ``low`` to ``high``, which are included unless they are open; it never contains NaN.

    ``infinite`` includes infinity as the upper end.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    infinite: bool = False

    def __contains__(self, value: float) -> bool:
        if not _finite(value):
            return self.infinite and value == self.high
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def demand(self, value: float) -> str:
        """Return the requirement that a number outside the range violates, worded to follow "must"."""
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
    **dict.fromkeys(("box", "D", "-D", "--D", "--box", "--box-size", "--downsample"), BOX),
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
                     "--within", "--avg-neighbors", "--defocus", "--axis-tolerance", "--min-depth",
                     "--chain-distance"), NOT_NEGATIVE),
    **dict.fromkeys(("--open", "--close", "--dilate", "--erode", "--soft-edge", "--soft-edge-angst"), WIDTH),
    **dict.fromkeys(("--lr", "--voltage", "--kv", "--magnification", "--bin-size", "--scale", "--factor",
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


METHODS = ("kmeans", "gmm", "hdbscan")
DEFAULT_MAX_NUMBER = 20


def add_cluster_method(parser: argparse.ArgumentParser) -> None:
    """Add the option that selects the method of existing clusters."""
    parser.add_argument(
        "--cluster",
        choices=METHODS,
        help="method of the clusters: k-means, Gaussian mixture or HDBSCAN (default: kmeans)",
    )
    parser.add_argument("--gmm", action="store_true", help="the same as --cluster gmm")


def add_particle_places(parser: argparse.ArgumentParser) -> None:
    """Add the options for where the particles of clusters are in their tomograms."""
    parser.add_argument("--refined", action="store_true", help="use the refined poses of pose.N.pkl")
    parser.add_argument(
        "--coord-angpix",
        type=float,
        metavar="a",
        help="pixel size of the coordinates in Å (default: that of the tilt series in RELION 4 tables, otherwise that "
        "of the subtomograms)",
    )


def add_clustering(parser: argparse.ArgumentParser) -> None:
    """Add the options that select the method and number of new clusters."""
    add_cluster_method(parser)
    parser.add_argument(
        "--k",
        metavar="auto|K",
        help="auto: choose the number of clusters from the data, by BIC (gmm) and the stability over resamplings; the "
        f"number of clusters given elsewhere is then the largest that is tried (default: {DEFAULT_MAX_NUMBER})",
    )
    parser.add_argument(
        "--min-cluster-size",
        type=int,
        metavar="n",
        help="with --cluster hdbscan: particles of the smallest cluster (default: 0.5 %% of all, but at least 5)",
    )


def cluster_method(args: argparse.Namespace) -> str:
    """Return the method that ``--cluster`` or ``--gmm`` selects.

    Raises
    ------
    UserError
        If both are given and contradict each other.
    """
    if args.gmm and args.cluster not in (None, "gmm"):
        raise UserError(f"--gmm and --cluster {args.cluster} contradict each other. Give one of them.")
    return args.cluster or ("gmm" if args.gmm else "kmeans")


def requested_clustering(args: argparse.Namespace, number: int | None, default: int | None, name: str) -> Clustering:
    """Return the clustering that an analysis computes.

    Parameters
    ----------
    args
        Parsed options of `add_clustering`.
    number
        Number of clusters given otherwise; None if it is not given.
    default
        Number of clusters if neither `number` nor ``--k`` is given; None if one of them is required.
    name
        Name of the option or argument of `number`, for messages.

    Raises
    ------
    UserError
        If options contradict each other or the number of clusters is missing.
    """
    from opustomo.analysis.clusters.clustering import Clustering

    method = cluster_method(args)
    if args.min_cluster_size is not None and method != "hdbscan":
        raise UserError(f"--min-cluster-size requires --cluster hdbscan, but the method is {method}.")
    if args.k not in (None, "auto"):
        if not args.k.isdecimal() or int(args.k) < 1:
            raise UserError(f"--k is {args.k}, but it must be auto or a number of at least 1.")
        if number is not None and number != int(args.k):
            raise UserError(f"--k is {args.k}, but {name} is {number}. Give one of them.")
        number = int(args.k)
    if method == "hdbscan":
        if number is not None:
            print(f"Note: HDBSCAN determines the number of clusters from the data, so {number} is not used.")
        return Clustering(None, method, min_cluster_size=args.min_cluster_size)
    if args.k == "auto":
        return Clustering(None, method, DEFAULT_MAX_NUMBER if number is None else number)
    number = default if number is None else number
    if number is None:
        raise UserError(f"The number of clusters is missing. Give {name}, or --k auto to choose it from the data.")
    return Clustering(number, method)
