"""Learning-rate schedules."""

import numpy as np
import pytest

from charlstm.settings.config import Config, from_preset
from charlstm.training.schedules import learning_rates


def rates(config, end, per_epoch=10, factor=1.0, begin=0):
    return learning_rates(config, begin, end, 1000, per_epoch, factor)


def test_constant_and_what_plateaus_have_made_of_it():
    config = Config(schedule="constant", learning_rate=0.5)
    assert rates(config, 30).tolist() == [0.5] * 30
    config = Config(schedule="plateau", learning_rate=0.5)
    assert rates(config, 3, factor=0.25).tolist() == [0.125] * 3


def test_cosine_ends_at_zero():
    found = rates(Config(learning_rate=0.5), 1000)
    assert (found[0], found[500]) == (0.5, pytest.approx(0.25))
    assert 0 < found[999] < 1e-5
    assert (np.diff(found) < 0).all()


def test_decay_as_char_rnn_and_torch_rnn_have_it():
    found = rates(from_preset("char-rnn"), 130)
    assert found[:100].tolist() == [2e-3] * 100  # ten epochs
    assert found[100:110] == pytest.approx([2e-3 * 0.97] * 10)
    assert found[120:130] == pytest.approx([2e-3 * 0.97**3] * 10)
    found = rates(from_preset("torch-rnn"), 101)
    assert found[49] == 2e-3
    assert found[50] == pytest.approx(1e-3)
    assert found[100] == pytest.approx(5e-4)


def test_decay_after_a_part_of_an_epoch_and_down_to_a_floor():
    options = {"decay_factor": 0.1, "decay_every": 0.5, "decay_after": 1.0, "decay_floor": 0.02}
    found = rates(Config(schedule="decay", learning_rate=1.0, **options), 40)
    assert found == pytest.approx([1.0] * 15 + [0.1] * 5 + [0.02] * 20)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "decay"])
def test_warmup_rises_in_a_line_to_the_full_step(schedule):
    config = Config(schedule=schedule, learning_rate=0.5, warmup=8, decay_every=3.0)
    found = rates(config, 30)
    assert found[:8] == pytest.approx(0.5 * np.arange(1, 9) / 8)
    assert found[8] == 0.5


@pytest.mark.parametrize("schedule", ["constant", "cosine", "decay", "plateau"])
def test_they_follow_from_the_iteration_alone(schedule):
    config = Config(schedule=schedule, warmup=7, decay_after=1.5)
    parts = [rates(config, end, begin=begin, factor=0.5) for begin, end in ((0, 3), (3, 40), (40, 41), (41, 90))]
    assert np.concatenate(parts).tolist() == rates(config, 90, factor=0.5).tolist()
