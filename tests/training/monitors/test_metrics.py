"""metrics.csv and epochs.csv: content, and robustness to interruptions."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from opustomo.model.loss import TERM_NAMES
from opustomo.training.monitors.metrics import MetricsFile, read_epoch_means
from tests.training.monitors import fabricated


def rows_of(path: Path) -> list[dict[str, str]]:
    """Return the rows as other readers see them; all lines are complete."""
    text = path.read_text()
    assert text.endswith("\n")
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows)
    return rows


def column(path: Path, name: str) -> list[int]:
    return [int(row[name]) for row in rows_of(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a run" / "metrics.csv"


def test_a_row_holds_the_state_of_the_run(path: Path) -> None:
    metrics = MetricsFile(path)
    before = datetime.now().replace(microsecond=0)
    metrics.interval(fabricated.interval(1000, epoch=0))
    metrics.interval(fabricated.interval(2000, epoch=1, lr=3.92e-5, terms=fabricated.terms(float("nan"))))
    first, second = rows_of(path)
    assert before <= datetime.fromisoformat(first["date"]) <= datetime.now()
    assert (first["epoch"], first["particles"], second["epoch"], second["particles"]) == ("0", "1000", "1", "2000")
    for place, name in enumerate(TERM_NAMES):
        assert float(first[name]) == pytest.approx(1 + 0.01 * place)
        assert second[name] == "nan"
    state = {"running_snr": 0.0125, "lr": 4e-5, "beta": 0.1, "visits_per_second": 81.5, "memory_gb": 2.75}
    assert {name: float(first[name]) for name in state} == state
    assert float(second["lr"]) == 3.92e-5
    assert set(first) == {"date", "epoch", "particles", *TERM_NAMES, *state}


def test_a_row_can_be_read_as_soon_as_it_is_written(path: Path) -> None:
    metrics = MetricsFile(path)
    for number in range(1, 4):
        metrics.interval(fabricated.interval(1000 * number))
        assert column(path, "particles") == [1000 * k for k in range(1, number + 1)]


def test_epochs_have_their_own_file(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.epoch(fabricated.epoch(0, written=0))
    metrics.epoch(fabricated.epoch(1, validation=None, written=0))
    first, second = rows_of(path.with_name("epochs.csv"))
    assert (first["epoch"], second["epoch"], first["seconds"]) == ("0", "1", "61.0")
    assert (first["weights"], second["weights"]) == ("weights.0.pkl", "")
    assert float(first["training_gen"]) == pytest.approx(0.01)
    assert float(first["validation_total"]) == 0.5
    assert second["validation_total"] == ""
    assert not path.exists()
    means = read_epoch_means(path.with_name("epochs.csv"))
    assert means[0] == (pytest.approx(fabricated.terms(0.0)), pytest.approx(fabricated.terms(0.5)))
    assert means[1] == (pytest.approx(fabricated.terms(-1.0)), None)


def test_a_fresh_run_replaces_old_files(path: Path) -> None:
    old = MetricsFile(path)
    for number in range(1, 4):
        old.interval(fabricated.interval(1000 * number))
        old.epoch(fabricated.epoch(number - 1))
    new = MetricsFile(path)
    assert column(path, "particles") == [1000, 2000, 3000]  # a run that never writes spoils nothing
    new.interval(fabricated.interval(500))
    assert column(path, "particles") == [500]
    assert not path.with_name("epochs.csv").exists()


def test_a_resumed_run_equals_an_uninterrupted_one(path: Path, tmp_path: Path) -> None:
    whole, first = MetricsFile(tmp_path / "whole" / "metrics.csv"), MetricsFile(path)
    for metrics, until in ((whole, 8000), (first, 5000)):
        for seen in range(1000, until + 1, 1000):
            metrics.interval(fabricated.interval(seen, epoch=(seen - 1) // 2000))
            if seen % 2000 == 0:
                metrics.epoch(fabricated.epoch((seen - 1) // 2000))
    # the run died after 5000; its last state is that of 3000: epoch 2 (of 2000 each) is done again
    again = MetricsFile(path)
    again.resume_from(3000)
    assert column(path, "particles") == [1000, 2000, 3000]
    for seen in range(4000, 8001, 1000):
        again.interval(fabricated.interval(seen, epoch=(seen - 1) // 2000))
        if seen % 2000 == 0:
            again.epoch(fabricated.epoch((seen - 1) // 2000))
    for name in ("metrics.csv", "epochs.csv"):
        expected, found = rows_of(tmp_path / "whole" / name), rows_of(path.with_name(name))
        for row in expected + found:
            row.pop("date")
        assert found == expected


def test_epochs_done_again_replace_later_ones(path: Path) -> None:
    metrics = MetricsFile(path)
    for number in range(6):
        metrics.epoch(fabricated.epoch(number))
    again = MetricsFile(path)
    again.resume_from(0)
    again.epoch(fabricated.epoch(3, seconds=7.0))
    rows = rows_of(path.with_name("epochs.csv"))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert rows[3]["seconds"] == "7.0"


@given(cut=st.integers(0, 10_000), junk=st.sampled_from([b"", b"\0\0\0\0", b"\xff,\xfe", b'"']))
def test_a_file_cut_anywhere_is_taken_up(tmp_path_factory: pytest.TempPathFactory, cut: int, junk: bytes) -> None:
    path = tmp_path_factory.mktemp("cut") / "metrics.csv"
    metrics = MetricsFile(path)
    for number in range(1, 5):
        metrics.interval(fabricated.interval(1000 * number))
    data = path.read_bytes()
    cut %= len(data) + 1
    path.write_bytes(data[:cut] + junk)
    # the whole lines before the cut are kept; one that only lost its end is lost
    whole = max(0, data[:cut].count(b"\n") - 1)
    again = MetricsFile(path)
    again.resume_from(3000)
    again.interval(fabricated.interval(9000))
    assert column(path, "particles") == [1000 * k for k in range(1, min(whole, 3) + 1)] + [9000]


@pytest.mark.parametrize("line", [b"1,2,3", b'"half', b"\xff,\xfe", b"\0" * 40, b"," * 400, b"x" * 200_000])
def test_foreign_lines_are_dropped(path: Path, line: bytes) -> None:
    metrics = MetricsFile(path)
    metrics.interval(fabricated.interval(1000))
    with path.open("ab") as file:
        file.write(line + b"\n")
    metrics.interval(fabricated.interval(2000))
    MetricsFile(path).resume_from(2000)
    assert column(path, "particles") == [1000, 2000]


def test_resuming_without_files_begins_them(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.resume_from(4000)
    assert not path.exists()
    metrics.interval(fabricated.interval(5000))
    metrics.epoch(fabricated.epoch(4))
    assert column(path, "particles") == [5000]
    assert column(path.with_name("epochs.csv"), "epoch") == [4]


def test_the_file_may_vanish_during_a_run(path: Path) -> None:
    metrics = MetricsFile(path)
    metrics.interval(fabricated.interval(1000))
    path.unlink()
    metrics.interval(fabricated.interval(2000))
    assert column(path, "particles") == [2000]


def test_a_term_that_an_older_version_lacked_gets_a_column(path: Path) -> None:
    old = dict(fabricated.terms(1.0))
    del old["knn"]
    MetricsFile(path).interval(fabricated.interval(1000, terms=old | {"gone": 7.0}))
    again = MetricsFile(path)
    again.resume_from(1000)
    again.interval(fabricated.interval(2000))
    first, second = rows_of(path)
    assert (first["knn"], first["gone"], second["gone"]) == ("", "7", "")
    assert float(second["knn"]) == pytest.approx(2.10)
    assert first["particles"] == "1000" and first["beta"] == "0.1"


def test_killed_in_the_middle_every_line_is_whole(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from opustomo.training.monitors.metrics import MetricsFile\n"
        "from tests.training.monitors import fabricated\n"
        "metrics = MetricsFile(Path(sys.argv[1])); print('ready', flush=True)\n"
        "for k in range(1, 10**7): metrics.interval(fabricated.interval(k))\n"
    )
    root = Path(__file__).resolve().parents[3]
    process = subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, cwd=root)
    try:
        assert process.stdout is not None and process.stdout.readline() == b"ready\n"
        while not path.exists() or path.stat().st_size < 20_000:
            assert process.poll() is None
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
    again = MetricsFile(path)
    again.resume_from(10**7)
    seen = column(path, "particles")
    assert len(seen) > 50 and seen == list(range(1, len(seen) + 1))


def test_a_full_disk_leaves_no_half_line(path: Path, size_limit) -> None:  # type: ignore[no-untyped-def]
    metrics = MetricsFile(path)
    metrics.interval(fabricated.interval(1000))
    before = path.read_bytes()
    size_limit(len(before) + 20)
    with pytest.raises(OSError):
        metrics.interval(fabricated.interval(2000))
    with pytest.raises(OSError):
        metrics.resume_from(500_000_000)
        metrics.interval(fabricated.interval(2000))
    assert path.read_bytes() == before
    size_limit(10**6)
    metrics.interval(fabricated.interval(3000))
    assert column(path, "particles") == [1000, 3000]
    assert os.listdir(path.parent) == ["metrics.csv"]


def test_a_file_that_cannot_be_written_is_an_oserror(path: Path) -> None:
    path.mkdir(parents=True)
    metrics = MetricsFile(path)
    for action in (lambda: metrics.interval(fabricated.interval(1)), lambda: metrics.resume_from(1)):
        with pytest.raises(OSError):
            action()
