"""The `dsdsh` program."""

from collections.abc import Sequence

from opustomo.commands.runner import run_cli

COMMANDS = {
    **{name: f"analysis_scripts.{name}" for name in ("prepare", "analyze", "eval_vol", "parse_pose")},
    # not select.py: a script run from its folder would find it in place of Python's own module
    "select": "analysis_scripts.select_particles",
    **{name: f"analysis_scripts.{name}" for name in ("artiax", "validate", "convergence", "report")},
    name: f"analysis_scripts.{name}"
    for name in (
        "prepare",
        "create_mask",
        "extract_tomo_cubes",
        "analyze",
        "eval_vol",
        "parse_pose",
        "validate",
        "convergence",
        "report",
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsdsh`; see `run_cli` for the exit codes."""
    return run_cli("dsdsh", "Prepare, look at and export opustomo results.", COMMANDS, argv)
