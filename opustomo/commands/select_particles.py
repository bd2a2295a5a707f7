"""`dsdsh select`: write a STAR file of particles selected by cluster, latents, distance or index list."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from opustomo.analysis.selection import AnalyzedParticles

from opustomo.commands.options import add_run

HELP = "write a STAR file of particles selected by cluster, latent coordinates, distance or index list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh select``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="STAR file used for training")
    add_run(parser)
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="STAR", help="STAR file to write")
    criteria = parser.add_argument_group("selection criteria (particles must fulfill all of them)")
    criteria.add_argument(
        "--clusters",
        metavar="K:a-b,c",
        help="particles in these clusters of k-means (20:2-5,8), a Gaussian mixture (gmm20:2) or HDBSCAN (hdbscan6:2)",
    )
    criteria.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="AXIS=low:high",
        help="particles in a range of pc1 …, umap1, umap2, z1 … or conf1 …; a bound may be omitted; may be repeated",
    )
    criteria.add_argument(
        "--polygon",
        nargs=2,
        metavar=("PLANE", "TXT"),
        help="particles in a polygon in umap, pc or two axes such as pc1,pc3; the file has one vertex x y per row",
    )
    neighborhood = criteria.add_mutually_exclusive_group()
    neighborhood.add_argument(
        "--near", metavar="K:i", help="particles near the center of a cluster; requires --within or --nearest"
    )
    neighborhood.add_argument(
        "--near-particle",
        type=int,
        metavar="i",
        help="particles near a particle, counted from 0; requires --within or --nearest",
    )
    criteria.add_argument("--within", type=float, metavar="d", help="maximum distance in the composition latent")
    criteria.add_argument("--nearest", type=int, metavar="n", help="number of nearest particles")
    criteria.add_argument(
        "--ind",
        type=Path,
        metavar="PKL",
        help="particles in an index list (pickle, text, or JSON as saved by the report)",
    )
    parser.add_argument("--invert", action="store_true", help="select all other particles of this round instead")
    parser.add_argument("--refined", action="store_true", help="replace the poses by the refined poses of pose.N.pkl")


def run(args: argparse.Namespace) -> None:
    """Select the particles and write the STAR file and their indices, ``{stem}_ind.pkl``."""
    import numpy as np

    from opustomo.analysis.selection import AnalyzedParticles
    from opustomo.commands.closing_messages import print_maps
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.io.pickles import dump_pickle
    from opustomo.io.star_conventions import ignored_origins
    from opustomo.io.star_tables import read_particles

    results, which = selected_round(args.resdir, args.N)
    particles = AnalyzedParticles(results, which)
    star = read_particles(args.star)
    results.require_same_particles(star, particles.total, results.epoch_file("z", which.epoch))
    masks = _masks(args, particles)
    if not masks:
        raise UserError(
            "No selection criterion is given. Give --clusters, --range, --polygon, --near, --near-particle or --ind."
        )
    within_round = np.zeros(particles.total, dtype=bool)
    within_round[particles.members] = True
    chosen = np.logical_and.reduce(masks)
    chosen = within_round & (~chosen if args.invert else chosen)
    indices = np.flatnonzero(chosen)
    if not len(indices):
        raise UserError("No particle fulfills all selection criteria, so no file is written.")
    if args.refined:
        star = results.with_refined_poses(star, which.epoch)
    star.subset(indices).write(args.out)
    index_file = args.out.with_name(f"{args.out.stem}_ind.pkl")
    dump_pickle(index_file, indices)
    print(f"Wrote {len(indices)} of {len(star)} particles to {args.out} and their indices to {index_file}")
    ignored = ignored_origins(star)
    if ignored is not None:
        print(f"Note: {ignored}")
    print_maps(results, [args.out])


def _masks(args: argparse.Namespace, particles: AnalyzedParticles) -> list[np.ndarray]:
    """Return one boolean mask over all particles for each criterion."""
    from opustomo.analysis.latents.latent_traversals import check_particles
    from opustomo.analysis.selection import Neighborhood, parse_cluster_choice
    from opustomo.errors import UserError

    masks = []
    if args.clusters is not None:
        masks.append(particles.in_clusters(parse_cluster_choice(args.clusters, "--clusters")))
    masks += [particles.in_range(text) for text in args.range]
    if args.polygon is not None:
        masks.append(particles.in_polygon(args.polygon[0], Path(args.polygon[1])))
    has_center = args.near is not None or args.near_particle is not None
    has_limit = args.within is not None or args.nearest is not None
    if has_center != has_limit:
        raise UserError("--near or --near-particle must be combined with --within or --nearest. Give one of each.")
    if has_center:
        if args.near is not None:
            center = particles.center(parse_cluster_choice(args.near, "--near"))
        else:
            check_particles([args.near_particle], particles.total, "--near-particle")
            center = particles.latents[args.near_particle]
        masks.append(particles.near(Neighborhood(center, args.within, args.nearest)))
    if args.ind is not None:
        masks.append(particles.listed(args.ind))
    return masks
