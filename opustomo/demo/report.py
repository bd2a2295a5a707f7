"""The demo's result in words."""

from __future__ import annotations

from opustomo.demo.plan import DemoPlan
from opustomo.demo.scores import DemoResult


def contingency_lines(result: DemoResult) -> list[str]:
    """The table of true states (rows) and classes (columns) as text."""
    width = max(len(name) for name in result.states)
    heads = [f"class {i}" for i in range(result.table.shape[1])]
    lines = [" " * width + "  " + "  ".join(heads)]
    for name, row in zip(result.states, result.table, strict=True):
        counts = (f"{count:{len(head)}d}" for count, head in zip(row, heads, strict=True))
        lines.append(f"{name:{width}}  " + "  ".join(counts))
    return lines


def report_lines(result: DemoResult, plan: DemoPlan) -> list[str]:
    """Scores, then where to look."""
    before, after = result.before, result.after
    volumes = (f"{v.cluster}: {result.states[v.state]} {v.correlation:.2f}" for v in result.volumes)
    places = {
        "summary picture": plan.root / "demo.png",
        "other pictures": plan.analysis / "umap.png",
        "": plan.kmeans / "umap.png",
        "class volumes": plan.kmeans / "reference*.mrc",
        "along PC1": plan.analysis / "pc1" / "reference*.mrc",
        "STAR file per class": plan.kmeans / "pre*.star",
        "training log": plan.run / "run.log",
        "data with truth": plan.data,
    }
    width = max(map(len, places))
    return [
        "Particles of each true state in each class:",
        *(f"  {line}" for line in contingency_lines(result)),
        f"Agreement of classes with the truth (adjusted Rand index): {result.ari:.3f}",
        f"Correlation of class volumes with the truth: {', '.join(volumes)}",
        f"Median pose error: {before.angle_deg:.2f}° and {before.shift_px:.2f} px before training, "
        f"{after.angle_deg:.2f}° and {after.shift_px:.2f} px after",
        "Where to look:",
        *(f"  {name:{width}}  {path}" for name, path in places.items()),
    ]
