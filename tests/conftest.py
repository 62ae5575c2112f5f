"""What tests of more than one file are given."""

from collections.abc import Iterator

import pytest
from hub import Hub
from hypothesis import settings

settings.register_profile("hfds", deadline=None)  # how long a test takes is not tested
settings.load_profile("hfds")


@pytest.fixture
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A Hub on localhost, whose clients may ask for nothing that it does not know."""
    with Hub(tmp_path_factory.mktemp("hub")) as hub:
        yield hub
        assert hub.unknown == []
