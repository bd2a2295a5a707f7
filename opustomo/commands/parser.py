"""Parser of a command's options: help with defaults, and errors of one line that suggest what was meant."""

from __future__ import annotations

import argparse
import difflib
import itertools
import re
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

_ARGUMENT = r"argument (?P<name>\S+): "
_REWORDED = (
    (_ARGUMENT + r"invalid int value: (?P<value>.*)", "{name} is {value}, but it must be an integer."),
    (_ARGUMENT + r"invalid float value: (?P<value>.*)", "{name} is {value}, but it must be a number."),
    (_ARGUMENT + r"expected one argument", "{name} requires a value."),
    (_ARGUMENT + r"expected at least one argument", "{name} requires at least one value."),
    (_ARGUMENT + r"expected (?P<value>\d+) arguments", "{name} requires {value} values."),
    (_ARGUMENT + r"ignored explicit argument (?P<value>.*)", "{name} takes no value, but {value} is given."),
    (_ARGUMENT + r"not allowed with argument (?P<other>\S+)", "{name} cannot be combined with {other}."),
    (_ARGUMENT + r"(?P<rest>.*)", "{name}: {rest}"),
    (r"ambiguous option: (?P<name>\S+) could match (?P<value>.*)", "{name} is ambiguous. It could be {value}."),
    (r"one of the arguments (?P<value>.*) is required", "One of these options is required: {value}."),
)
"""Messages of argparse as regular expressions, and the sentences that replace them."""


class CommandParser(argparse.ArgumentParser):
    """Parser of a command's options.

    It differs from ``argparse.ArgumentParser`` in its errors, which are one line instead of a page of usage, in the
    suggestions for mistyped options and values, and in positional arguments that may be omitted before others.
    """

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse words; print an error and exit with code 2 if they are not understood."""
        words = list(args or ())
        self._require_known_options(words)
        # With options between them, argparse would decide too early that optional positional arguments are omitted.
        parse = self.parse_known_intermixed_args if self._has_inner_optional() else self.parse_known_args
        found, extra = parse(words, namespace)
        if extra:
            option = next((word for word in extra if word.startswith("-") and len(word) > 1), None)
            if option is not None:
                self.error(self._unknown_option(option))
            self.error(f"{extra[0]!r} is one argument too many in `{self.synopsis()}`.")
        return found

    def error(self, message: str) -> NoReturn:
        """Print the error in one line and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {self._reword(message)} Run `{self.prog} -h` for help.\n")

    def synopsis(self) -> str:
        """Return the command with its positional arguments and required options."""
        required = [action for action in self._actions if action.option_strings and action.required]
        options = [f"{max(action.option_strings, key=len)} {_title(action)}" for action in required]
        return " ".join([self.prog, *(_positional_text(action) for action in self._positional_actions()), *options])

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"{value!r} is not one of {', '.join(choices)}.{suggestion(str(value), choices)}"
            )

    def _require_known_options(self, words: Sequence[str]) -> None:
        """Report unknown options first, because their values would be taken for positional arguments."""
        for word in words:
            if word == "--":
                return
            name = word.partition("=")[0]
            if name.startswith("--") and not any(known.startswith(name) for known in self._option_string_actions):
                self.error(self._unknown_option(word))

    def _unknown_option(self, word: str) -> str:
        name = word.partition("=")[0]
        known = [
            option
            for option, action in self._option_string_actions.items()
            if action.help != argparse.SUPPRESS and option.startswith("--")
        ]
        return f"There is no option {name}.{suggestion(name, known)}"

    def _positional_actions(self) -> list[argparse.Action]:
        return [action for action in self._actions if not action.option_strings]

    def _has_inner_optional(self) -> bool:
        optional = [action.nargs in ("?", "*") for action in self._positional_actions()]
        return any(first and not second for first, second in itertools.pairwise(optional))

    def _reword(self, message: str) -> str:
        prefix = "the following arguments are required: "
        if message.startswith(prefix):
            names = message.removeprefix(prefix).split(", ")
            verb = "are" if len(names) > 1 else "is"
            return f"{_listed([_longest(name) for name in names])} {verb} missing in `{self.synopsis()}`."
        for pattern, sentence in _REWORDED:
            match = re.fullmatch(pattern, message, re.DOTALL)
            if match:
                parts = {name: _longest(text) if name != "value" else text for name, text in match.groupdict().items()}
                return _sentence(sentence.format(**parts))
        return _sentence(message)


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Return `` Did you mean …?`` with the known names similar to a word after a prefix; "" if there are none."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(word.lower(), names, n=3, cutoff=0.65)
    return f" Did you mean {_listed([prefix + names[name] for name in close], 'or')}?" if close else ""


def _positional_text(action: argparse.Action) -> str:
    name = _title(action)
    return {"?": f"[{name}]", "*": f"[{name} …]", "+": f"{name} …"}.get(str(action.nargs), name)


def _title(action: argparse.Action) -> str:
    title = action.metavar or (action.dest.upper() if action.option_strings else action.dest)
    return title if isinstance(title, str) else " ".join(title)


def _listed(names: Sequence[str], last: str = "and") -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} {last} {names[-1]}"


def _longest(name: str) -> str:
    return max(name.split("/"), key=len) if name.startswith("-") else name


def _sentence(text: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}."


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Help formatter that omits defaults without meaning for the user (None, False and empty lists)."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)
