"""Run commands with faulty input: options, tables, maps, pickles, flipped bits, signals, disks, memory and streams.

    python benchmarks/fuzz.py --cases 500 --seed 0 [--kinds options star] [--only 17]

Every case (``fuzz_cases.py``) is a command with one fault. It runs in a process that is forked from one that has
imported everything (``fuzz_process.py``), with very small networks. The script prints the counts of all outcomes and
the failed cases as JSON. The outcomes are

sentence        The command reports an error of one sentence or ends by the signal; no file is incomplete.
fine            The command succeeds, and its files equal those of a run without the fault or are finite.
traceback       The command ends with a traceback or is aborted.
silent          The command succeeds although it should not, or writes an incomplete or wrong file without a message.
hang            The command does not end in time.

The script tests the source tree on ``PYTHONPATH``, so that an older one can be compared.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "benchmarks")]
sys.path.append(str(ROOT))  # also from a source tree that is not installed

import fuzz_cases  # noqa: E402
from fuzz_cases import Case  # noqa: E402
from fuzz_commands import COMMANDS, LONG, SMALL  # noqa: E402
from fuzz_files import digests, unsound  # noqa: E402
from fuzz_process import Finished, import_everything, in_child, run  # noqa: E402

FINISH = LONG.replace("-n 4", "-n 4 --load latest")


@dataclass(frozen=True)
class Outcome:
    """Result of a case."""

    number: int
    kind: str
    outcome: str
    why: str
    what: str
    line: str
    said: str


def _must(line: str, folder: Path) -> None:
    """Run a command that must succeed in a folder."""
    done = run(line.split(), folder)
    if done.code != 0:
        raise SystemExit(f"{line}\n{done.out}{done.err}")


def prepare(folder: Path) -> None:
    """Create the files that commands read."""
    _must("dsd simulate --builtin 50S 30S --box 24 -n 12 --snr 2 --tilt-step 6 --rot-err 2 --float16 -o set", folder)
    in_child(_make_inputs, folder)
    _must("dsdsh prepare set/particles.star 24 12", folder)
    shutil.copy(folder / "set" / "particles_pose_euler.pkl", folder / "set" / "poses.pkl")
    _must(f"dsd train_tomo set/particles.star -o run --poses set/poses.pkl -r set/mask.mrc {SMALL} -n 2", folder)
    (folder / "run" / "analyze.1").mkdir()
    in_child(_make_embedding, folder)
    _must("dsdsh analyze run 1 1 2 --skip-umap", folder)


@dataclass
class CleanRuns:
    """Digests of the files that each command writes without a fault, computed when they are first needed."""

    base: Path
    found: dict[str, dict[str, str]] = field(default_factory=dict)

    def __getitem__(self, name: str) -> dict[str, str]:
        if name not in self.found:
            line, target, _ = COMMANDS.get(name, (LONG, "out", ()))
            with tempfile.TemporaryDirectory() as other:
                copy = Path(other) / "w"
                shutil.copytree(self.base, copy)
                _must(line, copy)
                self.found[name] = digests(copy / target)
        return self.found[name]


def _make_inputs(folder: Path) -> None:
    """Write a map, a tomogram with picks, a second table and a PyTom list."""
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


def judge(case: Case, done: Finished, folder: Path, before: dict[str, str], runs: CleanRuns) -> tuple[str, str]:
    """Return the outcome of a case and the reason."""
    # message of Python itself if memory does not suffice to report an ignored exception
    text = re.sub(r"Exception ignored on building sys.unraisablehook arguments.*", "", done.out + done.err)
    target = folder / (COMMANDS[case.command][1] if case.command in COMMANDS else "out")
    if done.code is None:
        return "hang", "the command did not end in time"
    if "Traceback (most recent" in text or "Exception ignored" in text:
        last = [line for line in text.splitlines() if line and not line.startswith(" ")]
        return "traceback", last[-1][:200] if last else ""
    if (folder / "witness").exists() or (folder.parent / "witness").exists():
        return "silent", "code in a pickle was executed"
    sent = case.stop is not None and done.code in (-case.stop[0], 130, 0)
    if done.code < 0 and not sent:
        return "traceback", f"ended by {signal.Signals(-done.code).name}"
    killed = done.code == -signal.SIGKILL
    found = [path for path in folder.rglob("*") if path.is_file()]
    if not killed and done.code >= 0 and (left := [path.name for path in found if ".tmp" in path.suffixes]):
        return "silent", f"{left[0]} remains"
    outside = [path.name for path in folder.parent.iterdir() if path.name not in (folder.name, "base")]
    if outside:
        return "silent", f"{outside[0]} is written outside"
    now = digests(target) if target.exists() else {}
    changed = [name for name in now if now[name] != before.get(name)]
    clean = runs[case.command] if changed or done.code == 0 else {}
    same = all(clean.get(name) == now[name] for name in changed) and (done.code != 0 or now.keys() >= clean.keys())
    for name in changed:
        path = target / name if target.is_dir() else target
        if clean.get(name) != now[name] and (reason := unsound(path)) is not None:
            return "silent", f"{path.relative_to(folder)}: {reason}"
    if done.code != 0 and not sent:
        # a broken pipe and a closed error stream cannot receive a message
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
        return "silent", "the command succeeds although it must refuse"
    log = "".join(path.read_text(errors="replace") for path in found if path.suffix in (".log", ".json"))
    if case.named and not same and case.named not in text + log:
        return "silent", f"{case.named} is not named"
    other = [name for name in changed if clean.get(name) != now[name]]
    if case.kind == "memory" and other and all(name.endswith(".mrc") for name in other):
        return "fine", "up to rounding"  # with little memory, libraries sum in another order
    if case.kind in ("disks", "memory", "streams", "signals") and "-h" not in case.words and not same:
        return "silent", "the results differ from those without the fault"
    return "fine", "equal to the results without the fault" if same else ""


def try_case(case: Case, base: Path, clean: CleanRuns, patience: float) -> Outcome:
    """Run a case on a copy of the files, and return its outcome."""
    folder = base.parent / "w"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(base, folder)
    case.prepare(folder)
    target = folder / (COMMANDS[case.command][1] if case.command in COMMANDS else "out")
    before = digests(target) if target.exists() else {}
    done = run(case.words, folder, case.limits, case.stop, patience)
    outcome, why = judge(case, done, folder, before, clean)
    if case.command == "long" and case.stop is not None and outcome in ("sentence", "fine"):
        again = run(FINISH.split(), folder, patience=patience)
        if again.code != 0:
            outcome, why = "silent", f"the run cannot be resumed: {again.err[-200:]}"
        elif digests(folder / "out") != clean["long"]:
            outcome, why = "silent", "the resumed run differs from an uninterrupted one"
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
    """Run cases and return counts by outcome and kind, and the failed cases; `say` receives each outcome."""
    began = time.monotonic()
    import_everything()
    found: list[Outcome] = []
    with tempfile.TemporaryDirectory(prefix="fuzz") as place:
        base = Path(place) / "base"
        base.mkdir()
        prepare(base)
        clean = CleanRuns(base)
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
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="run only these cases")
    parser.add_argument("--log", type=argparse.FileType("w"), metavar="FILE", help="write a line of JSON per case")
    args = parser.parse_args()

    def say(outcome: Outcome) -> None:
        if args.log is not None:
            print(json.dumps(asdict(outcome)), file=args.log, flush=True)

    result = fuzz(args.cases, args.seed, args.kinds, args.only, say)
    print(json.dumps(result, indent=1))
    sys.exit(bool(result["failed"]))


if __name__ == "__main__":
    main()
