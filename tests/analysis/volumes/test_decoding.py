"""Decoded volumes of an analytic template: positions, pixel sizes and boxes.

The network is replaced by one that draws a Gaussian blob where its weights say, moved by the latent.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from opustomo.analysis.volumes import decoding
from opustomo.analysis.volumes.decoding import EvalRequest, VolumeDecoder, evaluate_volumes, on_pixels, volume_size
from opustomo.errors import UserError
from opustomo.io.mrc import read_volume
from opustomo.io.pickles import dump_pickles, dump_torch
from opustomo.physics.boxes import Boxes

BOXES = Boxes(box=48, apix=4.0, render=36, crop=30)
"""Render pixels of 5.333 Å; the crop is 160 Å of the 192 Å of the box."""
T = 32
BLOB_A = np.array([21.0, -34.0, 48.0])
"""Center x, y, z in Å from the center of rotation."""
SIGMA_A = 14.0


def blob_on_template(center_A: np.ndarray, boxes: Boxes = BOXES, size: int = T) -> Tensor:
    """(1, T, T, T): the template spans the crop from the center of its first voxel to that of its last."""
    at = torch.linspace(0, boxes.crop - 1, size, dtype=torch.float64) - boxes.crop // 2
    z, y, x = torch.meshgrid(at * boxes.render_apix, at * boxes.render_apix, at * boxes.render_apix, indexing="ij")
    squared = (x - center_A[0]) ** 2 + (y - center_A[1]) ** 2 + (z - center_A[2]) ** 2
    return torch.exp(-0.5 * squared / SIGMA_A**2).float()[None]


def center_of(volume: np.ndarray, apix: float) -> np.ndarray:
    """Center of mass x, y, z of the cubed density in Å from voxel n/2."""
    weight = volume.astype(np.float64) ** 3
    axis = (np.arange(len(volume)) - len(volume) // 2) * apix
    sums = [weight.sum(axis=other) @ axis for other in ((0, 1), (0, 2), (1, 2))]
    return np.array(sums) / weight.sum()


class BlobDecoder(nn.Module):
    """Decoder of a blob at ``center`` Å, which the first latent moves along x in Å."""

    def __init__(self, zdim: int, templateres: int, zaffinedim: int = 0, poses: int = 0) -> None:
        super().__init__()
        self.template = nn.ParameterDict({"centre": torch.zeros(3)})
        self.register_buffer("composition_scale", torch.ones(()), persistent=False)
        self.register_buffer("consensus", torch.zeros(()), persistent=False)
        self.size = templateres

    def forward(self, composition: Tensor) -> Tensor:
        center = self.template["centre"].cpu().numpy()
        return torch.cat([blob_on_template(center + [float(z[0]), 0, 0], size=self.size) for z in composition])


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvalRequest:
    """A finished run of the blob network, of three composition and two conformation latents, without mask."""
    monkeypatch.setattr(decoding, "Decoder", BlobDecoder)
    state = {"template.centre": torch.from_numpy(BLOB_A).float(), "grid": torch.zeros(9)}  # buffers are left alone
    dump_torch(tmp_path / "weights.7.pkl", {"epoch": 7, "decoder_state_dict": state})
    own = {
        "model": {"zdim": 3, "zaffinedim": 2, "templateres": T},
        "boxes": {"box": 48, "apix": 4.0, "render": 36, "crop": 30},
    }
    dump_pickles(tmp_path / "config.pkl", {"opustomo": own, "seed": 0}, {"version": "test"})
    return EvalRequest(
        tmp_path / "weights.7.pkl", tmp_path / "config.pkl", tmp_path / "vol umes", np.zeros((1, 3)), device="cpu"
    )


@pytest.mark.parametrize("full_box", [False, True])
@pytest.mark.parametrize("apix", [16.0 / 3.0, 4.0, 5.0, 8.3, 2.5])
def test_a_blob_stays_where_it_is_at_any_pixel_size(apix: float, full_box: bool) -> None:
    template = blob_on_template(BLOB_A, size=64)
    volume = on_pixels(template, BOXES, apix, volume_size(BOXES, apix, full_box))[0].numpy()
    np.testing.assert_allclose(center_of(volume, apix), BLOB_A, atol=0.15)
    peak = np.array(np.unravel_index(volume.argmax(), volume.shape))[::-1]
    np.testing.assert_allclose((peak - len(volume) // 2) * apix, BLOB_A, atol=0.75 * apix)


@pytest.mark.parametrize("apix", [4.0, 6.0, 3.0])
def test_the_full_box_overlays_the_consensus_map(apix: float) -> None:
    """At the pixel size of the data a density is voxel for voxel where the subtomograms have it."""
    size = volume_size(BOXES, apix, full_box=True)
    assert size == round(192 / apix)
    volume = on_pixels(blob_on_template(BLOB_A, size=64), BOXES, apix, size)[0].numpy()
    axis = (np.arange(size) - size // 2) * apix
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    squared = (x - BLOB_A[0]) ** 2 + (y - BLOB_A[1]) ** 2 + (z - BLOB_A[2]) ** 2
    expected = np.exp(-0.5 * squared / SIGMA_A**2)
    inside = volume > 0
    assert np.abs(volume - expected)[inside].max() < 0.03
    # padding is empty, and what it leaves out is the blob's tail
    low, high = -80.0 - 1e-3, 80.0 - BOXES.render_apix + 1e-3
    outside = (x < low) | (x > high) | (y < low) | (y > high) | (z < low) | (z > high)
    np.testing.assert_array_equal(inside, ~outside)


def test_native_voxels_are_those_of_the_crop() -> None:
    """A template of the size of the crop is unchanged."""
    template = torch.randn(2, 30, 30, 30, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(on_pixels(template, BOXES, BOXES.render_apix, 30), template, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("apix", "crop", "full"), [(16 / 3, 30, 36), (4.0, 40, 48), (5.0, 32, 38), (100.0, 2, 2)])
def test_sizes_are_even_and_fill_the_field_of_view(apix: float, crop: int, full: int) -> None:
    assert volume_size(BOXES, apix, full_box=False) == crop
    assert volume_size(BOXES, apix, full_box=True) == full


@pytest.mark.parametrize("apix", [1000.0, float("inf")])
def test_a_pixel_larger_than_the_box_is_refused(apix: float) -> None:
    with pytest.raises(UserError, match="is too large for a box"):
        volume_size(BOXES, apix, full_box=True)


@pytest.mark.parametrize("apix", [None, 4.0, 7.77])
def test_files_have_the_pixel_size_asked_for(request_of: EvalRequest, apix: float | None) -> None:
    written = evaluate_volumes(replace(request_of, apix=apix, prefix="vol", latents=np.zeros((3, 3))))
    assert [path.name for path in written] == ["vol0.mrc", "vol1.mrc", "vol2.mrc"]
    assert sorted(request_of.outdir.glob("*.mrc")) == written
    for path in written:
        with mrcfile.open(path) as handle:
            for axis in "xyz":
                assert float(handle.voxel_size[axis]) == pytest.approx(apix or 16 / 3, rel=1e-4)
            assert handle.data.dtype == np.float32
        assert mrcfile.validate(path)
        volume, found = read_volume(path)
        assert found is not None
        np.testing.assert_allclose(center_of(volume, found), BLOB_A, atol=0.15)


def test_each_latent_has_its_volume(request_of: EvalRequest) -> None:
    moves = np.linspace(-30, 20, 11)  # more than one batch
    latents = np.stack([moves, 0 * moves, 0 * moves, 9 + 0 * moves, 9 + 0 * moves], 1)  # with conformation
    written = evaluate_volumes(replace(request_of, latents=latents, full_box=True))
    assert [path.name for path in written] == [f"reference{i}.mrc" for i in range(11)]
    for move, path in zip(moves, written, strict=True):
        volume, apix = read_volume(path)
        assert volume.shape == (36, 36, 36) and apix is not None
        np.testing.assert_allclose(center_of(volume, apix), BLOB_A + [move, 0, 0], atol=0.3)


def test_flipping_reverses_z(request_of: EvalRequest) -> None:
    (plain,) = evaluate_volumes(request_of)
    (flipped,) = evaluate_volumes(replace(request_of, flip=True, prefix="flipped"))
    np.testing.assert_array_equal(read_volume(flipped)[0], read_volume(plain)[0][::-1])


def test_the_runs_mask_is_applied_where_it_belongs(request_of: EvalRequest) -> None:
    content = torch.load(request_of.weights, weights_only=True)
    mask = torch.zeros(30, 30, 30)
    mask[15:] = 0.5  # z ≥ 0
    dump_torch(request_of.weights, content | {"mask": mask.half()})
    decoder = VolumeDecoder(request_of.weights, request_of.config, "cpu")
    for apix in (BOXES.render_apix, 4.0):
        for full_box in (False, True):
            masked = decoder.volumes(np.zeros((1, 3)), apix, full_box)[0].numpy()
            size = len(masked)
            plain = on_pixels(decoder.decode(np.zeros((1, 3))), BOXES, apix, size)[0].numpy()
            # trilinear: the edge of the mask is one render pixel wide
            z = (np.arange(size) - size // 2) * apix
            weight = 0.5 * np.clip(1.0 + z / BOXES.render_apix, 0, 1)
            np.testing.assert_allclose(masked, plain * weight[:, None, None], atol=1e-4)


def test_latents_must_fit_and_be_finite(request_of: EvalRequest) -> None:
    with pytest.raises(UserError, match=r"4 dimensions, but .*config\.pkl was trained with zdim 3"):
        evaluate_volumes(replace(request_of, latents=np.zeros((2, 4))))
    with pytest.raises(UserError, match="non-finite values"):
        evaluate_volumes(replace(request_of, latents=np.array([[0, np.nan, 0]])))
    assert not request_of.outdir.exists()


def test_runs_of_the_original_decode_too(request_of: EvalRequest) -> None:
    sizes = {"zdim": 3, "z_affine_dim": 2, "templateres": T, "down_vol_size": 30, "Apix": 16 / 3}
    dataset = {"downfrac": 0.75, "norm": [0, np.float32(1.0)]}
    dump_pickles(request_of.config, {"model_args": sizes, "lattice_args": {"D": 49}, "dataset_args": dataset}, {})
    decoder = VolumeDecoder(request_of.weights, request_of.config, "cpu")
    assert (decoder.boxes.box, decoder.boxes.render, decoder.boxes.crop) == (48, 36, 30)
    assert decoder.boxes.apix == pytest.approx(4.0)
    volume = decoder.volumes(np.zeros((1, 3)), 4.0, full_box=True)[0].numpy()
    np.testing.assert_allclose(center_of(volume, 4.0), BLOB_A, atol=0.15)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("full_box", [True, False])
@pytest.mark.parametrize("apix", [4.0, 3.1, 5.0])
def test_volumes_overlay_the_consensus_map_in_a_viewer(
    request_of: EvalRequest, apix: float, full_box: bool, flip: bool
) -> None:
    """With the header, the blob has its position from voxel D/2 = 24 of a map of 48 voxels of 4 Å."""
    (path,) = evaluate_volumes(replace(request_of, apix=apix, full_box=full_box, flip=flip))
    with mrcfile.open(path) as handle:
        corner = np.array([float(handle.header.origin[axis]) for axis in "xyz"])
        voxels = handle.data.copy()
    if full_box and apix == 4.0 and not flip:
        assert voxels.shape == (48, 48, 48)
        np.testing.assert_array_equal(corner, 0.0)
    axes = [corner[i] + np.arange(len(voxels)) * apix - 24 * 4.0 for i in range(3)]
    z, y, x = np.meshgrid(axes[2], axes[1], axes[0], indexing="ij")
    mirrored = BLOB_A * [1, 1, -1 if flip else 1]
    expected = np.exp(-0.5 * ((x - mirrored[0]) ** 2 + (y - mirrored[1]) ** 2 + (z - mirrored[2]) ** 2) / SIGMA_A**2)
    inside = voxels > 0
    assert inside.sum() * apix**3 > 0.7 * 160**3
    assert np.abs(voxels - expected)[inside].max() < 0.05


def test_series_and_sets_come_with_a_file_for_chimerax(request_of: EvalRequest) -> None:
    evaluate_volumes(replace(request_of, prefix="one"))
    assert not (request_of.outdir / "one.cxc").exists()
    evaluate_volumes(replace(request_of, latents=np.zeros((2, 3)), prefix="path"))
    series = (request_of.outdir / "path.cxc").read_text()
    assert "open path0.mrc path1.mrc vseries true" in series
    level = float(series.split("level ")[-1].split()[0])
    assert 0.1 < level < 0.9  # between the solvent's 0 and the blob's 1
    evaluate_volumes(replace(request_of, latents=np.zeros((2, 3)), prefix="set", names=("cluster 0", "cluster 1")))
    assert 'open set1.mrc id 2 name "cluster 1"' in (request_of.outdir / "set.cxc").read_text()
