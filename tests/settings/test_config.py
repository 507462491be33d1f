"""Hyperparameters: limits, presets, budgets."""

from dataclasses import asdict, fields

import pytest

from charlstm.errors import UserError
from charlstm.settings.config import PRESETS, Config, from_model, from_preset
from kernels.spec import OPTIMIZERS


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"hidden_size": 0}, "--hidden-size: expected at least 1, got 0"),
        ({"hidden_size": 1.5}, "--hidden-size: expected a whole number, got 1.5"),
        ({"hidden_size": True}, "--hidden-size: expected a whole number, got True"),
        ({"learning_rate": 0}, "--learning-rate: expected more than 0, got 0.0"),
        ({"learning_rate": float("nan")}, "--learning-rate: expected a finite number, got nan"),
        ({"learning_rate": float("inf")}, "--learning-rate: expected a finite number, got inf"),
        ({"learning_rate": None}, "--learning-rate: expected a number, got None"),
        ({"learning_rate": 1e39}, "--learning-rate: expected at most 3e+38, got 1e+39"),  # the largest float32
        ({"grad_clip": 1e200}, "--grad-clip: expected at most 3e+38, got 1e+200"),
        ({"grad_clip_norm": 1e200}, "--grad-clip-norm: expected at most 3e+38, got 1e+200"),
        ({"epsilon": 1e-200}, "--epsilon: expected at least 2e-38, got 1e-200"),
        ({"optimizer": "adm"}, f"--optimizer: expected one of {', '.join(OPTIMIZERS)}, got 'adm'"),
        ({"optimizer": 3}, "--optimizer: expected a word, got 3"),
        ({"beta1": 1}, "--beta1: expected less than 1, got 1.0"),
        ({"hidden_size": 10**19}, "--hidden-size: expected at most 65536, got 10000000000000000000"),
        ({"seed": 2**32}, "--seed: expected at most 4294967295, got 4294967296"),
        ({"dropout": 1}, "--dropout: expected less than 1, got 1.0"),
        ({"embedding_size": -1}, "--embedding-size: expected at least 0, got -1"),
        ({"momentum": 0.9}, "--momentum: only for --optimizer sgd or momentum, not for adam"),
        ({"weight_decay": 0.1}, "--weight-decay: only for --optimizer adamw, not for adam"),
        ({"weight_decay": -1}, "--weight-decay: expected at least 0, got -1.0"),
        ({"temperature": -1}, "--temperature: expected at least 0, got -1.0"),
        ({"unknown": "replace:ab"}, "--unknown: expected error, skip or replace:CHAR, got 'replace:ab'"),
        ({"lower": 1}, "--lower: expected true or false, got 1"),
        ({"bytes": True, "lower": True}, "--bytes: reads the text as it is, so it cannot be combined with --lower"),
        (
            {"bytes": True, "encoding": "latin-1"},
            "--bytes: reads the text as it is, so it cannot be combined with --encoding",
        ),
        ({"cell": "lstn"}, "--cell: expected one of lstm, gru, rnn, lnlstm, got 'lstn'"),
        (
            {"cell": "gru", "init": "min-char-rnn"},
            "--init min-char-rnn: only for --cell rnn, not gru; --init uniform works for all",
        ),
        (
            {"preset": "min-char-lstm", "cell": "rnn"},
            "--init min-char-lstm: only for --cell lstm, not rnn; --init uniform",
        ),
        ({"hiden_size": 3}, "unknown option 'hiden_size': did you mean 'hidden_size'?"),
    ],
)
def test_what_is_out_of_range_is_named(option, message):
    with pytest.raises(UserError) as caught:
        from_preset(**option)
    assert str(caught.value).startswith(message)


def test_presets_are_configs_and_options_win():
    assert from_preset() == Config(dropout=None, weight_drop=None)
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
    with pytest.raises(
        UserError,
        match=f"--preset: expected one of {', '.join(PRESETS)}, got 'slow'",
    ):
        from_preset("slow")
    with pytest.raises(UserError, match="--preset: expected one of"):
        Config(preset="slow")


def test_karpathys_preset_differs_in_length_and_cadence_alone():
    his, ours = asdict(from_preset("karpathy-min-char-rnn")), asdict(from_preset("min-char-rnn"))
    assert {name: (his[name], ours[name]) for name in his if his[name] != ours[name]} == {
        "preset": ("karpathy-min-char-rnn", "min-char-rnn"), "seq_length": (25, 16), "report_every": (100, 200),
        "sample_every": (100, 1000),
    }  # fmt: skip
    assert (ours["cell"], ours["init"], ours["hidden_size"]) == ("rnn", "min-char-rnn", 100)


def test_a_budget_that_is_given_takes_the_place_of_the_presets():
    assert (from_preset().seconds, from_preset().iterations) == (60.0, None)
    assert (from_preset(iterations=5).seconds, from_preset(iterations=5).iterations) == (None, 5)
    assert from_preset("min-char-lstm").iterations == 1_000_000
    assert from_preset("min-char-lstm", seconds=3).iterations is None
    both = from_preset(seconds=3, iterations=5)
    assert (both.seconds, both.iterations) == (3.0, 5)


def test_the_sizes_are_those_of_the_model_to_begin_with():
    old = Config(hidden_size=7, num_layers=2, dtype="float64", lower=True, learning_rate=1.0)
    new = from_model(old, seed=3, hidden_size=7)
    assert new == from_preset(hidden_size=7, num_layers=2, dtype="float64", lower=True, seed=3)
    assert from_model(old, "min-char-lstm").hidden_size == 7
    assert from_model(old, dtype="float32", lower=False).lower is False
    with pytest.raises(UserError, match="--num-layers: the model of --from has 2, got 1; leave it out"):
        from_model(old, num_layers=1)
    with pytest.raises(UserError, match="--bytes: the model of --from has False, got True; leave it out"):
        from_model(old, bytes=True)


def test_only_the_optimizers_own_constants_reach_it():
    assert Config(beta2=0.99, rho=0.9).hyper == {"beta2": 0.99}
    assert Config(optimizer="rmsprop", rho=0.9, epsilon=1e-7).hyper == {"rho": 0.9, "epsilon": 1e-7}
    assert Config(optimizer="sgd").hyper == {}
    assert Config(optimizer="sgd", momentum=0.9).hyper == {"momentum": 0.9}
    assert Config(optimizer="adamw", weight_decay=0.1).hyper == {"beta2": 0.99, "weight_decay": 0.1}
    assert Config(optimizer="momentum").hyper == {}
    assert Config(optimizer="momentum", momentum=0.5).hyper == {"momentum": 0.5}


def test_every_constant_of_an_optimizer_is_an_option():
    assert {constant for row in OPTIMIZERS.values() for constant in row.hyper} <= {item.name for item in fields(Config)}


def test_every_option_has_help():
    for item in fields(Config):
        assert item.metadata["help"]
        assert not item.metadata["help"].endswith(".")


def test_a_preset_with_another_schedule():
    plain, decaying = from_preset("min-char-lstm-mod-2"), from_preset("min-char-lstm-mod-2", schedule="decay")
    assert (plain.learning_rate, plain.schedule) == (0.1, "constant")
    assert (decaying.learning_rate, decaying.decay_factor, decaying.decay_floor) == (0.2, 0.8, 0.05)
    assert from_preset("min-char-lstm-mod-2", schedule="decay", learning_rate=0.3).learning_rate == 0.3
    assert from_preset("min-char-lstm", schedule="decay").learning_rate == 0.1
