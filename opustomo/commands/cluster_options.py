"""Options that name a clustering, or ask for one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.analysis.clusters import Clustering

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
    from opustomo.analysis.clusters import Clustering

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
