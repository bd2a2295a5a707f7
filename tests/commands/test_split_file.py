"""`--split`: the first run writes the file of the split, and later runs read it."""

from __future__ import annotations

from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.checkpoint.config import read_config
from opustomo.data.batches import read_split
from tests.commands.quick import own_copy, tiny_networks, train  # noqa: F401


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    return own_copy(tiny_set, tmp_path / "a set")


def test_written_if_absent_and_read_if_present(star: Path, tmp_path: Path) -> None:
    split = tmp_path / "new folder" / "ribo split.pkl"
    code, said = train(star, tmp_path / "first", "--split", str(split), "-n", "1")
    assert code == 0, said
    (note,) = [line for line in said.splitlines() if "--split" in line and "did not exist" in line]
    assert str(split) in note
    kept = read_split(split, 16)
    np.testing.assert_array_equal(read_split(tmp_path / "first" / "split.pkl", 16), kept)

    before = split.read_bytes()
    code, said = train(star, tmp_path / "second", "--split", str(split), "-n", "1", "--seed", "99")
    assert code == 0 and "did not exist" not in said, said
    assert split.read_bytes() == before
    np.testing.assert_array_equal(read_split(tmp_path / "second" / "split.pkl", 16), kept)
    # without the file another seed holds out other particles, so that it is the file that decided
    assert train(star, tmp_path / "third", "-n", "1", "--seed", "99")[0] == 0
    assert not np.array_equal(read_split(tmp_path / "third" / "split.pkl", 16), kept)


def test_nothing_is_written_after_a_mistake(star: Path, tmp_path: Path) -> None:
    split = tmp_path / "split.pkl"
    code, said = train(star, tmp_path / "run", "--split", str(split), "-r", str(tmp_path / "absent.mrc"))
    assert code == 1 and "absent.mrc" in said
    assert not split.exists() and not (tmp_path / "run").exists()


def test_a_restart_holds_out_the_same_particles(star: Path, tmp_path: Path) -> None:
    """Also when the file of the split is lost, or was never named, and with another seed."""
    split, run = tmp_path / "s.pkl", tmp_path / "run"
    torch.save(torch.arange(16).flip(0), split)
    assert train(star, run, "--split", str(split), "-n", "1")[0] == 0
    split.unlink()
    words = ["--load", str(run / "weights.0.pkl"), "--latents", str(run / "z.0.pkl"), "--seed", "7"]
    assert train(star, tmp_path / "next", *words, "--split", str(split))[0] == 0
    assert train(star, tmp_path / "other", *words)[0] == 0
    for file in (split, tmp_path / "next" / "split.pkl", tmp_path / "other" / "split.pkl"):
        np.testing.assert_array_equal(read_split(file, 16), np.arange(16)[::-1])


def test_weights_of_another_set_bring_no_split(star: Path, tiny_set: Path, tmp_path: Path) -> None:
    assert train(star, tmp_path / "run", "-n", "1")[0] == 0
    fewer = own_copy(tiny_set, tmp_path / "fewer", 12)
    code, said = train(fewer, tmp_path / "next", "--load", str(tmp_path / "run" / "weights.0.pkl"))
    assert code == 0, said
    assert sorted(read_split(tmp_path / "next" / "split.pkl", 12)) == list(range(12))


def test_the_template_is_there_after_the_first_epoch_of_a_small_set(star: Path, tmp_path: Path) -> None:
    words = ["-n", "1", "--tmp-prefix", "ref", "--log-interval", "1000"]
    assert train(star, tmp_path / "run", *words)[0] == 0
    boxes = read_config(tmp_path / "run" / "config.pkl")[1]
    with mrcfile.open(tmp_path / "run" / "ref.mrc") as file:
        assert file.data.shape == (32, 32, 32) and file.data.std() > 0
        assert file.voxel_size.x == pytest.approx((boxes.crop - 1) * boxes.render_apix / 31, rel=1e-4)
