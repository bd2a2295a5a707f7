(
    """`dsd analyze`, `dsdsh analyze` and `dsdsh landscape`: analyze the latents and the decoded volumes of one epoch.

`dsd analyze` takes options and also decodes volumes; `dsdsh analyze` takes positional arguments. `dsdsh landscape`
compares decoded volumes, and finds basins of the population and the paths between them.
"""
    ""
)

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import (
    EPOCH_HELP,
    add_clustering,
    add_device,
    add_moved_star,
    add_run,
    requested_clustering,
)
from opustomo.commands.registry import Command

HELP = "analyze the latents of an epoch: PCA, k-means, UMAP, figures and volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd analyze``."""
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("epoch", metavar="EPOCH", help=EPOCH_HELP)
    parser.add_argument(
        "-o",
        "--outdir",
        type=Path,
        help="output folder (default: WORKDIR/analyze.EPOCH); the conformation is written to the folder of the same "
        "name with the prefix def",
    )
    parser.add_argument("--skip-vol", action="store_true", help="do not decode volumes")
    add_report_options(parser)
    parser.add_argument(
        "--vanilla",
        action="store_true",
        help="analyze only the composition; z.N.pkl may be a plain array as written by cryoDRGN",
    )
    parser.add_argument(
        "--pose", type=Path, metavar="PKL", help="poses of the particles (default: WORKDIR/pose.EPOCH.pkl)"
    )
    parser.add_argument(
        "--D",
        type=int,
        help="box size of the subtomograms in voxels; only checked against that of the training, which is used",
    )
    parser.add_argument("--pc", type=int, default=2, metavar="n", help="number of principal component traversals")
    parser.add_argument("--ksample", type=int, metavar="K", help="number of clusters (default: 20)")
    volumes = parser.add_argument_group("volumes")
    volumes.add_argument("--Apix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    volumes.add_argument("--flip", action="store_true", help="reverse the handedness of the volumes")
    volumes.add_argument("--full-box", action="store_true", help="write volumes in the box of the subtomograms")
    volumes.add_argument(
        "-d",
        "--downsample",
        type=int,
        metavar="n",
        help="box size of the volumes in voxels; determines the pixel size instead of --Apix",
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``dsd analyze`` and ``dsdsh analyze`` share."""
    parser.add_argument(
        "--skip-umap",
        action="store_true",
        help="reuse umap.pkl of an earlier analysis instead of computing it",
    )
    parser.add_argument(
        "--kpc",
        metavar="K:a-b,c",
        help="analyze the particles in selected clusters as the next round: K:clusters of an earlier k-means, such as "
        "20:2-5,8, of a Gaussian mixture, such as gmm20:2, or of HDBSCAN, such as hdbscan6:2",
    )
    add_clustering(parser)
    parser.add_argument(
        "--focus",
        type=Path,
        metavar="MASK",
        help="analyze the decoded volumes of all particles inside this mask (MRC) instead of their latents; the "
        "results are those of epoch focus.N",
    )
    parser.add_argument(
        "--joint",
        action="store_true",
        help="also write centers_joint.txt: each cluster center with the conformation of the same particle",
    )


def run(args: argparse.Namespace) -> None:
    """Run the analysis and, unless ``--skip-vol`` is given, decode the cluster centers and the traversals."""
    from opustomo.analysis.analyze_epoch import AnalysisRequest, analyze_epoch
    from opustomo.analysis.selection import parse_cluster_choice
    from opustomo.analysis.volumes.volume_sets import (
        VolumeOutput,
        VolumeSet,
        cluster_volume_set,
        decode_volume_set,
        pixel_size_for_box,
    )
    from opustomo.commands.options import selected_round
    from opustomo.io.latents import read_latent_rows

    results, which = selected_round(args.workdir, args.epoch)
    request = AnalysisRequest(
        results=results,
        source=which,
        num_pcs=args.pc,
        clustering=requested_clustering(args, args.ksample, 20, "--ksample"),
        skip_umap=args.skip_umap,
        joint=args.joint,
        choice=None if args.kpc is None else parse_cluster_choice(args.kpc),
        focus=args.focus,
        composition_only=args.vanilla,
        outdir=args.outdir,
        poses=args.pose,
    )
    if args.D is not None:
        results.box_of_run(args.D)
    apix = args.Apix
    if not args.skip_vol:
        # Report missing weights before UMAP, which takes minutes.
        results.epoch_file("weights", request.epoch)
        config = results.config()
        if args.downsample is not None:
            apix = pixel_size_for_box(config, args.downsample)
    folders = analyze_epoch(request)
    for folder in folders:
        print(f"Wrote the analysis to {folder.parent} (clusters: {folder.name})")
    if args.skip_vol:
        return
    composition = folders[0].parent
    sets = [cluster_volume_set(folders[0] / "centers.txt")]
    paths = (composition / f"pc{i + 1}" / "z_pc.txt" for i in range(args.pc))
    sets += [VolumeSet(read_latent_rows(path), path.parent, deform=False) for path in paths if path.is_file()]
    output = VolumeOutput(apix, args.flip, args.full_box)
    for chosen in sets:
        written = decode_volume_set(results, request.round, chosen, output)
        print(f"Wrote {len(written)} volumes to {chosen.outdir}")


def add_positional_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh analyze``."""
    add_run(parser)
    parser.add_argument("numpc", type=int, help="number of principal component traversals")
    parser.add_argument("numk", type=int, nargs="?", help="number of clusters; optional with --k or HDBSCAN")
    add_report_options(parser)


def run_positional(args: argparse.Namespace) -> None:
    """Write ``analyze.N`` and, if the run has conformation latents, ``defanalyze.N``."""
    from opustomo.analysis.analyze_epoch import AnalysisRequest, analyze_epoch
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.analysis.selection import parse_cluster_choice
    from opustomo.commands.closing_messages import print_next
    from opustomo.commands.options import selected_round

    results, which = selected_round(args.resdir, args.N)
    request = AnalysisRequest(
        results=results,
        source=which,
        num_pcs=args.numpc,
        clustering=requested_clustering(args, args.numk, None, "numk"),
        skip_umap=args.skip_umap,
        joint=args.joint,
        choice=None if args.kpc is None else parse_cluster_choice(args.kpc),
        focus=args.focus,
    )
    folders = analyze_epoch(request)
    for folder in folders:
        print(f"Wrote the analysis to {folder.parent} (clusters: {folder.name})")
    made = Clustering.of_folder(folders[0].name)
    print_next((["dsdsh", "eval_vol", results.root, request.round.label, made.method, made.number], ""))


POSITIONAL = Command(
    "analyze the latents of an epoch: PCA, k-means, UMAP and figures", add_positional_arguments, run_positional
)


def add_landscape_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh landscape``."""
    add_run(parser, rounds=False)
    parser.add_argument(
        "--mask", type=Path, help="compare volumes inside this mask (default: the solvent mask of the training)"
    )
    parser.add_argument("--samples", type=int, default=300, metavar="n", help="number of particles to decode")
    parser.add_argument("--components", type=int, default=6, metavar="n", help="number of principal components")
    parser.add_argument("--classes", type=int, default=6, metavar="n", help="number of agglomerative classes")
    parser.add_argument("--min-depth", type=float, default=0.5, metavar="kT", help="smallest depth of a basin in kT")
    parser.add_argument("--points", type=int, default=10, metavar="n", help="number of volumes along each path")
    parser.add_argument("--angpix", type=float, help="pixel size of the volumes in Å (default: that of the template)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the particles that are decoded")
    add_moved_star(parser)
    parser.add_argument("--no-star", action="store_true", help="do not write STAR files of basins and classes")
    parser.add_argument("-o", "--outdir", type=Path, help="output folder (default: analyze.N/landscape)")
    add_device(parser)


def run_landscape(args: argparse.Namespace) -> None:
    """Compute and write the landscape."""
    from opustomo.analysis.volumes.volume_landscape import LandscapeSettings
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.run import Run

    if args.star is not None and args.no_star:
        raise UserError("--star and --no-star contradict each other. Give one of them.")
    results, which = selected_round(args.resdir, args.N)
    if which.filtered or which.focused:
        raise UserError(
            f"{args.N} is a later round of analysis, but the landscape comprises all particles. Give {which.epoch}."
        )
    settings = LandscapeSettings(args.samples, args.components, args.classes, args.min_depth, args.points, args.seed)
    run = Run(args.resdir, star=args.star, device=args.device)
    folder = args.outdir or results.analysis(which) / "landscape"
    star = None if args.no_star else run.particles
    run.landscape(settings, mask=args.mask, apix=args.angpix, epoch=which.epoch, folder=folder, star=star)
    print(f"Wrote the landscape to {folder}. Look at landscape.png, and open basins/reference.cxc in ChimeraX.")


LANDSCAPE = Command(
    "decode volumes once and find their components, classes, population basins and the paths between these",
    add_landscape_arguments,
    run_landscape,
)
