"""Runs a command by name: options in, exit code out, mistakes told in one sentence.

Only the module of the command asked for is imported, so that an option error or a short command answers at
once.
"""

import argparse
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

from opustomo import __version__
from opustomo.errors import UserError


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults, but not those that only mean "not given"."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


def run_cli(
    prog: str,
    description: str,
    commands: Mapping[str, str],
    argv: Sequence[str] | None = None,
) -> int:
    """Run one command of a program.

    Parameters
    ----------
    prog
        Name of the program.
    description
        One sentence for its help.
    commands
        Command name → module with `HELP`, `add_arguments(parser)` and `run(args)`.
    argv
        Words after the program's name; None takes those of this process.

    Returns
    -------
    int
        Exit code: 0 done or help shown, 1 a mistake in the input, 2 in the options, 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in commands else None
    try:
        if name is None:
            return _without_command(prog, description, commands, words)
        module = _load(commands[name])
        parser = argparse.ArgumentParser(
            prog=f"{prog} {name}",
            description=module.HELP,
            formatter_class=_Formatter,
        )
        module.add_arguments(parser)
        args = parser.parse_args(words[1:])
        args.command_line = (prog, *words)
        module.run(args)
        # a closed pipe shows here, not at exit
        sys.stdout.flush()
        return 0
    except SystemExit as leaving:
        return _exit_code(leaving)
    except UserError as mistake:
        return _complain(prog, name, str(mistake))
    except BrokenPipeError:
        # the reader of our output has left; keep Python from complaining when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as failure:
        if failure.filename is None or failure.strerror is None:
            raise
        return _complain(
            prog,
            name,
            f"{failure.filename}: {failure.strerror}; check the path, its permissions and free space.",
        )
    except KeyboardInterrupt:
        print(f"\n{prog}: interrupted", file=sys.stderr)
        return 130


def _without_command(prog: str, description: str, commands: Mapping[str, str], words: list[str]) -> int:
    """Show the help with all commands, the version, or what is wrong."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    choices = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    wants_help = not words or words[0] in ("-h", "--help")
    for name, path in commands.items():
        choices.add_parser(name, help=_help_of(path) if wants_help else None)
    if not words:
        parser.print_help()
        return 2
    parser.parse_args(words)
    return 2


def _load(path: str) -> ModuleType:
    try:
        return importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name == path:
            raise UserError("not part of this installation; install opustomo again.") from error
        raise


def _help_of(path: str) -> str:
    # one damaged command must not hide the others
    try:
        return str(_load(path).HELP)
    except UserError as error:
        return str(error)


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    print(leaving.code, file=sys.stderr)
    return 1


def _complain(prog: str, name: str | None, sentence: str) -> int:
    sys.stdout.flush()
    print(f"{prog} {name}: error: {sentence}" if name else f"{prog}: error: {sentence}", file=sys.stderr)
    return 1
