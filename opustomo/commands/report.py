"""What a run contains: `dsdsh report` writes an interactive HTML report, and `dsd view_config` prints the settings."""

from __future__ import annotations

import argparse
from pathlib import Path

from opustomo.commands.options import add_cluster_method, add_moved_star, add_run, cluster_method
from opustomo.commands.registry import Command


def add_report_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh report``."""
    add_run(parser)
    parser.add_argument(
        "-o", "--output", type=Path, metavar="HTML", help="output file (default: analyze.N/report.html)"
    )
    parser.add_argument(
        "-k", "--numk", type=int, metavar="K", help="number of clusters of the k-means (default: the latest clustering)"
    )
    add_cluster_method(parser)
    add_moved_star(parser)
    parser.add_argument("--skip-vol", action="store_true", help="omit the volumes")
    parser.add_argument(
        "--particle-volumes",
        type=int,
        default=60,
        metavar="S",
        help="number of particles whose own volumes are decoded; a click on a particle shows the volume of the nearest "
        "of them; 0 for none",
    )


def run_report(args: argparse.Namespace) -> None:
    """Write the report."""
    from opustomo.commands.options import selected_round
    from opustomo.errors import UserError
    from opustomo.report.html_report import ReportRequest, write_report

    method = cluster_method(args)
    if (args.gmm or args.cluster) and args.numk is None:
        raise UserError(f"{'--gmm' if args.gmm else '--cluster'} requires the number of clusters. Give it with -k.")
    results, which = selected_round(args.resdir, args.N)
    path = write_report(
        ReportRequest(
            results=results,
            which=which,
            clustering=None if args.numk is None else f"{method}{args.numk}",
            star=args.star,
            output=args.output,
            volumes=not args.skip_vol,
            num_sampled=args.particle_volumes,
            command=getattr(args, "command_line", ()),
        )
    )
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB). Open it in a browser.")


REPORT = Command(
    "write an HTML report: verdict, volumes in 3D, latent space, clusters, movies, tomograms, training",
    add_report_arguments,
    run_report,
)


def add_view_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd view_config``."""
    parser.add_argument("workdir", metavar="WORKDIR", type=Path, help="output folder of dsd train_tomo, or config.pkl")
    parser.add_argument("--json", action="store_true", help="print JSON for other programs")


def run_view_config(args: argparse.Namespace) -> None:
    """Print the settings."""
    import json

    from opustomo.io.pickles import load_pickles

    path = args.workdir / "config.pkl" if args.workdir.is_dir() else args.workdir
    merged = {key: value for part in load_pickles(path) if isinstance(part, dict) for key, value in part.items()}
    if args.json:
        print(json.dumps(merged, indent=2, default=_plain))
        return
    for line in _lines(merged, 0):
        print(line)


VIEW_CONFIG = Command("print the settings of a run", add_view_config_arguments, run_view_config)


def _lines(settings: dict, depth: int) -> list[str]:
    """Format one setting per line, with aligned values and indented nested settings."""
    width = max((len(str(key)) for key, value in settings.items() if not isinstance(value, dict)), default=0)
    lines = []
    for key, value in settings.items():
        indent = "  " * depth
        if isinstance(value, dict):
            lines += [f"{indent}{key}", *_lines(value, depth + 1)]
        else:
            shown = " ".join(map(str, value)) if key == "cmd" and isinstance(value, (list, tuple)) else _plain(value)
            lines.append(f"{indent}{key:<{width}}  {shown}")
    return lines


def _plain(value: object) -> object:
    """Convert NumPy scalars and arrays to Python numbers and lists, and other objects to text."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)
