"""Processes of ``fuzz.py``: run a command in a forked process with limits, streams and signals."""

from __future__ import annotations

import contextlib
import io
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPARE_MEMORY = 2 * 2**30
"""Memory in bytes that a case may allocate, so that other programs on the machine are not affected."""


@dataclass(frozen=True)
class Finished:
    """Result of a command: exit code (negative for the number of a signal, None for a timeout), output and errors."""

    code: int | None
    out: str
    err: str


def import_everything() -> None:
    """Import all modules that commands use, and replace networks by very small and figures by coarse ones."""
    os.environ.setdefault("MPLBACKEND", "Agg")
    import importlib

    import torch

    from opustomo.analysis.figures import latent_figures
    from opustomo.analysis.volumes import decoding
    from opustomo.commands.registry import DSD, DSDSH, load_command
    from opustomo.model import autoencoder
    from opustomo.training.monitors import training_figure
    from tests.training.tiny_run import TinyDecoder, TinyEncoder

    torch.set_num_threads(1)
    for entry in (*DSD.values(), *DSDSH.values()):
        load_command(entry)
    for name in (
        "healpy", "matplotlib.pyplot", "pandas", "starfile", "sklearn.cluster", "sklearn.decomposition", "PIL.Image",
        "mrcfile", "scipy.ndimage", "tqdm", "opustomo.analysis.analyze_epoch", "opustomo.training.run_training",
        "opustomo.quality.evidence.validation", "opustomo.quality.evidence.half_maps", "opustomo.simulate.dataset",
        "opustomo.quality.checks.missing_inputs", "opustomo.quality.checks.wedge_comparison", "opustomo.prepare.cubes",
        "opustomo.prepare.mask_creation", "opustomo.training.monitors.standard", "opustomo.convert.combine",
        "opustomo.convert.pytom", "torch.distributed", "torch._dynamo",
    ):  # fmt: skip
        importlib.import_module(name)
    autoencoder.Encoder, autoencoder.Decoder, decoding.Decoder = TinyEncoder, TinyDecoder, TinyDecoder  # type: ignore
    training_figure.draw_training = lambda *args: None  # type: ignore[assignment]
    latent_figures.DPI = 20


def in_child(work: Callable[[Path], None], folder: Path) -> None:
    """Call `work` in a forked process, so that this process starts no threads."""
    if (child := os.fork()) == 0:
        try:
            work(folder)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("the files could not be prepared")


def run(
    words: list[str],
    folder: Path,
    limits: dict[str, Any] | None = None,
    stop: tuple[int, float] | None = None,
    patience: float = 120.0,
) -> Finished:
    """Run a command line in a folder, in a forked process."""
    pipes = [os.pipe() for _ in range(2)]  # limits on file sizes do not apply to pipes
    child = os.fork()
    if child == 0:
        try:
            _become(words, folder, limits or {}, [writer for _, writer in pipes])
        finally:  # also after a signal, the child must not unwind the stack of its parent
            os._exit(1)
    texts = [b"", b""]
    for reader, writer in pipes:
        os.close(writer)
        os.set_blocking(reader, False)

    def read() -> None:
        for place, (reader, _) in enumerate(pipes):
            with contextlib.suppress(BlockingIOError):
                while piece := os.read(reader, 2**16):
                    texts[place] += piece

    code, deadline, due = None, time.monotonic() + patience, None if stop is None else time.monotonic() + stop[1]
    while code is None and time.monotonic() < deadline:
        if due is not None and stop is not None and time.monotonic() >= due:
            os.kill(child, stop[0])
            due = None
        read()
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
        else:
            time.sleep(0.005)
    if code is None:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    read()
    for reader, _ in pipes:
        os.close(reader)
    return Finished(code, *(text.decode(errors="replace") for text in texts))


def _become(words: list[str], folder: Path, limits: dict[str, Any], pipes: list[int]) -> None:
    """Run the program in this process with the given streams, limits and folder; never return."""
    os.chdir(folder)
    for name, number in (("stdout", 1), ("stderr", 2)):
        how = limits.get(name)
        target = pipes[number - 1]
        if how == "full":
            target = os.open("/dev/full", os.O_WRONLY)
        elif how == "pipe":  # a pipe whose reader is closed
            reader, target = os.pipe()
            os.close(reader)
        os.dup2(target, number)
        stream = io.TextIOWrapper(
            io.BufferedWriter(io.FileIO(number, "w", closefd=False)),
            encoding="ascii" if how == "ascii" else "utf-8",
            errors="strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2,
        )
        if how == "closed":
            os.close(number)
        setattr(sys, name, None if how == "closed" else stream)
        setattr(sys, f"__{name}__", None if how == "closed" else stream)
    if limits.get("cwd") == "gone":
        os.mkdir("gone")
        os.chdir("gone")
        os.rmdir("../gone")
    if "fsize" in limits:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits["fsize"], resource.RLIM_INFINITY))
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    spare = size + limits.get("memory", SPARE_MEMORY)
    resource.setrlimit(resource.RLIMIT_AS, (spare, resource.RLIM_INFINITY))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    code = 1
    try:
        import analysis_scripts.main
        import opustomo.main

        program = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}[words[0]]
        code = program(words[1:])
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else 1
    except BaseException:
        with contextlib.suppress(BaseException):
            text = traceback.format_exc()
            os.write(pipes[1], text.encode(errors="replace"))
    for stream in (sys.stdout, sys.stderr):  # as Python does at its end
        try:
            if stream is not None:
                stream.flush()
        except BaseException as error:
            if stream is sys.stdout:
                os.write(pipes[1], f"Exception ignored in: stdout {error!r}\n".encode())
                code = 120
    os._exit(code & 0xFF)
