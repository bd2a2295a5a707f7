"""Registry of the commands of `dsd` and `dsdsh`.

A command is a module of `opustomo.commands` with ``HELP``, ``add_arguments(parser)`` and ``run(args)``, or a
:class:`Command` in a module that holds several related ones. Its module is imported only when it runs, so that the
help of a program appears at once.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from opustomo.errors import UserError


@dataclass(frozen=True)
class Command:
    """Command with its help text, its options and the function that runs it."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], None]


DSD = {
    "parse_pose_star": "parse_poses:PARSE_POSE_STAR",
    "parse_multi_pose_star": "bodies:PARSE_MULTI_POSE_STAR",
    "analyze_dynamics": "bodies:ANALYZE_DYNAMICS",
    "prepare_ctf": "prepare_ctf",
    "extract_subtomos": "extract_subtomos:EXTRACT_SUBTOMOS",
    "prepare_subtomos": "extract_subtomos:PREPARE_SUBTOMOS",
    "check": "check",
    "train_tomo": "train_tomo",
    "eval_vol": "eval_vol",
    "analyze": "analyze",
    "pc_traversal": "traversals:PC_TRAVERSAL",
    "graph_traversal": "traversals:GRAPH_TRAVERSAL",
    "interpolate": "traversals:INTERPOLATE",
    "view_config": "report:VIEW_CONFIG",
    "reconstruct": "reconstruct",
    "subtract": "subtract",
    "simulate": "simulate:SIMULATE",
    "demo": "simulate:DEMO",
    # Scripts for the original's programs for several processes use these names.
    "train_tomo_hvd": "train_tomo",
    "train_tomo_dist": "train_tomo",
}
"""Commands of `dsd`, for training and computation, and their modules in `opustomo.commands`."""

DSDSH = {
    "prepare": "parse_poses:PREPARE",
    "prepare_multi": "bodies:PREPARE_MULTI",
    "create_mask": "create_mask",
    "extract_tomo_cubes": "extract_subtomos:EXTRACT_TOMO_CUBES",
    "analyze": "analyze:POSITIONAL",
    "eval_vol": "eval_vol:POSITIONAL",
    "dynamics": "bodies:DYNAMICS",
    "landscape": "analyze:LANDSCAPE",
    "junk": "junk",
    "place": "place:PLACE",
    "select": "select_particles",
    "parse_pose": "parse_poses:PARSE_POSE",
    "artiax": "place:ARTIAX",
    "validate": "validate:VALIDATE",
    "convergence": "validate:CONVERGENCE",
    "report": "report:REPORT",
    "results": "run_results",
    "combine_star": "convert_relion:COMBINE_STAR",
    "convert_artiax": "convert_programs:CONVERT_ARTIAX",
    "convert_dynamo": "convert_programs:CONVERT_DYNAMO",
    "convert_pytom": "convert_programs:CONVERT_PYTOM",
    "convert_pytom_to_star": "convert_programs:CONVERT_PYTOM_TO_STAR",
    "convert_relion5": "convert_relion:CONVERT_RELION5",
    "convert_star": "convert_relion:CONVERT_STAR",
    "convert_warp": "convert_programs:CONVERT_WARP",
    "export_relion": "convert_relion:EXPORT_RELION",
}
"""Commands of `dsdsh`, for preparation, analysis and export, mostly with positional arguments."""


def load_command(entry: str) -> Command:
    """Import a command.

    Parameters
    ----------
    entry
        ``module`` or ``module:NAME``, as in :data:`DSD` and :data:`DSDSH`.

    Raises
    ------
    UserError
        If the module is missing from the installation.
    """
    name, _, attribute = entry.partition(":")
    path = f"opustomo.commands.{name}"
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            raise UserError("This command is missing from the installation. Install opustomo again.") from error
        raise
    if attribute:
        command: Command = getattr(module, attribute)
        return command
    return Command(module.HELP, module.add_arguments, module.run)
