"""Networks of these tests are narrow, where they are not smaller still."""

from tests.narrow_networks import narrow_networks  # noqa: F401 - a fixture
