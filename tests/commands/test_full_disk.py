"""A full disk is reported in one sentence, and earlier files are unchanged."""

from __future__ import annotations

import resource
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from opustomo.checkpoint.epoch_files import prune_weights, read_state
from opustomo.io import pickles
from opustomo.io.mrc import write_volume
from opustomo.main import main
from opustomo.training.loop_state import LoopState
from opustomo.training.run_log import RunLog
from tests.commands.quick import assert_sound, own_copy, tiny_networks, train, use_tiny_networks  # noqa: F401

Usage = namedtuple("Usage", "total used free")
WORDS = "-b 6 --valfrac 0".split()


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    return own_copy(tiny_set, tmp_path / "a set", 6)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoint(folder: Path) -> dict[str, bytes]:
    """Everything but the log and the tables that grow."""
    return {name: data for name, data in contents(folder).items() if Path(name).suffix not in (".log", ".csv", ".json")}


def test_a_run_does_not_start_on_a_full_disk(star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert train(star, tmp_path / "run", *WORDS, "-n", "1")[0] == 0
    written = sum((tmp_path / "run" / name).stat().st_size for name in ("state.pkl", "weights.0.pkl"))
    before = contents(tmp_path / "run")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, written // 2))
    for outdir, words in ((tmp_path / "run", ["--load", "latest"]), (tmp_path / "a new" / "run", [])):
        code, said = train(star, outdir, *WORDS, "-n", "2", *words)
        assert code == 1 and said.count("\n") == 1
        assert (
            "MB of free disk space, but a checkpoint requires" in said
            and "No file was overwritten" in said
            and "-o" in said
        )
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "a new").exists()


def test_the_room_asked_for_is_that_of_a_checkpoint(
    star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the files turn out, but for the little that pickling adds."""
    from opustomo.training import run_training

    asked: list[int] = []
    monkeypatch.setattr(run_training, "require_space", lambda folder, needed, advice: asked.append(needed))
    assert train(star, tmp_path / "run", *WORDS, "-n", "1", "--zdim", "500")[0] == 0
    names = ("state.pkl", "weights.0.pkl", "z.0.pkl", "pose.0.pkl")
    written = sum((tmp_path / "run" / name).stat().st_size for name in names)
    assert 0.85 * written < asked[0] < written


def test_a_disk_that_fills_during_a_run(star: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is reported before the checkpoint of the second epoch affects the first; the run can be resumed."""
    states: list[dict[str, bytes]] = []
    raw = RunLog.raw

    def fill(self: RunLog, line: str) -> None:
        raw(self, line)
        if "Epoch: 2" in line:
            states.append(checkpoint(tmp_path / "run"))
            monkeypatch.setattr(shutil, "disk_usage", lambda folder: Usage(10**9, 10**9, 1000))

    monkeypatch.setattr(RunLog, "raw", fill)
    code, said = train(star, tmp_path / "run", *WORDS, "-n", "3")
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith("dsd train_tomo: error: ") and "resume with --load latest" in last
    assert states and checkpoint(tmp_path / "run") == states[0]
    monkeypatch.undo()
    use_tiny_networks(monkeypatch)
    assert train(star, tmp_path / "run", *WORDS, "-n", "3", "--load", "latest")[0] == 0
    assert_sound(tmp_path / "run", 6, epoch=2)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.97])
def test_no_room_in_the_middle_of_a_write(
    star: Path, tmp_path: Path, size_limit: Callable[[int], None], share: float
) -> None:
    """The free space was there when it was looked at."""
    run = tmp_path / "run"
    assert train(star, run, *WORDS, "-n", "1")[0] == 0
    replaced = ("config.pkl", "split.pkl", "tmp.mrc")  # at the start of a run, and tmp.mrc at every log interval
    before = {name: data for name, data in checkpoint(run).items() if name not in replaced}
    size_limit(int(share * len(before["state.pkl"])))
    code, said = train(star, run, *WORDS, "-n", "2", "--load", "latest")
    assert code == 1
    last = said.splitlines()[-1]
    assert last.startswith(f"dsd train_tomo: error: {run}") and "File too large" in last and "free space" in last
    assert "Traceback" not in said
    after = checkpoint(run)
    assert {name: after[name] for name in before} == before
    assert not [name for name in after if "tmp." in name and name.startswith(".")]
    assert read_state(run) is not None
    size_limit(resource.RLIM_INFINITY)
    assert train(star, run, *WORDS, "-n", "2", "--load", "latest")[0] == 0
    assert_sound(run, 6, epoch=1)


def test_every_writer_keeps_the_old_file(tmp_path: Path, size_limit: Callable[[int], None]) -> None:
    big = np.random.default_rng(0).normal(size=(40, 40, 40)).astype(np.float32)
    writers: dict[str, Callable[[Path], None]] = {
        "a.pkl": lambda path: pickles.dump_pickle(path, big),
        "b.pkl": lambda path: pickles.dump_pickles(path, big, big),
        "c.pkl": lambda path: pickles.dump_torch(path, {"mu": big}),
        "d.mrc": lambda path: write_volume(path, big, 1.0),
    }
    for name, write in writers.items():
        write(tmp_path / name)
    before = contents(tmp_path)
    size_limit(100_000)
    for name, write in writers.items():
        with pytest.raises(OSError) as caught:
            write(tmp_path / name)
        assert caught.value.filename == str(tmp_path / name)
    assert contents(tmp_path) == before


def test_the_log_on_a_full_disk_stops_nothing(tmp_path: Path, size_limit: Callable[[int], None]) -> None:
    log = RunLog(tmp_path / "run.log")
    log.say("before")
    size_limit((tmp_path / "run.log").stat().st_size)
    log.say("lost")
    size_limit(10**6)
    log.say("after")
    log.close()
    assert [line.split()[-1] for line in (tmp_path / "run.log").read_text().splitlines()] == ["before", "after"]


def test_a_volume_that_does_not_fit(
    star: Path, tmp_path: Path, size_limit: Callable[[int], None], capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(star, tmp_path / "run", *WORDS, "-n", "1")[0] == 0
    capsys.readouterr()
    size_limit(20_000)
    words = ["--load", str(tmp_path / "run" / "weights.0.pkl"), "-o", str(tmp_path / "v"), "-z", "0", "0"]
    assert main(["eval_vol", *words]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "reference0.mrc: File too large" in error
    assert not list((tmp_path / "v").iterdir())


def test_the_weights_of_the_lowest_held_out_loss_are_kept(tmp_path: Path) -> None:
    state = LoopState()
    for epoch, held_out in enumerate((-1.0, -3.0, -2.0, -1.0, None, -1.5)):
        (tmp_path / f"weights.{epoch}.pkl").touch()
        state.note_written(epoch, None if held_out is None else {"gen": -9.0, "nll": held_out})
        prune_weights(tmp_path, epoch, 2, state.best_epoch)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["weights.1.pkl", "weights.4.pkl", "weights.5.pkl"]
    assert LoopState.from_dict(state.as_dict()).best_epoch == 1


def test_only_the_newest_weights_are_kept(star: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, said = train(star, run, *WORDS, "-n", "4", "--keep", "2")
    assert code == 0, said
    assert sorted(path.name for path in run.glob("weights.*")) == ["weights.2.pkl", "weights.3.pkl"]
    for kind in ("z", "pose"):  # small, and what an analysis of an older epoch needs
        assert sorted(path.name for path in run.glob(f"{kind}.*")) == [f"{kind}.{i}.pkl" for i in range(4)]
    whole = tmp_path / "whole"
    assert train(star, whole, *WORDS, "-n", "4")[0] == 0
    assert len(list(whole.glob("weights.*"))) == 4 and len(list(whole.glob("state*"))) == 1
    assert (whole / "weights.3.pkl").read_bytes() == (run / "weights.3.pkl").read_bytes()
    assert train(star, run, *WORDS, "-n", "5", "--keep", "1", "--load", "latest")[0] == 0
    assert [path.name for path in run.glob("weights.*")] == ["weights.4.pkl"]
    content = pickles.load_torch(run / "weights.4.pkl")
    assert not any("optim" in name for name in content)
