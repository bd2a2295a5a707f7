"""`dsd simulate` from its options to its files."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.commands import simulate
from opustomo.commands.option_ranges import check_options
from opustomo.errors import UserError
from opustomo.geometry.rotations import euler_to_matrix
from opustomo.io.ctf_tables import TiltTable, read_relion_table, read_warp_table
from opustomo.io.image_paths import resolve_ctf_tables, resolve_images
from opustomo.io.star_tables import read_particles
from opustomo.simulate import dataset


def command(*words: object) -> None:
    parser = argparse.ArgumentParser("dsd simulate")
    simulate.add_simulate_arguments(parser)
    args = parser.parse_args([str(word) for word in words])
    check_options(parser, args)
    simulate.run_simulate(args)


FAST = ("--builtin", "50S", "30S", "-n", "6", "--tilt-step", "15", "--device", "cpu")


@pytest.mark.parametrize("relion31", [False, True])
def test_files_of_a_set(tmp_path: Path, relion31: bool) -> None:
    out = tmp_path / "a set"
    options = ["--rot-err", 2, "--shift-err", 0.5, "--astigmatism", 700, "--float16"]
    command(*FAST, "-o", out, *options, *(["--relion31"] if relion31 else []))
    star = read_particles(out / "particles.star")
    truth = np.load(out / "truth.npz")
    assert len(star) == 6 and ("optics" in star.blocks) == relion31
    assert np.abs(star.eulers_deg() - truth["eulers_used"]).max() < 1e-5
    assert np.abs(star.origins_px(None) - truth["origin_used"]).max() < 1e-5
    assert np.abs(truth["origin_used"] - truth["origin"]).max() > 0.1
    assert sorted(np.bincount(truth["labels"])) == [3, 3]
    for path in resolve_images(star, None):
        assert mrcfile.validate(path)
        with mrcfile.open(path) as handle:
            assert handle.data.shape == (32, 32, 32) and handle.data.dtype == np.float16
            assert handle.voxel_size.x == pytest.approx(12.0)
    mask = mrcfile.read(out / "mask.mrc")
    assert mask.min() == 0 and mask.max() == 1
    assert np.load(out / "volumes.npy").shape == (2, 32, 32, 32)
    assert json.loads((out / "params.json").read_text())["count"] == 6


def test_both_ctf_tables_tell_the_same(tmp_path: Path) -> None:
    command(*FAST, "-o", tmp_path / "s", "--astigmatism", 700, "--tilt-range", -30, 45)
    star = read_particles(tmp_path / "s" / "particles.star")
    relion, warp = resolve_ctf_tables(star, None, warp=False), resolve_ctf_tables(star, None, warp=True)
    assert relion is not None and warp is not None
    for one, other in zip(relion, warp, strict=True):
        a, b = read_relion_table(one), read_warp_table(other, bfactor_scale=1.0)
        assert a.tilt_deg == pytest.approx([-30, -15, 0, 15, 30, 45])
        assert a.scale == pytest.approx(np.cos(np.deg2rad(a.tilt_deg)), abs=1e-6)
        assert a.bfactor_A2 == pytest.approx([48, 24, 12, 36, 60, 72], abs=1e-6)
        assert (a.defocus_u_A > a.defocus_v_A).all() and a.astigmatism_deg.min() > 0
        assert (a.bfactor_sign, b.bfactor_sign) == (1, -1)  # as the files write them
        for name in set(TiltTable.__dataclass_fields__) - {"bfactor_sign"}:
            assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6, abs=1e-5), name


def test_noise_free_set_shows_its_volumes(tmp_path: Path) -> None:
    """Turned back by the truth and averaged, the subtomograms of a state look like it, not like the other."""
    flat_ctf = ("--defocus", 0, 0, "--amplitude", 1, "--cs", 0)
    command(*FAST[:3], "-n", 12, "-o", tmp_path / "s", "--snr", "inf", *flat_ctf)
    truth, volumes = np.load(tmp_path / "s" / "truth.npz"), np.load(tmp_path / "s" / "volumes.npy")
    rotations = euler_to_matrix(torch.from_numpy(truth["eulers"])).numpy()
    axis = np.arange(32) - 16
    grid = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1)[..., ::-1].reshape(-1, 3)
    from scipy.ndimage import map_coordinates

    mean = np.zeros_like(volumes)
    for i, label in enumerate(truth["labels"]):
        box = mrcfile.read(tmp_path / "s" / "subtomo" / f"p{i:06d}.mrc")
        # where the points of the reference lie in the subtomogram
        points = grid @ rotations[i].T - truth["origin"][i] + 16
        mean[label] += map_coordinates(box, points.T[::-1], order=1).reshape(box.shape)
    match = np.corrcoef(np.concatenate([mean.reshape(2, -1), volumes.reshape(2, -1)]))[:2, 2:]
    assert match[0, 0] > 0.9 and match[1, 1] > 0.9
    assert match[0, 1] < 0.3 and match[1, 0] < 0.3


def test_seed_determines_everything(tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        command(*FAST, "-o", tmp_path / name, "--seed", seed)
    a, b, c = (mrcfile.read(tmp_path / name / "subtomo" / "p000002.mrc") for name in "abc")
    assert (a == b).all() and (a != c).any()
    with np.load(tmp_path / "a" / "truth.npz") as one, np.load(tmp_path / "b" / "truth.npz") as two:
        assert all((one[key] == two[key]).all() for key in one.files)


def test_an_earlier_set_is_replaced_only_when_asked(tmp_path: Path) -> None:
    out = tmp_path / "s"
    command(*FAST, "-o", out)
    with pytest.raises(UserError, match="--overwrite"):
        command(*FAST, "-o", out)
    command(*FAST, "-o", out, "--overwrite", "--weights", 1, 5)
    assert np.bincount(np.load(out / "truth.npz")["labels"]).tolist() == [1, 5]
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_other_folders_are_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "text.tex").write_text("x")
    with pytest.raises(UserError, match="not overwritten"):
        command(*FAST, "-o", precious, "--overwrite")
    monkeypatch.chdir(precious)
    with pytest.raises(UserError, match="current folder"):
        command(*FAST, "-o", ".", "--overwrite")
    assert (precious / "text.tex").read_text() == "x"


@pytest.mark.parametrize("overwrite", [False, True])
def test_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool) -> None:
    out = tmp_path / "s"
    if overwrite:
        command(*FAST, "-o", out)
        before = sorted(path.name for path in out.rglob("*"))

    def disk_full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr(dataset, "write_ctf_tables", disk_full)
    with pytest.raises(OSError, match="No space"):
        command(*FAST, "-o", out, "--overwrite")
    if overwrite:
        assert sorted(path.name for path in out.rglob("*")) == before
        assert [path.name for path in tmp_path.iterdir()] == ["s"]
    else:
        assert not list(tmp_path.iterdir())


def test_values_too_large_for_float16_are_refused(tmp_path: Path) -> None:
    volume = np.zeros((16, 16, 16), np.float32)
    volume[6:10, 6:10, 6:10] = 1e6
    np.save(tmp_path / "big.npy", volume)
    with pytest.raises(UserError, match="float16"):
        command(tmp_path / "big.npy", "--apix", 10, "-o", tmp_path / "s", "-n", 2, "--float16")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--builtin", "50S"), "-o DIR"),
        (("-o", "x"), "No volumes"),
        (("--builtin", "50S", "-o", "x", "--weights", "1", "2"), "--weights"),
        (("--builtin", "50S", "-o", "x", "--snr", "0"), "--snr"),
        (("--builtin", "50S", "-o", "x", "--defocus", "2", "4"), "in Å"),
        (("--builtin", "50S", "-o", "x", "--box", "31"), "--box"),
        (("--builtin", "50S", "-o", "x", "-n", "0"), "--count"),
        (("--builtin", "50S", "-o", "x", "--shift", "20"), "--shift"),
        (("--builtin", "50S", "-o", "x", "--device", "tpu!"), "--device"),
        (("--builtin", "50S", "-o", "x", "--tilt-range", "100"), "--tilt-range"),
        (("nothing.mrc", "-o", "x"), "nothing.mrc"),
    ],
)
def test_errors_are_reported_in_one_sentence(
    words: tuple[str, ...], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=expected) as caught:
        command(*words)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without GPU")
def test_absent_gpu_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--device cpu"):
        command("--builtin", "50S", "-o", tmp_path / "s", "--device", "cuda")


def test_names_of_shipped_densities(capsys: pytest.CaptureFixture[str]) -> None:
    command("--builtin", "list")
    assert "70S_APE_mRNA" in capsys.readouterr().out.split()
