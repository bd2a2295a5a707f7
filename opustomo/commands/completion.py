"""Completion of commands, options, epochs and numbers of clusters by the Tab key.

The shell calls the program with the environment variable ``_ARGCOMPLETE``; see docs/commands.md, Shell completion.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opustomo.commands.registry import load_command
from opustomo.errors import UserError
from opustomo.io.saved_epochs import saved_epochs


def completion_requested() -> bool:
    """Return whether the shell has started the program for completion."""
    return "_ARGCOMPLETE" in os.environ


def complete(prog: str, commands: Mapping[str, str]) -> None:
    """Write the completions of ``COMP_LINE`` for the shell and end the process."""
    import argcomplete

    words = os.environ.get("COMP_LINE", "").split()
    argcomplete.autocomplete(completion_parser(prog, commands, words), always_complete_options=False)


def completion_parser(prog: str, commands: Mapping[str, str], words: list[str]) -> argparse.ArgumentParser:
    """Return a parser of all commands, of which only the one in `words` has options."""
    parser = argparse.ArgumentParser(prog=prog)
    parser.add_argument("--version", action="store_true")
    choices = parser.add_subparsers(dest="command")
    for name, path in commands.items():
        own = choices.add_parser(name)
        if name in words[1:2]:
            try:
                load_command(path).add_arguments(own)
            except UserError:  # a damaged command must not break the completion of others
                continue
            _set_completers(own)
    return parser


def _set_completers(parser: argparse.ArgumentParser) -> None:
    from argcomplete.completers import DirectoriesCompleter, FilesCompleter

    folders, tables = DirectoriesCompleter(), FilesCompleter(("star",))
    completers: dict[str, Any] = {
        **dict.fromkeys(("N", "epoch"), _epochs),
        **dict.fromkeys(("K", "num"), _cluster_numbers),
        **dict.fromkeys(("resdir", "workdir", "outdir"), folders),
        **dict.fromkeys(("star", "particles"), tables),
    }
    for action in parser._actions:
        if action.dest in completers and action.choices is None:
            action.completer = completers[action.dest]  # type: ignore[attr-defined]


def _folder(given: argparse.Namespace) -> Path | None:
    folder = getattr(given, "resdir", None) or getattr(given, "workdir", None)
    return None if folder is None else Path(folder)


def _epochs(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the epochs of the result directory given before, and ``latest``."""
    folder = _folder(parsed_args)
    return ["latest", *map(str, [] if folder is None else saved_epochs(folder))]


def _cluster_numbers(parsed_args: argparse.Namespace, **_: object) -> list[str]:
    """Return the numbers of clusters of the analysis given before."""
    folder, epoch = _folder(parsed_args), getattr(parsed_args, "N", None)
    if folder is None or epoch is None:
        return []
    if epoch == "latest" and saved_epochs(folder):
        from opustomo.training.monitors.convergence_state import latest_epoch

        epoch = str(latest_epoch(folder))
    names = [path.name for path in (folder / f"analyze.{epoch}").glob("*")]
    numbers = {int(match[2]) for name in names if (match := re.fullmatch(r"(kmeans|gmm)(\d+)", name))}
    return [str(number) for number in sorted(numbers)]
