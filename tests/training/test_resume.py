"""A run that is interrupted at any point and resumed equals an uninterrupted one."""

from __future__ import annotations

import multiprocessing.process
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.errors import UserError
from opustomo.main import main as dsd
from opustomo.training.config import RunConfig
from opustomo.training.resume import choose_start, resume_command
from tests.training.forked import PATIENCE, ForkedRun

EPOCHS = 5
KILLS = 12


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("resume") / "set"
    words = f"simulate --builtin 50S 30S -n 20 --box 24 --apix 16 --snr 0.5 --seed 3 -o {folder}"
    assert dsd(words.split()) == 0
    return folder


def options(data: Path, outdir: Path) -> list[str]:
    words = f"--zdim 3 --estpose --normalizectf -n {EPOCHS} -b 4 --templateres 32 --encoderres 8 --lr 1e-3 --seed 5"
    words += " --accum-step 2 --log-interval 8 --num-workers 1"
    return ["train_tomo", str(data / "particles.star"), "-r", str(data / "mask.mrc"), "-o", str(outdir), *words.split()]


def start(data: Path, outdir: Path, log: Path, *more: str) -> ForkedRun:
    return ForkedRun(log, [*options(data, outdir), *more])


def assert_same_results(one: Path, other: Path) -> None:
    """Weights, latents and poses of the last epoch are equal bit for bit."""
    last = EPOCHS - 1
    a, b = (torch.load(folder / f"weights.{last}.pkl", weights_only=True) for folder in (one, other))
    for part in ("encoder_state_dict", "decoder_state_dict"):
        assert a[part].keys() == b[part].keys()
        for name in a[part]:
            assert torch.equal(a[part][name], b[part][name]), name
    assert (one / f"pose.{last}.pkl").read_bytes() == (other / f"pose.{last}.pkl").read_bytes()
    a, b = (torch.load(folder / "split.pkl", weights_only=True) for folder in (one, other))
    assert torch.equal(a, b)
    a, b = (torch.load(folder / f"z.{last}.pkl", weights_only=False) for folder in (one, other))
    assert np.array_equal(np.asarray(a["mu"]), np.asarray(b["mu"]))
    assert np.array_equal(np.asarray(a["multi_mu"]), np.asarray(b["multi_mu"]))


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted run."""
    outdir = tmp_path_factory.mktemp("whole") / "run"
    code, said = start(data, outdir, outdir.with_name("log")).finish()
    assert code == 0, said
    return outdir


def test_killed_at_random_moments_and_resumed(data: Path, whole: Path, tmp_path: Path) -> None:
    outdir, log, chance = tmp_path / "run", tmp_path / "log", random.Random(1)

    def launch() -> multiprocessing.process.BaseProcess:
        """Start the program; back when it has read its inputs."""
        run = start(data, outdir, log, "--load", "latest")
        while run.process.is_alive() and "subtomograms, box" not in run.said:
            run.process.join(0.01)
        return run.process

    process, began = launch(), time.monotonic()
    process.join(PATIENCE)
    duration = time.monotonic() - began
    assert_same_results(whole, outdir)
    kills = 0
    while kills < KILLS:
        if (outdir / f"weights.{EPOCHS - 1}.pkl").exists():
            shutil.rmtree(outdir)  # begin again: the moments to come are other ones
        process = launch()
        process.join(chance.uniform(0.0, 0.8) * duration)
        kills += process.is_alive()
        process.kill()
        process.join()
    process = launch()
    process.join(PATIENCE)
    assert process.exitcode == 0, log.read_text()[-2000:]
    assert "Traceback" not in log.read_text()
    assert log.read_text().count("resuming at epoch") > KILLS / 4
    assert_same_results(whole, outdir)
    assert not list(outdir.glob(".*"))  # what was half-written at a kill is gone


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_ends_well(data: Path, whole: Path, tmp_path: Path, number: signal.Signals) -> None:
    outdir = tmp_path / "with space" / "run"
    run = start(data, outdir, tmp_path / "log")
    while run.process.is_alive() and "[epoch 1" not in run.said:
        run.process.join(0.01)
    os.kill(run.process.pid or 0, number)  # in the middle of the second epoch
    code, said = run.finish()
    assert code == 0, said
    assert f"stopped by {number.name}" in said
    assert "--load latest" in said
    assert not (outdir / f"weights.{EPOCHS - 1}.pkl").exists()
    code, said = start(data, outdir, tmp_path / "log", "--load", "latest").finish()
    assert code == 0, said
    assert re.search(r"resuming at epoch [12] ", said)
    assert_same_results(whole, outdir)


def test_weights_and_latents_of_the_newest_epoch_restore_everything(data: Path, whole: Path, tmp_path: Path) -> None:
    outdir = tmp_path / "run"
    assert start(data, outdir, tmp_path / "log", "-n", "3").finish()[0] == 0
    words = ["--load", str(outdir / "weights.2.pkl"), "--latents", str(outdir / "z.2.pkl")]
    code, said = start(data, outdir, tmp_path / "log", *words).finish()
    assert code == 0, said
    assert "full state" in said
    assert_same_results(whole, outdir)


def test_what_a_run_starts_from(whole: Path, tmp_path: Path) -> None:
    """A run starts from the whole state if it belongs to the requested epoch, otherwise from the weights."""
    last, other = EPOCHS - 1, tmp_path / "other.pkl"
    other.touch()

    def choose(epoch: int, outdir: Path = whole, latents: Path | None = None, particles: int = 20) -> bool:
        run = RunConfig(outdir, load=str(whole / f"weights.{epoch}.pkl"), latents=latents)
        return choose_start(run, particles).state is not None

    assert choose(last) and choose(last, tmp_path / "new") and choose(last, latents=whole / f"z.{last}.pkl")
    assert not choose(last - 1) and not choose(last, latents=other) and not choose(last, particles=21)
    (tmp_path / "state.pkl").touch()
    with pytest.raises(UserError, match="state of another run"):
        choose(last, tmp_path)


def test_weights_of_an_older_epoch_start_the_optimizer_anew(data: Path, whole: Path, tmp_path: Path) -> None:
    words = ["--load", str(whole / "weights.2.pkl")]
    code, said = start(data, tmp_path / "run", tmp_path / "log", *words).finish()
    assert code == 0, said
    assert "resuming at epoch 3 after 48 visits with the networks of" in said
    assert f"--load latest would resume in epoch {EPOCHS}" in said
    assert (tmp_path / "run" / f"weights.{EPOCHS - 1}.pkl").exists()


def test_a_run_is_not_overwritten_by_accident(data: Path, whole: Path, tmp_path: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.iterdir()}
    code, said = start(data, whole, tmp_path / "log").finish()
    assert code == 1
    assert "--load latest" in said and "--overwrite" in said
    assert {path: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_resume_command_replaces_earlier_loads() -> None:
    command = ("dsd", "train_tomo", "a b.star", "--load", "weights.3.pkl", "-o", "run", "--overwrite")
    assert resume_command(command) == "dsd train_tomo 'a b.star' -o run --load latest"
