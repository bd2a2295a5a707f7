"""Checkpoints hold narrow networks, except where a test asks for others."""

from tests.narrow_networks import narrow_networks, original_widths  # noqa: F401 - fixtures
