"""Settings with which a resumed run is compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from opustomo.io.pickles import dump_pickles
from opustomo.training.resume_checks import changes


@pytest.mark.parametrize("name", ["ctf_normalized", "ctf_normalised"])
def test_normalization_is_compared_under_its_earlier_name_too(name: str, tmp_path: Path) -> None:
    dump_pickles(tmp_path / "config.pkl", {"opustomo": {"physics": {name: True}}})
    now = {"opustomo": {"physics": {"ctf_normalized": False}}}
    found = changes(tmp_path, now)
    assert found is not None and [(one.option, one.now, one.then) for one in found] == [("--normalizectf", "off", "on")]
    now["opustomo"]["physics"]["ctf_normalized"] = True
    assert changes(tmp_path, now) == []
