"""`dsdsh validate` and `dsdsh convergence`: evidence for each cluster, and stability between epochs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from opustomo.commands.options import add_cluster_method, add_device, add_run, cluster_method
from opustomo.commands.registry import Command

if TYPE_CHECKING:
    from opustomo.analysis.results import ResultDir


def add_validate_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh validate``."""
    add_run(parser)
    parser.add_argument("K", type=int, help="number of clusters")
    add_cluster_method(parser)
    parser.add_argument(
        "star", nargs="?", metavar="STAR", type=Path, help="STAR file used for training, if it was moved"
    )
    parser.add_argument(
        "--reference",
        type=Path,
        metavar="MAP",
        help="map of the particle (MRC, box of the subtomograms), for example the template of the picking: say which "
        "clusters resemble it",
    )
    parser.add_argument("--mask", type=Path, help="mask for the FSC (default: that of the training)")
    parser.add_argument("--datadir", type=Path, help="folder that the image paths are relative to, if it changed")
    parser.add_argument("--ind", type=Path, help="index list used for training, if it was moved")
    parser.add_argument("--angpix", type=float, help="pixel size in Å (default: that of the training)")
    parser.add_argument("--warp", action="store_true", help="CTF tables are WARP csv files (default: as in training)")
    parser.add_argument(
        "--normalizectf",
        action="store_true",
        help="subtomograms were divided by their sampling weights (default: as in training)",
    )
    parser.add_argument("--no-likelihood", action="store_true", help="skip the likelihood of the held-out particles")
    parser.add_argument("-b", "--batch-size", type=int, default=8, help="batch size of the held-out particles")
    parser.add_argument("--num-workers", type=int, default=2, help="number of prefetching threads")
    add_device(parser)


def run_validate(args: argparse.Namespace) -> None:
    from opustomo.commands.closing_messages import print_next
    from opustomo.commands.options import selected_round
    from opustomo.quality.evidence.validation import ValidationRequest, validate_run

    results, which = selected_round(args.resdir, args.N)
    if args.angpix is not None:
        results.box_of_run(apix=args.angpix)
    request = ValidationRequest(
        results=results,
        which=which,
        num_clusters=args.K,
        folder=f"{cluster_method(args)}{args.K}",
        star=args.star,
        mask=args.mask,
        datadir=args.datadir,
        ind=args.ind,
        apix=args.angpix,
        warp=args.warp,
        ctf_normalized=args.normalizectf,
        reference=args.reference,
        likelihood=not args.no_likelihood,
        batch_size=max(1, args.batch_size),
        workers=max(1, args.num_workers),
        device=args.device,
    )
    match = validate_run(request)
    method = [] if cluster_method(args) == "kmeans" else ["--cluster", cluster_method(args)]
    star = results.particle_table(args.star)
    following = []
    if match is not None:
        kept = ",".join(map(str, match.kept))
        clusters = f"{'' if cluster_method(args) == 'kmeans' else cluster_method(args)}{args.K}:{kept}"
        words = ["dsdsh", "select", star, results.root, which.label, "--clusters", clusters, "--refined"]
        following.append(([*words, "-o", "clean.star"], "the particles of these clusters"))
    print_next(
        *following,
        (["dsdsh", "report", results.root, which.label], ""),
        (["dsdsh", "parse_pose", star, results.root, which.label, args.K, *method], "STAR files of the clusters"),
    )


VALIDATE = Command(
    "compute the evidence supporting each cluster: half-map FSC, held-out likelihood, tomograms",
    add_validate_arguments,
    run_validate,
)


def add_convergence_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh convergence``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument(
        "-k",
        "--numk",
        type=int,
        help="number of k-means clusters to compare (default: that of the latest analysis, or chosen from the data)",
    )


def run_convergence(args: argparse.Namespace) -> None:
    """Write ``convergence.csv`` and ``convergence.png`` to the result folder."""
    from opustomo.analysis.clusters.epoch_convergence import (
        describe_convergence,
        draw_convergence,
        measure_convergence,
        write_convergence,
    )
    from opustomo.analysis.results import ResultDir
    from opustomo.quality.evidence.training_state import training_state

    results = ResultDir.open(args.resdir)
    number = _number_to_compare(results) if args.numk is None else args.numk
    rows = measure_convergence(results, number)
    table, figure = results.root / "convergence.csv", results.root / "convergence.png"
    write_convergence(table, rows)
    draw_convergence(figure, rows, number)
    print("\n".join(describe_convergence(results, rows, number)))
    print(training_state(results.root, rows[-1].epoch))
    print(f"Wrote {table}\nWrote {figure}")


def _number_to_compare(results: ResultDir) -> int:
    """Return the number of clusters of the latest analysis, or one that the latents of the epoch ``latest`` suggest."""
    from opustomo.analysis.clusters.cluster_number import find_clusters
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.training.monitors.convergence_state import latest_epoch

    found = results.clusterings()
    number = Clustering.of_folder(found[-1].name).number if found else None
    if number is not None:
        print(f"Comparing {number} clusters, as in {found[-1]}. Give another number with -k.")
        return number
    epoch = latest_epoch(results.root)
    latents, _ = results.load_latents(epoch)
    automatic = find_clusters(latents, Clustering(None), results.load_coordinates(epoch, len(latents)))
    number = automatic.clustering.number
    if number is None or number < 2:
        print("Comparing 2 clusters, although no division of the latents is stable. Give another number with -k.")
        return 2
    print(f"Comparing {automatic.messages[0]} Give another number with -k.")
    return number


CONVERGENCE = Command(
    "measure convergence: stability of clusters and latents between epochs", add_convergence_arguments, run_convergence
)
