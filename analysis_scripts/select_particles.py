"""`dsdsh select`: particles chosen by cluster, place in latent space, distance or list, back to a STAR file."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from opustomo.analysis.criteria import AnalysedParticles

HELP = "write a STAR file of particles chosen by cluster, place in latent space, distance or list"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh select``."""
    parser.add_argument("star", metavar="STAR", type=Path, help="the STAR file used for training")
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", help="epoch, or filter.N for the second round")
    parser.add_argument("-o", "--out", type=Path, required=True, metavar="STAR", help="STAR file to write")
    how = parser.add_argument_group("which particles (those for which all that is given holds)")
    how.add_argument(
        "--clusters", metavar="K:a-b,c", help="in these clusters of k-means K (20:2-5,8), or of a mixture (gmm20:2)"
    )
    how.add_argument(
        "--range",
        action="append",
        default=[],
        metavar="AXIS=low:high",
        help="between two values of pc1 …, umap1, umap2, z1 … or conf1 …; either end may be left out; may be repeated",
    )
    how.add_argument(
        "--polygon",
        nargs=2,
        metavar=("PLANE", "TXT"),
        help="within a polygon in umap, pc or two axes such as pc1,pc3; the file has a corner x y in each row",
    )
    place = how.add_mutually_exclusive_group()
    place.add_argument("--near", metavar="K:i", help="about the centre of a cluster, with --within or --nearest")
    place.add_argument("--near-particle", type=int, metavar="i", help="about a particle, from 0")
    how.add_argument("--within", type=float, metavar="d", help="distance in the latent at most")
    how.add_argument("--nearest", type=int, metavar="n", help="number of nearest particles")
    how.add_argument(
        "--ind", type=Path, metavar="PKL", help="in this list of indices, a pickle or text, as the report saves it"
    )
    parser.add_argument("--invert", action="store_true", help="all other particles of this round instead")
    parser.add_argument("--refined", action="store_true", help="replace the poses by the refined ones of pose.N.pkl")


def run(args: argparse.Namespace) -> None:
    """Choose, write the STAR file and ``{stem}_ind.pkl`` beside it."""
    import numpy as np

    from opustomo.analysis.criteria import AnalysedParticles
    from opustomo.analysis.results import ResultDir, parse_round
    from opustomo.errors import UserError
    from opustomo.io.pickles import dump_pickle
    from opustomo.io.star import read_particles
    from opustomo.io.star_relion import ignored_origins

    results, which = ResultDir.open(args.resdir), parse_round(args.N)
    particles = AnalysedParticles(results, which)
    star = read_particles(args.star)
    results.require_same_particles(star, particles.total, results.epoch_file("z", which.epoch))
    masks = _masks(args, particles)
    if not masks:
        raise UserError("nothing says which particles; give --clusters, --range, --polygon, --near or --ind.")
    within_round = np.zeros(particles.total, dtype=bool)
    within_round[particles.members] = True
    chosen = np.logical_and.reduce(masks)
    chosen = within_round & (~chosen if args.invert else chosen)
    indices = np.flatnonzero(chosen)
    if not len(indices):
        raise UserError("no particle is left for which all that was given holds; nothing is written.")
    if args.refined:
        star = results.with_refined_poses(star, which.epoch)
    star.subset(indices).write(args.out)
    listing = args.out.with_name(f"{args.out.stem}_ind.pkl")
    dump_pickle(listing, indices)
    print(f"{len(indices)} of {len(star)} particles written to {args.out}, their indices to {listing}")
    ignored = ignored_origins(star)
    if ignored is not None:
        print(f"Note: {ignored}")


def _masks(args: argparse.Namespace, particles: AnalysedParticles) -> list[np.ndarray]:
    """One mask over all particles for each criterion."""
    from opustomo.analysis.criteria import Neighbourhood
    from opustomo.analysis.neighbours import check_particles
    from opustomo.analysis.second_round import parse_cluster_choice
    from opustomo.errors import UserError

    masks = []
    if args.clusters is not None:
        masks.append(particles.in_clusters(parse_cluster_choice(args.clusters, "--clusters")))
    masks += [particles.in_range(text) for text in args.range]
    if args.polygon is not None:
        masks.append(particles.in_polygon(args.polygon[0], Path(args.polygon[1])))
    about = args.near is not None or args.near_particle is not None
    limited = args.within is not None or args.nearest is not None
    if about != limited:
        raise UserError("--near or --near-particle goes with --within or --nearest; give one of each.")
    if about:
        if args.near is not None:
            place = particles.center(parse_cluster_choice(args.near, "--near"))
        else:
            check_particles([args.near_particle], particles.total, "--near-particle")
            place = particles.latents[args.near_particle]
        masks.append(particles.near(Neighbourhood(place, args.within, args.nearest)))
    if args.ind is not None:
        masks.append(particles.listed(args.ind))
    return masks
