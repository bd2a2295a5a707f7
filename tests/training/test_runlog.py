"""run.log in the format of OPUS-TOMO, read by the analysis."""

from __future__ import annotations

import logging
import re
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from opustomo.errors import UserError
from opustomo.io.log_files import read_training_log
from opustomo.training.run_log import RunLog, epoch_line

NOW = datetime(2026, 1, 31, 9, 5, 7)
ZERO = {"gen": 0.0, "snr": 0.0, "total": 0.0}


def test_the_epoch_line_is_the_originals() -> None:
    line = epoch_line(0, "training", {"gen": -0.0123456, "snr": 0.25, "total": 1.5}, 62.34, NOW)
    assert line == (
        "2026-01-31 09:05:07     # =====> Epoch: 1 Average training gen_loss = -0.012346, SNR2 = 0.250000, "
        "total loss = 1.500000; Finished in 0:01:02.3"
    )
    assert " Epoch: 12 Average validation gen_loss" in epoch_line(11, "validation", ZERO, 0)
    stamp = epoch_line(0, "training", ZERO, 0)[:19]
    assert abs((datetime.now() - datetime.fromisoformat(stamp)).total_seconds()) < 5


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.0, "0:00:00.0"), (9.96, "0:00:10.0"), (59.97, "0:01:00.0"), (119.99, "0:02:00.0"), (3599.98, "1:00:00.0"),
     (3600.0, "1:00:00.0"), (100 * 3600 + 61.5, "100:01:01.5")],
)  # fmt: skip
def test_times_are_clock_times(seconds: float, text: str) -> None:
    assert epoch_line(0, "training", ZERO, seconds).endswith(f"Finished in {text}")


def test_the_analysis_reads_what_the_run_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {"training": [(-0.5, 0.01, 0.25), (float("nan"), 3e-7, 1e9)], "validation": [(-0.25, 0.5, 12.0)]}
    log = RunLog(tmp_path / "run.log")
    log.say("# dsd train_tomo Epoch: 7 Average things")
    for kind, rows in values.items():
        for epoch, row in enumerate(rows):
            log.raw(epoch_line(epoch, kind, dict(zip(ZERO, row, strict=True)), seconds=3.0))
    log.close()
    curves = read_training_log(tmp_path / "run.log")
    assert set(curves) == {"training", "validation"}
    for kind, rows in values.items():
        np.testing.assert_array_equal(curves[kind].epochs, np.arange(len(rows)))
        found = np.stack([curves[kind].gen_loss, curves[kind].snr, curves[kind].total_loss], 1)
        np.testing.assert_allclose(found, rows, atol=5e-7)
    assert capsys.readouterr().err.splitlines() == (tmp_path / "run.log").read_text().splitlines()


def test_messages_of_the_library_are_logged_until_it_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "run.log"
    library = logging.getLogger("opustomo.data.particles")
    log = RunLog(path)
    library.warning("a warning")
    log.say("a line")
    log.close()
    library.warning("too late")
    lines = path.read_text().splitlines()
    assert len(lines) == 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d     a (warning|line)", line) for line in lines)
    again = RunLog(path)  # a second run in the folder keeps the first one's lines
    again.say("more")
    again.close()
    assert len(path.read_text().splitlines()) == 3


def test_a_folder_holds_one_run_at_a_time(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "run.log")
    with pytest.raises(UserError, match="Another run is writing to"):
        RunLog(tmp_path / "run.log")
    log.say("still here")
    log.close()
    RunLog(tmp_path / "run.log").close()
    assert (tmp_path / "run.log").read_text().count("\n") == 1
