"""Hyperparameters: limits, presets, budgets."""

from dataclasses import fields

import pytest

from charlstm.config import PRESETS, Config, from_preset
from charlstm.errors import UserError


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"hidden_size": 0}, "--hidden-size: expected at least 1, got 0"),
        ({"hidden_size": 1.5}, "--hidden-size: expected a whole number, got 1.5"),
        ({"hidden_size": True}, "--hidden-size: expected a whole number, got True"),
        ({"learning_rate": 0}, "--learning-rate: expected more than 0, got 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate: expected more than 0, got nan"),
        ({"learning_rate": float("inf")}, "--learning-rate: expected a finite number, got inf"),
        ({"learning_rate": None}, "--learning-rate: expected a number, got None"),
        ({"optimizer": "adm"}, "--optimizer: expected one of adagrad, rmsprop, adam, sgd, got 'adm'"),
        ({"optimizer": 3}, "--optimizer: expected a word, got 3"),
        ({"beta1": 1}, "--beta1: expected less than 1, got 1.0"),
        ({"hidden_size": 10**19}, "--hidden-size: expected at most 65536, got 10000000000000000000"),
        ({"seed": 2**32}, "--seed: expected at most 4294967295, got 4294967296"),
        ({"dropout": 1}, "--dropout: expected less than 1, got 1.0"),
        ({"embedding_size": -1}, "--embedding-size: expected at least 0, got -1"),
        ({"momentum": 0.9}, "--momentum: goes with --optimizer sgd, not with adam"),
        ({"temperature": -1}, "--temperature: expected at least 0, got -1.0"),
        ({"hiden_size": 3}, "unknown option 'hiden_size': options are backend, "),
    ],
)
def test_what_is_out_of_range_is_named(option, message):
    with pytest.raises(UserError) as caught:
        from_preset(**option)
    assert str(caught.value).startswith(message)


def test_presets_are_configs_and_options_win():
    assert from_preset() == Config()
    for name in PRESETS:
        assert from_preset(name).preset == name
    original = from_preset("min-char-lstm", hidden_size=50)
    assert (original.hidden_size, original.seq_length, original.batch_size, original.optimizer) == (
        50,
        16,
        1,
        "adagrad",
    )
    assert (original.loss_reduction, original.grad_clip, original.grad_clip_norm) == ("sum", 5.0, None)
    with pytest.raises(UserError, match="--preset: expected one of fast, min-char-lstm, got 'slow'"):
        from_preset("slow")
    with pytest.raises(UserError, match="--preset: expected one of"):
        Config(preset="slow")


def test_a_budget_that_is_given_takes_the_place_of_the_presets():
    assert (from_preset().seconds, from_preset().iterations) == (60.0, None)
    assert (from_preset(iterations=5).seconds, from_preset(iterations=5).iterations) == (None, 5)
    assert from_preset("min-char-lstm").iterations == 1_000_000
    assert from_preset("min-char-lstm", seconds=3).iterations is None
    both = from_preset(seconds=3, iterations=5)
    assert (both.seconds, both.iterations) == (3.0, 5)


def test_only_the_optimizers_own_constants_reach_it():
    assert Config(beta2=0.99, rho=0.9).hyper == {"beta2": 0.99}
    assert Config(optimizer="rmsprop", rho=0.9, epsilon=1e-7).hyper == {"rho": 0.9, "epsilon": 1e-7}
    assert Config(optimizer="sgd").hyper == {}
    assert Config(optimizer="sgd", momentum=0.9).hyper == {"momentum": 0.9}


def test_every_option_has_help():
    for item in fields(Config):
        assert item.metadata["help"]
        assert not item.metadata["help"].endswith(".")
