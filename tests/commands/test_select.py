"""`dsdsh select` and `dsdsh artiax` on a small fabricated analysis, and on every kind of particle table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import starfile

from analysis_scripts.main import main as dsdsh
from opustomo.io.latents import write_latents
from opustomo.io.pickles import dump_pickle, load_pickle
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import ParticleStar, read_particles

COUNT, BOX, APIX = 30, 48, 8.0
TABLES = ["one_loop_16", "relion30_origins_6", "relion31_57", "relion4_300", "relion5_3d_5", "warp_relion30_1399"]


def fabricate(root: Path, count: int = COUNT) -> Path:
    """Epoch 4 of ``count`` particles, analyzed: three clusters by turns, known PCA scores and UMAP."""
    rng = np.random.default_rng(3)
    mu = rng.normal(size=(count, 2)) + 10 * (np.arange(count) % 3)[:, None]
    root.mkdir(parents=True)
    write_latents(root / "z.4.pkl", mu, rng.normal(size=(count, 1)))
    write_poses(root / "pose.4.pkl", Poses(rng.uniform(0, 90, (count, 3)), rng.normal(size=(count, 3)) / BOX))
    sizes = {"zdim": 2, "z_affine_dim": 1, "templateres": 32, "down_vol_size": 40, "Apix": APIX}
    dataset = {"downfrac": 1.0, "norm": [0, 1.0]}
    dump_pickle(root / "config.pkl", {"model_args": sizes, "lattice_args": {"D": BOX + 1}, "dataset_args": dataset})
    folder = root / "analyze.4"
    dump_pickle(folder / "pc.pkl", np.stack([np.arange(count), -np.arange(count)], 1).astype(np.float32))
    dump_pickle(folder / "umap.pkl", rng.uniform(0, 4, (count, 2)).astype(np.float32))
    dump_pickle(folder / "kmeans3" / "labels.pkl", np.arange(count) % 3)
    np.savetxt(folder / "kmeans3" / "centers.txt", mu[[0, 1, 2]])
    return root


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return fabricate(tmp_path / "my run")


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """RELION 4 with origins, of two tomograms, coordinates in pixels of the tilt series."""
    path = tmp_path / "my particles.star"
    columns = "rlnTomoName rlnCoordinateX rlnCoordinateY rlnCoordinateZ rlnAngleRot rlnAngleTilt rlnAnglePsi".split()
    columns += ["rlnOriginXAngst", "rlnOriginYAngst", "rlnOriginZAngst", "rlnOpticsGroup", "rlnRandomSubset"]
    lines = ["data_general", "_rlnTomoSubTomosAre2DStacks 0", "data_optics", "loop_", "_rlnOpticsGroup #1"]
    lines += ["_rlnImagePixelSize #2", "_rlnTomoTiltSeriesPixelSize #3", "1 8.000 2.000", "2 8.000 2.000"]
    lines += ["data_particles", "loop_", *(f"_{name} #{i + 1}" for i, name in enumerate(columns))]
    lines += [
        f"some/TS_{1 + i % 2}.tomostar {100 + i}.5 {200 + i} 50.0 1{i}.10 {i}.25 -{i}.5 {i}.0 0.0 -4.0 "
        f"{1 + i % 2} 0{i % 2}"
        for i in range(COUNT)
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def select(run: Path, star: Path, *words: object, which: str = "4") -> list[int]:
    """Run the command; the indices chosen, checked against the rows written."""
    out = star.with_name("chosen ones.star")
    assert dsdsh(["select", str(star), str(run), which, "-o", str(out), *map(str, words)]) == 0
    indices = load_pickle(star.with_name("chosen ones_ind.pkl"))
    assert indices.dtype == np.int64
    whole, part = read_particles(star), read_particles(out)
    pd.testing.assert_frame_equal(part.particles, whole.particles.iloc[indices].reset_index(drop=True))
    return indices.tolist()


def mistake(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert dsdsh([str(word) for word in words]) == 1
    message = capsys.readouterr().err.strip()
    assert "\n" not in message
    return message


def test_by_cluster_range_and_both(run: Path, star: Path) -> None:
    assert select(run, star, "--clusters", "3:0,2") == [i for i in range(COUNT) if i % 3 != 1]
    assert select(run, star, "--range", "pc1=4:9.5") == [4, 5, 6, 7, 8, 9]
    assert select(run, star, "--range", "pc1=4:", "--range", "pc2=-6:") == [4, 5, 6]
    assert select(run, star, "--range", "pc2=:-27") == [27, 28, 29]
    assert select(run, star, "--range", "pc1=:9", "--clusters", "3:1") == [1, 4, 7]
    assert select(run, star, "--range", "pc1=:9", "--clusters", "3:1", "--invert") == [
        i for i in range(COUNT) if i not in (1, 4, 7)
    ]
    import torch

    content = torch.load(run / "z.4.pkl")
    assert select(run, star, "--range", "z2=5:15") == np.flatnonzero(abs(content["mu"][:, 1] - 10) <= 5).tolist()
    assert select(run, star, "--range", "conf1=0:") == np.flatnonzero(content["multi_mu"][:, 0] >= 0).tolist()


def test_by_polygon(run: Path, star: Path, tmp_path: Path) -> None:
    np.savetxt(tmp_path / "a lasso.txt", [[1, 1], [3, 1], [1, 3]])
    x, y = load_pickle(run / "analyze.4" / "umap.pkl").T
    inside = np.flatnonzero((x > 1) & (y > 1) & (x + y < 4))
    assert 2 <= len(inside) < COUNT
    assert select(run, star, "--polygon", "umap", tmp_path / "a lasso.txt") == inside.tolist()
    np.savetxt(tmp_path / "box.txt", [[2.5, -5.5], [5.5, -5.5], [5.5, 0], [2.5, 0]])
    for plane in ("pc", "pc1,pc2"):
        assert select(run, star, "--polygon", plane, tmp_path / "box.txt") == [3, 4, 5]


def test_by_distance_and_list(run: Path, star: Path, tmp_path: Path) -> None:
    import torch

    mu = torch.load(run / "z.4.pkl")["mu"].numpy().astype(float)
    distance = np.linalg.norm(mu - mu[1], axis=1)
    assert select(run, star, "--near", "3:1", "--within", "1.2") == np.flatnonzero(distance <= 1.2).tolist()
    nearest = sorted(np.argsort(distance)[:5].tolist())
    assert select(run, star, "--near-particle", 1, "--nearest", 5) == nearest
    dump_pickle(tmp_path / "ind.pkl", np.array([17, 3, 8]))
    assert select(run, star, "--ind", tmp_path / "ind.pkl") == [3, 8, 17]
    (tmp_path / "report.txt").write_text("8\n29\n")
    assert select(run, star, "--ind", tmp_path / "report.txt") == [8, 29]


def test_of_a_second_round(run: Path, star: Path) -> None:
    members = np.arange(0, COUNT, 2)
    folder = run / "analyze.filter.4"
    labels = np.full(COUNT, 2)
    labels[members] = np.arange(len(members)) % 2
    dump_pickle(folder / "ind.filter.4.pkl", members)
    dump_pickle(folder / "kmeans2" / "labels.pkl", labels)
    dump_pickle(folder / "pc.pkl", np.arange(len(members), dtype=np.float32)[:, None])
    assert select(run, star, "--clusters", "2:1", which="filter.4") == members[1::2].tolist()
    assert select(run, star, "--clusters", "2:1", "--invert", which="filter.4") == members[0::2].tolist()
    assert select(run, star, "--range", "pc1=3:4", which="filter.4") == [6, 8]


def test_refined_poses_of_the_run(run: Path, star: Path, tmp_path: Path) -> None:
    out = tmp_path / "refined.star"
    assert dsdsh(["select", str(star), str(run), "4", "-o", str(out), "--clusters", "3:2", "--refined"]) == 0
    from opustomo.io.poses import read_poses

    poses = read_poses(run / "pose.4.pkl")
    part = read_particles(out)
    np.testing.assert_allclose(part.eulers_deg(), poses.eulers_deg[2::3], atol=1e-5)
    angst = np.stack([part.numbers(f"rlnOrigin{axis}Angst") for axis in "XYZ"], 1)
    np.testing.assert_allclose(angst, poses.origins[2::3] * BOX * APIX, atol=1e-5)
    assert part.strings("rlnRandomSubset") == [f"0{i % 2}" for i in range(2, COUNT, 3)]


def test_errors(run: Path, star: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.star"
    start = ("select", star, run, 4, "-o", out)
    np.savetxt(tmp_path / "line.txt", [[0, 0], [1, 1]])
    for words, reason in (
        ((), "No selection criterion is given"),
        (("--range", "pc1=50:60"), "No particle fulfills all selection criteria"),
        (("--range", "pc7=0:1"), "pc1 to pc2"),
        (("--range", "pc1=2:1"), "lower bound first"),
        (("--range", "pc1=a:1"), "not of the form AXIS=low:high"),
        (("--range", "banana1=0:1"), "is not an axis"),
        (("--clusters", "3:7"), "not among the clusters 0-2"),
        (("--clusters", "9:7"), "analyze.4 contains kmeans3"),
        (("--polygon", "umap", tmp_path / "line.txt"), "three vertices"),
        (("--polygon", "umap1", tmp_path / "line.txt"), "two axes"),
        (("--near", "3:1"), "--within or --nearest"),
        (("--within", 2), "--within or --nearest"),
        (("--near", "3:0-1", "--within", 2), "exactly one cluster"),
        (("--near-particle", 30, "--within", 2), "particle 30 does not exist"),
        (("--ind", tmp_path / "absent.pkl"), "absent.pkl"),
    ):
        assert reason in mistake(capsys, *start, *words)
    (run / "particles.selected.star").touch()
    shorter = tmp_path / "shorter.star"
    shorter.write_text("\n".join(star.read_text().splitlines()[:-1]) + "\n")
    message = mistake(capsys, "select", shorter, run, 4, "-o", out, "--clusters", "3:1")
    assert "has 29 particles" in message and "particles.selected.star" in message
    assert not out.exists() and not out.with_name("out_ind.pkl").exists()


@pytest.mark.parametrize("refined", [False, True])
@pytest.mark.parametrize("name", [*TABLES, "relion31_6optics"])
def test_every_kind_of_table_goes_back(shared_data: Path, tmp_path: Path, name: str, refined: bool) -> None:
    """starfile reads the same types and optics groups from the selection as from the whole table."""
    source = shared_data / "star" / f"{name}.star"
    whole = starfile.read(source, always_dict=True)
    block = read_particles(source).particle_block
    count = len(whole[block])
    run = fabricate(tmp_path / "a run", count)
    out = tmp_path / "some where" / "part.star"
    words = ["--refined"] if refined else []
    assert dsdsh(["select", str(source), str(run), "4", "-o", str(out), "--clusters", "3:0,2", *words]) == 0
    part = starfile.read(out, always_dict=True)
    chosen = np.flatnonzero(np.arange(count) % 3 != 1)
    assert list(part) == list(whole)
    for name_of, table in whole.items():
        expected = table.iloc[chosen].reset_index(drop=True) if name_of == block else table
        found = part[name_of]
        if refined and name_of == block:
            poses = [c for c in found if c.startswith(("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOrigin"))]
            assert all(found[column].dtype == np.float64 for column in poses)
            found, expected = found.drop(columns=poses), expected.drop(columns=poses, errors="ignore")
        pd.testing.assert_frame_equal(found, expected)
    if "optics" in part:
        assert set(part[block]["rlnOpticsGroup"]) <= set(part["optics"]["rlnOpticsGroup"])


def artiax(run: Path, star: Path, *words: object) -> dict[str, pd.DataFrame]:
    assert dsdsh(["artiax", str(star), str(run), "4", "3", *map(str, words)]) == 0
    folder = run / "analyze.4" / "kmeans3" / "artiax"
    return {path.name: starfile.read(path) for path in sorted(folder.iterdir())}


def test_places_in_tomograms(run: Path, star: Path) -> None:
    files = artiax(run, star)
    assert list(files) == ["TS_1.star", "TS_2.star"]
    table = files["TS_2.star"]
    rows = np.arange(1, COUNT, 2)
    # tilt-series pixels of 2 Å; an origin of i Å moves the particle by -i/2 pixels
    np.testing.assert_allclose(table["rlnCoordinateX"], 100.5 + rows - rows / 2, atol=1e-3)
    np.testing.assert_allclose(table["rlnCoordinateZ"], 52.0, atol=1e-3)
    np.testing.assert_allclose(table["rlnAngleTilt"], rows + 0.25)
    assert (
        table["rlnClassNumber"].tolist() == (rows % 3 + 1).tolist() and table["opusParticle"].tolist() == rows.tolist()
    )
    assert (table[["rlnOriginX", "rlnOriginY", "rlnOriginZ"]] == 0).all(axis=None)
    binned = artiax(run, star, "--tomo-angpix", 10)["TS_2.star"]
    np.testing.assert_allclose(binned["rlnCoordinateX"], (100.5 + rows / 2) / 5, atol=1e-3)
    assert (binned["rlnPixelSize"] == 10).all()
    own = artiax(run, star, "--coord-angpix", 8)["TS_2.star"]
    np.testing.assert_allclose(own["rlnCoordinateX"], 100.5 + rows - rows / 8, atol=1e-3)


def test_places_of_every_kind_of_table(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in TABLES:
        source = shared_data / "star" / f"{name}.star"
        star: ParticleStar = read_particles(source)
        run = fabricate(tmp_path / name, len(star))
        words: list[object] = []
        if name == "relion5_3d_5":
            assert "--tomo-size" in mistake(capsys, "artiax", source, run, 4, 3)
            words = ["--tomo-size", 1000, 800, 400]
        tables = artiax(run, source, *words)
        assert sum(len(table) for table in tables.values()) == len(star)
        everything = pd.concat(tables.values()).sort_values("opusParticle")
        if name == "relion5_3d_5":
            apix = star.value_per_particle("rlnTomoTiltSeriesPixelSize")
            assert apix is not None
            shift = star.numbers("rlnCenteredCoordinateYAngst") - star.numbers("rlnOriginYAngst")
            np.testing.assert_allclose(everything["rlnCoordinateY"], shift / apix + 400, atol=2e-3)
        elif name == "relion30_origins_6":
            wanted = star.numbers("rlnCoordinateZ") - star.numbers("rlnOriginZ")
            np.testing.assert_allclose(everything["rlnCoordinateZ"], wanted, atol=2e-3)
