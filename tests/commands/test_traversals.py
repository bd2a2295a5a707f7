"""`dsd pc_traversal | graph_traversal | interpolate | view_config`."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pytest

from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickles
from opustomo.main import main


@pytest.fixture
def z_file(tmp_path: Path) -> Path:
    """Latents of two dimensions, of skewed and unequal spread; conformations of one."""
    rng = np.random.default_rng(0)
    mu = np.stack([5 * rng.exponential(size=400), 0.5 * rng.normal(size=400)], axis=1)
    path = tmp_path / "my run" / "z.3.pkl"
    path.parent.mkdir()
    write_latents(path, mu, rng.normal(size=(400, 1)))
    return path


def latents(path: Path, key: str = "mu") -> np.ndarray:
    import torch

    return np.asarray(torch.load(path)[key])


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main([str(word) for word in words]) == 1
    return capsys.readouterr().err


def test_components_from_percentile_to_percentile(z_file: Path, tmp_path: Path) -> None:
    mu = latents(z_file)
    assert main(["pc_traversal", str(z_file), "-o", str(tmp_path / "out put"), "-n", "7", "--lim", "10", "60"]) == 0
    first = np.loadtxt(tmp_path / "out put" / "pc1.txt")
    assert first.shape == (7, 2) and (tmp_path / "out put" / "pc2.txt").is_file()
    axis = (first[-1] - first[0]) / np.linalg.norm(first[-1] - first[0])
    eigenvector = np.linalg.eigh(np.cov(mu.T))[1][:, -1]
    assert abs(axis @ eigenvector) == pytest.approx(1.0, abs=1e-6)
    scores = np.sort((mu - mu.mean(axis=0)) @ axis)
    np.testing.assert_allclose((first[[0, -1]] - mu.mean(axis=0)) @ axis, np.percentile(scores, [10, 60]), atol=1e-4)
    steps = np.linalg.norm(np.diff(first, axis=0), axis=1)
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)
    words = ["pc_traversal", str(z_file), "--dim", "1", "-o", str(tmp_path / "p"), "-n", "5", "--lim", "0", "100"]
    assert main([*words, "--use-percentile-spacing"]) == 0
    spaced = np.loadtxt(tmp_path / "p" / "pc1.txt")
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["pc1.txt"]
    between, _ = np.histogram(scores, np.sort((spaced - mu.mean(axis=0)) @ axis) + [-1e-3, 0, 0, 0, 1e-3])
    np.testing.assert_allclose(between, 100, atol=1)


def test_components_are_shown_without_a_folder(z_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["pc_traversal", str(z_file), "--conformation", "-n", "3"]) == 0
    lines = capsys.readouterr().out.split()
    assert lines[:2] == ["#", "PC1"] and len(lines) == 5
    values = latents(z_file, "multi_mu")
    np.testing.assert_allclose(sorted(map(float, lines[2::2])), np.percentile(values, [5, 95]), atol=1e-5)


def test_graph_and_line(z_file: Path, tmp_path: Path) -> None:
    mu = latents(z_file)
    path, z = tmp_path / "a path.txt", tmp_path / "its z.txt"
    words = ["--anchors", "3", "250", "9", "--max-neighbors", "12", "--avg-neighbors", "12"]
    assert main(["graph_traversal", str(z_file), *words, "-o", str(path), "--out-z", str(z)]) == 0
    indices = np.loadtxt(path, dtype=int)
    assert indices[0] == 3 and indices[-1] == 9 and 250 in indices
    np.testing.assert_array_equal(np.loadtxt(z, dtype=np.float32), mu[indices])
    line = tmp_path / "line.txt"
    assert main(["interpolate", str(z_file), "--between", "3", "250", "-n", "4", "-o", str(line)]) == 0
    np.testing.assert_allclose(np.loadtxt(line), np.linspace(mu[3], mu[250], 4), atol=1e-5)
    assert main(["interpolate", str(line), "--between", "3", "0", "-n", "2", "-o", str(z)]) == 0
    np.testing.assert_allclose(np.loadtxt(z), mu[[250, 3]], atol=1e-5)


def test_errors(z_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = ("-o", tmp_path / "none")
    assert "components 1 to 2" in mistake(capsys, "pc_traversal", z_file, "--dim", 3, *out)
    assert "two ascending percentiles" in mistake(capsys, "pc_traversal", z_file, "--lim", 95, 5, *out)
    assert "particle 400 does not exist" in mistake(capsys, "graph_traversal", z_file, "--anchors", 0, 400, *out)
    assert "particle 400 does not exist" in mistake(capsys, "interpolate", z_file, "--between", 0, 400, *out)
    write_latents(z_file, latents(z_file))
    assert "no conformation" in mistake(capsys, "interpolate", z_file, "--between", 0, 1, "--conformation", *out)
    assert not (tmp_path / "none").exists()


def test_settings_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"model_args": {"zdim": 12, "Apix": 3.3}, "dataset_args": {"norm": [0, np.float32(2.5)]}, "seed": 7}
    made = {"time": datetime.datetime(2026, 1, 31), "cmd": ["dsd", "train_tomo", "x.star"], "version": "0.1"}
    dump_pickles(tmp_path / "config.pkl", settings, made)
    assert main(["view_config", str(tmp_path)]) == 0
    shown = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["zdim", "12"] in shown and ["norm", "[0,", "2.5]"] in shown
    assert ["cmd", "dsd", "train_tomo", "x.star"] in shown
    assert main(["view_config", str(tmp_path / "config.pkl"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["model_args"] == {"zdim": 12, "Apix": 3.3} and found["time"].startswith("2026-01-31")
    assert "config.pkl" in mistake(capsys, "view_config", tmp_path.parent)
