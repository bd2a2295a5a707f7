"""Text report of the demo."""

from __future__ import annotations

from opustomo.demo.plan import DemoPlan
from opustomo.demo.scores import DemoResult


def contingency_lines(result: DemoResult) -> list[str]:
    """Format the contingency table of true states (rows) and classes (columns)."""
    width = max(len(name) for name in result.states)
    heads = [f"class {i}" for i in range(result.table.shape[1])]
    lines = [" " * width + "  " + "  ".join(heads)]
    for name, row in zip(result.states, result.table, strict=True):
        counts = (f"{count:{len(head)}d}" for count, head in zip(row, heads, strict=True))
        lines.append(f"{name:{width}}  " + "  ".join(counts))
    return lines


def report_lines(result: DemoResult, plan: DemoPlan) -> list[str]:
    """Format the scores and the list of output files."""
    before, after = result.before, result.after
    volumes = (f"{v.cluster}: {result.states[v.state]} {v.correlation:.2f}" for v in result.volumes)
    files = {
        "summary figure": plan.root / "demo.png",
        "UMAP figures": plan.analysis / "umap.png",
        "": plan.kmeans / "umap.png",
        "class volumes": plan.kmeans / "reference*.mrc",
        "volumes along PC1": plan.analysis / "pc1" / "reference*.mrc",
        "STAR file per class": plan.kmeans / "pre*.star",
        "training log": plan.run / "run.log",
        "data and ground truth": plan.data,
    }
    width = max(map(len, files))
    return [
        "Number of particles of each true state (rows) in each class (columns):",
        *(f"  {line}" for line in contingency_lines(result)),
        f"Adjusted Rand index between classes and true states: {result.ari:.3f}",
        f"Correlation of class volumes with the true volumes: {', '.join(volumes)}",
        f"Median pose error: {before.angle_deg:.2f}° and {before.shift_px:.2f} px before training, "
        f"{after.angle_deg:.2f}° and {after.shift_px:.2f} px after",
        "Output files:",
        *(f"  {name:{width}}  {path}" for name, path in files.items()),
    ]
