"""The bundled libraries of the report agree with the lock file, and their licenses are complete."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from opustomo.report.page_assembly import LIBRARIES, SCRIPTS, read_asset

VENDOR = Path(__file__).resolve().parents[2] / "opustomo" / "report" / "vendor"


def header() -> str:
    return read_asset(LIBRARIES).split("*/")[0]


@pytest.mark.parametrize("name", ["package-lock.json", "libraries.js"])
def test_the_bundle_belongs_to_its_sources(name: str) -> None:
    digest = hashlib.sha256((VENDOR / name).read_bytes()).hexdigest()
    assert f"{name} sha256 {digest}" in header(), f"{name} has changed: run make report-assets"


def test_versions_are_those_of_the_lock_file_and_all_licenses_are_there() -> None:
    locked = json.loads((VENDOR / "package-lock.json").read_text())["packages"]
    bundled = re.findall(r"^ \* (\S+) (\S+) \((\S+)\)$", header(), re.MULTILINE)
    assert {"three", "@observablehq/plot"} <= {name for name, _, _ in bundled}
    licenses = read_asset("libraries.licenses.txt")
    for name, version, license_name in bundled:
        entry = locked[f"node_modules/{name}"]
        assert (entry["version"], entry["license"]) == (version, license_name)
        assert license_name in ("MIT", "ISC", "BSD-3-Clause")
        assert f"{name} {version}\n---" in licenses
    assert licenses.count("Copyright") >= len(bundled)


def test_direct_dependencies_are_exact() -> None:
    package = json.loads((VENDOR / "package.json").read_text())
    wanted = package["dependencies"] | package["devDependencies"]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in wanted.values())


def test_scripts_use_what_the_bundle_exports_and_nothing_is_exported_in_vain() -> None:
    exported = set(
        re.findall(
            r"\b[A-Za-z]\w+\b", " ".join(re.findall(r"export \{([^}]*)\}", (VENDOR / "libraries.js").read_text()))
        )
    )
    scripts = "\n".join(read_asset(f"{name}.js") for name in SCRIPTS)
    used = set(re.findall(r"\blibraries\.(\w+)", scripts))
    taken = re.search(r"const \{([^}]*)\} = libraries;", scripts)
    assert taken is not None
    used |= {part.split(":")[0].strip() for part in taken[1].split(",")}
    assert used == exported


def test_a_new_bundle_is_the_same() -> None:
    if shutil.which("node") is None or not (VENDOR / "node_modules").is_dir():
        pytest.skip("node or its packages are not installed (make report-assets installs them)")
    before = read_asset(LIBRARIES), read_asset("libraries.licenses.txt")
    subprocess.run(["node", "build.js"], cwd=VENDOR, check=True, capture_output=True)
    assert (read_asset(LIBRARIES), read_asset("libraries.licenses.txt")) == before
