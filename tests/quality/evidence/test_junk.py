"""`dsdsh junk` on simulated picks: one molecule, two others and empty boxes, with latents that mix them."""

import csv
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import opustomo
from analysis_scripts.main import main as dsdsh
from opustomo.data.config import DataConfig
from opustomo.data.particles import load_particles
from opustomo.io.latents import write_latents
from opustomo.io.mrc import read_volume, write_volume
from opustomo.io.poses import Poses, write_poses
from opustomo.io.star_tables import read_particles
from opustomo.quality.evidence.half_maps import ReadOptions
from opustomo.quality.evidence.junk_classes import (
    MOST_ROUNDS,
    ClassMaps,
    accumulate,
    class_gains,
    filled_classes,
    latent_classes,
    log_odds,
    mixture_likelihood,
    molecules,
    most_likely,
    refined_classes,
)
from opustomo.quality.evidence.junk_files import JunkInputs, reliability
from opustomo.quality.evidence.junk_scores import (
    ClassDoubts,
    JunkClasses,
    JunkResult,
    choose_cut,
    expected_false_discoveries,
)
from opustomo.quality.evidence.mixed_classes import contrast_groups, divide_molecules
from opustomo.quality.evidence.particle_spectra import read_spectra
from opustomo.simulate.acquisition import regular_scheme
from opustomo.simulate.dataset import SimulationConfig, simulate_dataset
from tests.commands.quick import train, use_tiny_networks

BOX, APIX, COUNT = 24, 12.0, 160


def molecule(seed: int) -> np.ndarray:
    """Return twelve blobs inside a ball, the same for the same seed."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*[np.arange(BOX) - BOX // 2] * 3, indexing="ij"), -1)
    places = rng.normal(size=(12, 3))
    places *= (rng.uniform(1, 5, 12) / np.linalg.norm(places, axis=1))[:, None]
    return np.sum([np.exp(-np.square(at - place).sum(-1) / 2) for place in places], axis=0).astype(np.float32)


@pytest.fixture(scope="module")
def picks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a set, its truth and a run whose latents confuse a tenth of the particles."""
    root = tmp_path_factory.mktemp("picks")
    volumes = np.stack([molecule(seed) for seed in range(3)])
    scheme = regular_scheme(-60.0, 60.0, 6.0, 3.0)
    config = SimulationConfig(
        count=COUNT, apix=APIX, scheme=scheme, snr=0.3, weights=(0.6, 0.2, 0.2), empty=0.15, seed=2
    )
    simulate_dataset(volumes, config, root / "set")
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_networks(patch)
        words = ["-r", str(root / "set" / "mask.mrc"), "-n", "1", "-b", "16"]
        code, said = train(root / "set" / "particles.star", root / "run", *words)
    assert code == 0, said
    labels = np.load(root / "set" / "truth.npz")["labels"]
    rng = np.random.default_rng(0)
    shown = np.where(rng.uniform(size=COUNT) < 0.1, rng.permutation(labels), labels)
    truth = np.load(root / "set" / "truth.npz")
    write_poses(root / "run" / "pose.0.pkl", Poses(truth["eulers"], truth["origin"] / BOX))
    centers = np.array([[0, 0], [6, 0], [0, 6], [6, 6]])
    write_latents(root / "run" / "z.0.pkl", (centers[shown] + rng.normal(size=(COUNT, 2))).astype(np.float32))
    write_volume(root / "other.mrc", volumes[1], APIX)
    return root


def f1(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(2 * (found & wanted).sum() / (found.sum() + wanted.sum()))


def test_junk_is_found_without_labels(picks: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = np.load(picks / "set" / "truth.npz")["labels"]
    assert dsdsh(["junk", str(picks / "run"), "latest"]) == 0
    said = capsys.readouterr().out
    assert "the particle" in said and "Nothing: " in said
    folder = picks / "run" / "analyze.0" / "junk"
    with (folder / "scores.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    kept = np.array([row["kept"] == "1" for row in rows])
    assert f1(~kept, labels != 0) > 0.98, "one tenth of the latents is wrong"
    whole = read_particles(picks / "set" / "particles.star").strings("rlnImageName")
    for name, members in (("particles.star", kept), ("junk.star", ~kept)):
        written = read_particles(folder / name).strings("rlnImageName")
        assert [Path(image).name for image in written] == [Path(image).name for image in np.array(whole)[members]]
    volume, apix = read_volume(folder / "molecule0.mrc")
    assert volume.shape == (BOX,) * 3 and apix == pytest.approx(APIX)
    truth = molecule(0)
    assert np.corrcoef(volume.ravel(), truth.ravel())[0, 1] > 0.7
    assert (folder / "junk.png").stat().st_size > 10_000


def test_a_reference_chooses_the_molecule(picks: Path) -> None:
    labels = np.load(picks / "set" / "truth.npz")["labels"]
    run = opustomo.Run(picks / "run")
    result = run.junk(JunkInputs(run.results, 0, reference=picks / "other.mrc", device="cpu"))
    assert f1(result.kept, labels == 1) > 0.95
    assert result.false_discovery_rate < 0.01


def test_states_of_one_molecule_are_not_junk(picks: Path, tmp_path: Path) -> None:
    """A molecule with and without a part, in equal numbers."""
    whole = molecule(0)
    part = whole * (np.arange(BOX)[:, None, None] < BOX // 2 + 1)
    scheme = regular_scheme(-60.0, 60.0, 6.0, 3.0)
    config = SimulationConfig(count=80, apix=APIX, scheme=scheme, snr=0.3, seed=4)
    simulate_dataset(np.stack([whole, part]), config, tmp_path / "set")
    shutil.copytree(picks / "run", tmp_path / "run")
    truth = np.load(tmp_path / "set" / "truth.npz")
    latents = 6.0 * truth["labels"][:, None] + np.random.default_rng(1).normal(size=(80, 2))
    write_latents(tmp_path / "run" / "z.0.pkl", latents.astype(np.float32))
    write_poses(tmp_path / "run" / "pose.0.pkl", Poses(truth["eulers"], truth["origin"] / BOX))
    run = opustomo.Run(tmp_path / "run")
    result = run.junk(JunkInputs(run.results, 0, star=tmp_path / "set" / "particles.star", device="cpu"))
    assert result.kept.mean() > 0.97


def particle_set(volumes: list[np.ndarray], weights: tuple[float, ...], count: int, folder: Path) -> np.ndarray:
    """Simulate a set with exact poses in the table and return the class of each particle."""
    scheme = regular_scheme(-60.0, 60.0, 6.0, 3.0)
    config = SimulationConfig(count=count, apix=APIX, scheme=scheme, snr=0.3, weights=weights, seed=1)
    simulate_dataset(np.stack(volumes), config, folder)
    return np.load(folder / "truth.npz")["labels"]


def test_a_class_that_mixes_objects_is_named(picks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If latents separate nothing, the rate of junk is unknown, and no small rate is reported."""
    labels = particle_set([molecule(0), molecule(1)], (0.6, 0.4), 48, tmp_path / "set")
    shutil.copytree(picks / "run", tmp_path / "run")
    truth = np.load(tmp_path / "set" / "truth.npz")
    write_latents(tmp_path / "run" / "z.0.pkl", np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32))
    write_poses(tmp_path / "run" / "pose.0.pkl", Poses(truth["eulers"], truth["origin"] / BOX))
    star = tmp_path / "set" / "particles.star"
    assert dsdsh(["junk", str(tmp_path / "run"), "0", "--star", str(star)]) == 0
    said = capsys.readouterr().out
    assert "How many of these are junk is not known" in said and "expected to be junk" not in said
    assert "the training is short" in said
    result = opustomo.Run(tmp_path / "run").junk(JunkInputs(opustomo.Run(tmp_path / "run").results, 0, star=star))
    (groups,) = result.mixed_classes.values()
    assert groups.lower == pytest.approx((labels == 1).sum(), abs=3) and groups.ratio < 0.8
    assert f1(result.kept, labels == 0) > 0.9, "the lower group is junk"


def test_a_mixed_class_is_divided(tmp_path: Path) -> None:
    """One class of two molecules becomes two; one class of two states of a molecule stays one molecule."""
    whole = molecule(0)
    part = whole * (np.arange(BOX)[:, None, None] < BOX // 2 + 3)
    for name, other, objects in (("two", molecule(1), 2), ("states", part, 1)):
        shown = particle_set([whole, other], (0.6, 0.4), 100, tmp_path / name)
        particles = load_particles(DataConfig(star=tmp_path / name / "particles.star"))
        spectra = read_spectra(particles, np.arange(100), ReadOptions(ctf_normalized=True))
        halves = np.arange(100) % 2
        mixed = refined_classes(spectra, np.zeros(100, dtype=np.int64), halves, None)
        labels, maps = divide_molecules(spectra, mixed, halves, None, 2.0)
        gains = class_gains(spectra, maps, halves)
        mean, filled = filled_classes(gains, labels)
        sizes = np.bincount(labels[labels >= 0], minlength=len(filled))
        families = molecules(maps.correlations(2.0), mean, filled, sizes)
        assert families.max() + 1 == objects, name
        if objects == 2:
            first = labels == labels[np.flatnonzero(shown == 0)[0]]
            assert f1(first, shown == 0) > 0.97


CERTAIN = ClassDoubts(divided=False, unstable=0.0)


def result_of(
    correlations: np.ndarray, sizes: tuple[int, ...], score: np.ndarray, doubts: ClassDoubts = CERTAIN
) -> JunkResult:
    """Return a result with three classes of one molecule."""
    labels = np.repeat(np.arange(3), sizes)
    classes = JunkClasses(labels, np.zeros(3, dtype=np.int64), (0,), correlations, np.ones(3))
    half = torch.zeros(2, 3, 1, dtype=torch.complex64)
    maps = ClassMaps(half, np.array(sizes) / sum(sizes), torch.ones(1), torch.ones(1, dtype=torch.long))
    contrast = np.random.default_rng(0).normal(1, 0.1, len(labels))
    null, volumes = np.full(100, -9.0), np.zeros((1, 4, 4, 4))
    return JunkResult(score, null, contrast, contrast, 0.0, 0.0, 0.02, classes, maps, volumes, APIX, doubts)


def test_particles_are_compared_with_the_class_of_the_reference() -> None:
    """Class 2 shows another object with half the contrast of the reference, which is class 0; class 1 shows it."""
    result = result_of(np.full((3, 3), 0.95), (40, 30, 30), np.full(100, 20.0))
    assert not result.mixed_classes and result.kept.all()
    contrast = result.contrast * np.repeat([1.0, 1.0, 0.5], (40, 30, 30))
    with_reference = replace(result.classes, reference_class=0)
    assert replace(result, contrast=contrast).kept.all(), "each class has one contrast"
    found = replace(result, contrast=contrast, classes=with_reference)
    assert found.kept.tolist() == [True] * 70 + [False] * 30
    assert found.mixed_classes[0].lower == 30


def test_no_rate_is_given_where_classes_cannot_be_told() -> None:
    score = np.where(np.arange(90) < 80, 20.0, -20.0)
    related = np.full((3, 3), 0.8)
    assert "at most 2 %" in reliability(result_of(related, (30, 30, 30), score))[0]
    bridged = related.copy()
    bridged[0, 2] = bridged[2, 0] = 0.05
    said = " ".join(reliability(result_of(bridged, (30, 30, 30), score)))
    assert "not known" in said and "Classes 0 and 2 of the particle have maps that correlate by only 0.05" in said
    assert "at most 2 %" in reliability(result_of(bridged, (60, 30, 0), score))[0], "an empty class joins nothing"
    for doubts, reason in (
        (ClassDoubts(True, 0.0), "do not separate some objects"),
        (ClassDoubts(False, 0.3), "30 % of the kept particles"),
    ):
        said = " ".join(reliability(result_of(related, (30, 30, 30), score, doubts)))
        assert "not known" in said and reason in said
    said = " ".join(reliability(result_of(related, (30, 30, 30), np.full(90, 20.0))))
    assert "not known" in said and "No pick was found to show anything else" in said


def test_contrasts_of_one_object_are_one_group() -> None:
    rng = np.random.default_rng(3)
    assert all(contrast_groups(rng.normal(1, 0.3, count)) is None for count in (30, 100, 1000))
    assert all(contrast_groups(np.exp(rng.normal(0, 0.3, 200))) is None for _ in range(10)), "a skewed distribution"
    two = contrast_groups(np.concatenate([rng.normal(1, 0.1, 60), rng.normal(0.5, 0.1, 40)]))
    assert two is not None and two.lower == pytest.approx(40, abs=2) and two.ratio == pytest.approx(0.5, abs=0.05)


def test_the_round_that_explains_the_other_half_best_is_kept(tmp_path: Path) -> None:
    """Three related molecules and random latents, where repeated assignment makes the classes worse again."""
    whole = molecule(0)
    part = whole * (np.arange(BOX)[:, None, None] < BOX // 2 + 1)
    mirror = np.roll(whole[:, :, ::-1], 1, axis=2)
    particle_set([whole, part, mirror], (0.4, 0.3, 0.3), 90, tmp_path)
    particles = load_particles(DataConfig(star=tmp_path / "particles.star"))
    spectra = read_spectra(particles, np.arange(90), ReadOptions(ctf_normalized=True))
    halves = np.arange(90) % 2
    labels = latent_classes(np.random.default_rng(0).normal(size=(90, 2)))
    likelihoods = []
    for maps in (accumulate(spectra, labels, halves, None), refined_classes(spectra, labels, halves, None)[1]):
        likelihoods.append(mixture_likelihood(class_gains(spectra, maps, halves), maps.fractions))
    for _ in range(MOST_ROUNDS):
        maps = accumulate(spectra, labels, halves, None, 3)
        gains = class_gains(spectra, maps, halves)
        labels = most_likely(gains, maps.fractions)
    assert likelihoods[1] >= likelihoods[0]
    assert likelihoods[1] > mixture_likelihood(gains, maps.fractions), "assigned again and again"


def test_the_upper_rate_counts_the_null_scores() -> None:
    """Without a random score above the cut, the rate may still be 3 / n of the empty picks over the kept ones."""
    score = np.concatenate([np.full(100, 1000.0), np.full(100, -10.0)])
    null = np.linspace(-20, 5, 100)
    cut = np.array([50.0])
    assert expected_false_discoveries(score, null, cut)[0] < 1e-12
    assert expected_false_discoveries(score, null, cut, 0.95)[0] == pytest.approx(200 * 0.0295 / 100, rel=0.02)


def test_cut_keeps_the_expected_fraction_of_junk() -> None:
    rng = np.random.default_rng(0)
    score = np.concatenate([rng.normal(20, 5, 500), rng.normal(-2, 4, 500)])
    null = rng.normal(-2, 4, 1000)
    cut, rate = choose_cut(score, null, 0.01)
    true = float((score[500:] >= cut).sum() / (score >= cut).sum())
    assert rate <= 0.01 and true <= 0.02 and (score[:500] >= cut).mean() > 0.95


def test_related_classes_are_one_molecule() -> None:
    correlations = np.array([[1, 0.6, 0, 0], [0.6, 1, 0.5, 0], [0, 0.5, 1, 0.9], [0, 0, 0.9, 1]])
    filled = np.array([True, True, True, False])
    sizes, gains = np.array([30, 30, 30, 50]), np.array([9.0, 5.0, 20.0, 0.1])
    np.testing.assert_array_equal(molecules(correlations, gains, filled, sizes), [0, 0, 0, -1])
    small = np.array([30, 5, 30, 50])  # a small class is joined to one of the two molecules that it resembles
    np.testing.assert_array_equal(molecules(correlations, gains, filled, small), [0, 0, 1, -1])
    gains[1] = 0.8  # a faint class joins no others
    np.testing.assert_array_equal(molecules(correlations, gains, filled, sizes), [0, 1, 2, -1])


def test_odds_compare_the_particle_with_the_rest() -> None:
    gains = np.array([[10.0, 2.0, 0.0], [2.0, 10.0, 0.0], [-5.0, -6.0, 0.0]])
    found = log_odds(gains, np.array([True, False, False]), np.array([0.5, 0.3, 0.2]), np.array([False, False, True]))
    assert found[0] > 5 and found[1] < -5 and found[2] < -3
