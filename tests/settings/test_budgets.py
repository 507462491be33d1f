"""Budgets in seconds, with a clock that tests control: kept, planned again, recorded, and replayed to the same bits."""

import tomllib

import pytest
from small_runs import everything, finish, small

from charlstm.errors import UserError
from charlstm.runs.begin import resume, start
from charlstm.settings import plans
from charlstm.settings.config import Config, from_preset
from charlstm.training import budget
from charlstm.training import steps as stepping
from charlstm.training import trainer as trainers

SPEEDS = {
    "even": lambda now: 1.0,
    "slower and slower": lambda now: 1 + now / 5,
    "a busy neighbour from the middle on": lambda now: 1.0 if now < 10 else 3.0,
    "a busy neighbour while it is calibrated": lambda now: 6.0 if now < 0.3 else 1.0,
    "slow near the end": lambda now: 1.0 if now < 19.2 else 5.0,
    "fast near the end": lambda now: 1.0 if now < 19.2 else 0.2,
    "by fits and starts": lambda now: 1.0 if int(now * 2) % 3 else 4.0,
}


@pytest.fixture
def clock(monkeypatch):
    """A clock that advances only by iterations: by 10 ms each, times `clock.speed(now)`."""

    class Clock:
        now, speed = 0.0, staticmethod(SPEEDS["even"])

    run = stepping.Steps.run

    def timed(self, memory, begin, end, *rest):
        losses = run(self, memory, begin, end, *rest)
        for _ in range(begin, end):
            Clock.now += 0.01 * Clock.speed(Clock.now)
        return losses

    monkeypatch.setattr(stepping.Steps, "run", timed)
    monkeypatch.setattr(stepping, "perf_counter", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("speed", SPEEDS)
def test_a_budget_in_seconds_is_kept_at_any_speed(corpus, clock, speed):
    clock.speed = SPEEDS[speed]
    trainer = trainers.Trainer(small(seconds=20.0, sample_every=0, hidden_size=3, num_layers=1), corpus)
    last = list(trainer.run())[-1]
    assert trainer.seconds == pytest.approx(20, rel=0.03)
    assert trainer.ended_by() == "20 s of training"
    assert last.iteration == last.iterations == trainer.iterations == plans.parse(trainer.config.plans)[-1][1]
    assert len(plans.parse(trainer.config.plans)) < 15


@pytest.mark.parametrize("slow", [0.9, 1.7])
def test_iterations_that_take_long(corpus, clock, slow):
    clock.speed = lambda now: 100 * slow  # seconds per iteration
    trainer = trainers.Trainer(small(seconds=20.0, sample_every=0, hidden_size=3, num_layers=1), corpus)
    list(trainer.run())
    assert abs(trainer.seconds - 20) <= slow / 2 + 0.2


def test_another_budget_that_is_reached_first_ends_it(corpus, clock):
    clock.speed = SPEEDS["a busy neighbour from the middle on"]
    trainer = trainers.Trainer(small(seconds=20.0, iterations=800, sample_every=0, hidden_size=3), corpus)
    list(trainer.run())
    assert (trainer.iteration, trainer.ended_by()) == (800, "800 iterations")
    assert trainer.config.plans == "0:800"
    late = trainers.Trainer(small(seconds=20.0, iterations=1500, sample_every=0, hidden_size=3), corpus)
    clock.now = 0.0
    list(late.run())
    assert late.ended_by() == "20 s of training"
    assert late.seconds == pytest.approx(20, rel=0.03)


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "cosine"},
        {"schedule": "plateau", "learning_rate": 3.0, "plateau_patience": 1, "validation": 0.2, "decay_factor": 0.7},
    ],
    ids=lambda options: options["schedule"],
)
def test_the_same_plans_give_the_same_bits(corpus, tmp_path, clock, options):
    clock.speed = SPEEDS["by fits and starts"]
    options = {**options, "hidden_size": 3, "num_layers": 1}
    run = start(corpus, small(seconds=4.0, **options), str(tmp_path / "run"))
    finish(run)
    written = Config(**tomllib.loads((tmp_path / "run" / "config.toml").read_text()))
    assert written == run.config == run.load("last").config
    assert len(plans.parse(written.plans)) > 3
    clock.speed, clock.now = SPEEDS["slower and slower"], 100.0
    for name, config in (("config", written), ("option", small(plans=written.plans, **options))):
        again = start(corpus, config, str(tmp_path / name))
        finish(again)
        assert again.config.plans == written.plans
        assert everything(tmp_path / name) == everything(tmp_path / "run")
    plain = start(corpus, small(iterations=run.trainer.iteration, **options), str(tmp_path / "plain"))
    finish(plain)
    assert everything(tmp_path / "plain")[0] != everything(tmp_path / "run")[0]  # one total is not enough


def test_a_run_in_parts_is_planned_on_and_replayed(corpus, tmp_path, clock):
    clock.speed = SPEEDS["by fits and starts"]
    options = {"hidden_size": 3, "num_layers": 1}
    run = start(corpus, small(seconds=4.0, **options), str(tmp_path / "run"))
    for progress in run.train():
        run.stop = progress.seconds > 1.5
    assert run.trainer.iteration < run.trainer.iterations
    on = resume(tmp_path / "run", corpus)
    finish(on)
    assert on.trainer.seconds == pytest.approx(4, rel=0.03)
    more = resume(tmp_path / "run", corpus, {"seconds": 6.0})
    finish(more)
    assert more.trainer.seconds == pytest.approx(6, rel=0.03)
    last = resume(tmp_path / "run", corpus, {"iterations": more.trainer.iteration + 25})
    finish(last)
    assert last.trainer.iteration == more.trainer.iteration + 25
    again = start(corpus, small(plans=last.config.plans, **options), str(tmp_path / "again"))
    finish(again)
    assert everything(tmp_path / "again") == everything(tmp_path / "run")


def test_a_replayed_run_that_goes_on(corpus, tmp_path, clock):
    plans = "0:60,20:90,50:80"
    whole = start(corpus, small(plans=plans), str(tmp_path / "whole"))
    finish(whole)
    assert whole.trainer.iteration == 80
    parts = start(corpus, small(plans=plans), str(tmp_path / "parts"))
    for progress in parts.train():
        parts.stop = progress.iteration >= 30
    finish(resume(tmp_path / "parts", corpus))
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


@pytest.mark.parametrize("words", ["", "5:10", "0:5,", "0:5,3", "0:5;3:6", "0:5,4:6,3:7", "0:-5", "x"])
def test_plans_that_are_none(words):
    with pytest.raises(UserError, match="--plans: expected"):
        from_preset(plans=words)


def test_what_plans_say():
    found = plans.parse("0:60,20:90,20:95,50:80")
    assert plans.in_words(found) == "0:60,20:90,20:95,50:80"
    assert [budget.total_at(found, n) for n in (0, 19, 20, 49, 50, 99)] == [60, 60, 95, 95, 80, 80]
    assert [budget.next_change(found, n) for n in (0, 19, 20, 50)] == [20, 20, 50, None]
    chosen = from_preset(plans="0:60")
    assert (chosen.seconds, chosen.iterations) == (None, None)
