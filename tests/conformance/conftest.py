"""Data shared by all command lines; every test works on its own copy."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from opustomo.analysis.figures import latent_figures
from opustomo.analysis.latents import dimension_reduction
from opustomo.analysis.volumes import decoding
from tests.commands.quick import use_tiny_networks
from tests.conformance import lab
from tests.narrow_networks import NARROW_WIDTHS, narrow_networks, use_widths  # noqa: F401 - a fixture

SHARED_BYTES = 100_000


def _leave_out_figures(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(latent_figures, "write_figure", lambda path, figure, dpi: path.touch())
    for module, name in (
        (latent_figures, "draw_component"),
        (latent_figures, "draw_clusters"),
        (decoding, "draw_views"),
    ):
        patch.setattr(module, name, lambda path, *what, **how: path.touch())


def _copy_or_link(source: str, target: str) -> str:
    """Copy small files, to which programs may append, and link large ones, which are only replaced."""
    if os.path.getsize(source) < SHARED_BYTES:
        return shutil.copy2(source, target)
    os.link(source, target)
    return target


@pytest.fixture(scope="session")
def laboratory(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the folder of lab.build; tests must not write into it."""
    folder = tmp_path_factory.mktemp("lab") / "the lab"
    with pytest.MonkeyPatch.context() as patch:
        _leave_out_figures(patch)
        use_tiny_networks(patch)
        use_widths(patch, *NARROW_WIDTHS)
        lab.build(tiny_set, folder)
    yield folder
    shutil.rmtree(folder.parent)


@pytest.fixture
def own_lab(laboratory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], Path]]:
    """Copy the laboratory to a folder of that name.

    Figures are empty files, and embeddings are two dimensions of the latents: both are quick. The tests of
    ``tests/analysis`` draw and embed.
    """
    _leave_out_figures(monkeypatch)
    monkeypatch.setattr(dimension_reduction, "embed_latents", lambda latents, **options: latents[:, :2].copy())
    made: list[Path] = []

    def copy(name: str) -> Path:
        made.append(tmp_path / name)
        shutil.copytree(laboratory, made[-1], symlinks=True, copy_function=_copy_or_link)
        return made[-1]

    yield copy
    for folder in made:
        shutil.rmtree(folder)
