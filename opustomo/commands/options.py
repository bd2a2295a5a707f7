"""Options that several commands share, and what they stand for: data, rounds of analysis and clusters."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from opustomo.data.config import DataConfig
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.analysis.results import ResultDir, Round

Adder = argparse.ArgumentParser | argparse._ArgumentGroup
"""Parser or group of options."""

LATEST_HELP = "latest for the last saved epoch (the best one if the training overfits)"
EPOCH_HELP = f"epoch N (counted from 0), {LATEST_HELP}, or filter.N for a second round"

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
    from opustomo.analysis.results import LATEST, ResultDir, parse_round
    from opustomo.training.monitors.convergence_state import latest_epoch

    results = ResultDir.open(folder)
    if not name.strip().endswith(LATEST):
        return results, parse_round(name)
    last = results.epochs()[-1]
    which = parse_round(name, latest_epoch(folder))
    if which.epoch == last:
        print(f"The last saved epoch of {folder} is {last}.")
    else:
        print(
            f"The training overfits, so epoch {which.epoch} of {folder}, which has a lower held-out loss, is used "
            f"instead of the last saved epoch. To use that, give {last} instead of {name.strip()}."
        )
    return results, which


def add_run(parser: argparse.ArgumentParser, rounds: bool = True) -> None:
    """Add the arguments for the output folder of a run and an epoch of it, or a round of analysis with `rounds`."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    epoch = f"epoch N (counted from 0), or {LATEST_HELP}"
    parser.add_argument("N", help=EPOCH_HELP if rounds else epoch)


def add_moved_star(parser: argparse.ArgumentParser) -> None:
    """Add the option for the particle table of a run, which by default is read from the settings of the run."""
    parser.add_argument("--star", type=Path, help="STAR file used for training, if it was moved")


def add_device(parser: Adder) -> None:
    """Add the option that selects the device."""
    parser.add_argument("--device", help="cuda or cpu (default: a GPU if available)")


def add_images(parser: Adder) -> None:
    """Add the options for the images of a particle table and their pixel size, which `data_config` reads."""
    add = parser.add_argument
    add("--datadir", type=Path, help="folder that the image paths are relative to")
    add("--angpix", type=float, help="pixel size in Å (default: MRC header)")
    add(
        "--force",
        action="store_true",
        help="continue even if --angpix disagrees with the headers or the origins appear to be in Å",
    )


def add_ctf(parser: Adder, verifies: bool) -> None:
    """Add the options for the CTF tables and tilts of a particle table, which `data_config` reads.

    Parameters
    ----------
    parser
        Parser or group of options.
    verifies
        Whether the command compares the expected tilts with the CTF tables.
    """
    add = parser.add_argument
    use = "; verifies CTF tables or defines the wedge of --no-ctf" if verifies else ", for --no-ctf"
    add("--warp", action="store_true", help="CTF tables are WARP csv files")
    add("--warp-bfactor-scale", type=float, default=0.25, help="scale factor of the B factors of WARP")
    add("--no-ctf", action="store_true", help="model only the missing wedge, given by --tilt-range")
    add("--tilt-range", type=float, help=f"maximum tilt angle (±) in degrees{use} (50 by default)")
    add("--tilt-step", type=float, help=f"tilt increment in degrees{use} (2 by default)")
    add("--tilt-limit", type=float, help="exclude tilts with angles beyond ± this value in degrees")


def add_tilt_series(parser: Adder) -> None:
    """Add the options for the files of tilt series, which :class:`SeriesSource` reads."""
    add = parser.add_argument
    add("--tomograms", type=Path, metavar="STAR", help="tomograms.star of RELION 4 or 5")
    add("--warp", type=Path, metavar="DIR", help="folder of the tilt-series XML files of WARP or M")
    add(
        "--tilts",
        type=Path,
        metavar="DIR",
        help="folder of .tlt, .xf, .ali or .st (IMOD), .aln (AreTomo), .tomostar (WARP), .order or .mdoc (doses) and "
        "defocus files",
    )
    add(
        "--defocus-name",
        metavar="NAME",
        help="name of the defocus files, with {stem} for the stem of the tomogram (default: common names)",
    )
    add(
        "--image-size",
        type=int,
        nargs=2,
        metavar=("NX", "NY"),
        help="size of the tilt images of WARP in unbinned pixels (default: as stated in the files)",
    )
    add(
        "--tilt-sign",
        type=int,
        choices=(-1, 1),
        default=-1,
        help="factor that converts the tilt angles of .tlt and .aln files to the convention of RELION",
    )


def add_microscope(parser: Adder) -> None:
    """Add the options for what text files of tilt series do not contain."""
    add = parser.add_argument
    add("--voltage", type=float, default=300.0, metavar="KV", help="acceleration voltage, for text files")
    add("--cs", type=float, default=2.7, metavar="MM", help="spherical aberration, for text files")
    add("--amplitude", type=float, default=0.07, help="amplitude contrast, for text files")
    add(
        "--dose",
        type=float,
        default=3.0,
        metavar="E",
        help="dose per tilt in e/Å², used if .order files contain no doses",
    )


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
