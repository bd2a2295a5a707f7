"""A fabricated analyzed run and its report."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from analysis_scripts.main import main as dsdsh
from opustomo.analysis.figures import latent_figures
from opustomo.io.latents import write_latents
from opustomo.io.mrc import write_volume
from opustomo.io.pickles import dump_pickle
from opustomo.io.poses import Poses, write_poses
from opustomo.physics.boxes import Boxes
from opustomo.report import report_volumes

COUNT, CLUSTERS, SAMPLED = 120, 3, 12
LINE = (
    "2026-01-31 12:00:00     # =====> Epoch: {} Average {} gen_loss = {:.5f}, SNR2 = 0.01, total loss = -0.2; "
    "Finished in 0:01:02"
)
TOMOGRAMS = ("TS_01.tomostar", "TS & </script><b>02</b>", "TS_03.tomostar")


def write_star(path: Path, eulers: np.ndarray, places: np.ndarray, scores: np.ndarray) -> None:
    """Write a table whose tomogram names contain characters that must be escaped in HTML."""
    import pandas as pd
    import starfile

    columns: dict[str, object] = {
        "rlnMicrographName": [TOMOGRAMS[i % 3] for i in range(len(eulers))],
        "rlnImageName": [f"subtomo/{i:04d}.mrc" for i in range(len(eulers))],
        "rlnAutopickFigureOfMerit": scores,
    }
    columns |= {f"rlnCoordinate{axis}": places[:, i] for i, axis in enumerate("XYZ")}
    columns |= {f"rlnAngle{name}": eulers[:, i] for i, name in enumerate(("Rot", "Tilt", "Psi"))}
    starfile.write(pd.DataFrame(columns), path)


def fabricate(root: Path) -> Path:
    """Write the result folder of epoch 4 with three clusters, an embedding and volumes."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, CLUSTERS, COUNT)
    mu = (8.0 * np.eye(CLUSTERS, 5)[truth] + rng.normal(scale=0.4, size=(COUNT, 5))).astype(np.float32)
    root.mkdir(parents=True)
    write_latents(root / "z.4.pkl", mu)
    eulers = np.stack([rng.uniform(-180, 180, COUNT), rng.uniform(0, 180, COUNT), rng.uniform(-180, 180, COUNT)], 1)
    write_poses(root / "pose.4.pkl", Poses(eulers, np.zeros((COUNT, 3))))
    lines = [LINE.format(e, part, -0.1 * e) for e in (1, 2, 3, 4, 5) for part in ("training", "validation")]
    (root / "run.log").write_text("\n".join(lines))
    write_star(root / "all.star", eulers, rng.uniform(0, 500, (COUNT, 3)), rng.uniform(0, 1, COUNT))
    (root / "analyze.4").mkdir()
    dump_pickle(root / "analyze.4" / "umap.pkl", (mu[:, :2] * 3 + rng.normal(size=(COUNT, 2))).astype(np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latent_figures, "DPI", 30)
        assert dsdsh(["analyze", str(root), "4", "2", str(CLUSTERS), "--skip-umap"]) == 0
    for folder, number in (("kmeans3", 3), ("pc1", 10), ("pc2", 10)):
        for i in range(number):
            volume = np.zeros((16, 16, 16), dtype=np.float32)
            volume[5 : 6 + i, 4:9, 3:13] = 1.0
            write_volume(root / "analyze.4" / folder / f"reference{i}.mrc", volume, 6.0)
    return root


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the fabricated run; tests must not write into it."""
    return fabricate(tmp_path_factory.mktemp("report") / "a <run>")


def balls(latents: np.ndarray, apix: float) -> torch.Tensor:
    """Decode each latent to a ball whose radius in voxels is the first latent plus 2."""
    at = torch.arange(16.0) - 8
    radius = (at[:, None, None] ** 2 + at[:, None] ** 2 + at**2).sqrt()
    return torch.stack([torch.sigmoid(2 + float(abs(z[0])) / 4 - radius) for z in latents])


@pytest.fixture(scope="session")
def page(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of the fabricated run."""
    path = tmp_path_factory.mktemp("page") / "my page.html"
    decoder = SimpleNamespace(boxes=Boxes(16, 6.0, 16, 16), bodies=None, volumes=balls)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_volumes, "_decoder", lambda *_: decoder)
        words = ["report", str(run), "4", "--star", str(run / "all.star"), "-o", str(path)]
        words += ["--particle-volumes", str(SAMPLED)]
        assert dsdsh(words) == 0
    return path
