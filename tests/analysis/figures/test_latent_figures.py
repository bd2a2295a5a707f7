from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from opustomo.analysis.clusters.clustering import Clusters
from opustomo.analysis.figures import latent_figures
from opustomo.analysis.figures.figure_style import cluster_colors, viewing_colors, viewing_map
from opustomo.io.log_files import LossCurve

SITES = np.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])


@pytest.fixture(autouse=True)
def coarse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent_figures, "DPI", 60)


def clustered(count: int) -> tuple[latent_figures.Plane, Clusters]:
    labels = np.arange(count) % 4
    points = SITES[labels] + np.random.default_rng(0).normal(scale=0.8, size=(count, 2))
    return latent_figures.Plane(points, "PC1 (60.0 % of variance)", "PC2"), Clusters(labels, SITES, np.arange(4))


def share_of(picture: np.ndarray, color: np.ndarray) -> float:
    """Part of the picture's panel that has the hue of ``color`` (mixed with white by opacity)."""
    panel = picture[60:-60, 60:340, :3]
    ink = 1.0 - panel
    amount = np.linalg.norm(ink, axis=-1)
    cosine = (ink @ (1.0 - color)) / (amount * np.linalg.norm(1.0 - color) + 1e-9)
    return float(((cosine > 0.99) & (amount > 0.15)).mean())


@pytest.mark.parametrize("count", [40, 20_000])
def test_every_cluster_is_seen_in_its_color(tmp_path: Path, count: int) -> None:
    plane, clusters = clustered(count)
    latent_figures.draw_clusters(tmp_path / "umap.png", plane, clusters)
    picture = imread(tmp_path / "umap.png")
    for color in cluster_colors(4):
        assert share_of(picture, color) > 0.001


def test_density_has_ink_where_the_particles_are(tmp_path: Path) -> None:
    plane, clusters = clustered(400)
    latent_figures.draw_clusters(tmp_path / "umap_hex.png", plane, clusters, hexagons=True)
    latent_figures.draw_density(tmp_path / "umap_hexbin.png", plane)
    panel = imread(tmp_path / "umap_hexbin.png")[:, :, :3]
    height, width = panel.shape[:2]
    left, right, bottom, top = 0.105 * width, 0.745 * width, 0.09 * height, (0.09 + 0.64 * 8 / 6.2) * height
    low, high = plane.points.min(axis=0), plane.points.max(axis=0)
    for site, wanted in [(site, True) for site in SITES] + [(np.array([5.0, 5.0]), False)]:
        x, y = (site - low + 0.05 * (high - low)) / (1.1 * (high - low))
        pixel = panel[int(height - (bottom + y * (top - bottom))), int(left + x * (right - left))]
        assert (pixel.min() < 0.9) == wanted


def test_other_figures_of_two_particles_are_drawn(tmp_path: Path) -> None:
    plane = latent_figures.umap_plane(np.zeros((2, 2), dtype=np.float32))
    latent_figures.draw_viewing_groups(tmp_path / "a.png", plane, np.array([0, 47]))
    latent_figures.draw_component(tmp_path / "b.png", plane, np.zeros(2), 1, np.zeros(10, dtype=int))
    latent_figures.draw_scatter(tmp_path / "c.png", plane)
    curve = LossCurve(np.array([1]), np.array([0.1]), np.array([np.nan]), np.array([0.2]))
    latent_figures.draw_losses(tmp_path / "d.png", {"training": curve})
    sizes = [imread(tmp_path / f"{name}.png").shape[:2] for name in "abc"]
    assert sizes == [(372, 480)] * 3
    assert imread(tmp_path / "d.png").std() > 0.01


def test_one_dimensional_latents_get_a_plane() -> None:
    plane = latent_figures.pca_plane(np.arange(5.0)[:, None], np.array([1.0]))
    assert plane.points.shape == (5, 2)
    assert plane.points[:, 0].tolist() == [0, 1, 2, 3, 4]
    assert plane.x_label == "PC1 (100.0 % of variance)"


def test_more_particles_get_smaller_dots() -> None:
    sizes, alphas = zip(*(latent_figures.dot_style(count) for count in (10, 1000, 10_000, 1_000_000)), strict=True)
    assert list(sizes) == sorted(sizes, reverse=True) and min(sizes) > 0.5
    assert list(alphas) == sorted(alphas, reverse=True) and min(alphas) > 0.2


@pytest.mark.parametrize("count", [1, 10, 20, 50])
def test_cluster_colors_differ(count: int) -> None:
    colors = cluster_colors(count)
    assert colors.shape == (count, 3)
    gap = np.linalg.norm(colors[:, None] - colors[None], axis=-1) + np.eye(count)
    assert gap.min() > 0.04


def test_views_near_each_other_look_alike() -> None:
    import healpy

    colors = viewing_colors()
    assert len(np.unique(colors.round(6), axis=0)) == 48
    neighbors = healpy.get_all_neighbours(2, np.arange(48), nest=True)
    near = np.mean([np.linalg.norm(colors[i] - colors[j]) for i in range(48) for j in neighbors[:, i] if j >= 0])
    everywhere = np.linalg.norm(colors[:, None] - colors[None], axis=-1).mean()
    assert near < 0.75 * everywhere
    np.testing.assert_array_equal(viewing_map(5)[0, 0], colors[healpy.ang2pix(2, 0.0, 0.0, nest=True)])


def test_volumes_are_shown_in_slices_and_projections(tmp_path: Path) -> None:
    """Bright where the density is: x to the right, y upwards; ten a row."""
    from matplotlib.image import imread

    from opustomo.analysis.figures.volume_display import draw_views, view_of

    volumes = np.zeros((12, 16, 16, 16), dtype=np.float32)
    volumes[:, 8, 12:14, 3:5] = 1.0
    volumes[3, 8] = 0.0
    volumes[3, 2, 12:14, 3:5] = 1.0
    view = view_of(volumes[3], "4")
    assert not view.slice.any() and view.projection[12, 3] == 1.0
    draw_views(tmp_path / "v.png", [view_of(volume, str(i)) for i, volume in enumerate(volumes)])
    picture = imread(tmp_path / "v.png")[..., 0]
    height, width = picture.shape
    assert width > 2 * height * 10 / 12 / 2  # two bands of ten columns
    first = picture[: height // 4, : width // 10]
    bright = np.argwhere(first[15:] > 0.9) / np.array(first[15:].shape)
    inside = bright[(np.abs(bright - 0.5) < 0.45).all(axis=1)]
    assert (picture[: height // 4] < 0.1).any() and len(inside)
