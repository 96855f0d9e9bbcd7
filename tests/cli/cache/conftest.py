import functools

import pytest


@pytest.fixture
def run(hydrax):
    return functools.partial(hydrax, "cache")
