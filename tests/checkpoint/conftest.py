"""Checkpoints of these tests contain narrow networks unless a test requests the original widths."""

from tests.narrow_networks import narrow_networks, original_widths  # noqa: F401 - fixtures
