"""The `dsd` program."""

from collections.abc import Sequence

from opustomo.commands.registry import DSD as COMMANDS
from opustomo.commands.runner import run_cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsd`; see `run_cli` for the exit codes."""
    return run_cli("dsd", "Structural heterogeneity of cryo-ET subtomograms.", COMMANDS, argv)
