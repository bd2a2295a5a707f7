"""`dsdsh results`: run all steps from a trained model to the report, and skip those that are up to date."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from opustomo.commands.options import EPOCH_HELP, add_cluster_method, add_moved_star, cluster_method
from opustomo.errors import UserError

if TYPE_CHECKING:
    from opustomo.analysis.clusters.clustering import Clustering
    from opustomo.analysis.results import ResultDir, Round
    from opustomo.io.star_tables import ParticleStar

HELP = "run all steps after training: clusters, volumes, STAR files, validation, convergence and report"
NAMED_GROUPS = "the number of groups that the verdict names"


def _number_or_auto(word: str) -> int | Literal["auto"]:
    try:
        return "auto" if word == "auto" else int(word)
    except ValueError:
        raise argparse.ArgumentTypeError(f"it is {word!r}, but it must be auto or a number.") from None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``dsdsh results``."""
    parser.add_argument("resdir", type=Path, help="output folder of dsd train_tomo")
    parser.add_argument("N", nargs="?", default="latest", help=EPOCH_HELP)
    parser.add_argument(
        "-k",
        "--numk",
        type=_number_or_auto,
        metavar="auto|K",
        help="number of clusters; auto chooses it from the data (default: that of the latest analysis of this epoch; "
        "auto if there is none)",
    )
    add_cluster_method(parser)
    parser.add_argument("--pc", type=int, default=2, metavar="n", help="number of principal component traversals")
    add_moved_star(parser)
    parser.add_argument("--mask", type=Path, help="mask for the FSC (default: that of the training)")
    parser.add_argument("--refined", action="store_true", help="write refined poses into the STAR files")
    parser.add_argument("--skip-umap", action="store_true", help="do not compute UMAP, which takes minutes")
    parser.add_argument("--skip-validation", action="store_true", help="do not read the subtomograms for validation")
    parser.add_argument("--again", action="store_true", help="repeat all steps, also those that are up to date")
    parser.add_argument("--device", help="cuda or cpu for the validation (default: a GPU if available)")


@dataclass
class PipelineState:
    """State of the command: its options, the analyzed round and the folder of the clusters.

    Attributes
    ----------
    args
        Parsed options.
    results, which
        Result directory of the run and the round of analysis.
    folder
        Folder of the clusters; set by the first step.
    """

    args: argparse.Namespace
    results: ResultDir
    which: Round
    folder: Path | None = None

    @property
    def clusters(self) -> Path:
        """Folder of the clusters."""
        assert self.folder is not None
        return self.folder

    @property
    def number(self) -> int:
        """Number of clusters."""
        from opustomo.analysis.clusters.clustering import Clustering

        return Clustering.of_folder(self.clusters.name).number or 0

    def current(self, outputs: Iterable[Path], inputs: Iterable[Path]) -> bool:
        """Return whether all outputs exist and are not older than the inputs."""
        made = list(outputs)
        if self.args.again or not made or not all(path.is_file() for path in made):
            return False
        newest = max((path.stat().st_mtime for path in inputs if path.is_file()), default=0.0)
        return min(path.stat().st_mtime for path in made) >= newest


def run(args: argparse.Namespace) -> None:
    """Run the steps and print the commands that follow."""
    from opustomo.commands.options import selected_round

    results, which = selected_round(args.resdir, args.N)
    state = PipelineState(args, results, which)
    steps: list[tuple[str, Callable[[PipelineState], None]]] = [
        ("Clusters and principal components of the latents", _analyze),
        ("Volumes of the clusters and along the principal components", _volumes),
        ("STAR files of the clusters", _star_files),
        ("Validation: are the clusters real?", _validate),
        ("Convergence: do clusters and latents still change?", _convergence),
        ("Report", _report),
    ]
    for number, (title, step) in enumerate(steps, 1):
        print(f"\n[{number}/{len(steps)}] {title}", flush=True)
        try:
            step(state)
        except UserError as error:
            done = "" if number == 1 else " Completed steps are kept, and the same command resumes here."
            raise UserError(f"step {number} of {len(steps)}: {error}{done}") from error
    print("\n" + "\n".join(_next_commands(state)))


def _skip(path: Path) -> None:
    print(f"Up to date: {path} (--again repeats this step)")


def _analyze(state: PipelineState) -> None:
    from opustomo.analysis.analyze_epoch import AnalysisRequest, analyze_epoch
    from opustomo.analysis.clusters.clustering import Clustering

    args, results, which = state.args, state.results, state.which
    sources = [results.epoch_file("z", which.epoch), results.epoch_file("pose", which.epoch)]
    found = _existing_clusters(state)
    if found is not None:
        needed = [found / "labels.pkl", found / "centers.txt", found.parent / "pc.pkl"]
        needed += [found.parent / f"pc{i + 1}" / "z_pc.txt" for i in range(min(args.pc, _components(found.parent)))]
        if state.current(needed, sources):
            state.folder = found
            return _skip(found)
    if which.filtered and not results.analysis(which).is_dir():
        raise UserError(
            f"{which.label} has not been analyzed. Select its clusters with dsdsh analyze {results.root} … --kpc first."
        )
    request = AnalysisRequest(
        results=results,
        source=which,
        num_pcs=args.pc,
        clustering=_clustering(state, found),
        skip_umap=args.skip_umap,
    )
    state.folder = analyze_epoch(request)[0]
    if state.number == 1 and args.numk != 1:
        print("All particles form one cluster. They are divided in two, to test whether there is evidence for classes.")
        state.folder = analyze_epoch(replace(request, clustering=Clustering(2)))[0]
    print(f"Wrote {state.folder.parent} (clusters: {state.folder.name})")


def _existing_clusters(state: PipelineState) -> Path | None:
    """Return the folder of the requested clusters, or of the latest ones if no number is given."""
    folder = state.results.analysis(state.which)
    args = state.args
    if args.numk == "auto":
        return None
    if args.numk is not None:
        path = folder / f"{cluster_method(args)}{args.numk}" / "labels.pkl"
        return path.parent if path.is_file() else None
    method = (cluster_method(args),) if args.cluster or args.gmm else ()
    found = state.results.clusterings(state.which, *method)
    return found[-1] if found else None


def _clustering(state: PipelineState, found: Path | None) -> Clustering:
    from opustomo.analysis.clusters.clustering import Clustering

    number = state.args.numk
    chosen = Clustering(None if number == "auto" else number, cluster_method(state.args))
    if number is None and found is not None:
        chosen = Clustering.of_folder(found.name)  # of an earlier state of this epoch
    return Clustering(None, chosen.method) if chosen.method == "hdbscan" else chosen


def _components(folder: Path) -> int:
    """Return the number of principal components of an analysis; 0 if it is unknown."""
    path = folder / "explained_variance_ratio.txt"
    return len(path.read_text(encoding="utf-8").split()) if path.is_file() else 0


def _volumes(state: PipelineState) -> None:
    from opustomo.analysis.volumes.decoding import series_paths
    from opustomo.analysis.volumes.volume_sets import (
        VolumeSet,
        cluster_volume_set,
        decode_volume_set,
        holds_joint_volumes,
    )
    from opustomo.io.latents import read_latent_rows

    results, which = state.results, state.which
    weights = results.epoch_file("weights", which.epoch)
    tables = [state.clusters / "centers.txt"]
    tables += [state.clusters.parent / f"pc{i + 1}" / "z_pc.txt" for i in range(state.args.pc)]
    for table in filter(Path.is_file, tables):
        volumes = series_paths(table.parent, len(read_latent_rows(table)))
        joint = table == tables[0] and holds_joint_volumes(table.parent)
        if not joint and state.current(volumes, [table, weights]):
            _skip(table.parent)
            continue
        if table == tables[0]:
            chosen = cluster_volume_set(table)
        else:
            chosen = VolumeSet(read_latent_rows(table), table.parent, deform=False)
        written = decode_volume_set(results, which, chosen)
        print(f"Wrote {len(written)} volumes to {table.parent}")


def _particles(state: PipelineState) -> ParticleStar:
    from opustomo.io.star_tables import read_particles

    return read_particles(state.results.particle_table(state.args.star))


def _star_files(state: PipelineState) -> None:
    from opustomo.analysis.clusters.cluster_stars import load_labels, write_cluster_stars

    labels = load_labels(state.clusters / "labels.pkl")
    star = _particles(state)
    state.results.require_same_particles(star, len(labels), state.clusters / "labels.pkl")
    if state.args.refined:
        star = state.results.with_refined_poses(star, state.which.epoch)
    written = write_cluster_stars(star, labels, state.clusters, num_clusters=state.number)
    poses = "refined" if state.args.refined else "input"
    print(f"Wrote {len(written)} STAR files with the {poses} poses to {state.clusters} ({written[0].name} …)")


def _validate(state: PipelineState) -> None:
    from opustomo.quality.evidence.validation import ValidationRequest, validate_run
    from opustomo.quality.evidence.validation_files import CLASS_TABLE, DIFFERENCE_TABLE, VERDICT_FILE

    if state.args.skip_validation:
        print("Skipped because of --skip-validation. The report will have no verdict.")
        return
    verdict = state.clusters / VERDICT_FILE
    if state.current(
        [verdict, *(state.clusters / name for name in (CLASS_TABLE, DIFFERENCE_TABLE))],
        [state.clusters / "labels.pkl"],
    ):
        _skip(verdict)
        return
    validate_run(
        ValidationRequest(
            results=state.results,
            which=state.which,
            num_clusters=state.number,
            folder=state.clusters.name,
            star=state.args.star,
            mask=state.args.mask,
            device=state.args.device,
        )
    )


def _convergence(state: PipelineState) -> None:
    from opustomo.analysis.clusters.epoch_convergence import draw_convergence, measure_convergence, write_convergence

    results, number = state.results, state.number
    epochs = results.epochs()
    if len(epochs) < 2:
        print("Skipped because the run has only one saved epoch.")
        return
    table = results.root / "convergence.csv"
    sources = [results.epoch_file("z", epoch) for epoch in epochs] + [state.clusters / "labels.pkl"]
    if state.current([table], sources):
        _skip(table)
        return
    rows = measure_convergence(results, number)
    write_convergence(table, rows)
    draw_convergence(table.with_suffix(".png"), rows, number)
    print(f"Wrote {table}")


def _report(state: PipelineState) -> None:
    from opustomo.report.html_report import ReportRequest, write_report

    request = ReportRequest(state.results, state.which, state.clusters.name, state.args.star)
    path = write_report(request)
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _one_map(state: PipelineState) -> list[str]:
    """Return the words of the command that reconstructs half maps of all particles at the poses of this epoch."""
    from opustomo.commands.closing_messages import reconstruct_words

    results, which = state.results, state.which
    poses = results.epoch_file("pose", which.epoch)
    output = results.analysis(which) / "all.mrc"
    return reconstruct_words(results, state.results.particle_table(state.args.star), output, poses, state.args.mask)


def _difference_lines(folder: Path) -> list[str]:
    """Return the line that names the difference maps; none if there are none that show a difference."""
    import csv

    from opustomo.quality.evidence.validation_files import DIFFERENCE_TABLE

    table = folder / DIFFERENCE_TABLE
    if not table.is_file():
        return []
    with table.open(newline="", encoding="utf-8") as file:
        shown = [row["class"] for row in csv.DictReader(file) if float(row["fraction_beyond"]) > 0]
    shown = [number for number in shown if (folder / f"difference{number}.cxc").is_file()]
    if not shown:
        return []
    first = folder / f"difference{shown[0]}.cxc"
    others = f"; likewise {', '.join(shown[1:])}" if shown[1:] else ""
    return [f"  Open {first} in ChimeraX to see where class {shown[0]} differs from the others{others}."]


def _next_commands(state: PipelineState) -> list[str]:
    """Return what the user may do next, as lines of which the commands can be copied."""
    import json
    import shlex

    from opustomo.analysis.clusters.epoch_convergence import has_spread
    from opustomo.quality.evidence.motion_verdict import NOT_JUDGED
    from opustomo.quality.evidence.validation_files import VERDICT_FILE
    from opustomo.quality.evidence.verdicts import NO_EVIDENCE, SUPPORTED

    root, label, folder = str(state.results.root), state.which.label, state.clusters
    verdict_file = folder / VERDICT_FILE
    lines, other, to_select = [], state.number + 1, True
    motion: dict[str, str] = {}
    collapsed = not has_spread(state.results.load_latents(state.which.epoch)[0])
    reason = "another number of clusters"
    if verdict_file.is_file():
        verdict = json.loads(verdict_file.read_text(encoding="utf-8"))
        lines.append(f"Verdict: {verdict['verdict'].upper()}. {verdict['summary']}")
        to_select = not verdict["summary"].startswith(NO_EVIDENCE)  # a remark on the training may follow
        motion = verdict.get("motion") or {}
        collapsed |= bool(verdict.get("collapsed"))
        if motion:
            lines.append(f"Change along {motion['coordinate']}: {motion['verdict'].upper()}. {motion['reason']}")
            if motion["verdict"] == NOT_JUDGED and (described := state.results.analysis(state.which, True)).is_dir():
                lines[-1] += f" {described.name} describes them for scripts of OPUS-TOMO."
        stable = (verdict.get("stability") or {}).get("most_stable")
        if verdict["verdict"] == SUPPORTED:
            reason = "are there more classes?"
        elif (
            to_select
            and verdict.get("groups_differ", True)
            and 1 < (groups := len(verdict.get("groups") or [])) < state.number
        ):
            other, reason = groups, NAMED_GROUPS
        elif stable is not None and stable != state.number:
            other, reason = stable, "the most stable number of clusters"
    lines.append("Next:")
    training = _training_line(state, collapsed)
    lines += training
    lines.append(f"  Open {state.results.analysis(state.which) / 'report.html'} in a browser.")
    lines.append(f"  Open {folder / 'reference.cxc'} in ChimeraX to compare the maps of the clusters.")
    lines += _difference_lines(folder) if to_select else []
    if motion.get("verdict") == SUPPORTED:
        lines.append(f"  {shlex.join(['dsdsh', 'dynamics', root, label])}    # axes, angles and movies of the motion")
    star = state.results.particle_table(state.args.star)
    name = folder.name.removeprefix("kmeans")
    select = ["dsdsh", "select", str(star), root, label, "--clusters", f"{name}:0", "-o", "class0.star"]
    if to_select:
        lines.append(f"  {shlex.join(select)}    # particles of cluster 0; 0,2 or 0-2 for several")
    else:
        lines.append(f"  {shlex.join(_one_map(state))}    # one map of all particles at their refined poses")
    if not training or reason == NAMED_GROUPS:
        lines.append(f"  {shlex.join(['dsdsh', 'results', root, label, '-k', str(other)])}    # {reason}")
    return lines


def _training_line(state: PipelineState, collapsed: bool) -> list[str]:
    """Return the line of the command that continues an insufficient training; none if it sufficed."""
    import shlex

    from opustomo.commands.closing_messages import continued_training
    from opustomo.quality.evidence.training_state import needs_training
    from opustomo.training.monitors.convergence_state import latest_epoch

    results, epoch = state.results, state.which.epoch
    words: list[str] = []
    remark = ""
    if collapsed and (results.root / "state.pkl").is_file():
        words = [*continued_training(results), "--beta-control", "0.05"]
        remark = "if you expect several structures: latents may recover with a smaller weight of the KL divergence"
    elif needs_training(results.root, epoch):
        if epoch < results.epochs()[-1]:
            if latest_epoch(results.root) == epoch:
                return []
            words, remark = ["dsdsh", "results", str(results.root), "latest"], "this epoch had not converged"
        elif (results.root / "state.pkl").is_file():
            words, remark = continued_training(results), "the training had not converged"
    return [f"  {shlex.join(words)}    # {remark}"] if words else []
