"""Settings of runs of earlier versions."""

import pytest

from opustomo.quality.evidence.trained_model import physics_of_run


@pytest.mark.parametrize("name", ["ctf_normalized", "ctf_normalised"])
def test_weighted_subtomograms_are_remembered_under_both_names(name: str) -> None:
    """Versions before 2026-11-30 wrote the British spelling."""
    assert physics_of_run({"opustomo": {"physics": {name: True}}}).ctf_normalized
    assert not physics_of_run({"opustomo": {"physics": {name: False}}}).ctf_normalized
