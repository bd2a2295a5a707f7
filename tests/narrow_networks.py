"""The networks with few channels: the layers, files and messages of real runs, but fractions of a second per epoch.

Tests whose claim does not depend on what a network can learn train and decode with them. The widths of OPUS-TOMO, its
parameter names and its function are tested in ``tests/model/test_networks.py``, and in runs by the tests that ask for
``original_widths``.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from opustomo.model import networks
from tests import original

ORIGINAL_WIDTHS = networks.HIDDEN, networks.DECODER_CHANNELS, networks.ENCODER_CHANNELS
NARROW_WIDTHS = 32, (64, 32, 16, 8, 8, 4, 4, 4), (4, 6, 8, 16, 32, 32)


def use_widths(patch: pytest.MonkeyPatch, hidden: int, growing: tuple[int, ...], shrinking: tuple[int, ...]) -> None:
    """Give these widths to networks that are created from now on, until `patch` is undone."""
    for module in (networks, original):
        patch.setattr(module, "HIDDEN", hidden)
        patch.setattr(module, "DECODER_CHANNELS", growing)
        patch.setattr(module, "ENCODER_CHANNELS", shrinking)


@pytest.fixture(scope="module", autouse=True)
def narrow_networks() -> Iterator[None]:
    """Use narrow networks in the tests and fixtures of a module; import this fixture to use it."""
    with pytest.MonkeyPatch.context() as patch:
        use_widths(patch, *NARROW_WIDTHS)
        yield


@pytest.fixture
def original_widths(monkeypatch: pytest.MonkeyPatch) -> None:
    """Use the widths of OPUS-TOMO in a test."""
    use_widths(monkeypatch, *ORIGINAL_WIDTHS)
