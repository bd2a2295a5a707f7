"""Numbers in STAR files, which hold text."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from opustomo.errors import UserError

_NAMED = 8


def listed_sizes(sizes: npt.ArrayLike) -> str:
    """Return all different pixel sizes as text with their unit: "1.24 Å", "1.24, 1.25 and 5 Å"."""
    different = list(dict.fromkeys(f"{size:.5g}" for size in np.unique(np.asarray(sizes, np.float64)).tolist()))
    more = f" and {len(different) - _NAMED} more" if len(different) > _NAMED else ""
    shown = different[:_NAMED]
    if more or len(shown) < 2:
        return f"{', '.join(shown)}{more} Å"
    return f"{', '.join(shown[:-1])} and {shown[-1]} Å"


def to_numbers(values: Iterable[object], column: str, source: str) -> npt.NDArray[np.float64]:
    """Turn the strings of a column into float64 (N,).

    Raises
    ------
    UserError
        A value is no finite number; `source`, row and column are named.
    """
    texts = list(values)
    try:
        numbers = np.asarray(texts, dtype=object).astype(np.float64)
    except ValueError:
        numbers = np.array([_number(text) for text in texts])
    bad = np.flatnonzero(~np.isfinite(numbers))
    if bad.size:
        row = int(bad[0])
        raise UserError(f"{source}: {column} of row {row + 1} is {texts[row]!r}; a finite number is needed.")
    return numbers


def group_key(text: object) -> str:
    """Text by which the number of an optics group is compared: some programs write 1 as 1.0 or 01."""
    number = _number(text)
    return str(int(number)) if np.isfinite(number) and number == int(number) else str(text)


def _number(text: object) -> float:
    try:
        return float(str(text))
    except ValueError:
        return float("nan")
