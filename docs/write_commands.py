"""Write docs/commands.md from the parsers of `dsd` and `dsdsh`: ``python docs/write_commands.py``."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from opustomo.commands.registry import DSD, DSDSH, load_command

TARGET = Path(__file__).with_name("commands.md")
PROGRAMS = {"dsd": DSD, "dsdsh": DSDSH}
HEAD = """# Commands

Written by `python docs/write_commands.py` from the programs themselves; `dsd COMMAND -h` shows the same. `dsd` trains
and computes, `dsdsh` holds the everyday steps before and after under short names. Epochs count from 0 in file names.
Every command ends with exit code 0 when it is done, 1 after a mistake in the input, which it tells in one sentence, and
2 after one in the options.
"""


def text() -> str:
    """The page."""
    parts = [HEAD]
    for program, commands in PROGRAMS.items():
        parts.append(f"\n## {program}\n")
        first = {module: name for name, module in reversed(commands.items())}
        parsers = {name: _parser(program, name, commands[name]) for name in commands if first[commands[name]] == name}
        others = {name: first[commands[name]] for name in commands if name not in parsers}
        parts += [
            f"- [`{program} {name}`](#{program}-{name}): {_sentence(p.description)}\n" for name, p in parsers.items()
        ]
        parts += [f"- `{program} {name}`: another name of `{program} {main}`.\n" for name, main in others.items()]
        parts += [_section(f"{program} {name}", parser) for name, parser in parsers.items()]
    return "".join(parts)


def _parser(program: str, name: str, module: str) -> argparse.ArgumentParser:
    command = load_command(module)
    parser = argparse.ArgumentParser(prog=f"{program} {name}", description=command.help, add_help=False)
    command.add_arguments(parser)
    return parser


def _section(title: str, parser: argparse.ArgumentParser) -> str:
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    positional = [action for action in shown if not action.option_strings]
    words = " ".join([title, *(_values(action) for action in positional), "[options]"])
    lines = [f"\n### {title}\n\n{_sentence(parser.description)}\n\n```text\n{words}\n```\n"]
    if shown:
        lines.append("\n| option | default | meaning |\n|---|---|---|\n")
    for group in parser._action_groups:
        for action in group._group_actions:
            if action in shown:
                lines.append(_row(action))
    return "".join(lines)


def _row(action: argparse.Action) -> str:
    name = ", ".join(action.option_strings) or ""
    option = f"`{name} {_values(action)}`".replace(" `", "`").replace("` ", "`")
    meaning = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    meaning = re.sub(r" \(default: \S+\)$", "", meaning) if _default(action) else meaning
    required = action.required and bool(action.option_strings)
    default = "required" if required else _default(action)
    return f"| {_cell(option)} | {_cell(default)} | {_cell(meaning)} |\n"


def _values(action: argparse.Action) -> str:
    """The words that follow an option, as in its help."""
    if action.nargs == 0:
        return ""
    if action.choices is not None:
        names = "{" + ",".join(map(str, action.choices)) + "}"
    else:
        metavar = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
        names = " ".join(metavar) if isinstance(metavar, tuple) else str(metavar)
    if isinstance(action.nargs, int) and not isinstance(action.metavar, tuple):
        return " ".join([names] * action.nargs)
    return {"+": f"{names} …", "*": f"[{names} …]", "?": f"[{names}]"}.get(str(action.nargs), names)


def _default(action: argparse.Action) -> str:
    value = action.default
    if value is None or value is False or value == argparse.SUPPRESS or value == [] or action.nargs == 0:
        return ""
    values = value if isinstance(value, (list, tuple)) else [value]
    return " ".join(f"{item:g}" if isinstance(item, float) else str(item) for item in values)


def _sentence(words: str | None) -> str:
    found = (words or "").strip()
    return found[:1].upper() + found[1:].rstrip(".") + "." if found else ""


def _cell(words: str) -> str:
    return re.sub(r"\s+", " ", words).replace("|", "\\|").strip()


if __name__ == "__main__":
    TARGET.write_text(text(), encoding="utf-8")
