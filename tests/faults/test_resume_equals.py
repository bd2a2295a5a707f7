"""A run that is interrupted at any step and resumed equals an uninterrupted run to the bit on the CPU."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from opustomo.main import main
from opustomo.training import run_training
from tests.commands.quick import SMALL, own_copy, tiny_networks, train  # noqa: F401
from tests.dynamics.analytic import sphere, write_definition
from tests.training.forked import ForkedRun
from tests.training.tiny_run import stop_after


@pytest.fixture(scope="module")
def star(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return own_copy(tiny_set, tmp_path_factory.mktemp("resume") / "a set")


@pytest.fixture(scope="module")
def bodies(star: Path) -> list[str]:
    """Options of a run with two bodies."""
    folder = star.with_name("bodies")
    masks = [sphere(24, np.array([-3.0, 1.0, 0.0]), 3.5), sphere(24, np.array([4.0, -1.0, 0.0]), 3.5)]
    definition, poses = write_definition(folder, masks, 12.0, [2, 1]), folder / "poses.pkl"
    words = ["-D", "24", "--Apix", "12", "--masks", str(definition), "-o", str(poses)]
    assert main(["parse_multi_pose_star", str(star), *words, "--outmasks", str(folder / "mask_params")]) == 0
    return ["--masks", str(folder / "mask_params.pkl"), "--poses", str(poses), "-r", str(star.with_name("mask.mrc"))]


def train_in_parts(star: Path, run: Path, steps: int, words: list[str], monkeypatch: pytest.MonkeyPatch) -> int:
    """Train with a stop after every few steps; in how many parts."""
    for part in range(1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(run_training, "stop_on_signal", lambda: stop_after(steps))
            code, said = train(star, run, *words, *(["--load", "latest"] if part > 1 else []))
        assert code == 0, said
        if "# finished" in said:
            return part
    raise AssertionError("the run does not end")


def assert_equal(one: Path, other: Path, epochs: list[int]) -> None:
    """Weights, latents and poses of all epochs, and the state but for times."""
    for epoch in epochs:
        for name in (f"z.{epoch}.pkl", f"pose.{epoch}.pkl", f"weights.{epoch}.pkl"):
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
    a, b = (torch.load(folder / "state.pkl", weights_only=True) for folder in (one, other))
    assert a.keys() == b.keys()
    for key in a:
        if isinstance(a[key], torch.Tensor):
            assert torch.equal(a[key], b[key]), key
    for key in ("epoch", "step", "particles_seen", "updates", "broken"):
        assert a["progress"][key] == b["progress"][key]


@pytest.mark.parametrize("steps", [0, 2, 6])
@pytest.mark.parametrize("kind", ["rigid", "bodies"])
def test_stopped_at_every_step(
    kind: str, steps: int, star: Path, bodies: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 0 steps more the first step of each part is all it does; parts end in training and in validation."""
    words = ["-n", "2", *(bodies if kind == "bodies" else [])]
    assert train(star, tmp_path / "whole", *words)[0] == 0
    parts = train_in_parts(star, tmp_path / "parts", steps, words, monkeypatch)
    assert parts >= (10 if steps == 0 else 2)
    assert_equal(tmp_path / "whole", tmp_path / "parts", [0, 1])


@pytest.mark.parametrize("kind", ["rigid", "bodies"])
def test_a_prolonged_run_goes_on_from_a_stop_at_any_step(
    kind: str, star: Path, bodies: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = bodies if kind == "bodies" else []
    for name in ("whole", "parts"):
        assert train(star, tmp_path / name, "-n", "1", *more)[0] == 0
    assert train(star, tmp_path / "whole", "-n", "3", "--load", "latest", *more)[0] == 0
    words = ["-n", "3", "--load", "latest", *more]
    train_in_parts(star, tmp_path / "parts", 3, words, monkeypatch)
    assert_equal(tmp_path / "whole", tmp_path / "parts", [0, 1, 2])


@pytest.mark.slow
def test_two_processes_stopped_in_the_middle(star: Path, tmp_path: Path) -> None:
    """Passes of a few steps are left at their end, longer ones also within."""

    def run(name: str, *more: str, stop: int | None = None) -> str:
        environment = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29_000 + os.getpid() % 500)}
        if stop is not None:
            environment["STOP_AFTER"] = str(stop)
        words = ["train_tomo", str(star), "-o", str(tmp_path / name), *SMALL, "-b", "1", "-n", "2", *more]
        both = [
            ForkedRun(tmp_path / f"{name}.{rank}", words, environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank in range(2)
        ]
        ends = [process.finish() for process in both]
        assert [code for code, _ in ends] == [0, 0], ends
        return ends[0][1]

    assert "# finished" in run("whole")
    assert "stopped by SIGTERM" in run("parts", stop=1)
    assert "stopped by SIGTERM" in run("parts", "--load", "latest", stop=2)
    assert "# finished" in run("parts", "--load", "latest")
    assert_equal(tmp_path / "whole", tmp_path / "parts", [0, 1])
