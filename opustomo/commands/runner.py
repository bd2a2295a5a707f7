"""Run a command by name: options in, exit code out, every mistake told in one sentence.

Only the module of the command asked for is imported, so that an option error or a short command answers at once.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping, Sequence

from opustomo import __version__
from opustomo.commands import completion
from opustomo.commands.options import check_options
from opustomo.commands.parser import CommandParser, suggestion
from opustomo.commands.registry import DSD, DSDSH, load_command
from opustomo.commands.streams import discard_output, output_failure, prepare_streams, say_error, settle_errors
from opustomo.errors import UserError
from opustomo.io.host_memory import no_more_than_available, shortage


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
        Command name → entry for :func:`opustomo.commands.registry.load_command`.
    argv
        Words after the program's name; None takes those of this process.

    Returns
    -------
    int
        Exit code: 0 done or help shown, 1 a mistake in the input, 2 in the options, 130 interrupted.
    """
    if argv is None and completion.requested():
        completion.complete(prog, commands)
    if argv is None:
        _keep_docstrings()
    prepare_streams()
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in commands else None
    try:
        _require_working_folder()
        if name is None:
            code = _without_command(prog, description, commands, words)
        else:
            with no_more_than_available():
                _run_command(prog, name, commands[name], words)
            code = 0
        return _finish(code, prog, name)
    except SystemExit as leaving:
        return _finish(_exit_code(leaving), prog, name)
    except KeyboardInterrupt:
        say_error(f"\n{prog}: interrupted")
        return 130
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        return _complain(prog, name, sentence)


def _run_command(prog: str, name: str, path: str, words: list[str]) -> None:
    command = load_command(path)
    parser = CommandParser(
        prog=f"{prog} {name}",
        description=command.help,
        formatter_class=_Formatter,
    )
    command.add_arguments(parser)
    args = parser.parse_args(words[1:])
    check_options(parser, args)
    args.command_line = (prog, *words)
    command.run(args)


def _sentence(error: Exception) -> str | None:
    """Return what to tell the user of an error; "" for a reader that has left, None for a fault of the program."""
    if isinstance(error, UserError):
        # what took a failed request for memory for another mistake
        return (error.__cause__ and shortage(error.__cause__)) or str(error)
    if isinstance(error, BrokenPipeError):
        return ""
    if (sentence := shortage(error)) is not None:
        return sentence
    if type(error).__name__ in ("BrokenProcessPool", "BrokenThreadPool"):
        return (
            "a worker process was ended from outside, most often because memory ran out; run the command again with "
            "fewer --workers."
        )
    if isinstance(error, OSError) and error.strerror is not None:
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}; check the path, its permissions and free space."
        if output_failure() is not None:
            return f"standard output cannot be written ({error.strerror}); send it to another place."
        return f"{error.strerror}; check the disks and limits of this machine (df, ulimit -a)."
    return None


def _keep_docstrings() -> None:
    """Start again with docstrings under ``python -OO``, as healpy cannot be imported without them."""
    if sys.flags.optimize < 2 or not sys.executable:
        return
    os.environ["PYTHONOPTIMIZE"] = "1"
    words = sys.orig_argv[1:]
    own = next((i for i, word in enumerate(words) if not word.startswith("-") or word in ("-m", "-c")), len(words))
    os.execv(sys.executable, [sys.executable, *(word.replace("OO", "O") for word in words[:own]), *words[own:]])


def _require_working_folder() -> None:
    try:
        os.getcwd()
    except OSError as error:
        raise UserError(
            "the working folder no longer exists; change to another one (cd) and run the command again."
        ) from error


def _without_command(prog: str, description: str, commands: Mapping[str, str], words: list[str]) -> int:
    """Show the help with all commands, the version, or what is wrong."""
    if words and words[0] not in ("-h", "--help", "--version"):
        say_error(f"{prog}: error: {_unknown_command(prog, commands, words[0])} Run `{prog} -h` for a list.")
        return 2
    parser = CommandParser(prog=prog, description=description)
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    choices = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND", required=True)
    for name, path in commands.items():
        choices.add_parser(name, help=_help_of(path) if "--version" not in words else None)
    if not words:
        parser.print_help()
        return 2
    parser.parse_args(words)
    return 2


def _unknown_command(prog: str, commands: Mapping[str, str], word: str) -> str:
    if word.startswith("-"):
        return f"There is no option {word}.{suggestion(word, ['--help', '--version'])}"
    other, others = ("dsdsh", DSDSH) if prog == "dsd" else ("dsd", DSD)
    if word in others:
        return f"There is no command {word!r} of {prog}, but `{other} {word}` exists."
    close = suggestion(word, commands) or suggestion(word, others, f"{other} ")
    return f"There is no command {word!r}.{close}"


def _help_of(path: str) -> str:
    # one damaged command must not hide the others
    try:
        return load_command(path).help
    except UserError as error:
        return str(error)


def _exit_code(leaving: SystemExit) -> int:
    if leaving.code is None:
        return 0
    if isinstance(leaving.code, int):
        return leaving.code
    say_error(str(leaving.code))
    return 1


def _finish(code: int, prog: str, name: str | None) -> int:
    """Return the exit code once everything is written; a closed or full output shows here, not at exit."""
    settle_errors()
    failure = output_failure()
    return code if failure is None else _complain(prog, name, _sentence(failure) or "")


def _complain(prog: str, name: str | None, sentence: str) -> int:
    if output_failure() is not None:
        discard_output()
    if sentence:
        say_error(f"{prog} {name}: error: {sentence}" if name else f"{prog}: error: {sentence}")
    return 1
