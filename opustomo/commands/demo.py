"""`dsd demo`: a small simulated set through the whole pipeline, scored against its truth."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "simulate a small heterogeneous set, run every command on it and score the result"

MARKER = "demo.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    add = parser.add_argument
    add(
        "-o",
        "--outdir",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="folder; an earlier demo is replaced",
    )
    add(
        "--quick",
        action="store_true",
        help="few particles and epochs: shows that it runs, not that it works well",
    )
    add("--epochs", type=int, metavar="N", help="length of the training")
    add("--seed", type=int, default=0, help="of all random numbers")
    add("--device", help="cpu or cuda (default: a GPU if there is one)")


def run(args: argparse.Namespace) -> None:
    """Run the commands one after the other, then report."""
    import json
    import time

    from opustomo.demo import plan as settings
    from opustomo.demo.figure import draw_summary
    from opustomo.demo.report import report_lines
    from opustomo.demo.scores import collect_result
    from opustomo.errors import UserError

    if args.epochs is not None and args.epochs < 1:
        raise UserError(f"--epochs {args.epochs}: at least one epoch is needed.")
    if args.seed < 0:
        raise UserError(f"--seed {args.seed}: must not be negative.")
    plan = settings.DemoPlan(
        root=args.outdir,
        particles=settings.QUICK_PARTICLES if args.quick else settings.PARTICLES,
        epochs=args.epochs or (settings.QUICK_EPOCHS if args.quick else settings.EPOCHS),
        seed=args.seed,
        device=args.device,
    )
    _clear(plan.root, (plan.data, plan.run))
    plan.root.mkdir(parents=True, exist_ok=True)
    steps = plan.steps()
    (plan.root / MARKER).write_text(json.dumps({"commands": [str(step) for step in steps]}, indent=1) + "\n")
    begin = time.monotonic()
    for step in steps:
        _run_step(step.program, step.words, str(step))
    result = collect_result(plan.data, plan.analysis, plan.run / f"pose.{plan.epoch}.pkl", settings.STATES)
    draw_summary(plan.root / "demo.png", result)
    print(f"\nDone in {(time.monotonic() - begin) / 60:.1f} minutes.")
    print("\n".join(report_lines(result, plan)))


def _run_step(program: str, words: tuple[str, ...], line: str) -> None:
    """Run one command line in this process, as its program would."""
    import analysis_scripts.main
    import opustomo.main
    from opustomo.errors import UserError

    print(f"\n$ {line}", flush=True)
    main = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}[program]
    code = main(list(words))
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"The demo stops: '{program} {words[0]}' failed with exit code {code}, see its message above.")


def _clear(root: Path, folders: tuple[Path, ...]) -> None:
    """Remove an earlier demo, and nothing else, from `root`."""
    import shutil

    from opustomo.errors import UserError

    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; name a folder with -o.")
    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / MARKER).is_file():
        raise UserError(f"{root} is not empty and holds no earlier demo; name another folder with -o.")
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
