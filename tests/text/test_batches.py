"""Windows come once per epoch, in an order that follows from the iteration alone, and stay within the text.

Also the iterations at which streams are reset.
"""

import tracemalloc

import numpy as np
import pytest

from charlstm.errors import UserError
from charlstm.text import batches
from charlstm.text.batches import Resets, Windows

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


@pytest.mark.parametrize("count", [11, 16, 17, 1000, 4096, 4097])
def test_an_order_that_is_not_held_takes_every_window_once(monkeypatch, count):
    monkeypatch.setattr(batches, "_SHUFFLED", 10)
    orders = [batches._ordered(count, seed, epoch, 0, count) for seed, epoch in ((1, 0), (1, 1), (2, 0), (1, 0))]
    for order in orders:
        assert sorted(order.tolist()) == list(range(count))
    np.testing.assert_array_equal(orders[0], orders[3])
    if count >= 1000:
        for other in (np.arange(count), orders[1], orders[2]):
            assert (orders[0] == other).sum() < 10  # one on average
        assert abs(np.corrcoef(orders[0][1:].astype(float), orders[0][:-1].astype(float))[0, 1]) < 0.1


def test_a_large_text_is_planned_like_a_small_one(monkeypatch):
    held = WINDOWS.plan(0, 30)[0]
    monkeypatch.setattr(batches, "_SHUFFLED", 31)
    np.testing.assert_array_equal(WINDOWS.plan(0, 30)[0], held)
    monkeypatch.setattr(batches, "_SHUFFLED", 30)
    whole = WINDOWS.plan(0, 30)[0]
    assert (whole != held).any()
    for epoch in range(4):
        assert len(set(whole[7 * epoch : 7 * epoch + 7].ravel())) == 28
    assert set(whole.ravel()) == set(range(0, 91, 3))
    pieces = [WINDOWS.plan(a, b)[0] for a, b in ((0, 1), (1, 6), (6, 8), (8, 29), (29, 30))]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


def test_the_windows_of_a_text_of_a_gigabyte_take_no_memory():
    huge = Windows(num_ids=10**9, length=40, step=3, batch_size=128, seed=1)
    assert huge.num_windows == 333_333_320
    tracemalloc.start()
    starts, _ = huge.plan(10**6, 10**6 + 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10**6
    assert len(set(starts.ravel())) == 3 * 128
    assert starts.min() >= 0
    assert starts.max() + 40 < 10**9
    assert (starts % 3 == 0).all()
    assert batches._ordered(2**22 + 1, 1, 0, 0, 3).tolist() == [
        3657121,
        1161840,
        3576889,
    ]  # the bits of a resumed run


@pytest.mark.parametrize("every", [1, 3, 8, 50])
def test_streams_begin_anew_as_often_as_asked_at_first_and_more_rarely_later(every):
    resets, half = Resets(every, 256, seed=3), 32 * every
    drawn = np.array([np.isin(np.arange(256), resets.at(n)) for n in range(2 * half)])
    assert drawn[:half].mean() == pytest.approx(1 / every, rel=0.05)
    assert drawn[half:].mean() == pytest.approx(0.5 / every, rel=0.08)
    assert resets.distance(40_000 * every) == 2048 * every


def test_streams_begin_anew_each_at_its_own_moments():
    resets = Resets(64, 256, seed=3)
    drawn = np.array([np.isin(np.arange(256), resets.at(n)) for n in range(0, 32 * 64, 16)])
    assert 0.6 < drawn.sum(axis=1).var() / (256 * 0.25 * 0.75) < 1.4  # streams are drawn independently
    standardized = (drawn - drawn.mean()) / drawn.std()
    assert abs((standardized[1:] * standardized[:-1]).mean()) < 0.03
    other = [len(Resets(64, 256, seed=4).at(n)) for n in range(0, 32 * 64, 16)]
    assert other != drawn.sum(axis=1).tolist()


@pytest.mark.parametrize("every", [1, 2, 3, 5, 7, 10, 13, 64])
def test_no_stream_begins_anew_before_the_iteration_that_is_told(every):
    resets, told, n = Resets(every, 16, seed=3), set(), 0
    while n < 200 * every:
        told.add(n)
        n = resets.after(n)
    assert {n for n in range(200 * every) if len(resets.at(n))} <= told


def test_no_stream_begins_anew_where_none_is_to():
    assert not any(len(Resets(0, 16, seed=3).at(n)) for n in range(100))
