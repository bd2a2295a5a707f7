"""Run commands with faulty input: options, tables, maps, pickles, flipped bits, signals, disks, memory and streams.

    python benchmarks/fuzz.py --cases 500 --seed 0 [--kinds options star] [--only 17]

Every case (``fuzz_cases.py``) is one command with one thing wrong, run in a process that is forked from one that has
imported everything; networks are very small. Prints counts and what failed as JSON. The outcomes are

sentence        refused in one sentence, or ended by the signal that was sent; nothing half-written
fine            done, and what was written is sound: what a run without the fault writes, or finite
traceback       a traceback, or an abort
silent          done though it should not have been, or half-written, or wrong, without a word
hang            not done in time

The tree that is tested is the one on ``PYTHONPATH``, so that an older one can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]
sys.path.append(str(ROOT))  # also from a source tree that is not installed

import fuzz_cases  # noqa: E402
from fuzz_cases import COMMANDS, LONG, SMALL, Case  # noqa: E402

SPARE_MEMORY = 2 * 2**30
"""What a case may take, so that others on the machine are left alone."""
FINISH = LONG.replace("-n 4", "-n 4 --load latest")
TIMED = (".log", ".csv", ".png", ".html", ".json")
"""Files that hold times or pictures, and are not compared."""


@dataclass(frozen=True)
class Outcome:
    """What came of a case."""

    number: int
    kind: str
    outcome: str
    why: str
    what: str
    line: str
    said: str


@dataclass(frozen=True)
class Finished:
    """A command that has ended: exit code (negative: a signal's number), output and errors."""

    code: int | None
    out: str
    err: str


def prepare(folder: Path) -> dict[str, dict[str, str]]:
    """Make the files that the commands work on, and run each command as it is.

    Returns
    -------
    dict
        Digests of what each command writes when nothing is wrong.
    """

    def must(line: str, within: Path = folder) -> None:
        done = run(line.split(), within)
        if done.code != 0:
            raise SystemExit(f"{line}\n{done.out}{done.err}")

    must("dsd simulate --builtin 50S 30S --box 24 -n 12 --snr 2 --tilt-step 6 --rot-err 2 --float16 -o set")
    in_child(_make_inputs, folder)
    must("dsdsh prepare set/particles.star 24 12")
    shutil.copy(folder / "set" / "particles_pose_euler.pkl", folder / "set" / "poses.pkl")
    must(f"dsd train_tomo set/particles.star -o run --poses set/poses.pkl -r set/mask.mrc {SMALL} -n 2")
    (folder / "run" / "analyze.1").mkdir()
    in_child(_make_embedding, folder)
    must("dsdsh analyze run 1 1 2 --skip-umap")
    clean = {}
    for name, (line, target, _) in {**COMMANDS, "long": (LONG, "out", ())}.items():
        with tempfile.TemporaryDirectory() as other:
            copy = Path(other) / "w"
            shutil.copytree(folder, copy)
            must(line, copy)
            clean[name] = digests(copy / target)
    return clean


def _make_inputs(folder: Path) -> None:
    """Write a map, a tomogram with picks, another table and a PyTom list."""
    import numpy as np

    from opustomo.io.mrc import write_volume

    rng = np.random.default_rng(0)
    at = np.stack(np.meshgrid(*[np.arange(24) - 12] * 3), -1)
    density = np.exp(-(at**2).sum(-1) / 30) + 0.05 * rng.normal(size=(24,) * 3)
    write_volume(folder / "map.mrc", density, 12.0)
    write_volume(folder / "tomo.mrc", rng.normal(size=(20, 32, 32)), 12.0)
    rows = "".join(f"tomo {x} {y} 10\n" for x, y in rng.integers(6, 26, (5, 2)))
    columns = "_rlnMicrographName #1\n_rlnCoordinateX #2\n_rlnCoordinateY #3\n_rlnCoordinateZ #4\n"
    (folder / "picks.star").write_text(f"data_\n\nloop_\n{columns}{rows}")
    table = (folder / "set" / "particles.star").read_text()
    (folder / "other.star").write_text(table.replace("subtomo/p", "more/q"))
    particle = (
        '<Particle Filename="a_{0}.em"><Rotation X="1{0}" Paradigm="ZXZ" Z1="20" Z2="30"/><Shift X="1" Y="2" Z="3"/>'
        '<PickPosition X="4{0}" Origin="a.mrc" Y="50" Z="60"/><Score Type="FLCFScore" Value="0.5"/></Particle>'
    )
    listed = "".join(particle.format(number) for number in range(4))
    (folder / "list.xml").write_text(f"<ParticleList>{listed}</ParticleList>")


def _make_embedding(folder: Path) -> None:
    import numpy as np

    from opustomo.io.pickles import dump_pickle

    dump_pickle(folder / "run" / "analyze.1" / "umap.pkl", np.random.default_rng(0).normal(size=(12, 2)))


def import_everything() -> None:
    """Import what the commands use, with very small networks and coarse pictures in their place."""
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
        "mrcfile", "scipy.ndimage", "tqdm", "opustomo.analysis.analyze_epoch", "opustomo.training.setup",
        "opustomo.quality.evidence.validation", "opustomo.quality.evidence.half_maps", "opustomo.simulate.dataset",
        "opustomo.quality.checks.missing_inputs", "opustomo.quality.checks.missing_wedge", "opustomo.prepare.cubes",
        "opustomo.prepare.mask_creation", "opustomo.training.monitors.standard", "opustomo.convert.combine",
        "opustomo.convert.pytom", "torch.distributed", "torch._dynamo",
    ):  # fmt: skip
        importlib.import_module(name)
    autoencoder.Encoder, autoencoder.Decoder, decoding.Decoder = TinyEncoder, TinyDecoder, TinyDecoder  # type: ignore
    training_figure.draw_training = lambda *args: None  # type: ignore[assignment]
    latent_figures.DPI = 20


# Running


def in_child(work: Callable[[Path], None], folder: Path) -> None:
    """Do something in a process of its own, so that this one starts no threads."""
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
    pipes = [os.pipe() for _ in range(2)]  # limits on the sizes of files do not hold for these
    child = os.fork()
    if child == 0:
        try:
            _become(words, folder, limits or {}, [writer for _, writer in pipes])
        finally:  # a signal may come at any moment, and nothing of the parent is to be unwound here
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
    """Be the program: streams, limits and folder as asked for; never returns."""
    os.chdir(folder)
    for name, number in (("stdout", 1), ("stderr", 2)):
        how = limits.get(name)
        target = pipes[number - 1]
        if how == "full":
            target = os.open("/dev/full", os.O_WRONLY)
        elif how == "pipe":  # whose reader has left
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


# Judging


def digests(target: Path) -> dict[str, str]:
    """Digests of the content of the files at a place, but for times."""
    files = [target] if target.is_file() else sorted(path for path in target.rglob("*") if path.is_file())
    return {
        str(path.relative_to(target)): hashlib.sha256(_lasting(path)).hexdigest()
        for path in files
        if path.suffix not in TIMED and path.name != "config.pkl"
    }


def _lasting(path: Path) -> bytes:
    """Content of a file without comments, the labels of an MRC header and seconds of a state, which hold the time."""
    data = path.read_bytes()
    if path.name == "state.pkl":
        return _state_without_times(path) or data
    if path.suffix == ".star":
        return b"\n".join(line for line in data.split(b"\n") if not line.startswith(b"#"))
    return data[:220] + data[1024:] if path.suffix == ".mrc" else data


def _state_without_times(path: Path) -> bytes | None:
    """Values of a run's state but for its times; None if it cannot be read."""
    from opustomo.io.pickles import load_torch

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if "second" not in str(key)}
        if isinstance(value, (list, tuple)):
            return [plain(item) for item in value]
        return value.numpy().tobytes() if hasattr(value, "numpy") else value

    try:
        return repr(plain(load_torch(path))).encode()
    except Exception:
        return None


def unsound(path: Path) -> str | None:
    """Return why a file that was written is not whole and finite."""
    import mrcfile
    import numpy as np
    import torch

    from opustomo.io.pickles import load_pickles, load_torch

    def numbers(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            value = value.numpy()
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, dict):
            for item in value.values():
                yield from numbers(item)
        elif isinstance(value, (list, tuple)):
            for item in value:
                yield from numbers(item)
        elif isinstance(value, float):
            yield np.array(value)

    try:
        if path.suffix == ".mrc":
            with mrcfile.open(path, permissive=False) as handle:
                return None if np.isfinite(handle.data).all() else "not finite"
        if path.suffix == ".pkl":
            content = load_pickles(path) if path.name == "config.pkl" else load_torch(path)
            for array in numbers(content):
                if array.dtype.kind == "f" and not np.isfinite(array).all():
                    return "not finite"
                if path.name.startswith(("pose", "z.")) and array.size and np.abs(array).max() > 1e5:
                    return "beyond 1e5"
        if path.suffix == ".json":
            json.loads(path.read_text())
        if path.suffix == ".txt" and re.search(r"\b(nan|inf)\b", path.read_text()):
            return "not finite"
        if path.suffix == ".star":
            text = path.read_text()
            if not text.endswith("\n") or "data_" not in text:
                return "cut short"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def judge(case: Case, done: Finished, folder: Path, before: dict[str, str], clean: dict[str, str]) -> tuple[str, str]:
    """Outcome of a case, and why."""
    # Python's own words when its memory does not suffice to say what it ignores
    text = re.sub(r"Exception ignored on building sys.unraisablehook arguments.*", "", done.out + done.err)
    target = folder / (COMMANDS[case.command][1] if case.command in COMMANDS else "out")
    if done.code is None:
        return "hang", "not done in time"
    if "Traceback (most recent" in text or "Exception ignored" in text:
        last = [line for line in text.splitlines() if line and not line.startswith(" ")]
        return "traceback", last[-1][:200] if last else ""
    if (folder / "witness").exists() or (folder.parent / "witness").exists():
        return "silent", "what a pickle says was run"
    sent = case.stop is not None and done.code in (-case.stop[0], 130, 0)
    if done.code < 0 and not sent:
        return "traceback", f"ended by {signal.Signals(-done.code).name}"
    killed = done.code == -signal.SIGKILL
    found = [path for path in folder.rglob("*") if path.is_file()]
    if not killed and done.code >= 0 and (left := [path.name for path in found if ".tmp" in path.suffixes]):
        return "silent", f"{left[0]} is left"
    outside = [path.name for path in folder.parent.iterdir() if path.name not in (folder.name, "base")]
    if outside:
        return "silent", f"{outside[0]} is written outside"
    now = digests(target) if target.exists() else {}
    changed = [name for name in now if now[name] != before.get(name)]
    same = all(clean.get(name) == now[name] for name in changed) and (done.code != 0 or now.keys() >= clean.keys())
    for name in changed:
        path = target / name if target.is_dir() else target
        if clean.get(name) != now[name] and (reason := unsound(path)) is not None:
            return "silent", f"{path.relative_to(folder)}: {reason}"
    if done.code != 0 and not sent:
        # a broken pipe is not told to a reader that has left, nor anything to a closed error stream
        mute = case.limits.get("stderr") in ("closed", "full", "pipe") or case.limits.get("stdout") == "pipe"
        lines = [line for line in done.err.splitlines() if ": error: " in line]
        if not mute and len(lines) != 1:
            return "silent", f"exit code {done.code} with {len(lines)} sentences"
        if lines and re.search(r"/\.[^/ ]+\.tmp", lines[0]):
            return "silent", "the sentence names a temporary file"
        return "sentence", lines[0][:160] if lines else f"exit code {done.code}"
    if sent and (done.code != 0 or "stopped by SIG" in text):
        return "sentence", f"exit code {done.code}"
    if case.must_refuse and not same:
        return "silent", "done though it cannot be right"
    log = "".join(path.read_text(errors="replace") for path in found if path.suffix in (".log", ".json"))
    if case.named and not same and case.named not in text + log:
        return "silent", f"{case.named} is not named"
    other = [name for name in changed if clean.get(name) != now[name]]
    if case.kind == "memory" and other and all(name.endswith(".mrc") for name in other):
        return "fine", "up to rounding"  # with little memory libraries take other ways to the same sums
    if case.kind in ("disks", "memory", "streams", "signals") and "-h" not in case.words and not same:
        return "silent", "done, but not as without the fault"
    return "fine", "as without the fault" if same else ""


def try_case(case: Case, base: Path, clean: dict[str, dict[str, str]], patience: float) -> Outcome:
    """Run a case on a copy of the files, and judge it."""
    folder = base.parent / "w"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    case.prepare(folder)
    target = folder / (COMMANDS[case.command][1] if case.command in COMMANDS else "out")
    before = digests(target) if target.exists() else {}
    done = run(case.words, folder, case.limits, case.stop, patience)
    outcome, why = judge(case, done, folder, before, clean[case.command])
    if case.command == "long" and case.stop is not None and outcome in ("sentence", "fine"):
        again = run(FINISH.split(), folder, patience=patience)
        if again.code != 0:
            outcome, why = "silent", f"cannot go on: {again.err[-200:]}"
        elif digests(folder / "out") != clean["long"]:
            outcome, why = "silent", "a run that went on differs from one without interruption"
    for path in base.parent.iterdir():
        if path != base:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink()
    said = " ".join(done.err.split())[-300:]
    return Outcome(case.number, case.kind, outcome, why, case.what, " ".join(case.words), said)


def fuzz(
    cases: int,
    seed: int,
    kinds: list[str] | None = None,
    only: list[int] | None = None,
    say: Callable[[Outcome], object] = lambda outcome: None,
) -> dict[str, Any]:
    """Run cases; counts by outcome and kind, and what failed. ``say`` is told of each case."""
    began = time.monotonic()
    import_everything()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        base = Path(place) / "base"
        base.mkdir()
        clean = prepare(base)
        patience = max(60.0, 4.0 * (time.monotonic() - began))
        for number in only if only else range(cases):
            case = fuzz_cases.draw(seed, number)
            if kinds and case.kind not in kinds:
                continue
            found.append(try_case(case, base, clean, patience))
            say(found[-1])
    failed = [asdict(one) for one in found if one.outcome not in ("sentence", "fine")]
    names = ("sentence", "fine", "traceback", "silent", "hang")
    counts = Counter(one.outcome for one in found)
    by_kind = {
        kind: {name: number for name in names if (number := sum((o.kind, o.outcome) == (kind, name) for o in found))}
        for kind in fuzz_cases.KINDS
    }
    return {
        "cases": len(found), "seed": seed, "seconds": round(time.monotonic() - began, 1),
        "counts": {name: counts[name] for name in names}, "by_kind": by_kind, "failed": failed,
    }  # fmt: skip


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=list(fuzz_cases.KINDS))
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="these cases alone")
    parser.add_argument("--log", type=argparse.FileType("w"), metavar="FILE", help="a line of JSON per case")
    args = parser.parse_args()

    def say(outcome: Outcome) -> None:
        if args.log is not None:
            print(json.dumps(asdict(outcome)), file=args.log, flush=True)

    result = fuzz(args.cases, args.seed, args.kinds, args.only, say)
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["failed"]))


if __name__ == "__main__":
    main()
