"""STAR text in and out, every value kept as the characters it was written with.

Parsing and writing are done by `starfile`. Its parser guesses types, treats apostrophes and `#` inside a
value as quotes and comments, and drops the backslashes of Windows paths in simple blocks. All values are
therefore read as strings, and the few characters that it would misread are hidden behind private-use code
points while it parses.
"""

import os
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from opustomo.errors import UserError
from opustomo.io.atomic import atomic_path

if TYPE_CHECKING:
    import pandas as pd

_HIDDEN = {"'": "\ue000", '"': "\ue001", "#": "\ue002", "\\": "\ue003"}
_SHOWN = {code: character for character, code in _HIDDEN.items()}
# stands before values that would be taken for something else: missing numbers, block names, empty strings
_GUARD = "\ue004"
_SHOW = str.maketrans({**_SHOWN, _GUARD: ""})
_HIDE = str.maketrans(_HIDDEN)
_PRIVATE = re.compile("[\ue000-\ue004]")
_MISREAD = re.compile(r"""['"#\\]|(?<!\S)(?:nan|NaN|<NA>)(?!\S)|^\s*data_""")
_TOKEN = re.compile(r"""'[^'\n]*'(?!\S)|"[^"\n]*"(?!\S)|\S+""")
_MISSING_NUMBERS = {"nan", "NaN", "<NA>"}


def read_blocks(path: str | os.PathLike[str]) -> "dict[str, pd.DataFrame | dict[str, str]]":
    """Read all blocks of a STAR file.

    Returns
    -------
    dict
        Block name without "data_" → table of strings (loop) or dictionary of strings (single values), in the
        order of the file.

    Raises
    ------
    UserError
        The file is missing, has no block, or a row has too few or too many values.
    """
    import starfile

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such STAR file; check the path.")
    text, is_utf8 = _text(path)
    # not splitlines: it also splits at characters that may stand in values
    lines = text.replace("\r\n", "\n").split("\n")
    while lines and not lines[0].lstrip().startswith("data_"):
        del lines[0]
    names = [line.split(None, 1)[0][1:] for line in lines if line.lstrip().startswith("_")]
    strings = list(dict.fromkeys(names))
    hidden = [_hide_line(line) for line in lines]
    try:
        if is_utf8 and hidden == lines:
            blocks = starfile.read(path, always_dict=True, parse_as_string=strings)
        else:
            with tempfile.TemporaryDirectory(prefix="opustomo-") as folder:
                copy = Path(folder) / "table.star"
                copy.write_text("\n".join(hidden) + "\n", encoding="utf-8")
                blocks = starfile.read(copy, always_dict=True, parse_as_string=strings)
    except Exception as error:  # the parser has no exception of its own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"{path}: not a readable STAR file ({reason}); write it again.") from error
    if not blocks:
        raise UserError(f"{path}: holds no data_ block; give a STAR file.")
    return {name: _shown(path, name, block) for name, block in blocks.items()}


def write_blocks(path: str | os.PathLike[str], blocks: "dict[str, pd.DataFrame | dict[str, str]]") -> None:
    """Write blocks as a STAR file, atomically; strings appear as they are, quoted where they must be."""
    import starfile

    written = {
        name: {key: _quoted(value) for key, value in block.items()} if isinstance(block, dict) else block.map(_quoted)
        for name, block in blocks.items()
    }
    # our own quoting replaces the library's, which only knows blanks and the empty string
    text = starfile.to_string(written, quote_character="")
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _text(path: Path) -> tuple[str, bool]:
    """Text of a file, and whether it was UTF-8, which is all the parser reads."""
    raw, is_utf8 = path.read_bytes(), True
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        text, is_utf8 = raw.decode("latin-1"), False
    if "\x00" in text or _PRIVATE.search(text):
        raise UserError(f"{path}: not a text file; give a STAR file.")
    return text, is_utf8


def _hide_line(line: str) -> str:
    """Hide what the parser would misread in one line; comments are dropped."""
    if not _MISREAD.search(line):
        return line
    tokens = []
    for token in _TOKEN.findall(line):
        if token.startswith("#"):
            break
        quote = token[0]
        if quote in "'\"" and len(token) > 1 and token.endswith(quote):
            inside = token[1:-1]
            spaced = re.search(r"\s", inside)
            tokens.append(f'"{inside.translate(_HIDE)}"' if spaced else _hide_bare(inside))
        else:
            tokens.append(_hide_bare(token))
    if len(tokens) > 1 and tokens[0].startswith("data_"):
        tokens[0] = _GUARD + tokens[0]
    return " ".join(tokens)


def _hide_bare(token: str) -> str:
    return _GUARD + token if not token or token in _MISSING_NUMBERS else token.translate(_HIDE)


def _shown(path: Path, name: str, block: "pd.DataFrame | dict[str, str]") -> "pd.DataFrame | dict[str, str]":
    import pandas as pd

    if isinstance(block, dict):
        return {key: str(value).translate(_SHOW) for key, value in block.items()}
    values = block.to_numpy(dtype=object)
    # an empty string that was written has the guard; a missing number differs from itself
    missing = (values == "") | (values != values)
    if missing.any():
        row = int(missing.any(axis=1).argmax())
        raise UserError(
            f"{path}: row {row + 1} of data_{name} has fewer values than the {len(block.columns)} columns; complete it."
        )
    if len(set(block.columns)) < len(block.columns):
        raise UserError(f"{path}: data_{name} names a column twice; remove one of them.")
    shown = np.array([str(value).translate(_SHOW) for value in values.flat], dtype=object)
    return pd.DataFrame(shown.reshape(values.shape), columns=block.columns)


def _quoted(value: object) -> str:
    text = str(value)
    if text and not re.search(r"\s", text) and text[0] not in "'\"#":
        return text
    return f"'{text}'" if '"' in text else f'"{text}"'
