"""Crafted pickles and torch files are refused by every command that reads one, and no code in them runs."""

from __future__ import annotations

import ast
import contextlib
import io
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import analysis_scripts.main
import opustomo.main
from opustomo.analysis.figures import latent_figures
from opustomo.io.indices import read_indices
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import write_poses
from opustomo.io.star_poses import poses_from_star
from opustomo.io.star_tables import read_particles
from tests.commands.quick import SMALL, own_copy, train, use_tiny_networks

ROOT = Path(__file__).resolve().parents[2]
COUNT = 6
TRAIN = ["dsd", "train_tomo", "{set}/particles.star", *SMALL, "--overwrite"]
ANALYZE = "dsdsh analyze {run} 0 1 2 --skip-umap"
REPORT = "dsdsh report {run} 0 --skip-vol -k 2"

CASES = {  # name: (the file that is crafted, the command that reads it)
    "poses of training": ("{set}/poses.pkl", [*TRAIN, "-o", "{new}", "--poses", "{set}/poses.pkl"]),
    "indices of training": ("{set}/ind.pkl", [*TRAIN, "-o", "{new}", "--ind", "{set}/ind.pkl"]),
    "split": ("{run}/split.pkl", [*TRAIN, "-o", "{new}", "--split", "{run}/split.pkl"]),
    "state of the run": ("{run}/state.pkl", [*TRAIN, "-o", "{run}", "--load", "latest"]),
    "state beside weights": ("{run}/state.pkl", [*TRAIN, "-o", "{new}", "--load", "{run}/weights.0.pkl"]),
    "weights to go on from": ("{old}/weights.0.pkl", [*TRAIN, "-o", "{new}", "--load", "{old}/weights.0.pkl"]),
    "latents beside weights": ("{old}/z.0.pkl", [*TRAIN, "-o", "{new}", "--load", "{old}/weights.0.pkl"]),
    "poses beside weights": ("{old}/pose.0.pkl", [*TRAIN, "-o", "{new}", "--load", "{old}/weights.0.pkl"]),
    "latents of training": (
        "{set}/z.pkl", [*TRAIN, "-o", "{new}", "--load", "{old}/weights.0.pkl", "--latents", "{set}/z.pkl"]
    ),
    "poses of check": ("{set}/poses.pkl", "dsd check {set}/particles.star --poses {set}/poses.pkl"),
    "weights": ("{run}/weights.0.pkl", "dsd eval_vol --load {run}/weights.0.pkl -z 0 0 -o {new}"),
    "config": ("{run}/config.pkl", "dsd eval_vol --load {run}/weights.0.pkl -z 0 0 -o {new}"),
    "latents": ("{run}/z.0.pkl", ANALYZE),
    "latents of cryoDRGN": ("{run}/z.0.pkl", "dsd analyze {run} 0 --vanilla --skip-vol --skip-umap"),
    "poses": ("{run}/pose.0.pkl", ANALYZE),
    "poses of analyze": ("{set}/poses.pkl", "dsd analyze {run} 0 --skip-vol --skip-umap --pose {set}/poses.pkl"),
    "embedding": ("{run}/analyze.0/umap.pkl", ANALYZE),
    "embedding of the second round": ("{run}/analyze.filter.0/ind.filter.0.pkl", f"{ANALYZE} --kpc 2:0-1"),
    "labels of the second round": ("{run}/analyze.0/kmeans2/labels.pkl", f"{ANALYZE} --kpc 2:0-1"),
    "weights of an analysis": ("{run}/weights.0.pkl", "dsdsh eval_vol {run} 0 kmeans 2 12"),
    "config of an analysis": ("{run}/config.pkl", "dsdsh eval_vol {run} 0 pc 1 12"),
    "config for a box": ("{run}/config.pkl", "dsd analyze {run} 0 --skip-umap -d 20"),
    "labels": ("{run}/analyze.0/kmeans2/labels.pkl", "dsdsh parse_pose {set}/particles.star 24 12 {run} 0 2"),
    "refined poses": ("{run}/pose.0.pkl", "dsdsh parse_pose {set}/particles.star 24 12 {run} 0 2 --refined"),
    "labels of a report": ("{run}/analyze.0/kmeans2/labels.pkl", REPORT),
    "components of a report": ("{run}/analyze.0/pc.pkl", REPORT),
    "embedding of a report": ("{run}/analyze.0/umap.pkl", REPORT),
    "poses of a report": ("{run}/pose.0.pkl", REPORT),
    "split of a report": ("{run}/split.pkl", REPORT),
    "indices of a report": ("{run}/analyze.filter.0/ind.filter.0.pkl", "dsdsh report {run} filter.0 --skip-vol -k 2"),
    "labels to validate": ("{run}/analyze.0/kmeans2/labels.pkl", "dsdsh validate {run} 0 2 --device cpu"),
    "config to validate": ("{run}/config.pkl", "dsdsh validate {run} 0 2 --device cpu"),
    "indices to validate": ("{set}/ind.pkl", "dsdsh validate {run} 0 2 --device cpu --ind {set}/ind.pkl"),
    "latents of convergence": ("{run}/z.0.pkl", "dsdsh convergence {run}"),
    "poses to reconstruct": (
        "{set}/poses.pkl", "dsd reconstruct {set}/particles.star -o {new}.mrc --poses {set}/poses.pkl --device cpu"
    ),
    "indices to reconstruct": (
        "{set}/ind.pkl", "dsd reconstruct {set}/particles.star -o {new}.mrc --ind {set}/ind.pkl --device cpu"
    ),
    "labels to split by": (
        "{set}/labels.pkl", "dsd parse_pose_star {set}/particles.star -D 24 --labels {set}/labels.pkl --outdir {new}"
    ),
    "poses to put in": (
        "{set}/poses.pkl", "dsd parse_pose_star {set}/particles.star -D 24 --poses {set}/poses.pkl -o {new}"
    ),
}  # fmt: skip


class Payload:
    """Object that creates a file when it is unpickled."""

    def __init__(self, witness: Path) -> None:
        self.witness = witness

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.witness}'",)


@pytest.fixture(scope="module")
def places(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A set, a run with all its analyses, and a run without state."""
    root = tmp_path_factory.mktemp("untrusted")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()):
        use_tiny_networks(patch)
        patch.setattr(latent_figures, "DPI", 30)
        star = own_copy(tiny_set, root / "set", COUNT)
        assert train(star, root / "run", "-n", "1", "-b", "6", "--valfrac", "0")[0] == 0
        shutil.copytree(root / "run", root / "old", ignore=shutil.ignore_patterns("state.pkl"))
        (root / "run" / "analyze.0").mkdir()
        dump_pickle(root / "run" / "analyze.0" / "umap.pkl", np.random.default_rng(0).normal(size=(COUNT, 2)))
        for words in (ANALYZE, f"{ANALYZE} --kpc 2:0-1"):
            assert analysis_scripts.main.main(words.format(run=root / "run").split()[1:]) == 0
        second = root / "run" / "analyze.filter.0"
        dump_pickle(second / "umap.pkl", np.random.default_rng(0).normal(size=(COUNT, 2)))
        write_poses(root / "set" / "poses.pkl", poses_from_star(read_particles(star), 24, 12.0))
        dump_pickle(root / "set" / "ind.pkl", np.arange(COUNT))
        for copy in (root / "set" / "z.pkl", root / "run" / "z.1.pkl"):
            shutil.copy(root / "run" / "z.0.pkl", copy)
        dump_pickle(root / "set" / "labels.pkl", np.arange(COUNT) % 2)
        yield root


def run_case(root: Path, words: str | list[str]) -> tuple[int, str]:
    """Run a command of the table and return its exit code and output."""
    where = {name: root / name for name in ("set", "run", "old", "new")}
    program, *rest = [word.format(**where) for word in (words.split() if isinstance(words, str) else words)]
    main = opustomo.main.main if program == "dsd" else analysis_scripts.main.main
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        code = main(rest)
    return code, said.getvalue()


@pytest.mark.parametrize("name", CASES)
def test_a_crafted_file_is_refused(name: str, places: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_networks(monkeypatch)
    monkeypatch.setattr(latent_figures, "DPI", 30)
    file, words = CASES[name]
    for form in ("pickle", "torch"):
        root, witness = Path(shutil.copytree(places, tmp_path / form)), tmp_path / f"witness {form}"
        path = Path(file.format(**{part: root / part for part in ("set", "run", "old")}))
        assert path.is_file(), "the command could not read what is not there"
        content = {"mu": Payload(witness), "decoder_state_dict": {"x": Payload(witness)}}
        if form == "torch":
            torch.save(content, path)
        else:
            path.write_bytes(pickle.dumps(content))
        code, said = run_case(root, words)
        assert code == 1
        assert ": error: " in said.splitlines()[-1]
        assert f"{path}: refused as a" in said, said
        assert "Traceback" not in said
        assert not witness.exists()


def test_the_payload_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Payload(tmp_path / "witness")))
    assert (tmp_path / "witness").exists()


def test_text_lists_of_indices_are_no_pickles(tmp_path: Path) -> None:
    (tmp_path / "ind.txt").write_bytes(pickle.dumps(Payload(tmp_path / "witness")))
    with pytest.raises(Exception, match=r"ind\.txt"):
        read_indices(tmp_path / "ind.txt", 5)
    assert not (tmp_path / "witness").exists()


def test_nothing_else_unpickles() -> None:
    """Only one module calls functions that can execute code in files; NumPy reads no pickles."""
    risky = {("pickle", "load"), ("pickle", "loads"), ("pickle", "Unpickler"), ("torch", "load"), ("pd", "read_pickle")}
    found = set()
    for path in [*(ROOT / "opustomo").rglob("*.py"), *(ROOT / "analysis_scripts").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            call = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
            if call and (node.value.id, node.attr) in risky:  # type: ignore[attr-defined]
                found.add(path.relative_to(ROOT).as_posix())
            if isinstance(node, ast.ImportFrom) and node.module in ("pickle", "joblib", "dill"):
                found.add(path.relative_to(ROOT).as_posix())
            if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
                assert isinstance(node.value, ast.Constant) and node.value.value is False, path
    assert found == {"opustomo/io/pickles.py"}
