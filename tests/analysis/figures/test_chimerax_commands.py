"""ChimeraX command files contain only names, keywords and values of the ChimeraX user guide.

https://www.cgl.ucsf.edu/chimerax/docs/user/commands/ (open, volume, color, vseries, tile, view, lighting)
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from opustomo.analysis.figures.volume_display import write_series_script, write_set_script
from opustomo.analysis.tomograms.placed_volumes import PlacedCluster, PlacedMap, write_placement_script
from opustomo.io.mrc import write_volume

NUMBER = r"-?\d+(\.\d+)?(e[-+]?\d+)?"
MODEL = r"#\d+"
KEYWORDS = {
    "open": {"vseries": "true", "id": r"\d+", "name": ".+"},
    "volume": {
        "style": "surface|mesh|image",
        "step": r"\d+",
        "level": NUMBER,
        "originIndex": f"{NUMBER},{NUMBER},{NUMBER}",
        "planes": r"[xyz],\d+",
        "capFaces": "true|false",
    },
    "vseries": {"direction": "forward|backward|oscillate", "loop": "true|false", "maxFrameRate": NUMBER},
}
"""Value of each keyword that we use, as a regular expression."""
WITHOUT_KEYWORDS = {"color": f"{MODEL} #[0-9a-f]{{6}}", "view": f"({MODEL})?", "tile": "", "lighting": "soft"}


def check(line: str) -> None:
    """Fail if a line is not a command of the user guide."""
    command, *words = shlex.split(line, comments=False)
    if command in WITHOUT_KEYWORDS:
        assert re.fullmatch(WITHOUT_KEYWORDS[command], " ".join(words)), line
        return
    keywords = KEYWORDS[command]
    first = next((i for i, word in enumerate(words) if word in keywords), len(words))
    if command == "open":
        assert words[:first], line
    elif command == "volume":
        assert first == 1 and re.fullmatch(MODEL, words[0]), line
    else:
        assert words[0] == "play" and first == 2 and re.fullmatch(MODEL, words[1]), line
    pairs = words[first:]
    assert len(pairs) % 2 == 0, line
    for name, value in zip(pairs[::2], pairs[1::2], strict=True):
        assert name in keywords and re.fullmatch(keywords[name], value), f"{name} {value} in {line}"


def check_file(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("# ")]
    assert len(lines) > 2
    for line in lines:
        check(line)


def test_series_and_sets(tmp_path: Path) -> None:
    paths = [tmp_path / f"a volume {i}.mrc" for i in range(3)]
    write_series_script(tmp_path / "series.cxc", paths, 0.1234567)
    check_file(tmp_path / "series.cxc")
    write_set_script(tmp_path / "set.cxc", paths, 1e-7, ["a", "cluster 1 (7 particles)", "c"])
    check_file(tmp_path / "set.cxc")


def test_placement_shows_the_middle_of_the_tomogram(tmp_path: Path) -> None:
    write_volume(tmp_path / "TS_1.mrc", np.zeros((40, 50, 60), dtype=np.float32), 12.0)
    placed = PlacedMap(np.zeros((2, 2, 2), dtype=np.float32), (0, 0, 0), 7)
    clusters = [PlacedCluster(0, np.array([0.1, 0.2, 0.3]), placed, 0.5, "cluster0.mrc")]
    write_placement_script(tmp_path / "place.cxc", clusters, tmp_path / "TS_1.mrc")
    check_file(tmp_path / "place.cxc")
    assert "volume #2 planes z,20\n" in (tmp_path / "place.cxc").read_text()


@pytest.mark.parametrize("line", ["volume #1 orthoplanes z", "volume #1 level", "vseries play #1 speed 2"])
def test_other_commands_are_noticed(line: str) -> None:
    with pytest.raises((AssertionError, KeyError)):
        check(line)
