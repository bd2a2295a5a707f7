"""The `dsdsh` program."""

from collections.abc import Sequence

from opustomo.commands.runner import run_cli

# not select.py: a script run from its folder would find it in place of Python's own module
MODULES = {"select": "select_particles"}
COMMANDS = {
    name: f"analysis_scripts.{MODULES.get(name, name)}"
    for name in (
        "prepare",
        "prepare_multi",
        "create_mask",
        "extract_tomo_cubes",
        "analyze",
        "eval_vol",
        "dynamics",
        "select",
        "parse_pose",
        "artiax",
        "validate",
        "convergence",
        "report",
        "combine_star",
        "convert_artiax",
        "convert_dynamo",
        "convert_pytom",
        "convert_pytom_to_star",
        "convert_relion5",
        "convert_star",
        "convert_warp",
        "export_relion",
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsdsh`; see `run_cli` for the exit codes."""
    return run_cli("dsdsh", "Prepare, look at and export opustomo results.", COMMANDS, argv)
