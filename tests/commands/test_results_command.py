"""`dsdsh results`: from a trained run to the report in one command."""

import argparse
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.commands.options import selected_round
from opustomo.commands.run_results import PipelineState, _next_commands, add_arguments
from opustomo.io.latents import read_latents, write_latents
from opustomo.io.star_tables import read_particles
from opustomo.main import main as dsd
from opustomo.quality.evidence.verdicts import NO_EVIDENCE

STEPS = 6


@pytest.fixture
def run(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The trained run with linked weights, in which results can be written; nothing says that it is too short."""
    monkeypatch.setattr(latent_figures, "DPI", 30)
    root = tmp_path / "a run"
    root.mkdir()
    for path in trained_run.iterdir():
        if path.name.startswith(("weights.", "state")):
            (root / path.name).symlink_to(path)
        elif path.is_file():
            shutil.copy2(path, root / path.name)
    (root / "epochs.csv").unlink()
    for path in root.glob("z.*.pkl"):  # without a lower spread than the prior
        mu, conformations = read_latents(path)
        write_latents(path, np.random.default_rng(0).normal(size=mu.shape), conformations)
    return root


def test_one_command_makes_all_results_and_resumes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["results", str(run), "-k", "2", "--pc", "1", "--skip-umap"]
    assert dsdsh(words) == 0
    out = capsys.readouterr().out
    assert [f"[{i}/{STEPS}]" in out for i in range(1, STEPS + 1)] == [True] * STEPS and "Up to date" not in out
    analysis, clusters = run / "analyze.1", run / "analyze.1" / "kmeans2"
    wanted = [clusters / name for name in ("labels.pkl", "reference1.mrc", "pre0.star", "validation_verdict.json")]
    wanted += [analysis / "pc1" / "reference9.mrc", analysis / "report.html", run / "convergence.csv"]
    assert all(path.is_file() for path in wanted)
    assert sum(len(read_particles(clusters / f"pre{i}.star")) for i in range(2)) == 16
    end = out[out.index("Verdict: ") :]
    assert f"Open {analysis / 'report.html'}" in end and "dsdsh select " in end and "--clusters 2:0" in end
    assert "dsd reconstruct" not in end
    # a verdict that finds another number more stable proposes it
    verdict = json.loads((clusters / "validation_verdict.json").read_text())
    (clusters / "validation_verdict.json").write_text(
        json.dumps(verdict | {"stability": {"ari": {"2": 0.4, "5": 0.9}, "most_stable": 5}})
    )
    # a second call repeats only what is quick
    times = {path: path.stat().st_mtime_ns for path in wanted}
    assert dsdsh(["results", str(run), "--pc", "1"]) == 0  # the clusters are those of the latest analysis
    out = capsys.readouterr().out
    assert out.count("Up to date") == 5 and "-k 5    # the most stable number of clusters" in out
    changed = {path.name for path, time in times.items() if path.stat().st_mtime_ns != time}
    assert changed == {"pre0.star", "report.html"}
    # without evidence for classes, the next command makes one map of all particles instead of selecting a class
    (clusters / "validation_verdict.json").write_text(
        json.dumps(verdict | {"verdict": "not supported", "summary": f"{NO_EVIDENCE} Note that the training is short."})
    )
    assert dsdsh(["results", str(run), "--pc", "1"]) == 0
    end = capsys.readouterr().out.split("Next:")[1]
    (line,) = [line for line in end.splitlines() if "dsd reconstruct" in line]
    assert "dsdsh select" not in end and "--poses" in line and "--normalizectf" in line
    assert dsd(shlex.split(line, comments=True)[1:]) == 0
    assert (analysis / "all_half2.mrc").is_file() and (analysis / "all_fsc.csv").is_file()
    capsys.readouterr()
    # a pixel size that is not that of the template is written, but not silently
    for apix, warns in (("11", True), ("12", False)):
        assert dsdsh(["eval_vol", str(run), "latest", "kmeans", "2", apix]) == 0
        assert ("The template has 12 Å per voxel" in capsys.readouterr().out) == warns
    # other labels make validation and convergence anew, without the analysis before them
    (clusters / "labels.pkl").touch()
    (clusters / "validation_verdict.json").unlink()
    assert dsdsh([*words, "--skip-validation"]) == 0
    out = capsys.readouterr().out
    assert "Skipped because of --skip-validation" in out and not (clusters / "validation_verdict.json").exists()
    assert out.count("Up to date") == 3 and "Verdict: " not in out


def test_a_motion_is_part_of_the_last_lines(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["results", str(run), "-k", "2", "--pc", "1", "--skip-umap"]
    assert dsdsh(words) == 0
    path = run / "analyze.1" / "kmeans2" / "validation_verdict.json"
    verdict = json.loads(path.read_text())
    assert verdict["verdict"] == "cannot tell"  # of 16 particles
    name = "the first principal component of the conformation latents"
    motion = {"coordinate": name, "verdict": "supported", "reason": "The change is continuous."}
    path.write_text(json.dumps(verdict | {"motion": motion}))
    capsys.readouterr()
    assert dsdsh(words) == 0
    said = capsys.readouterr().out.split("Verdict: CANNOT TELL")[1]
    assert f"Change along {name}: SUPPORTED. The change is continuous." in said
    assert f"dsdsh dynamics '{run}' 1" in said
    # a run without bodies says why its motion is not judged
    path.write_text(json.dumps(verdict))
    assert dsdsh(words) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "NOT JUDGED" in line]
    assert "trained without --masks. defanalyze.1 describes them" in line


def test_an_insufficient_training_is_continued_before_another_number_is_tried(
    run: Path, trained_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["results", str(run), "-k", "2", "--pc", "1", "--skip-umap", "--skip-validation"]
    assert dsdsh(words) == 0
    assert "-k 3    # another number of clusters" in capsys.readouterr().out
    shutil.copy2(trained_run / "epochs.csv", run)
    assert dsdsh(words) == 0
    first, *others = capsys.readouterr().out.split("Next:\n")[1].splitlines()
    command = f"dsd train_tomo --load latest -o '{run}' -n 4"
    assert re.fullmatch(rf"  {re.escape(command)} --lr \S+    # the training had not converged", first)
    assert not any("-k" in line for line in others)
    assert dsdsh([*words[:2], "0", *words[2:]]) == 0
    first, *others = capsys.readouterr().out.split("Next:\n")[1].splitlines()
    assert first == f"  dsdsh results '{run}' latest    # this epoch had not converged"
    # collapsed latents
    shutil.copy2(trained_run / "z.1.pkl", run)
    assert dsdsh([*words[:2], "1", *words[2:]]) == 0
    first, *others = capsys.readouterr().out.split("Next:\n")[1].splitlines()
    assert first.startswith(f"  {command} ") and "--beta-control 0.05    # if you expect several structures" in first
    assert not any("-k" in line for line in others)


def test_the_next_number_is_that_of_the_groups_that_differ(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["results", str(run), "-k", "3", "--pc", "1", "--skip-umap", "--skip-validation"]
    assert dsdsh(words) == 0
    path = run / "analyze.1" / "kmeans3" / "validation_verdict.json"
    verdict = {"verdict": "not supported", "summary": "3 classes are more than the data support.", "motion": None}
    path.write_text(json.dumps(verdict | {"groups": [[0, 1], [2]], "stability": {"most_stable": 4}, "reasons": []}))
    table = path.with_name("validation_differences.csv")
    table.write_text("class,threshold,fraction_beyond\n0,4.1,0\n1,4.2,0.1\n2,4.3,0.2\n")
    for name in ("difference1.cxc", "difference2.cxc"):
        path.with_name(name).touch()
    capsys.readouterr()
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    state = PipelineState(parser.parse_args(words[1:]), *selected_round(run, "1"), folder=path.parent)
    lines = _next_commands(state)
    assert any(line.endswith("-k 2    # the number of groups that the verdict names") for line in lines)
    named = f"Open {path.with_name('difference1.cxc')} in ChimeraX to see where class 1 differs from the others"
    assert f"  {named}; likewise 2." in lines
    # groups that are not all shown to differ are no better than the most stable number
    path.write_text(json.dumps(json.loads(path.read_text()) | {"groups_differ": False}))
    assert _next_commands(state)[-1].endswith("-k 4    # the most stable number of clusters")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"groups_differ": True, "collapsed": True}))
    lines = _next_commands(state)
    assert "--beta-control 0.05" in lines[lines.index("Next:") + 1] and "-k 2" in lines[-1]


def test_the_number_of_clusters_is_chosen_anew(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """16 particles are too few for two clusters of 20: the number of an earlier analysis is not kept.

    Two clusters are then made to test whether there is evidence for classes, but not if one was asked for.
    """
    words = ["results", str(run), "--pc", "1", "--skip-umap", "--skip-validation"]
    assert dsdsh([*words, "-k", "3"]) == 0
    capsys.readouterr()
    assert dsdsh([*words, "-k", "auto"]) == 0
    said = capsys.readouterr().out
    assert "All particles form one cluster. They are divided in two" in said and "(clusters: kmeans2)" in said
    assert dsdsh([*words, "-k", "1"]) == 0
    said = capsys.readouterr().out
    assert "kmeans1" in said and "divided in two" not in said
    assert dsdsh([*words, "-k", "some"]) != 0
    assert "must be auto or a number" in capsys.readouterr().err


def test_a_step_that_fails_names_itself_and_is_resumed(
    run: Path, tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["results", str(run), "latest", "-k", "2", "--pc", "1", "--skip-umap", "--skip-validation"]
    assert dsdsh([*words, "--star", str(tmp_path / "absent.star")]) == 1
    error = capsys.readouterr().err
    assert "step 3 of 6" in error and "absent.star" in error and "the same command resumes here" in error
    assert dsdsh([*words, "--star", str(tiny_set / "particles.star")]) == 0
    assert capsys.readouterr().out.count("Up to date") == 3
    assert dsdsh(["results", str(run), "1", "-k", "99"]) == 1
    error = capsys.readouterr().err
    assert "step 1 of 6" in error and "16 particles cannot be divided into 99 clusters" in error
