"""Marks: what a checkpoint stores of them, and how checkpoints from before they were a class are read."""

import math

import pytest

from charlstm.training.marks import Marks, Streak

WRITTEN = {
    "best_shown": 9.5, "best_validation": 2.25, "patience_best": 2.5, "patience_waited": 1, "plateau_best": 2.0,
    "plateau_waited": 0, "rate_factor": 0.25, "untold_bits": 2.75, "recent_sum": 30.5, "recent_count": 3,
    "recent_loss": 1.5,
}  # fmt: skip


@pytest.mark.parametrize("names", [(), ("rate_factor",), ("patience_best", "patience_waited"), tuple(WRITTEN)], ids=len)
def test_marks_are_in_a_checkpoint_as_they_were(names):
    some = {name: WRITTEN[name] for name in names}
    assert Marks.from_dict(some).to_dict() == some
    assert Marks.from_dict({**some, "of a later version": 1.0}).to_dict() == some


def test_a_streak_counts_figures_that_are_no_better_than_the_best_before_them():
    streak = Streak()
    assert [streak.add(figure) for figure in (math.nan, 3.0, 3.0, 4.0, 2.0)] == [1, 0, 1, 2, 0]
    assert (streak.best, Marks(patience=Streak(2.0, 3)).to_dict()) == (
        2.0,
        {"patience_best": 2.0, "patience_waited": 3},
    )


def test_a_plateau_lowers_the_rate_and_then_waits_anew():
    marks, factors = Marks(), []
    for figure in (3.0, 3.0, 3.0, 3.0, 3.0, 1.0, 2.0):
        marks.heed_plateau(figure, patience=2, factor=0.5)
        factors.append(marks.rate_factor)
    assert factors == [None, None, 0.5, 0.5, 0.25, 0.25, 0.25]


def test_the_recent_loss_is_the_mean_of_a_whole_turn():
    marks, told = Marks(), []
    for n in range(2, 11):  # starts in the middle of a turn, which does not count
        marks.add_loss(float(n), n % 4, 4, loss_chars=2)
        told.append(marks.recent_loss)
    assert told == [None, None, None, None, None, 5.5 / 2, 2.75, 2.75, 2.75]
