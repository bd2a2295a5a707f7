"""Epochs, times and latents in messages and figures agree with the files."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from opustomo.io.latents import read_latents
from opustomo.io.log_files import read_training_log
from opustomo.training import trainer
from opustomo.training.monitors import training_figure
from opustomo.training.monitors.metrics import MetricsFile
from opustomo.training.monitors.records import EpochRecord
from tests.commands.quick import own_copy, train, use_tiny_networks
from tests.training.monitors import fabricated

Drawn = list[tuple[EpochRecord, dict]]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    """Return the records that training.png would show."""
    use_tiny_networks(monkeypatch)
    seen: Drawn = []
    monkeypatch.setattr(
        training_figure, "draw_training", lambda path, record, history, *rest: seen.append((record, dict(history)))
    )
    return seen


@pytest.fixture
def star(tiny_set: Path, tmp_path: Path) -> Path:
    return own_copy(tiny_set, tmp_path / "a set")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as handle:
        return list(csv.DictReader(handle))


def test_an_epoch_takes_what_training_and_validation_take(
    star: Path, tmp_path: Path, drawn: Drawn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that counts its readings: training reads it more often, as it visits more batches."""
    ticks: Iterator[int] = iter(range(10**9))
    monkeypatch.setattr(trainer.time, "monotonic", lambda: float(next(ticks)))
    monkeypatch.setattr(trainer, "AUTOSAVE_SECONDS", 1e9)
    code, said = train(star, tmp_path / "run", "-n", "2")
    assert code == 0, said
    lines = [line for line in said.splitlines() if "=====>" in line]
    times = [float(h) * 3600 + float(m) * 60 + float(s) for h, m, s in re.findall(r"in (\d+):(\d+):([\d.]+)", said)]
    assert len(lines) == len(times) == 4 and times[0] > times[1]
    for epoch in range(2):
        assert drawn[epoch][0].seconds == pytest.approx(times[2 * epoch] + times[2 * epoch + 1], abs=0.2)
        seconds = float(rows_of(tmp_path / "run" / "epochs.csv")[epoch]["seconds"])
        assert seconds == pytest.approx(drawn[epoch][0].seconds, abs=0.1)


def test_epochs_count_as_files_do(star: Path, tmp_path: Path, drawn: Drawn) -> None:
    run = tmp_path / "run"
    code, said = train(star, run, "-n", "2")
    assert code == 0, said
    rows = rows_of(run / "epochs.csv")
    assert [row["epoch"] for row in rows] == ["0", "1"]
    assert [row["weights"] for row in rows] == ["weights.0.pkl", "weights.1.pkl"]
    assert {row["epoch"] for row in rows_of(run / "metrics.csv")} == {"0", "1"}
    assert list(drawn[-1][1]) == [0, 1]
    assert "# [epoch 0, " in said and "# [epoch 2, " not in said
    for epoch in range(2):
        assert f"# epoch {epoch} is written: weights.{epoch}.pkl, z.{epoch}.pkl, pose.{epoch}.pkl" in said
    assert said.count("=====> Epoch: 2 Average") == 2  # the line of the original counts from 1
    assert list(read_training_log(run / "run.log")["training"].epochs) == [0, 1]
    code, said = train(star, run, "-n", "3", "--load", "latest")
    assert code == 0 and "resuming at epoch 2 after" in said and (run / "weights.2.pkl").exists()


def test_the_latents_shown_are_those_written(star: Path, tmp_path: Path, drawn: Drawn) -> None:
    code, said = train(star, tmp_path / "run", "-n", "4", "--checkpoint", "2")
    assert code == 0, said
    assert [record.written for record, _ in drawn] == [None, 1, 1, 3]
    for record, _ in drawn[1:]:
        mu, multi = read_latents(tmp_path / "run" / f"z.{record.written}.pkl")
        assert multi is not None
        np.testing.assert_array_equal(record.latents, np.concatenate([mu, multi], 1))
    assert not np.array_equal(drawn[0][0].latents, drawn[1][0].latents)


def test_tables_of_earlier_versions_are_continued_in_the_new_count(tmp_path: Path) -> None:
    """They counted epochs from 1 and had no column of file names."""
    (tmp_path / "metrics.csv").write_text("epoch,particles,gen\n1,1000,0.5\n2,2000,0.25\n")
    (tmp_path / "epochs.csv").write_text("epoch,training_gen\n1,0.5\n2,0.25\n")
    metrics = MetricsFile(tmp_path / "metrics.csv")
    metrics.resume_from(2000)
    metrics.interval(fabricated.interval(3000, epoch=2))
    metrics.epoch(fabricated.epoch(2, written=2))
    assert [row["epoch"] for row in rows_of(tmp_path / "metrics.csv")] == ["0", "1", "2"]
    assert [row["epoch"] for row in rows_of(tmp_path / "epochs.csv")] == ["0", "1", "2"]
