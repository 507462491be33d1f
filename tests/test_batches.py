"""Windows: every one once an epoch, in an order that follows from the iteration alone, and never beyond the text."""

import numpy as np
import pytest

from charlstm.batches import Windows
from charlstm.errors import UserError

WINDOWS = Windows(num_ids=103, length=10, step=3, batch_size=4, seed=7)


def test_windows_begin_every_step_as_far_as_a_last_target_goes():
    assert WINDOWS.num_windows == 31  # 0, 3, ..., 90: the next, 93, would have its last target at 103
    assert WINDOWS.iterations_per_pass == 7
    starts, reset = WINDOWS.plan(0, 500)
    assert starts.dtype == np.int64
    assert starts.shape == (500, 4)
    assert starts.flags.c_contiguous
    assert set(starts.ravel()) == set(range(0, 91, 3))
    assert reset.dtype == bool
    assert reset.shape == (500,)
    assert reset.all()


def test_an_epoch_takes_no_window_twice_and_the_next_takes_them_in_another_order():
    first, second = WINDOWS.plan(0, 7)[0], WINDOWS.plan(7, 14)[0]
    for epoch in (first, second):
        assert len(set(epoch.ravel())) == 28
    assert (first != second).any()
    assert (first.ravel() != np.sort(first.ravel())).any()


def test_the_plan_is_the_same_in_however_many_calls():
    whole = WINDOWS.plan(0, 40)[0]
    pieces = [WINDOWS.plan(a, b)[0] for a, b in ((0, 1), (1, 6), (6, 8), (8, 29), (29, 29), (29, 40))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)
    np.testing.assert_array_equal(WINDOWS.plan(33, 40)[0], whole[33:])


def test_the_seed_decides_the_order():
    other = Windows(103, 10, 3, 4, seed=8)
    assert (WINDOWS.plan(0, 7)[0] != other.plan(0, 7)[0]).any()
    np.testing.assert_array_equal(WINDOWS.plan(0, 7)[0], Windows(103, 10, 3, 4, seed=7).plan(0, 7)[0])


@pytest.mark.parametrize(
    ("num_ids", "batch_size", "way_out"),
    [(40, 32, "--batch-size 10 fits"), (10, 1, "a shorter window may fit"), (3, 1, "a shorter window may fit")],
)
def test_fewer_windows_than_a_batch_are_a_users_mistake(num_ids, batch_size, way_out):
    with pytest.raises(UserError, match=way_out):
        Windows(num_ids, 10, 3, batch_size, 0)


def test_a_text_that_just_fits():
    assert Windows(11, 10, 3, 1, 0).plan(0, 3)[0].tolist() == [[0], [0], [0]]
