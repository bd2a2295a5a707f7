"""Waiting threads release their core soon, so that other programs can use it."""

from __future__ import annotations

import os

import pytest

from opustomo.commands.runner import SPINS
from opustomo.main import main as dsd


@pytest.mark.parametrize("given", [{}, {"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}])
def test_waiting_threads_sleep_unless_the_environment_says_otherwise(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # so that the end of the test undoes what the command sets
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert dsd(["-h"]) == 0
    assert "train_tomo" in capsys.readouterr().out
    expected = given.get("GOMP_SPINCOUNT", None if "OMP_WAIT_POLICY" in given else SPINS)
    assert os.environ.get("GOMP_SPINCOUNT") == expected
