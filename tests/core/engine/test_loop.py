import math

from hypothesis import given
from hypothesis import strategies as st

from hydrax_core.engine.loop import may_be_missing


def test_the_engine_is_woken_for_every_batch_that_takes_long_and_for_several_that_do_not():
    assert [may_be_missing(8, seconds) for seconds in (math.inf, 0.05, 0.01, 0.0001)] == [0, 0, 2, 4]
    assert [may_be_missing(depth, 0.0001) for depth in (1, 3, 4, 32)] == [0, 0, 1, 16]


@given(st.integers(1, 4096), st.floats(0, 10))
def test_half_of_the_depth_is_always_there(depth, seconds):
    assert 0 <= may_be_missing(depth, seconds) <= depth // 2
