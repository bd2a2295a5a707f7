"""Networks of these tests are narrow unless a test makes them smaller."""

from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture
