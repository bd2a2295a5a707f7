"""Resampling, masks, built-in densities and reading of volumes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.mrc import write_volume
from opustomo.physics.resampling import resample
from opustomo.simulate import densities
from opustomo.simulate.densities import list_densities, load_density
from opustomo.simulate.volumes import covering_mask, gather_volumes

MakeBlob = Callable[..., np.ndarray]
FindCenter = Callable[[np.ndarray], np.ndarray]


def test_resampling_keeps_place_and_value(gaussian_blob: MakeBlob) -> None:
    """A blob of 3.2 voxels' width at 6 Å is one of 1.6 at 12 Å, at half the distance from the center."""
    fine = gaussian_blob(np.array([6.0, -4.0, 8.0]), 3.2, 64)
    half = gaussian_blob(np.array([3.0, -2.0, 4.0]), 1.6)
    assert np.abs(resample(fine, 6.0, 32, 12.0) - half).max() < 2e-3
    three_quarters = gaussian_blob(np.array([4.5, -3.0, 6.0]), 2.4, 48)
    assert np.abs(resample(fine, 6.0, 48, 8.0) - three_quarters).max() < 2e-3


def test_resampling_to_the_same_grid_changes_nothing() -> None:
    noise = np.random.default_rng(0).normal(size=(16, 16, 16)).astype(np.float32)
    assert np.abs(resample(noise, 5.0, 16, 5.0) - noise).max() < 1e-5


def test_a_larger_box_is_filled_with_nothing(gaussian_blob: MakeBlob) -> None:
    blob = gaussian_blob(np.array([2.0, 1.0, -3.0]))
    big = resample(blob, 10.0, 48, 10.0)
    assert np.abs(big[8:40, 8:40, 8:40] - blob).max() < 1e-5
    assert np.abs(big[:8]).max() == 0


def test_coarse_grid_loses_what_it_cannot_hold() -> None:
    axis = np.arange(32)
    wave = np.cos(2 * np.pi * 12 * axis / 32) * np.ones((32, 32, 1))
    assert np.abs(resample(wave.astype(np.float32), 5.0, 16, 10.0)).max() < 1e-5


def test_mask_covers_every_state_and_ends(gaussian_blob: MakeBlob) -> None:
    states = np.stack([gaussian_blob(np.array([5.0, 0, 0])), gaussian_blob(np.array([-6.0, 2.0, 0]))])
    mask = covering_mask(states, 12.0)
    assert mask[states.max(axis=0) > 0.11].min() == 1
    assert mask[0].max() == 0 and mask.min() == 0
    assert ((mask > 0) & (mask < 1)).sum() > 500


def test_shipped_densities(centroid: FindCenter) -> None:
    names = list_densities()
    assert {"50S", "30S", "70S_vacant", "70S_APE_mRNA"} <= set(names)
    volumes = {name: load_density(name)[0] for name in names}
    assert all(volume.shape == (32, 32, 32) and volume.max() > 0.5 for volume in volumes.values())
    # both subunits together are the vacant ribosome: all densities stand in one frame
    both = volumes["50S"] + volumes["30S"]
    assert np.corrcoef(both.ravel(), volumes["70S_vacant"].ravel())[0, 1] > 0.99
    assert np.linalg.norm(centroid(volumes["50S"]) - centroid(volumes["30S"])) > 5
    with pytest.raises(UserError, match="Choose from"):
        load_density("80S")
    files = list(Path(densities.__file__).parent.iterdir())
    assert sum(path.stat().st_size for path in files if path.is_file()) < 2_000_000


def test_volumes_from_files(tmp_path: Path, gaussian_blob: MakeBlob) -> None:
    blob = gaussian_blob(np.array([3.0, 0, 0]))
    write_volume(tmp_path / "state one.mrc", blob, 10.0)
    np.save(tmp_path / "stack.npy", np.stack([blob, blob]))
    volumes, apix = gather_volumes([tmp_path / "state one.mrc"], [], None, None)
    assert volumes.shape == (1, 32, 32, 32) and apix == pytest.approx(10.0)
    volumes, apix = gather_volumes([tmp_path / "stack.npy"], [], 10.0, 48)
    assert volumes.shape == (2, 48, 48, 48)
    volumes, apix = gather_volumes([], ["50S", "30S"], 16.0, None)
    assert volumes.shape == (2, 24, 24, 24) and apix == 16.0


def test_unusable_volumes_are_refused(tmp_path: Path, gaussian_blob: MakeBlob) -> None:
    blob = gaussian_blob(np.zeros(3))
    write_volume(tmp_path / "a.mrc", blob, 10.0)
    write_volume(tmp_path / "other.mrc", blob, 12.0)
    write_volume(tmp_path / "flat.mrc", blob[:20], 10.0)
    write_volume(tmp_path / "dark.mrc", -blob, 10.0)
    np.save(tmp_path / "stack.npy", blob)
    np.save(tmp_path / "words.npy", np.array(["a"]))
    for files, expected in (
        ([], "No volumes"),
        (["a.mrc", "other.mrc"], "have the same grid"),
        (["flat.mrc"], "cube"),
        (["dark.mrc"], "bright"),
        (["stack.npy"], "--apix"),
        (["words.npy"], "words.npy"),
        (["missing.npy"], "missing.npy"),
        (["missing.mrc"], "missing.mrc"),
    ):
        with pytest.raises(UserError, match=expected):
            gather_volumes([tmp_path / name for name in files], [], None, None)
