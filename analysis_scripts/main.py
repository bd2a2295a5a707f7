"""The `dsdsh` program."""

from collections.abc import Sequence

from opustomo.commands.registry import DSDSH as COMMANDS
from opustomo.commands.runner import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsdsh`; see `run_cli` for the exit codes."""
    return run_cli("dsdsh", "Prepare, look at and export opustomo results.", COMMANDS, argv)
