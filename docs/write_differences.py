"""Write the list of command lines in docs/from-opus-tomo.md: ``python docs/write_differences.py``.

The lines and their differences are defined in tests/conformance/lines.py; the tests run every line.
"""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.conformance.lines import SECTIONS, Line  # noqa: E402

WIDTH = 110
TARGET = ROOT / "docs" / "from-opus-tomo.md"
BEGIN = "<!-- begin of what python docs/write_differences.py writes -->\n"
END = "<!-- end of what python docs/write_differences.py writes -->\n"
# Placeholders of the test lines and what a user would type instead.
SHOWN = {
    "data": "/data", "box": "128", "oddbox": "127", "apix": "3.37", "vol": "2.2", "gpus": "4", "movie": "movie.py",
}  # fmt: skip


def with_lines(page: str) -> str:
    """Return the page with the list inserted between its two markers."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + _list() + END + after


def _list() -> str:
    lines = [line for section in SECTIONS.values() for line in section]
    changed = sum(bool(line.ours) for line in lines)
    refused = sum(bool(line.code) for line in lines)
    same = sum(not line.differs for line in lines)
    parts = [
        f"\nThe tests run {len(lines)} command lines that users of OPUS-TOMO type. {len(lines) - changed - refused} of "
        f"them run as they stand, {same} of these without any difference; {changed} need another launcher, and "
        f"{refused} is refused on purpose.\n"
    ]
    for title, section in SECTIONS.items():
        parts.append(f"\n### {title}: lines with a difference\n")
        parts += [_difference(line) for line in section if line.differs]
        parts.append(f"\n### {title}: lines without a difference\n\n```text\n")
        parts += [_shown(line.words) + "\n" for line in section if not line.differs]
        parts.append("```\n")
    return "".join(parts) + "\n"


def _difference(line: Line) -> str:
    text = f"\n```text\n{_shown(line.words)}\n```\n\n"
    if line.ours:
        text += f"Type instead:\n\n```text\n{_shown(line.ours)}\n```\n\n"
    return text + line.differs + "\n"


def _shown(words: str) -> str:
    """Return a line as a user types it; long lines are broken as in a shell script."""
    for name, value in SHOWN.items():
        words = words.replace(f"{{{name}}}", value)
    parts = textwrap.wrap(words, WIDTH, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(parts)


if __name__ == "__main__":
    TARGET.write_text(with_lines(TARGET.read_text(encoding="utf-8")), encoding="utf-8")
