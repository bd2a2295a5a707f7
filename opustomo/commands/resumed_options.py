"""Options of a resumed run, and options that have no effect.

An option that is not given keeps the value of the earlier run."""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from opustomo.errors import UserError

MAY_CHANGE = (
    "particles datadir num_epochs batch_size accum_step lr wd lamb separate beta beta_control "
    "checkpoint keep log_interval tmp_prefix plot write_ctf num_workers device amp multigpu num_gpus"
).split()
"""Options that may change when a run is resumed (docs/resume.md); changes are written to the log."""
_OF_ONE_START = ("load", "latents", "overwrite", "outdir", "force")
"""Options that apply only to one call."""


def plain_options(args: argparse.Namespace) -> dict[str, Any]:
    """Return all options for config.pkl as plain values with absolute paths."""
    return {
        name: str(value.absolute()) if isinstance(value, Path) else value
        for name, value in vars(args).items()
        if name not in (*_OF_ONE_START, "command_line") and not name.startswith("inert ")
    }


def continued_options(
    args: argparse.Namespace, words: Sequence[str], add_arguments: Callable[[argparse.ArgumentParser], None]
) -> tuple[argparse.Namespace, list[str]]:
    """Return the options of the run in ``--outdir``, updated by those given now, and notes for the log.

    Parameters
    ----------
    args
        Parsed options, which are returned unchanged if the folder contains no run.
    words
        Command line from which they were parsed.
    add_arguments
        Function that adds the options to a parser.
    """
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    stored = _stored(args.outdir / "config.pkl", parser)
    if stored is None:
        return args, []
    given = _given(parser, words)
    mask = stored.get("mask")
    if mask is not None and not mask.exists():  # state.pkl contains it
        stored["mask"] = None
    merged = argparse.Namespace(**(vars(args) | stored | given))
    notes = [_note(name, stored[name], given[name]) for name in given if name in MAY_CHANGE and name in stored]
    kept = _as_words(parser, {name: value for name, value in stored.items() if name not in given})
    return merged, [f"Unchanged options of the run: {kept}"] * bool(kept) + [note for note in notes if note]


def _stored(path: Path, parser: argparse.ArgumentParser) -> dict[str, Any] | None:
    """Return the options in a config.pkl, or None if it is missing or unreadable.

    Files of earlier versions contain only the command line, which is parsed.
    """
    from opustomo.io.pickles import load_pickles

    if not path.exists():
        return None
    content = load_pickles(path)
    settings, about = content[0], content[-1]
    options = settings.get("opustomo", {}).get("options") if isinstance(settings, dict) else None
    if options is None:
        command = [str(word) for word in about.get("cmd", [])] if isinstance(about, dict) else []
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # not an error of this command line
                options = _given(parser, command[2:])
        except SystemExit:
            return None
    kinds = {action.dest: action.type for action in parser._actions}
    return {
        name: Path(value) if kinds[name] is Path and value is not None else value
        for name, value in options.items()
        if name in kinds and name not in _OF_ONE_START
    }


def _given(parser: argparse.ArgumentParser, words: Sequence[str]) -> dict[str, Any]:
    """Return only the options that are given explicitly on a command line."""
    defaults = {action.dest: action.default for action in parser._actions}
    unset = object()
    parser.set_defaults(**dict.fromkeys(defaults, unset))
    try:
        found = {name: value for name, value in vars(parser.parse_args(list(words))).items() if value is not unset}
    finally:
        parser.set_defaults(**defaults)
    return found


def _note(name: str, then: Any, now: Any) -> str:
    same = then == now or (isinstance(then, Path) and isinstance(now, Path) and then.absolute() == now.absolute())
    return "" if same else f"{_option(name)} changes from {_shown(then)} to {_shown(now)}"


def _option(name: str) -> str:
    return "the particle table" if name == "particles" else "--" + name.replace("_", "-")


def _shown(value: Any) -> str:
    return "not given" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _as_words(parser: argparse.ArgumentParser, options: Mapping[str, Any]) -> str:
    """Return the options that differ from their defaults as a command line."""
    words: list[str] = []
    for action in parser._actions:
        value = options.get(action.dest, action.default)
        if value == action.default or action.dest.startswith("inert "):
            continue
        if not action.option_strings:
            words.append(str(value))
        elif isinstance(value, bool):
            words.append(action.option_strings[0 if value else -1])
        else:
            words += [action.option_strings[0], *map(str, value if isinstance(value, list) else [value])]
    return shlex.join(words)


_NEEDS = {
    "--masks": ("separate",),
    "--warp": ("warp_bfactor_scale",),
    "--multigpu": ("num_gpus",),
    "--encode-mode grad": ("encoderres", "beta", "beta_control", "lamb", "focus"),
}
"""Options that have an effect only with another one."""


def idle_options(args: argparse.Namespace, add_arguments: Callable[[argparse.ArgumentParser], None]) -> list[str]:
    """Return a note for each option that has no effect in combination with the others, unless it has its default.

    Parameters
    ----------
    args
        Parsed options.
    add_arguments
        Function that adds the options to a parser.

    Raises
    ------
    UserError
        If options contradict each other.
    """
    if args.latents is not None and args.load in (None, "latest"):
        given = "without --load" if args.load is None else "with --load latest, which restores all latents"
        raise UserError(f"--latents {args.latents} is not used {given}. Give --load weights.N.pkl, or omit --latents.")
    met = {
        "--masks": args.masks is not None,
        "--warp": args.warp,
        "--multigpu": args.multigpu,
        "--encode-mode grad": args.encode_mode == "grad",
    }
    parser = argparse.ArgumentParser(add_help=False)
    add_arguments(parser)
    return [
        f"--{name.replace('_', '-')} has no effect without {needed}"
        for needed, names in _NEEDS.items()
        for name in names
        if not met[needed] and getattr(args, name) != parser.get_default(name)
    ]
