"""`dsd eval_vol` on a short training: latents of all sources, and valid files with the right pixel size."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import mrcfile
import numpy as np
import pytest
import torch

from opustomo.checkpoint.config import read_config
from opustomo.io.latents import read_latents
from opustomo.io.mrc import read_volume
from opustomo.main import main

Decode = Callable[..., tuple[np.ndarray, float]]


@pytest.fixture
def decode(trained_run: Path, tmp_path: Path) -> Decode:
    """Runs the command into a folder of ``tmp_path``; gives its volumes (K, n, n, n) and pixel size."""

    def run(name: str, *words: str) -> tuple[np.ndarray, float]:
        weights = str(trained_run / "weights.1.pkl")
        assert main(["eval_vol", "--load", weights, "-o", str(tmp_path / name), "--device", "cpu", *words]) == 0
        count = len(list((tmp_path / name).glob("*.mrc")))
        found = [read_volume(tmp_path / name / f"reference{i}.mrc") for i in range(count)]
        assert found[0][1] is not None
        return np.stack([volume for volume, _ in found]), found[0][1]

    return run


def test_one_latent_a_file_and_a_path_agree(decode: Decode, tmp_path: Path) -> None:
    latents = np.stack([np.linspace(-1, 1, 5), np.linspace(0.5, -2, 5)], 1)
    np.savetxt(tmp_path / "z values.txt", latents)
    from_file, _ = decode("file", "--zfile", str(tmp_path / "z values.txt"))
    path, _ = decode("path", "--z-start", "-1", "0.5", "--z-end", "1", "-2", "-n", "5")
    one, _ = decode("one", "-z", "0.5", "-1.375")
    assert from_file.shape == path.shape and len(path) == 5 and len(one) == 1
    np.testing.assert_allclose(path, from_file, atol=1e-5 * np.abs(from_file).max())
    np.testing.assert_allclose(one[0], from_file[3], atol=1e-5 * np.abs(from_file).max())
    assert np.abs(from_file[0] - from_file[4]).max() > 1e-3 * np.abs(from_file).max()
    ten, _ = decode("ten", "--z-start", "0", "0", "--z-end", "1", "1")
    assert len(ten) == 10


def test_negative_numbers_as_text_files_hold_them(decode: Decode) -> None:
    plain, _ = decode("plain", "-z", "-0.12", "-0.5")
    for name, words in (("a", "-z -1.2e-01 -.5"), ("b", "--z-start -1.2E-1 -5e-01 --z-end -1e0 -2e-3 -n 1")):
        np.testing.assert_array_equal(decode(name, *words.split())[0], plain)


def test_one_row_and_conformation_columns(decode: Decode, tmp_path: Path, trained_run: Path) -> None:
    mu, multi = read_latents(trained_run / "z.1.pkl")
    assert multi is not None
    np.savetxt(tmp_path / "row.txt", mu[:1])
    np.savetxt(tmp_path / "joint.txt", np.concatenate([mu, multi], 1)[:1])
    one, _ = decode("one", "--zfile", str(tmp_path / "row.txt"))
    joint, _ = decode("joint", "--zfile", str(tmp_path / "joint.txt"))
    np.testing.assert_array_equal(one, joint)


def test_conformations_of_one_composition(decode: Decode, tmp_path: Path, trained_run: Path) -> None:
    mu, multi = read_latents(trained_run / "z.1.pkl")
    assert multi is not None
    np.savetxt(tmp_path / "compositions.txt", mu[:3])
    np.savetxt(tmp_path / "conformations.txt", multi[:2])
    words = ["--template-z", str(tmp_path / "compositions.txt"), "--template-z-ind", "2"]
    moved, _ = decode("moved", "--zfile", str(tmp_path / "conformations.txt"), *words)
    np.savetxt(tmp_path / "joint.txt", np.concatenate([mu[[2, 2]], multi[:2]], 1))
    joint, _ = decode("joint", "--zfile", str(tmp_path / "joint.txt"))
    np.testing.assert_array_equal(moved, joint)
    out = str(tmp_path / "none")
    line = ["eval_vol", "--load", str(trained_run / "weights.1.pkl"), "-o", out, "-z", "0", "0", "0"]
    assert main([*line, *words[:3], "3"]) == 1
    assert not Path(out).exists()


@pytest.mark.parametrize(("words", "apix"), [("", 12.0), ("--Apix 9.3", 9.3), ("--Apix 24 --full-box", 24.0)])
def test_headers_tell_the_true_pixel_size(decode: Decode, tmp_path: Path, words: str, apix: float) -> None:
    volumes, found = decode("out", "-z", "0", "0", *words.split())
    assert found == pytest.approx(apix, rel=1e-4)
    assert volumes.shape[-1] % 2 == 0 and volumes.std() > 0 and np.isfinite(volumes).all()
    assert mrcfile.validate(tmp_path / "out" / "reference0.mrc")


def test_the_full_box_is_that_of_the_subtomograms(decode: Decode, trained_run: Path) -> None:
    crop = read_config(trained_run / "config.pkl")[1].crop
    small, _ = decode("small", "-z", "0", "0")
    full, _ = decode("full", "-z", "0", "0", "--full-box")
    assert small.shape == (1, crop, crop, crop) and full.shape == (1, 24, 24, 24)
    edge = (24 - crop) // 2
    inner = (0, *(slice(edge, 24 - edge),) * 3)
    np.testing.assert_array_equal(full[inner], small[0])
    assert not np.delete(full[0], np.s_[edge : 24 - edge], axis=0).any()


def test_flip_and_prefix(decode: Decode, tmp_path: Path, trained_run: Path) -> None:
    plain, _ = decode("plain", "-z", "0", "0")
    flipped, _ = decode("flipped", "-z", "0", "0", "--flip")
    np.testing.assert_array_equal(flipped[0], plain[0, ::-1])
    words = [
        "--load",
        str(trained_run / "weights.1.pkl"),
        "-o",
        str(tmp_path / "p"),
        "-z",
        "0",
        "0",
        "--prefix",
        "vol_",
    ]
    assert main(["eval_vol", *words]) == 0
    assert [path.name for path in (tmp_path / "p").iterdir()] == ["vol_0.mrc"]


def test_the_configuration_may_lie_elsewhere(trained_run: Path, tmp_path: Path, decode: Decode) -> None:
    shutil.copy(trained_run / "config.pkl", tmp_path / "my config.pkl")
    (tmp_path / "w.pkl").symlink_to(trained_run / "weights.0.pkl")
    out = tmp_path / "out"
    words = ["eval_vol", "--load", str(tmp_path / "w.pkl"), "-o", str(out), "-z", "0", "0"]
    assert main(words) == 1  # no config.pkl beside these weights
    assert not out.exists()
    assert main([*words, "-c", str(tmp_path / "my config.pkl")]) == 0
    earlier, _ = read_volume(out / "reference0.mrc")
    assert (earlier != decode("later", "-z", "0", "0")[0][0]).any()  # another epoch, another volume


MISTAKES = {
    "no such weights": ("--load absent.pkl -z 0 0", "absent.pkl"),
    "no such config": ("-c absent.pkl -z 0 0", "absent.pkl"),
    "not weights": ("--load {run}/z.1.pkl -z 0 0", "contains no decoder"),
    "not a config": ("-c {run}/split.pkl -z 0 0", "split.pkl"),
    "latents as config": ("-c {run}/pose.1.pkl -z 0 0", "not the config.pkl of a training run"),
    "nothing to decode": ("", "Give the latents to decode"),
    "the end of a path alone": ("--z-end 1 1", "--z-end requires --z-start"),
    "too few numbers": ("-z 0", "have 1 dimensions"),
    "too many numbers": ("-z 0 0 0", "trained with zdim 2"),
    "not finite": ("-z 0 nan", "-z must be a finite number, got nan"),
    "path without end": ("--z-start 0 0", "--z-start requires --z-end"),
    "end without path": ("-z 0 0 --z-end 1 1", "--z-end requires --z-start"),
    "path of other width": ("--z-start 0 0 --z-end 1", "--z-start requires --z-end"),
    "missing file": ("--zfile absent.txt", "absent.txt"),
    "ragged file": ("--zfile {tmp}/ragged.txt", "ragged.txt: not a table of numbers"),
    "words in the file": ("--zfile {tmp}/words.txt", "words.txt: not a table of numbers"),
    "empty file": ("--zfile {tmp}/empty.txt", "empty.txt: the file is empty"),
    "wide file": ("--zfile {tmp}/wide.txt", "The latents have 4 dimensions"),
    "infinite file": ("--zfile {tmp}/infinite.txt", "not finite"),
    "no pixel size": ("--Apix 0 -z 0 0", "--Apix must be positive"),
    "negative pixel size": ("--Apix -2 -z 0 0", "--Apix must be positive"),
    "nan pixel size": ("--Apix nan -z 0 0", "--Apix must be a finite number"),
    "huge pixel size": ("--Apix 5000 -z 0 0", "is too large for a box"),
    "weights of another run": ("--load {tmp}/other.pkl -z 0 0", "it has --zdim 4, but 2 is required"),
    "keys missing": ("--load {tmp}/lacking.pkl -z 0 0", "1 of its parameters are missing"),
    "no points on the path": ("--z-start 0 0 --z-end 1 1 -n 0", "-n"),
    "unknown device": ("--device banana -z 0 0", "banana"),
    "output is a file": ("-o {tmp}/empty.txt -z 0 0", "empty.txt"),
}


@pytest.mark.filterwarnings("ignore:loadtxt")
@pytest.mark.parametrize("case", MISTAKES)
def test_errors_are_one_sentence_and_write_nothing(
    case: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ragged.txt").write_text("1 2\n3\n")
    (tmp_path / "words.txt").write_text("1 two\n")
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "wide.txt").write_text("1 2 3 4\n")
    (tmp_path / "infinite.txt").write_text("1 inf\n")
    if "weights of" in case or "keys" in case:
        state = torch.load(trained_run / "weights.1.pkl", weights_only=True)["decoder_state_dict"]
        first = "template.template1.0.weight"
        torch.save({"decoder_state_dict": state | {first: state[first].repeat(1, 2)}}, tmp_path / "other.pkl")
        state.pop(first)
        torch.save({"decoder_state_dict": state}, tmp_path / "lacking.pkl")
    words, reason = MISTAKES[case]
    line = words.format(run="\0", tmp=tmp_path).replace("absent", str(tmp_path / "absent")).split()
    line = [word.replace("\0", str(trained_run)) for word in line]  # the run's path has a space
    if "--load" not in line:
        line += ["--load", str(trained_run / "weights.1.pkl")]
    elif "-c" not in line:
        line += ["-c", str(trained_run / "config.pkl")]
    if "-o" not in line:
        line += ["-o", str(tmp_path / "out")]
    if "--device" not in line:
        line += ["--device", "cpu"]
    before = sorted(tmp_path.rglob("*"))
    code = main(["eval_vol", *line])
    error = capsys.readouterr().err
    assert code == 1, error
    assert error.startswith("dsd eval_vol: error: ") and error.count("\n") == 1
    assert reason in error
    assert sorted(tmp_path.rglob("*")) == before
    for name in ("other.pkl", "lacking.pkl"):
        (tmp_path / name).unlink(missing_ok=True)


@pytest.mark.parametrize("words", ["--zfile a.txt -z 1 2", "-z one", "-z", "--z-start 0 --zfile a.txt", "-n x -z 0 0"])
def test_options_that_do_not_parse_give_code_2(words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval_vol", "--load", "w.pkl", "-o", str(tmp_path / "out"), *words.split()]) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsd eval_vol: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_gpu_that_is_absent(trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--load", str(trained_run / "weights.1.pkl"), "-o", str(tmp_path / "out"), "-z", "0", "0"]
    assert main(["eval_vol", *words, "--device", "cuda"]) == 1
    assert "but no GPU is available" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
