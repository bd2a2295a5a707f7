"""Errors in the input of `dsd train_tomo`: one sentence, exit code 1, and no files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.pickles import dump_pickle, dump_torch
from opustomo.io.poses import Poses, write_poses
from opustomo.main import main

ROOT = Path(__file__).resolve().parents[2]
Damage = Callable[[Path], list[str]]
"""Breaks a copy of the tiny set; gives further options."""

CASES: dict[str, tuple[Damage, str]] = {}


def case(reason: str) -> Callable[[Damage], Damage]:
    """Collect an error and the text that its message must contain."""

    def add(damage: Damage) -> Damage:
        CASES[damage.__name__] = damage, reason
        return damage

    return add


def option(name: str, words: str, reason: str) -> None:
    """Collect an error in an option."""
    CASES[name] = (lambda folder: words.format(set=folder).split("|")), reason


def resize(path: Path, shape: tuple[int, int, int]) -> None:
    write_volume(path, np.random.default_rng(0).normal(size=shape).astype(np.float32), 12.0)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def mask(folder: Path, box: int = 24, apix: float = 12.0, value: float = 1.0) -> list[str]:
    write_volume(folder / "other mask.mrc", np.full((box,) * 3, value, np.float32), apix)
    return ["-r", str(folder / "other mask.mrc")]


@case("particles.star")
def missing_star(folder: Path) -> list[str]:
    (folder / "particles.star").unlink()
    return []


@case("no rows")
def empty_table(folder: Path) -> list[str]:
    lines = (folder / "particles.star").read_text().splitlines()
    (folder / "particles.star").write_text("\n".join(line for line in lines if ".mrc" not in line) + "\n")
    return []


@case("particles.star")
def not_a_star_file(folder: Path) -> list[str]:
    shutil.copy(folder / "mask.mrc", folder / "particles.star")
    return []


@case("3 of 16 subtomograms are missing, the first is subtomo/p000002.mrc")
def missing_subtomograms(folder: Path) -> list[str]:
    for i in (2, 5, 15):
        (folder / "subtomo" / f"p{i:06d}.mrc").unlink()
    return []


@case("p000007.mrc: the file is truncated")
def truncated_subtomogram(folder: Path) -> list[str]:
    path = folder / "subtomo" / "p000007.mrc"
    path.write_bytes(path.read_bytes()[:3000])
    return []


@case("p000004.mrc")
def subtomogram_of_text(folder: Path) -> list[str]:
    (folder / "subtomo" / "p000004.mrc").write_text("not an image")
    return []


@case("p000003.mrc has 24×24×22 voxels (x×y×z), but subtomograms must be cubes")
def box_not_cubic(folder: Path) -> list[str]:
    resize(folder / "subtomo" / "p000003.mrc", (22, 24, 24))
    return []


@case("p000003.mrc has box 22")
def boxes_of_two_sizes(folder: Path) -> list[str]:
    resize(folder / "subtomo" / "p000003.mrc", (22, 22, 22))
    return []


@case("odd box of 25 voxels")
def odd_box(folder: Path) -> list[str]:
    for path in (folder / "subtomo").glob("*.mrc"):
        resize(path, (25, 25, 25))
    return []


@case("Check the files that the particle table names")
def constant_subtomograms(folder: Path) -> list[str]:
    for path in (folder / "subtomo").glob("*.mrc"):
        write_volume(path, np.ones((24, 24, 24), np.float32), 12.0)
    return []


@case("24³")
def mask_of_another_box(folder: Path) -> list[str]:
    return mask(folder, box=32)


@case("pixel size of 10 Å, but the subtomograms have 12 Å")
def mask_of_another_pixel_size(folder: Path) -> list[str]:
    return mask(folder, apix=10.0)


@case("no voxel above zero")
def empty_mask(folder: Path) -> list[str]:
    return mask(folder, value=0.0)


@case("no voxel above zero")
def negative_mask(folder: Path) -> list[str]:
    return mask(folder, value=-1.0)


@case("mask")
def mask_outside_the_crop(folder: Path) -> list[str]:
    volume = -np.ones((24, 24, 24), np.float32)  # the crop is found from voxels that are not zero
    volume[:, :, 1:] = 0
    volume[0, 0, 0] = 1.0
    write_volume(folder / "edge mask.mrc", volume, 12.0)
    return ["-r", str(folder / "edge mask.mrc")]


@case("absent.mrc")
def missing_mask(folder: Path) -> list[str]:
    return ["-r", str(folder / "absent.mrc")]


@case("not finite")
def mask_with_nan(folder: Path) -> list[str]:
    volume, _ = read_volume(folder / "mask.mrc")
    volume[12, 12, 12] = np.nan
    write_volume(folder / "nan mask.mrc", volume, 12.0)
    return ["-r", str(folder / "nan mask.mrc")]


@case("9 poses")
def poses_of_another_set(folder: Path) -> list[str]:
    write_poses(folder / "poses.pkl", Poses(np.zeros((9, 3)), np.zeros((9, 3))))
    return ["--poses", str(folder / "poses.pkl")]


@case("absent.pkl")
def missing_poses(folder: Path) -> list[str]:
    return ["--poses", str(folder / "absent.pkl")]


@case("poses.pkl")
def poses_that_are_none(folder: Path) -> list[str]:
    dump_pickle(folder / "poses.pkl", {"rot": 1})
    return ["--poses", str(folder / "poses.pkl")]


@case("rlnAngleRot")
def angles_missing_in_the_table(folder: Path) -> list[str]:
    edit(folder / "particles.star", "_rlnAngleRot", "_myAngle")
    return []


@case("CTF tables are missing, the first is subtomo/p000006_ctf.star")
def missing_ctf_table(folder: Path) -> list[str]:
    (folder / "subtomo" / "p000006_ctf.star").unlink()
    return []


@case("rlnDefocusU")
def ctf_column_missing(folder: Path) -> list[str]:
    edit(folder / "subtomo" / "p000006_ctf.star", "_rlnDefocusU", "_myDefocus")
    return []


@case("p000006_ctf.csv")
def missing_warp_table(folder: Path) -> list[str]:
    (folder / "subtomo" / "p000006_ctf.csv").unlink()
    return ["--warp"]


@case("Defocus")
def warp_column_missing(folder: Path) -> list[str]:
    edit(folder / "subtomo" / "p000006_ctf.csv", "Defocus,", "MyDefocus,")
    return ["--warp"]


@case("is not a permutation of 0…15")
def split_of_another_set(folder: Path) -> list[str]:
    dump_torch(folder / "split.pkl", torch.arange(20))
    return ["--split", str(folder / "split.pkl")]


@case("my split.pkl")
def split_is_a_folder(folder: Path) -> list[str]:
    (folder / "my split.pkl").mkdir()
    return ["--split", str(folder / "my split.pkl")]


@case("run.log")
def output_is_a_file(folder: Path) -> list[str]:
    (folder / "run.log").write_text("mine")
    return ["-o", str(folder / "run.log")]


option("angpix_of_another_set", "--angpix|10", "--angpix is 10 Å, but the header of")
option("angpix_just_beyond_a_percent", "--angpix|12.13", "Å, but the header of")
option("angpix_zero", "--angpix|0", "--angpix must be positive, got 0")
option("valfrac_above_one", "--valfrac|1.5", "--valfrac must lie in [0, 1), got 1.5")
option("valfrac_one", "--valfrac|1", "--valfrac")
option("valfrac_negative", "--valfrac|-0.1", "--valfrac")
option("valfrac_nan", "--valfrac|nan", "--valfrac")
option("encoderres_small", "--encoderres|4", "--encoderres must be at least 8, got 4")
option("templateres_small", "--templateres|10", "--templateres must be")
option("templateres_negative", "--templateres|-64", "--templateres must be")
option("zaffinedim_negative", "--zaffinedim|-1", "--zaffinedim")
option("no_conformation_to_estimate_poses_from", "--estpose|--zaffinedim|0", "--zaffinedim")
option("beta_unknown", "--beta|cosine", "--beta must be cos")
option("beta_negative", "--beta|-1", "--beta must be cos")
option("downfrac_zero", "--downfrac|0", "--downfrac")
option("downfrac_above_one", "--downfrac|1.2", "--downfrac")
option("downfrac_that_leaves_nothing", "--downfrac|0.1", "--downfrac")
option("tilt_limit_that_leaves_nothing", "--tilt-limit|-5", "--tilt-limit -5 excludes all tilts of some particles")
option("tilt_range_impossible", "--no-ctf|--tilt-range|0", "--tilt-range")
option("tilt_range_beyond_90", "--no-ctf|--tilt-range|90", "--tilt-range")
option("tilt_step_zero", "--no-ctf|--tilt-step|0", "--tilt-step")
option("norm_by_zero", "--norm|0|0", "--norm")
option("norm_by_nan", "--norm|nan|1", "--norm")
option("seed_negative", "--seed|-1", "--seed")
option("lr_negative", "--lr|-1", "--lr")
option("lr_nan", "--lr|nan", "--lr")
option("wd_negative", "--wd|-1", "--wd")
option("bfactor_nan", "--bfactor|nan", "--bfactor")
option("lamb_nan", "--lamb|nan", "--lamb")
option("beta_control_nan", "--beta-control|inf", "--beta-control")
option("device_unknown", "--device|banana", "--device is banana")
option("warp_bfactor_scale_nan", "--warp|--warp-bfactor-scale|nan", "--warp-bfactor-scale")

NO_GPU = not torch.cuda.is_available()


def run_cli_words(folder: Path, outdir: Path, extra: list[str]) -> list[str]:
    words = ["train_tomo", str(folder / "particles.star"), "--zdim", "2", "--templateres", "32", "--encoderres", "8"]
    if "-r" not in extra:
        words += ["-r", str(folder / "mask.mrc")]
    if "-o" not in extra:
        words += ["-o", str(outdir)]
    if "--device" not in extra:
        words += ["--device", "cpu"]
    return [*words, "-n", "1", *extra]


def tree(folder: Path) -> dict[Path, bytes | None]:
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.mark.filterwarnings("ignore:Data array contains NaN")
@pytest.mark.parametrize("name", CASES)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    name: str, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(tiny_set, tmp_path / "a set"))
    damage, reason = CASES[name]
    words = run_cli_words(folder, tmp_path / "out", damage(folder))
    before = tree(tmp_path)
    code = main(words)
    captured = capsys.readouterr()
    assert code == 1, captured.err
    assert captured.err.startswith("dsd train_tomo: error: ")
    assert captured.err.count("\n") == 1 and captured.err.endswith("\n")
    assert reason in captured.err
    assert captured.out == ""
    assert tree(tmp_path) == before


def test_the_undamaged_set_would_train(tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command on the undamaged set reaches the training."""
    from opustomo.training.trainer import Trainer

    reached: list[int] = []
    monkeypatch.setattr(Trainer, "fit", lambda self, *rest, **more: reached.append(1))
    assert main(run_cli_words(tiny_set, tmp_path / "out", [])) == 0
    assert reached


@pytest.mark.parametrize(
    "words",
    ["--zdim 0", "--zdim two", "-n 0", "-b 0", "--accum-step 0", "--checkpoint 0", "--lr fast", "--encode-mode none",
     "--norm 1", "--no-such-option", "--angpix", "--log-interval 0"],
)  # fmt: skip
def test_options_that_do_not_parse_give_code_2(
    words: str, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_cli_words(tiny_set, tmp_path / "out", words.split())) == 2
    error = capsys.readouterr().err
    assert error.startswith("dsd train_tomo: error: ") and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not NO_GPU, reason="a GPU is here")
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_a_gpu_that_is_absent(device: str, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_cli_words(tiny_set, tmp_path / "out", ["--device", device])) == 1
    assert "but no GPU is available" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_an_earlier_run_is_left_alone(tiny_set: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "out"
    outdir.mkdir()
    for name in ("run.log", "config.pkl", "weights.0.pkl"):
        (outdir / name).write_text("of an earlier run")
    before = tree(outdir)
    assert main(run_cli_words(tiny_set, outdir, ["--angpix", "5"])) == 1
    assert tree(outdir) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_output_folder_that_may_not_be_written(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    assert main(run_cli_words(tiny_set, locked / "out", [])) == 1
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("extra", "code", "said"),
    [(["--angpix", "10"], 1, "Å, but the header of"), (["--zdim", "0"], 2, "must be at least 1")],
)
def test_the_program_itself_answers_so(extra: list[str], code: int, said: str, tiny_set: Path, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "opustomo", *run_cli_words(tiny_set, tmp_path / "out", extra)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == code
    assert said in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
    assert code == 2 or done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
