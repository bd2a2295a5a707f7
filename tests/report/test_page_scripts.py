"""The page of the report is self-contained, and its scripts and JSON are well formed."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from opustomo.report.page_assembly import LIBRARIES, SCRIPTS, pack_array, read_asset, script_json
from tests.report.page_content import outline, unpacked


def test_the_page_needs_nothing_else(page: Path) -> None:
    found = outline(page)
    assert all(link.startswith("#") for link in found.links), found.links
    libraries, script = (text for given, text in found.scripts if not given)
    assert libraries.strip() == read_asset(LIBRARIES).strip()
    for word in ("fetch(", "XMLHttpRequest", "WebSocket", "import ", "importScripts", "eval("):
        assert word not in script
    assert set(re.findall(r"https?://[\w.]+", script)) == {"http://www.w3.org"}  # the name of SVG, not a place
    assert "default-src 'none'" in page.read_text()


def test_every_element_that_scripts_ask_for_is_there(page: Path) -> None:
    found = outline(page)
    assert len(set(found.identifiers)) == len(found.identifiers)
    script = "\n".join(read_asset(f"{name}.js") for name in SCRIPTS)
    wanted = set(re.findall(r'(?:byId|hide)\("([\w-]+)"\)', script))
    assert len(wanted) > 40 and wanted <= set(found.identifiers)
    assert all(link[1:] in found.identifiers for link in found.links if link != "#")


def test_all_scripts_and_no_others_are_in_the_page(page: Path) -> None:
    folder = Path(__file__).resolve().parents[2] / "opustomo" / "report" / "assets"
    assert {path.name for path in folder.glob("*.js")} == {LIBRARIES, *(f"{name}.js" for name in SCRIPTS)}
    script = [text for given, text in outline(page).scripts if not given][-1]
    assert all(read_asset(f"{name}.js") in script for name in SCRIPTS)


def without_literals(script: str) -> str:
    """JavaScript without comments, strings, templates' text and regular expressions (of which we write none)."""
    kept, i, templates = [], 0, [0]
    while i < len(script):
        two = script[i : i + 2]
        if two == "//":
            i = script.find("\n", i) if "\n" in script[i:] else len(script)
        elif two == "/*":
            i = script.index("*/", i) + 2
        elif script[i] in "\"'":
            end = i + 1
            while script[end] != script[i]:
                assert script[end] != "\n", f"open string: {script[i : i + 60]}"
                end += 2 if script[end] == "\\" else 1
            i = end + 1
        elif script[i] == "`" or (script[i] == "}" and templates[-1] == 0 and len(templates) > 1):
            if script[i] == "}":
                templates.pop()
            i += 1
            while script[i] != "`" and script[i : i + 2] != "${":
                i += 2 if script[i] == "\\" else 1
            if script[i] == "`":
                i += 1
            else:
                templates.append(0)
                i += 2
        else:
            templates[-1] += {"{": 1, "}": -1}.get(script[i], 0)
            kept.append(script[i])
            i += 1
    assert len(templates) == 1
    return "".join(kept)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_well_formed(name: str, tmp_path: Path) -> None:
    pairs, stack = {")": "(", "]": "[", "}": "{"}, []
    for mark in without_literals(read_asset(f"{name}.js")):
        if mark in "([{":
            stack.append(mark)
        elif mark in pairs:
            assert stack and stack.pop() == pairs[mark]
    assert not stack
    node = shutil.which("node")
    if node is not None:
        (tmp_path / f"{name}.js").write_text(read_asset(f"{name}.js"), encoding="utf-8")
        done = subprocess.run([node, "--check", str(tmp_path / f"{name}.js")], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("values", "name"),
    [
        (np.array([[1.5, np.nan], [-2.0, 3e38]]), "f4"),
        (np.array([0, 65535]), "u2"),
        (np.array([0, 65536]), "i4"),
        (np.array([-1, 5]), "i4"),
        (np.array([0, 255], dtype=np.uint8), "u1"),
        (np.empty(0, dtype=np.int64), "u2"),
    ],
)
def test_arrays_come_back(values: np.ndarray, name: str) -> None:
    packed = json.loads(script_json({"a": values}))["a"]
    assert packed["dtype"] == name
    np.testing.assert_array_equal(unpacked(packed), values.astype(np.float32) if name == "f4" else values)
    with pytest.raises(ValueError, match="cannot be packed"):
        pack_array(np.array(["text"]))


def test_json_cannot_end_its_script() -> None:
    text = script_json({"a": "</script><!--", "b": [float("nan"), np.float64("inf"), np.int64(3)]})
    assert "<" not in text and json.loads(text) == {"a": "</script><!--", "b": [None, None, 3]}
