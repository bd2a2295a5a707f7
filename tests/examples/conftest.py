"""The example scripts train narrow networks."""

from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture
