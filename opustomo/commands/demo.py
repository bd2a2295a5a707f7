"""`dsd demo`: run the complete pipeline on a small simulated data set and score it against the ground truth."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "simulate a small heterogeneous data set, run all commands on it and score the result"

MARKER = "demo.json"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsd demo``."""
    add = parser.add_argument
    add(
        "-o",
        "--outdir",
        type=Path,
        default=Path("demo"),
        metavar="DIR",
        help="output folder; an earlier demo in it is replaced (default: %(default)s)",
    )
    add(
        "--quick",
        action="store_true",
        help="use few particles and epochs, which tests the installation but not the quality of the results",
    )
    add("--epochs", type=int, metavar="N", help="number of training epochs")
    add("--seed", type=int, default=0, help="random seed")
    add("--device", help="cpu or cuda (default: a GPU if available)")


def run(args: argparse.Namespace) -> None:
    """Run the commands in order and report the scores."""
    import json
    import time

    from opustomo.demo import plan as settings
    from opustomo.demo.scores import collect_result, remove_resume_state, report_lines
    from opustomo.demo.summary_figure import draw_summary

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
    print("\n".join([*report_lines(result, plan), *remove_resume_state(plan)]))


def _run_step(program: str, words: tuple[str, ...], line: str) -> None:
    """Run one command line in this process."""
    import analysis_scripts.main
    import opustomo.main
    from opustomo.errors import UserError

    print(f"\n$ {line}", flush=True)
    main = {"dsd": opustomo.main.main, "dsdsh": analysis_scripts.main.main}[program]
    code = main(list(words))
    if code == 130:
        raise KeyboardInterrupt
    if code:
        raise UserError(f"The demo stopped because '{program} {words[0]}' failed with exit code {code} (see above).")


def _clear(root: Path, folders: tuple[Path, ...]) -> None:
    """Remove the data of an earlier demo from `root`; raise ``UserError`` if `root` has any other content."""
    import shutil

    from opustomo.errors import UserError

    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file. Give a folder with -o.")
    if not root.is_dir() or not any(root.iterdir()):
        return
    if not (root / MARKER).is_file():
        raise UserError(f"{root} is not empty and does not contain an earlier demo. Give another folder with -o.")
    for folder in folders:
        if folder.is_dir():
            shutil.rmtree(folder)
