"""Read the numbers and excerpts of a tutorial from the output of its commands and from the files that they wrote."""

from __future__ import annotations

import csv
import json
import math
import re
import textwrap
from pathlib import Path

from opustomo.training.monitors.convergence_state import convergence_statement, epoch_summary, read_history

WIDTH = 140


class Unexpected(SystemExit):
    """A run that contradicts the text of its template, which must then be rewritten."""


def expect(condition: bool, text: str) -> None:
    """Raise ``Unexpected`` unless the run is as the template says."""
    if not condition:
        raise Unexpected(f"The template says that {text}, but this run gave something else. Rewrite the template.")


def output_of(outputs: dict[str, str], start: str) -> str:
    """Return the output of the first command that starts with `start`."""
    return next(text for line, text in outputs.items() if line.startswith(start))


def between(text: str, first: str, last: str) -> list[str]:
    """Return the lines from the first one that contains `first` to the next one that contains `last`."""
    lines = text.splitlines()
    start = next(row for row, line in enumerate(lines) if first in line)
    stop = next(row for row in range(start, len(lines)) if last in lines[row])
    return lines[start : stop + 1]


def excerpt(lines: list[str]) -> str:
    """Return lines as an indented code block; long lines are continued with deeper indentation."""
    rows = []
    for line in lines:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        rows += textwrap.wrap(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False) or [""]
        if rows[-1] and line.startswith(" ") and not rows[-1].startswith(" "):
            rows[-1] = line
    return "\n".join("    " + row if row else "" for row in rows)


def check_facts(output: str) -> dict[str, str]:
    """Return the verdict of ``dsd check`` with its reasons, and what the training costs."""
    lines = between(output, "  weighting ", "Verdict: ")
    after = output.splitlines()[output.splitlines().index(lines[-1]) + 1 :]
    for line in after:
        if not line.startswith("  warning"):
            break
        lines.append(line)
    plain = " ".join(output.split())
    cost = re.search(r"It takes .*?disk space\.", plain)
    basis = re.search(r"The time is that of a step of .*?\.(?= Then:)", plain)
    assert cost is not None and basis is not None
    return {
        "check_excerpt": excerpt(lines),
        "check_word": lines[0] and next(line for line in lines if "Verdict" in line).split(": ")[1].rstrip("."),
        "check_cost": excerpt([cost[0], basis[0]]),
    }


def loss_facts(run: Path) -> dict[str, object]:
    """Return the held-out losses of a run, its last summary in the log, and the state of convergence."""
    history = read_history(run / "epochs.csv")
    held_out, training = [row.held_out for row in history], [row.training for row in history]
    best = held_out.index(min(held_out))
    statement = convergence_statement(history)
    summary = f"{epoch_summary(history[-1], history[-2])}; {statement.sentence}{statement.advice(run)}"  # as in the log
    return {
        "epochs": len(history),
        "last": len(history) - 1,
        "best_epoch": best,
        "best_loss": held_out[best],
        "last_loss": held_out[-1],
        "first_training_loss": training[0],
        "last_training_loss": training[-1],
        "summary": excerpt([summary]),
        "state": statement.state,
    }


def verdict_facts(folder: Path, output: str, classes: tuple[int, ...]) -> dict[str, object]:
    """Return the verdict of ``dsdsh validate`` on the clusters in `folder`, and what it printed about some classes."""
    content = json.loads((folder / "validation_verdict.json").read_text(encoding="utf-8"))
    lines: list[str] = []
    printed = output.splitlines()
    for number in classes:
        start = next(row for row, line in enumerate(printed) if line.startswith(f"Class {number} ("))
        stop = next(row for row in range(start + 1, len(printed)) if not printed[row].startswith("    "))
        lines += [*printed[start:stop], "…"]
    start = next(row for row, line in enumerate(printed) if line.startswith("Verdict: "))
    stop = next((row for row in range(start + 1, len(printed)) if not printed[row].startswith("    ")), len(printed))
    lines += printed[start:stop]
    with (folder / "validation_pairs.csv").open(newline="") as file:
        pairs = list(csv.DictReader(file))
    gain = next((line for line in content["reasons"] if "nats per particle" in line), "")
    return {
        "verdict": content["verdict"],
        "verdict_excerpt": excerpt(lines),
        "largest_excluded": max(
            (
                max(float(pair["difference"]), 0) + 2.33 * float(pair["difference_error"])
                for pair in pairs
                if pair["gain_nats"]
            ),
            default=math.nan,
        ),
        "gain": gain.rpartition(": ")[2].removesuffix(" nats per particle.").strip(),
        "stability": content["stability"],
    }
