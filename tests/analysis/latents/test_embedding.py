from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.latents import dimension_reduction as embedding_module
from opustomo.analysis.latents.dimension_reduction import embed_all, embed_latents
from opustomo.io.latents import read_latents
from opustomo.io.pickles import load_pickle
from tests.commands.test_dsdsh import fabricate


def test_separate_blobs_stay_separate_and_the_picture_repeats() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat([0, 1], 40)
    latents = (truth[:, None] * 12.0 + rng.normal(size=(80, 6))).astype(np.float32)
    embedding = embed_latents(latents)
    assert embedding.shape == (80, 2) and embedding.dtype == np.float32
    gap = np.linalg.norm(embedding[:, None] - embedding[None], axis=-1)
    same = truth[:, None] == truth[None]
    assert gap[~same].min() > np.percentile(gap[same], 50)
    np.testing.assert_array_equal(embedding, embed_latents(latents))
    few = embed_latents(latents[:6])
    assert few.shape == (6, 2) and np.isfinite(few).all()


def test_analyze_writes_the_embedding_of_the_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    root = fabricate(tmp_path / "run")
    assert dsdsh(["analyze", str(root), "2", "1", "3"]) == 0
    embedding = load_pickle(root / "analyze.2" / "umap.pkl")
    np.testing.assert_array_equal(embedding, embed_latents(read_latents(root / "z.2.pkl")[0]))
    assert (root / "analyze.2" / "kmeans3" / "umap.png").is_file()


def test_equal_or_hardly_any_latents_give_a_picture() -> None:
    assert np.all(embed_latents(np.full((30, 5), 2.5, dtype=np.float32)) == 0)
    assert embed_latents(np.array([[1.0], [2.0]], dtype=np.float32)).tolist() == [[-0.5, 0.0], [0.5, 0.0]]


def test_sets_in_processes_of_their_own_come_out_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    # latents that need no UMAP: what is tested is that each set comes back in its place
    sets = [np.repeat(np.eye(3, dtype=np.float32)[:2], 20, axis=0), np.full((40, 1), 2.0, dtype=np.float32)]
    one_by_one = embed_all(sets)
    assert one_by_one[0].any() and not one_by_one[1].any()
    monkeypatch.setattr(embedding_module, "OWN_PROCESS", 10)
    for apart, together in zip(embed_all(sets), one_by_one, strict=True):
        np.testing.assert_array_equal(apart, together)
