"""What several tests of the command line are given."""

import pytest
from support.babblers import write_babbler


@pytest.fixture(scope="session")
def babbler(tmp_path_factory):
    """The path of a checkpoint that says anything, and quickly."""
    return str(write_babbler(tmp_path_factory.mktemp("babbler")))
