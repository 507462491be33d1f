"""The mean of weights that speaks: what it is, and that neither calls, nor kills, nor threads change it."""

from dataclasses import replace

import numpy as np
import pytest

from charlstm.model.checkpoint import Checkpoint
from charlstm.settings.config import from_preset
from charlstm.settings.presets import PRESETS, is_ours
from charlstm.text.corpus import Corpus
from charlstm.training import averages
from charlstm.training.trainer import Trainer
from tests.small_runs import small

TEXT = "".join(f"{n} and {n * n} are the {n % 7} th\n" for n in range(300))


def trainer(checkpoint=None, most=None, **options):
    found = Trainer(
        small(iterations=200, average=0.3, seconds=None, documents="texts", **options),
        Corpus.from_text(TEXT),
        checkpoint,
    )
    for _ in found.run():
        if most is not None:
            found.call_iterations = most
    return found


def test_it_reaches_back_over_a_part_of_the_run():
    """The mean of 1, 2, ... n has the value of the iteration in the middle of that part, within a few of its points."""
    for every in (1, 5):
        mean, theta = np.zeros(1), np.zeros(1)
        for n in range(1, 20_001):
            theta[0] = n
            averages.enter(mean, theta, n, 0.2, every)
            if n in (100, 1_000, 5_000, 20_000):
                assert n * (1 - 0.2) < mean[0] <= n * (1 - 0.08), (every, n)


@pytest.mark.parametrize("every", [1, 16])
def test_points_come_often_enough_and_suit_the_ranks(every):
    points, at = [], 0
    while at < 100_000:
        at = averages.next_point(at, every)
        points.append(at)
    gaps = np.diff(points)
    assert all(point % every == 0 for point in points)
    assert (gaps <= np.maximum(every, np.array(points[:-1]) / 128)).all()
    assert len(points) < 128 * 17
    for n in range(1, 3_000):  # a point is one wherever a call began
        assert {averages.next_point(begin, every) for begin in range(max(n - 7, 0), n)} <= {*points}


def test_calls_of_any_length_and_resuming_give_the_same_bits():
    whole, pieces = trainer(), trainer(most=3)
    half = trainer(sample_every=0)
    stopped = Trainer(half.config, half.corpus)
    for _ in stopped.run():
        if stopped.iteration >= 77:
            break
    again = trainer(Checkpoint.from_bytes(stopped.checkpoint().to_bytes(), "it"))
    [mean] = whole.checkpoint().averages
    assert np.abs(mean - whole.theta).max() > 1e-4
    for other in (pieces, again):
        assert other.checkpoint().average.tobytes() == mean.tobytes()
        assert other.theta.tobytes() == whole.theta.tobytes()


def test_it_changes_no_bit_of_training_and_is_what_speaks():
    with_it = trainer(validation=0.1)
    without = Trainer(replace(with_it.config, average=0.0), with_it.corpus)
    list(without.run())
    assert with_it.theta.tobytes() == without.theta.tobytes()
    assert without.checkpoint().average is None
    model = with_it.checkpoint()
    assert model.voices[0].theta.tobytes() == model.average.tobytes() == with_it.voices[0].theta.tobytes()
    alone = model.alone()
    assert alone.theta.tobytes() == model.average.tobytes()
    assert alone.voices[0].theta.tobytes() == model.average.tobytes()


def test_several_nets_have_each_their_own():
    both = trainer(members="2")
    found = [trainer(seed=seed).checkpoint().average for seed in (0, 1)]
    for voice, wanted in zip(both.checkpoint().voices, found, strict=True):
        assert voice.theta.tobytes() == wanted.tobytes()


def test_presets_of_ours_have_it():
    assert all((from_preset(name).average > 0) == is_ours(name) for name in PRESETS)
