"""Sample of benchmarks/fuzz.py: every case ends with one sentence or with valid files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "benchmarks" / "fuzz.py"


@pytest.mark.slow
def test_a_sample_of_hostile_runs(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--cases", "24", "--seed", "1000"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert found["failed"] == []
    assert done.returncode == 0 and found["cases"] == 24
    assert found["counts"]["sentence"] >= 9 and found["counts"]["fine"] >= 3


def test_cases_follow_from_seed_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import fuzz_cases

    some = [fuzz_cases.draw(3, number) for number in range(150)]
    again = [fuzz_cases.draw(3, number) for number in reversed(range(150))][::-1]
    assert [(case.words, case.what, case.limits) for case in some] == [
        (case.words, case.what, case.limits) for case in again
    ]
    assert {case.kind for case in some} == set(fuzz_cases.KINDS)
    assert len({" ".join(case.words) + case.what for case in some}) > 120
