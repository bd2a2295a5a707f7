from pathlib import Path

import numpy as np

from opustomo.io.log_files import read_training_log


def line(epoch: int, part: str, gen: str, snr: str, total: str) -> str:
    return (
        f"2026-01-31 12:00:00     # =====> Epoch: {epoch} Average {part} gen_loss = {gen}, SNR2 = {snr}, "
        f"total loss = {total}; Finished in 0:01:02.345"
    )


def test_reads_both_parts(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text(
        "\n".join(
            [
                "2026-01-31 11:59:00     some other line, total loss = 3",
                line(1, "training", "-0.25", "0.001", "-0.2"),
                line(1, "validation", "-2.5e-01", "1e-3", "nan"),
                line(2, "training", "-0.5", "0.01", "-0.45"),
            ]
        )
    )
    curves = read_training_log(log)
    assert list(curves) == ["training", "validation"]
    assert curves["training"].epochs.tolist() == [0, 1]
    np.testing.assert_allclose(curves["training"].gen_loss, [-0.25, -0.5])
    np.testing.assert_allclose(curves["training"].snr, [0.001, 0.01])
    np.testing.assert_allclose(curves["training"].total_loss, [-0.2, -0.45])
    np.testing.assert_allclose(curves["validation"].gen_loss, [-0.25])
    assert np.isnan(curves["validation"].total_loss[0])


def test_last_record_of_a_resumed_epoch_counts(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("\n".join(line(epoch, "training", gen, "0", "0") for epoch, gen in ((1, "9"), (2, "8"), (1, "7"))))
    np.testing.assert_allclose(read_training_log(log)["training"].gen_loss, [7, 8])


def test_log_without_epochs(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("started\n")
    assert read_training_log(log) == {}
