"""`dsd analyze`: latents of one epoch to classes, traversals, figures and volumes."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "analyse the latents of an epoch: PCA, k-means, UMAP, figures and volumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd analyze``."""
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("epoch", metavar="EPOCH", help="epoch N (z.N.pkl, weights.N.pkl; counts from 0), or filter.N")
    parser.add_argument(
        "-o",
        "--outdir",
        type=Path,
        help="folder of the analysis instead of WORKDIR/analyze.EPOCH; conformation goes beside it",
    )
    parser.add_argument("--skip-vol", action="store_true", help="do not decode volumes")
    add_report_options(parser)
    parser.add_argument(
        "--vanilla",
        action="store_true",
        help="composition only; z.N.pkl may be a plain array as cryoDRGN writes it",
    )
    parser.add_argument(
        "--pose", type=Path, metavar="PKL", help="poses of the particles instead of WORKDIR/pose.EPOCH.pkl"
    )
    parser.add_argument(
        "--D",
        type=int,
        help="box of the subtomograms; read from the poses and the configuration, so not needed",
    )
    parser.add_argument("--pc", type=int, default=2, metavar="n", help="traversals along principal components")
    parser.add_argument("--ksample", type=int, default=20, metavar="K", help="number of clusters")
    volumes = parser.add_argument_group("volumes")
    volumes.add_argument("--Apix", type=float, help="pixel size of the volumes in Å; that of the network when left out")
    volumes.add_argument("--flip", action="store_true", help="reverse the handedness of the volumes")
    volumes.add_argument("--full-box", action="store_true", help="volumes in the box of the subtomograms")
    volumes.add_argument(
        "-d",
        "--downsample",
        type=int,
        metavar="n",
        help="voxels a side of the volumes; decides on the pixel size instead of --Apix",
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that ``dsd analyze`` and ``dsdsh analyze`` share."""
    parser.add_argument(
        "--skip-umap",
        action="store_true",
        help="take umap.pkl of an earlier analysis instead of computing it",
    )
    parser.add_argument(
        "--kpc",
        metavar="K:a-b,c",
        help="next round, on these clusters of an earlier k-means with K clusters (20:2-5,8; gmm20:2 of a mixture)",
    )
    parser.add_argument(
        "--gmm",
        action="store_true",
        help="divide by a mixture of Gaussians into gmm{K} instead of k-means into kmeans{K}",
    )
    parser.add_argument(
        "--joint",
        action="store_true",
        help="also write centers_joint.txt: each centre with its particle's conformation",
    )


def run(args: argparse.Namespace) -> None:
    """Analyse and, unless ``--skip-vol``, decode the centres and the traversals."""
    from opustomo.analysis.clusters import Clustering
    from opustomo.analysis.epoch_report import AnalysisRequest, analyze_epoch
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.analysis.second_round import parse_cluster_choice
    from opustomo.analysis.volume_sets import VolumeSet, class_set, decode_volume_set, pixel_size_for_box
    from opustomo.io.tables import read_latent_rows

    results = ResultDir.open(args.workdir)
    request = AnalysisRequest(
        results=results,
        source=parse_round(args.epoch),
        num_pcs=args.pc,
        clustering=Clustering(args.ksample, "gmm" if args.gmm else "kmeans"),
        skip_umap=args.skip_umap,
        joint=args.joint,
        choice=None if args.kpc is None else parse_cluster_choice(args.kpc),
        composition_only=args.vanilla,
        outdir=args.outdir,
        poses=args.pose,
    )
    apix = args.Apix
    if not args.skip_vol:
        # Missing weights are to be told before minutes of UMAP, not after.
        results.epoch_file("weights", request.epoch)
        config = results.config()
        if args.downsample is not None:
            apix = pixel_size_for_box(config, args.downsample)
    folders = analyze_epoch(request)
    for folder in folders:
        print(f"Analysis written to {folder}")
    if args.skip_vol:
        return
    composition = folders[0]
    sets = [class_set(composition / request.clustering.folder / "centers.txt")]
    paths = (composition / f"pc{i + 1}" / "z_pc.txt" for i in range(args.pc))
    sets += [VolumeSet(read_latent_rows(path), path.parent, deform=False) for path in paths if path.is_file()]
    for chosen in sets:
        written = decode_volume_set(results, request.round, chosen, apix, args.flip, args.full_box)
        print(f"{len(written)} volumes written to {chosen.outdir}")
