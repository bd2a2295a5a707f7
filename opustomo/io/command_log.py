"""Log of the commands that were run on a result directory, ``commands.log``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

COMMAND_LOG = "commands.log"


def record_command(folder: Path, words: Sequence[str]) -> None:
    """Append a command line with the time and the working folder to the log of a result directory."""
    command = shlex.join(words).replace("\n", " ")
    with (folder / COMMAND_LOG).open("a", encoding="utf-8") as file:
        file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S}\t{Path.cwd()}\t{command}\n")


def read_commands(folder: Path) -> list[tuple[str, str]]:
    """Return the time and the command line of each command in the log, oldest first; empty without log."""
    path = folder / COMMAND_LOG
    if not path.is_file():
        return []
    parts = [line.split("\t", 2) for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return [(entry[0], entry[2]) for entry in parts if len(entry) == 3]
