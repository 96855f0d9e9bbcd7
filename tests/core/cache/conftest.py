import cachekit
import pytest


@pytest.fixture(autouse=True)
def _no_child_outlives_its_test():
    yield
    while cachekit.STARTED:
        cachekit.STARTED.pop().close()
