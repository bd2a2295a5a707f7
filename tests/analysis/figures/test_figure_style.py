import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from opustomo.analysis.figures.figure_style import spread_labels


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 30), st.floats(0.0, 200.0), st.integers(0, 1000))
def test_labels_keep_their_distance(count: int, spread: float, seed: int) -> None:
    anchors = np.random.default_rng(seed).normal(size=(count, 2)) * spread
    places = spread_labels(anchors, 15.0, iterations=2000)
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)[~np.eye(count, dtype=bool)]
    assert count == 1 or gaps.min() > 14.0


def test_lonely_labels_stay() -> None:
    anchors = np.array([[0.0, 0.0], [1.0, 0.0], [500.0, 500.0]])
    places = spread_labels(anchors, 15.0)
    np.testing.assert_array_equal(places[2], anchors[2])
    np.testing.assert_allclose(places[:2].mean(axis=0), [0.5, 0.0], atol=1e-9)
