"""The `dsd` program."""

from collections.abc import Sequence

from opustomo.commands.runner import run_cli

COMMANDS = {
    name: f"opustomo.commands.{name}"
    for name in (
        "parse_pose_star",
        "parse_multi_pose_star",
        "analyze_dynamics",
        "prepare_ctf",
        "extract_subtomos",
        "prepare_subtomos",
        "check",
        "train_tomo",
        "eval_vol",
        "analyze",
        "pc_traversal",
        "graph_traversal",
        "interpolate",
        "view_config",
        "reconstruct",
        "simulate",
        "demo",
    )
}


# Names that scripts for the original's programs for several processes use
COMMANDS |= {name: COMMANDS["train_tomo"] for name in ("train_tomo_hvd", "train_tomo_dist")}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `dsd`; see `run_cli` for the exit codes."""
    return run_cli("dsd", "Structural heterogeneity of cryo-ET subtomograms.", COMMANDS, argv)
