"""The `dsdsh` program."""

from collections.abc import Sequence

from opustomo.commands.runner import run_cli

COMMANDS = {
    name: f"analysis_scripts.{name}"
    for name in ("prepare", "analyze", "eval_vol", "parse_pose", "validate", "convergence", "report")
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsdsh`; see `run_cli` for the exit codes."""
    return run_cli("dsdsh", "Prepare, look at and export opustomo results.", COMMANDS, argv)
