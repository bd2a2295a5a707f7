"""Clusters that resemble a reference map."""

from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.quality.evidence.cluster_evidence import match_reference, read_reference
from opustomo.simulate.volumes import gather_volumes

APIX, BOX = 24.0, 16


@pytest.fixture(scope="module")
def molecules() -> np.ndarray:
    """A ribosome with tRNAs, without, and its large subunit, (3, D, D, D)."""
    return gather_volumes([], ["70S_APE_mRNA", "70S_vacant", "50S"], APIX, BOX)[0]


def noisy(volume: np.ndarray, seed: int) -> torch.Tensor:
    noise = np.random.default_rng(seed).normal(scale=0.3 * volume.std(), size=volume.shape)
    return torch.from_numpy((volume + noise).astype(np.float32))


def test_the_cluster_of_the_molecule_is_kept_with_those_like_it(molecules: np.ndarray, tmp_path: Path) -> None:
    whole, vacant, part = molecules
    mirror = np.roll(whole[:, :, ::-1], 1, axis=2)
    volumes = [noisy(part, 0), None, noisy(whole, 1), noisy(mirror, 2), noisy(whole, 3)]
    match = match_reference(volumes, vacant, None, same=[(2, 4)], unclear=[(0, 3), (3, 4)])
    assert match.kept == [2, 4] and match.best in (2, 4) and match.undecided == [3]
    assert np.isnan(match.mean_fsc[1]) and min(match.mean_fsc[[2, 4]]) > max(match.mean_fsc[[0, 3]]) + 0.05
    (line,) = match.lines("template.mrc")
    assert line.startswith(f"Class {match.best} resembles template.mrc most")
    assert f"does not distinguish it from class {6 - match.best} (" in line and "The next is class" in line
    assert "The evidence does not decide about class 3 (" in line
    match.write(tmp_path / "found.csv")
    assert [row.split(",")[0::2] for row in (tmp_path / "found.csv").read_text().split()[1:]] == [
        ["0", "0"], ["1", "0"], ["2", "1"], ["3", "0"], ["4", "1"],
    ]  # fmt: skip


def test_without_a_pair_only_the_best_is_kept(molecules: np.ndarray) -> None:
    match = match_reference([noisy(v, i) for i, v in enumerate(molecules)], molecules[2], None, same=[(0, 1)])
    assert match.kept == [2]
    with pytest.raises(UserError, match="All clusters are empty"):
        match_reference([None, None], molecules[2], None, same=[(0, 1)])


def test_clusters_displaced_from_the_reference_are_compared_at_their_displacement(molecules: np.ndarray) -> None:
    whole, vacant, part = molecules
    mirror = np.roll(whole[:, :, ::-1], 1, axis=2)
    placed = [noisy(part, 0), noisy(mirror, 1), noisy(whole, 2), None]
    moved = [None if volume is None else volume.roll((1, -2, 2), (0, 1, 2)) for volume in placed]
    ball = np.linalg.norm(np.indices((BOX,) * 3) - BOX // 2, axis=0)
    mask = np.clip(7 - ball, 0, 1).astype(np.float32)
    before, after = (match_reference(volumes, vacant, mask) for volumes in (placed, moved))
    assert before.displacement_px == (0, 0, 0) and len(before.lines("template.mrc")) == 1
    assert after.displacement_px == (1, -2, 2) and after.kept == before.kept == [2]
    np.testing.assert_allclose(after.mean_fsc, before.mean_fsc, atol=1e-5)
    assert "displaced by (2, -2, 1) px (x, y, z) from template.mrc" in after.lines("template.mrc")[1]


def test_a_reference_of_another_box_is_refused(molecules: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "template.mrc"
    write_volume(path, molecules[0], APIX)
    assert read_reference(path, BOX, APIX).shape == (BOX,) * 3
    with pytest.raises(UserError, match=r"template\.mrc has 16×16×16 voxels .* but the subtomograms have 32³"):
        read_reference(path, 32, APIX)
    with pytest.raises(UserError, match="pixel size of 24 Å"):
        read_reference(path, BOX, 12.0)
    write_volume(path, np.ones((BOX,) * 3, dtype=np.float32), APIX)
    with pytest.raises(UserError, match="constant"):
        read_reference(path, BOX, APIX)
