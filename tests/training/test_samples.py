"""Samples during training: which iterations have one, and those that are drawn only to be looked at."""

import re

import numpy as np
import pytest
from small_runs import everything, finish, small

from charlstm.errors import Diverged
from charlstm.runs.begin import resume, start
from charlstm.settings.config import Config, from_preset
from charlstm.settings.presets import PRESETS, is_ours
from charlstm.training import live
from charlstm.training.live import LiveSamples
from charlstm.training.samples import is_due, next_due
from charlstm.training.trainer import Trainer

GROWING = [0, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000]


def saved(folder):
    return [int(number) for number in re.findall(r"^# iteration (\d+)", (folder / "samples.txt").read_text(), re.M)]


@pytest.mark.parametrize(
    ("every", "due"), [(None, GROWING), (0, []), (4000, range(0, 40_000, 4000)), (1, range(40_000))]
)
def test_the_iterations_that_have_a_sample(every, due):
    assert [n for n in range(40_000) if is_due(every, n)] == list(due)
    for n in (0, 9, 10, 11, 3000, 29_999):
        later = [each for each in due if each > n]
        assert not later or next_due(every, n) == later[0]


@pytest.mark.parametrize("preset", PRESETS)
def test_our_presets_sample_at_growing_intervals_and_scripts_as_they_do(preset):
    assert (from_preset(preset).sample_every is None) == is_ours(preset)
    assert from_preset(preset, sample_every=7).sample_every == 7


def test_a_run_saves_them_wherever_it_is_resumed(corpus, tmp_path):
    config = small(iterations=120, sample_every=None)
    finish(start(corpus, config, str(tmp_path / "whole")))
    assert saved(tmp_path / "whole") == [0, 10, 30, 100]
    for stop in (10, 29, 100):
        folder = tmp_path / str(stop)
        finish(start(corpus, small(iterations=stop, sample_every=None, schedule="constant"), str(folder)))
        finish(resume(folder, corpus, {"iterations": 120, "schedule": "cosine"}))
        assert saved(folder) == [0, 10, 30, 100]


def test_samples_to_look_at_change_no_result(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(live, "SHARE", 1e9)
    monkeypatch.setattr(live, "_APART", 0.0)
    config = small(iterations=60, sample_every=None)
    finish(start(corpus, config, str(tmp_path / "without")))
    run, drawn = start(corpus, config, str(tmp_path / "with")), []
    samples = LiveSamples(run.trainer)
    for progress in run.train():
        drawn += [samples.after(progress)]
    drawn = [each for each in drawn if each is not None]
    assert len(drawn) > 5
    assert len({each.sample for each in drawn}) > 5
    assert not any(each.is_kept for each in drawn)
    assert everything(tmp_path / "with") == everything(tmp_path / "without")


@pytest.fixture
def trainer(corpus):
    return Trainer(small(iterations=10), corpus)


class Clock:
    """A clock that drawing a sample advances by `cost` seconds."""

    def __init__(self, trainer, monkeypatch, cost):
        self.now, self.drawn, draw = 0.0, 0, trainer.sample

        def sample(*arguments):
            self.now += cost
            self.drawn += 1
            return draw(*arguments)

        monkeypatch.setattr(live, "monotonic", lambda: self.now)
        monkeypatch.setattr(trainer, "sample", sample)


@pytest.mark.parametrize("cost", [0.001, 0.02, 0.3, 5.0])
def test_samples_to_look_at_take_their_share_of_the_time(trainer, monkeypatch, cost):
    clock = Clock(trainer, monkeypatch, cost)
    samples = LiveSamples(trainer)
    tick = trainer._progress("tick")
    while clock.now < 600:
        clock.now += 0.1
        before = clock.drawn
        samples.after(tick)
        spent = cost * clock.drawn
        # the first one may cost more than expected; after it, no other is drawn until it is paid for
        assert clock.drawn == before or clock.drawn == 1 or spent <= 1.01 * live.SHARE * clock.now
    assert clock.drawn == pytest.approx(min(550, 600 * live.SHARE / cost), rel=0.15, abs=1)


def test_no_sample_is_drawn_to_look_at_where_none_is_wanted_or_possible(corpus, trainer, monkeypatch):
    monkeypatch.setattr(live, "SHARE", 1e9)
    monkeypatch.setattr(live, "_APART", 0.0)
    tick = trainer._progress("tick")
    assert LiveSamples(Trainer(small(iterations=10, sample_every=0), corpus)).after(tick) is None
    assert LiveSamples(trainer).after(trainer._progress("report")) is None
    samples = LiveSamples(trainer)
    trainer.theta[...] = np.nan
    with pytest.raises(Diverged):
        trainer.sample()
    assert samples.after(tick) is None  # and the run goes on to find that out by itself


def test_a_long_sample_is_drawn_short_to_look_at(corpus, monkeypatch):
    monkeypatch.setattr(live, "SHARE", 1e9)
    monkeypatch.setattr(live, "_APART", 0.0)
    trainer = Trainer(small(iterations=10, sample_length=5000), corpus)
    assert len(LiveSamples(trainer).after(trainer._progress("tick")).sample) == 400
    assert Config().sample_length == 200
