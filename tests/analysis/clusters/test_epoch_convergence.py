"""Stability of clusters and latents over epochs of fabricated runs."""

import csv
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.clusters import epoch_convergence
from opustomo.analysis.clusters.epoch_convergence import measure_convergence
from opustomo.analysis.results import ResultDir
from opustomo.io.latents import write_latents

COUNT = 120


def run_of(root: Path, latents: list[np.ndarray], epochs: list[int]) -> ResultDir:
    root.mkdir(parents=True, exist_ok=True)
    for epoch, mu in zip(epochs, latents, strict=True):
        write_latents(root / f"z.{epoch}.pkl", mu)
    return ResultDir.open(root)


def settled(seed: int = 0) -> np.ndarray:
    """Three well separated classes."""
    rng = np.random.default_rng(seed)
    return 10.0 * np.eye(3)[np.arange(COUNT) % 3] + rng.normal(scale=0.2, size=(COUNT, 3))


def test_a_run_that_settles(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    still = settled()
    moved = still.copy()
    moved[:, 0] += 5.0  # a step of all particles alike is no movement
    moved[::2, 1] += 1.0  # half of the particles by a step of 1, which is half a step relative to the mean
    rows = measure_convergence(run_of(tmp_path, [rng.normal(size=(COUNT, 3)), still, still, moved], [0, 2, 4, 11]), 3)
    assert [(row.epoch, row.previous) for row in rows] == [(0, None), (2, 0), (4, 2), (11, 4)]
    assert np.isnan(rows[0].ari_previous) and np.isnan(rows[0].displacement)
    assert abs(rows[1].ari_previous) < 0.1 and abs(rows[0].ari_last) < 0.1
    assert rows[2].ari_previous == rows[3].ari_previous == rows[3].ari_last == pytest.approx(1.0)
    assert rows[2].displacement == pytest.approx(0.0, abs=1e-6)
    spread = np.sqrt(((moved - moved.mean(0)) ** 2).sum(1).mean())
    assert rows[3].spread == pytest.approx(spread, rel=1e-5)
    assert rows[3].displacement == pytest.approx(0.5 / spread, rel=1e-5)


def test_large_sets_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(epoch_convergence, "SAMPLE", 50)
    said: list[str] = []
    rows = measure_convergence(run_of(tmp_path, [settled(), settled()], [0, 1]), 3, said.append)
    assert rows[1].ari_previous == pytest.approx(1.0) and "50 of 120" in said[0]


def test_command_writes_table_and_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = tmp_path / "my run"
    run_of(root, [settled(1), settled(2), settled(3)], [0, 1, 2])
    assert dsdsh(["convergence", str(root), "-k", "3"]) == 0
    assert "adjusted Rand index 1.000" in capsys.readouterr().out
    with (root / "convergence.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["previous"] for row in rows] == ["", "0", "1"]
    assert rows[0]["ari_previous"] == "" and float(rows[2]["ari_previous"]) == pytest.approx(1.0)
    assert (root / "convergence.png").stat().st_size > 10_000


def test_superfluous_clusters_are_no_reason_to_train_longer(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Three classes in ten clusters have a low index, although the latents are the same but for noise."""
    run_of(tmp_path, [settled(1), settled(2)], [0, 1])
    assert dsdsh(["convergence", str(tmp_path), "-k", "10"]) == 0
    said = capsys.readouterr().out
    assert "With 3 clusters, the index is 1.000" in said
    assert "A low index alone does not mean that the training is too short" in said
    assert "epochs.csv" in said  # whose losses would tell
    assert dsdsh(["convergence", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "Comparing 3 clusters" in said and "stable" in said  # chosen from the latents, not ten
    assert "adjusted Rand index 1.000" in said and "A low index" not in said


def test_latents_without_spread_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Latents of a homogeneous set have next to no spread; their movement relative to it has no meaning."""
    rng = np.random.default_rng(0)
    run_of(tmp_path, [0.01 * rng.normal(size=(COUNT, 3)) + epoch for epoch in range(2)], [0, 1])
    assert dsdsh(["convergence", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "almost no spread" in said and "homogeneous" in said
    assert "% of the spread" not in said


def test_errors_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_of(tmp_path / "one", [settled()], [3])
    assert dsdsh(["convergence", str(tmp_path / "one")]) == 1
    assert "only one epoch" in capsys.readouterr().err
    run_of(tmp_path / "mixed", [settled(), settled()[:50]], [0, 1])
    assert dsdsh(["convergence", str(tmp_path / "mixed"), "-k", "3"]) == 1
    assert "different runs" in capsys.readouterr().err
