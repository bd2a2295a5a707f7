"""Time from the start of the command to the first replayed steps of training, divided into its parts.

    python benchmarks/first_step.py --particles 2000 --box 64 --batch 8 [--cold]

Makes a set of noise, runs ``dsd train_tomo --estpose`` on it in a new process and prints one JSON object: seconds
since the start of that process at which each part begins and how long it takes. ``--cold`` gives Triton and PyTorch
empty folders for their caches.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]  # also from a source tree that is not installed
STARTED = "OPUSTOMO_FIRST_STEP_STARTED"
PARTS = {
    "inputs": "load_particles content_entries examine_scale pooled_std examine_reconstruction".split(),
    "run_training": ["inspect_particles"],
}
"""Functions that are timed, by the module that calls them."""
STEPS = 30


class EnoughError(Exception):
    """Exception that ends the run after enough steps."""


def run_watched(words: list[str]) -> None:
    """Train in this process, and print the times of all parts as JSON."""
    started = float(os.environ[STARTED])
    events: list[dict[str, Any]] = []
    began = time.time()
    events.append({"part": "start of Python", "at": 0.0, "seconds": round(began - started, 3)})
    import torch

    from opustomo.training import cuda_graphs, inputs, run_training

    events.append({"part": "import", "at": round(began - started, 3), "seconds": round(time.time() - began, 3)})
    cuda = torch.cuda.is_available()
    if cuda:
        began = time.time()
        torch.zeros(1, device="cuda")
        events.append(
            {"part": "CUDA context", "at": round(began - started, 3), "seconds": round(time.time() - began, 3)}
        )

    def watched(name: str, work: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.time()
            result = work(*args, **kwargs)
            if cuda:
                torch.cuda.synchronize()
            events.append({"part": name, "at": round(begin - started, 3), "seconds": round(time.time() - begin, 3)})
            if sum(event["part"] == "step" for event in events) >= STEPS:
                raise EnoughError
            return result

        return call

    for module, names in ((inputs, PARTS["inputs"]), (run_training, PARTS["run_training"])):
        for name in names:
            setattr(module, name, watched(name, getattr(module, name)))
    run_training.Trainer.update_consensus = watched("consensus", run_training.Trainer.update_consensus)
    run_training.Trainer.__init__ = watched("Trainer", run_training.Trainer.__init__)
    cuda_graphs.Steps._capture = watched("capture", cuda_graphs.Steps._capture)
    cuda_graphs.Steps.__call__ = watched("step", cuda_graphs.Steps.__call__)
    compiled: list[float] = []
    try:
        from triton.runtime.jit import JITFunction

        names = [name for name in ("_do_compile", "compile") if hasattr(JITFunction, name)]
        if names:
            held = getattr(JITFunction, names[0])

            def timed(self: Any, *args: Any, **kwargs: Any) -> Any:
                begin = time.time()
                result = held(self, *args, **kwargs)
                compiled.append(time.time() - begin)
                return result

            setattr(JITFunction, names[0], timed)
    except ImportError:
        pass
    sys.argv = ["dsd", "train_tomo", *words]
    from opustomo.main import main

    try:
        main(["train_tomo", *words])
    except EnoughError:
        pass
    found = {"events": events, "triton_compilations": len(compiled), "triton_seconds": round(sum(compiled), 2)}
    print("FIRST_STEP " + json.dumps(found), flush=True)
    os._exit(0)


def main() -> None:
    """Make a set, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--particles", type=int, default=2000)
    parser.add_argument("--tilts", type=int, default=41)
    parser.add_argument("--box", type=int, default=64)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--templateres", type=int, default=128)
    parser.add_argument("--shared-tables", type=int, default=0, help="distinct CTF tables (0: one per particle)")
    parser.add_argument("--cold", action="store_true", help="start with empty caches of compiled kernels")
    parser.add_argument("--caches", type=Path, help="folder of the caches of compiled kernels")
    parser.add_argument("--star", type=Path, help="use an existing set")
    args = parser.parse_args()
    from noise_set import make_set

    with tempfile.TemporaryDirectory(prefix="opustomo-first-step-") as name:
        star = args.star or make_set(Path(name), args.particles, args.tilts, args.box, args.shared_tables)
        environment = dict(os.environ)
        caches = Path(name) / "caches" if args.cold else args.caches
        if caches is not None:
            for variable in ("TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH", "XDG_CACHE_HOME"):
                environment[variable] = str(caches / variable.lower())
        words = [str(star), "-o", f"{name}/run", "--zdim", "12", "--estpose", "-n", "1", "-b", str(args.batch)]
        words += ["--templateres", str(args.templateres), "--log-interval", "1000000"]
        environment[STARTED] = str(time.time())
        command = [sys.executable, __file__, "--watched", *words]
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    lines = [line for line in done.stdout.splitlines() if line.startswith("FIRST_STEP ")]
    if not lines:
        sys.exit(f"the run ended with {done.returncode}:\n{done.stdout[-3000:]}")
    print(json.dumps({"particles": args.particles, "box": args.box, "cold": args.cold, **json.loads(lines[0][11:])}))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--watched"]:
        run_watched(sys.argv[2:])
    else:
        main()
