"""Run a command by name: parse its options, report errors in one sentence and return the exit code.

Standard output and error are made robust against closed descriptors, full disks and encodings without Unicode."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from opustomo import __version__
from opustomo.commands.completion import complete, completion_requested
from opustomo.commands.option_ranges import check_options
from opustomo.commands.parser import CommandParser, HelpFormatter, suggestion
from opustomo.commands.registry import DSD, DSDSH, load_command
from opustomo.errors import UserError
from opustomo.io.host_memory import limit_to_available_memory, memory_error_message


class _RecordingFile(io.FileIO):
    """File that stores the first write error, because callers such as argparse do not report it."""

    failure: OSError | None = None

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError as error:
            self.failure = self.failure or error
            raise


def prepare_streams() -> None:
    """Make standard output and error usable.

    Descriptors that were closed by the caller (``>&-``) are connected to the null device, so that no file of the
    command gets their number. Characters that the encoding does not contain are written as escapes.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDONLY if number == 0 else os.O_WRONLY)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream: TextIO | None = getattr(sys, name)
        if stream is None or (stream is getattr(sys, f"__{name}__") and not isinstance(_raw(stream), _RecordingFile)):
            setattr(sys, name, _open(number, None if stream is None else stream))
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _open(number: int, old: TextIO | None) -> TextIO:
    """Return a stream that stores write errors, with the encoding and buffering of the old stream."""
    if old is not None:
        with contextlib.suppress(OSError):
            old.flush()
    buffer = io.BufferedWriter(_RecordingFile(number, "w", closefd=False))
    return io.TextIOWrapper(
        buffer,
        encoding="utf-8" if old is None else old.encoding,
        errors="backslashreplace",
        line_buffering=number == 2 or bool(old is not None and getattr(old, "line_buffering", False)),
    )


def output_failure() -> OSError | None:
    """Return the error of the first failed write to standard output, or None."""
    try:
        sys.stdout.flush()
    except OSError as error:
        return error
    raw = _raw(sys.stdout)
    return raw.failure if isinstance(raw, _RecordingFile) else None


def _raw(stream: TextIO) -> object:
    return getattr(getattr(stream, "buffer", None), "raw", None)


def discard_output() -> None:
    """Discard the buffer of standard output, so that Python reports no error at exit."""
    _discard(sys.stdout)


def settle_errors() -> None:
    """Flush standard error, and discard its buffer if that fails."""
    try:
        sys.stderr.flush()
    except OSError:
        _discard(sys.stderr)


def say_error(line: str) -> None:
    """Write a line to standard error; ignore a closed pipe."""
    try:
        print(line, file=sys.stderr, flush=True)
    except OSError:
        _discard(sys.stderr)


def _discard(stream: TextIO) -> None:
    with contextlib.suppress(OSError, ValueError, AttributeError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
        stream.flush()


SPINS = "1000"
"""Tries of a waiting OpenMP thread before it sleeps; the default of libgomp is 300,000 and more."""


def let_waiting_threads_sleep() -> None:
    """Limit how long waiting OpenMP threads spin, unless the environment sets it.

    PyTorch's threads spin while they wait. If other programs use the same cores, this takes several times as long as
    the computation, because the threads that they wait for do not run. libgomp reads the variable when PyTorch is
    loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPINS


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
        Description of the program in its help.
    commands
        Entry of each command name for :func:`opustomo.commands.registry.load_command`.
    argv
        Arguments of the program; None uses those of this process.

    Returns
    -------
    int
        Exit code: 0 for success or help, 1 for invalid input, 2 for invalid options, 130 for an interrupt.
    """
    if argv is None and completion_requested():
        complete(prog, commands)
    if argv is None:
        _keep_docstrings()
    prepare_streams()
    let_waiting_threads_sleep()
    words = list(sys.argv[1:] if argv is None else argv)
    name = words[0] if words and words[0] in commands else None
    try:
        _require_working_folder()
        if name is None:
            code = _without_command(prog, description, commands, words)
        else:
            with limit_to_available_memory():
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
        formatter_class=HelpFormatter,
    )
    command.add_arguments(parser)
    args = parser.parse_args(words[1:])
    check_options(parser, args)
    args.command_line = (prog, *words)
    command.run(args)
    _record(args)


def _record(args: argparse.Namespace) -> None:
    """Append a finished command to the log of the result directory on which it worked."""
    folder = getattr(args, "resdir", None)
    if isinstance(folder, Path) and folder.is_dir():
        from opustomo.io.log_files import COMMAND_LOG, record_command

        try:
            record_command(folder, args.command_line)
        except OSError as error:
            say_error(
                f"note: {folder / COMMAND_LOG} cannot be written ({error.strerror}); the command is not recorded."
            )


def _sentence(error: Exception) -> str | None:
    """Return the message of an error: "" if the reader of a pipe has closed it, None for an internal error."""
    if isinstance(error, UserError):
        # A failed memory allocation may have been reported as another error.
        return (error.__cause__ and memory_error_message(error.__cause__)) or str(error)
    if isinstance(error, BrokenPipeError):
        return ""
    if (sentence := memory_error_message(error)) is not None:
        return sentence
    if type(error).__name__ in ("BrokenProcessPool", "BrokenThreadPool"):
        return (
            "A worker process was terminated, most likely because memory ran out. Run the command again with fewer "
            "--workers."
        )
    if isinstance(error, OSError) and error.strerror is not None:
        if error.filename is not None:
            return f"{error.filename}: {error.strerror}. Check the path, its permissions and the free space."
        if output_failure() is not None:
            return f"Standard output cannot be written ({error.strerror}). Redirect it to another file."
        return f"{error.strerror}. Check the disks and limits of this machine (df, ulimit -a)."
    return None


def _keep_docstrings() -> None:
    """Restart Python with docstrings under ``python -OO``, because healpy cannot be imported without them."""
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
            "The current folder no longer exists. Change to another folder (cd) and run the command again."
        ) from error


def _without_command(prog: str, description: str, commands: Mapping[str, str], words: list[str]) -> int:
    """Print the help with all commands, the version, or the error in the arguments."""
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
    # A missing module must not hide the other commands.
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
    """Flush all output and return the exit code; report a closed pipe or full disk here instead of at exit."""
    settle_errors()
    failure = output_failure()
    return code if failure is None else _complain(prog, name, _sentence(failure) or "")


def _complain(prog: str, name: str | None, sentence: str) -> int:
    if output_failure() is not None:
        discard_output()
    if sentence:
        say_error(f"{prog} {name}: error: {sentence}" if name else f"{prog}: error: {sentence}")
    return 1
