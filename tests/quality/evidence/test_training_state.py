"""What the verdict says about collapsed latents."""

import numpy as np

from opustomo.quality.evidence.training_state import collapse_remark

LABELS = np.arange(200) % 2


def test_collapsed_latents_are_named_with_what_they_mean_for_volumes() -> None:
    latents = 1e-5 * np.random.default_rng(0).normal(size=(200, 4))
    said = collapse_remark(latents, 9, LABELS, [(0, 1)])
    assert said.startswith("The latents of epoch 9 have collapsed") and "decoded from them cannot differ" in said
    assert "may be real: compare their back-projections" in said and "train again" in said
    alone = collapse_remark(latents, 9, LABELS, [])
    assert "expected of particles of one structure" in alone and "may be real" not in alone


def test_latents_that_do_not_separate_the_classes_are_named() -> None:
    """Most particles lie at one point; a few outliers have the spread of the prior."""
    latents = np.zeros((200, 4))
    latents[::20] = 4.0
    said = collapse_remark(latents, 5, LABELS, [(0, 1)])
    assert "hardly separate the classes 0 and 1" in said and "back-projections" in said
    assert collapse_remark(latents, 5, LABELS, []) == ""
    separate = latents + LABELS[:, None]
    assert collapse_remark(separate, 5, LABELS, [(0, 1)]) == ""
