"""Training in several processes equals training in one process on the joint batch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.errors import UserError
from opustomo.io.poses import read_poses
from opustomo.main import main as dsd
from opustomo.training.processes import Place, launch, place_from_environment
from tests.training.forked import PATIENCE, ForkedRun

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks") / "set"
    assert dsd(f"simulate --builtin 50S 30S -n 26 --box 24 --apix 16 --snr 0.5 --seed 3 -o {folder}".split()) == 0
    return folder


def words(data: Path, outdir: Path, batch: int, *more: str) -> list[str]:
    options = f"--zdim 3 --estpose --normalizectf -n 5 -b {batch} --templateres 32 --encoderres 8 --lr 4e-5 --seed 5"
    options += " --log-interval 1 --num-workers 1 --device cpu --valfrac 0.2"
    return ["train_tomo", str(data / "particles.star"), "-r", str(data / "mask.mrc"), "-o", str(outdir),
            *options.split(), *more]  # fmt: skip


def run_ranks(count: int, arguments: list[str], folder: Path) -> list[tuple[int | None, str]]:
    """Start processes as torchrun does, and return their exit codes and outputs."""
    meeting = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_500 + os.getpid() % 500)}
    started = [
        ForkedRun(folder / f"said{count}.{rank}", arguments, meeting | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]
    return [run.finish() for run in started]


@pytest.mark.slow
def test_two_processes_equal_one_with_the_joint_batch(data: Path, tmp_path: Path) -> None:
    """Losses of every step, weights, latents and poses; 21 training particles, so that the last batch is uneven."""
    one = run_ranks(1, words(data, tmp_path / "one", 6), tmp_path)
    two = run_ranks(2, words(data, tmp_path / "two", 3), tmp_path)
    for code, said in one + two:
        assert code == 0, said
    assert not two[1][1]  # the first process alone speaks
    curves = []
    for name in ("one", "two"):
        rows = (tmp_path / name / "metrics.csv").read_text().splitlines()
        head = rows[0].split(",")
        columns = [head.index(term) for term in ("total", "gen", "snr", "kl", "spread", "knn", "attract", "repel")]
        curves.append(np.array([[float(row.split(",")[c]) for c in columns] for row in rows[1:]]))
    assert curves[0].shape == curves[1].shape and len(curves[0]) >= 20
    np.testing.assert_allclose(curves[0], curves[1], rtol=1e-5, atol=1e-7)
    a, b = (torch.load(tmp_path / name / "z.4.pkl", weights_only=False)["mu"] for name in ("one", "two"))
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-4)
    p, q = (read_poses(tmp_path / name / "pose.4.pkl") for name in ("one", "two"))
    np.testing.assert_allclose(p.eulers_deg, q.eulers_deg, atol=1e-2)
    np.testing.assert_allclose(p.origins, q.origins, atol=1e-5)


@pytest.mark.slow
def test_more_processes_than_held_out_particles(data: Path, tmp_path: Path) -> None:
    """One held-out particle in two processes: every process evaluates it."""
    for code, said in run_ranks(2, words(data, tmp_path / "run", 3, "-n", "1", "--valfrac", "0.05"), tmp_path):
        assert code == 0, said
    assert "Average validation gen_loss" in (tmp_path / "run" / "run.log").read_text()


def test_the_end_of_processes(tmp_path: Path) -> None:
    """Every process knows its rank, and the exit code is 0 only if that of every process is."""
    program = "import os, pathlib, sys; pathlib.Path(sys.argv[1], os.environ['RANK']).write_text("
    program += "os.environ['WORLD_SIZE'] + os.environ['LOCAL_RANK']); sys.exit(sys.argv[2] == os.environ['RANK'])"
    for failing, code in (("none", 0), ("1", 1)):
        assert launch(2, [sys.executable, "-c", program, str(tmp_path), failing]) == code
    assert [(tmp_path / rank).read_text() for rank in "01"] == ["20", "21"]


def test_a_mistake_is_said_once_and_ends_all(data: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    arguments = words(tmp_path / "nowhere", tmp_path / "run", 2, "--multigpu", "--num-gpus", "2")
    done = subprocess.run([sys.executable, "-m", "opustomo", *arguments], env=environment, text=True,
                          capture_output=True, timeout=PATIENCE)  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.count("particles.star") == 1 and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command_starts_processes_and_one_that_dies_ends_all(data: Path, tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    # half of the networks, which are as large as ever in processes that the command starts
    more = ["--multigpu", "--num-gpus", "2", "--encode-mode", "fixed", "-n", "1000"]
    run = subprocess.Popen(
        [sys.executable, "-m", "opustomo", *words(data, tmp_path / "run", 8, *more)],
        env=environment,
        text=True,
        stderr=subprocess.PIPE,
    )
    log, deadline = tmp_path / "run" / "run.log", time.monotonic() + PATIENCE
    while run.poll() is None and time.monotonic() < deadline and not (log.exists() and "[epoch 0," in log.read_text()):
        time.sleep(0.1)
    children = subprocess.run(["pgrep", "-P", str(run.pid)], text=True, capture_output=True, check=True).stdout.split()
    assert len(children) == 2
    os.kill(int(children[1]), signal.SIGKILL)
    _, errors = run.communicate(timeout=PATIENCE)
    assert run.returncode != 0 and "[epoch 0," in log.read_text()
    assert "2 processes" in errors
    assert "process 1 was terminated by SIGKILL" in errors
    assert errors.count("lost contact") <= 1 and "Traceback" not in errors
    assert not list((tmp_path / "run").glob("*.tmp*"))


def test_places() -> None:
    assert place_from_environment({}) is None
    assert place_from_environment({"WORLD_SIZE": "1", "RANK": "0"}) is None
    assert place_from_environment({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"}) == Place(3, 4, 1)
    srun = {"SLURM_NTASKS": "2", "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_ID": "0"}
    with pytest.raises(UserError, match="MASTER_ADDR"):
        place_from_environment(srun)
    assert place_from_environment(srun | {"MASTER_ADDR": "a", "MASTER_PORT": "1"}) == Place(1, 2, 0)


@pytest.mark.parametrize(("launcher", "variable"), [("horovodrun", "HOROVOD_SIZE"), ("mpirun", "OMPI_COMM_WORLD_SIZE")])
def test_processes_of_other_launchers_do_not_train_over_each_other(launcher: str, variable: str) -> None:
    with pytest.raises(
        UserError, match=rf"{launcher} started 4 processes.*torchrun --nproc_per_node=4 \$\(which dsd\)"
    ):
        place_from_environment({variable: "4"})
    assert place_from_environment({variable: "1"}) is None
    torchrun = {"WORLD_SIZE": "4", "RANK": "2", "LOCAL_RANK": "2"}
    assert place_from_environment({variable: "4", **torchrun}) == Place(2, 4, 2)
