"""The presets, by name: the options in which each differs from Config's defaults."""

from typing import Any

#: The original programs do not reset streams at random (docs/training.md says why charlstm does), do not average
#: weights, and have float32.
_AS_THE_ORIGINAL: dict[str, Any] = {
    "reset_every": 0,
    "average": 0.0,
    "dtype": "float32",
    "embedding_size": 0,
    "mix": 0.0,
    "documents": "texts",
}

_MIN_CHAR: dict[str, Any] = {
    **_AS_THE_ORIGINAL,
    "hidden_size": 100,
    "forget_bias": 0.0,
    "seq_length": 16,
    "batch_size": 1,
    "optimizer": "adagrad",
    "learning_rate": 0.1,
    "schedule": "constant",
    "beta2": None,
    "loss_reduction": "sum",
    "grad_clip": 5.0,
    "grad_clip_norm": None,
    "iterations": 1_000_000,
    "seconds": None,
    "report_every": 200,
    "sample_every": 1000,
    "temperature": 1.0,
}

PRESETS: dict[str, dict[str, Any]] = {
    # The best text after a minute of training on two cores; docs/recipes.md says how it was chosen.
    "fast": {"dropout": None, "weight_drop": None},
    # The best model after two minutes of training; docs/recipes.md says how it was chosen.
    "quality": {
        "hidden_size": 320,
        "dropout": None,
        "weight_drop": None,
        "seq_length": 32,
        "learning_rate": 6e-3,
        "seconds": 127.0,
        "validation": 0.1,
    },
    # The best model after an hour.
    "best": {
        "hidden_size": 512,
        "num_layers": 2,
        "dropout": None,
        "weight_drop": 0.3,
        "batch_size": 32,
        "seq_length": 64,
        "learning_rate": 3e-3,
        "seconds": 3600.0,
        "validation": 0.1,
    },
    # Bendersky's min-char-lstm.py, which never stops on a text of under a million characters; this preset does.
    "min-char-lstm": {**_MIN_CHAR, "init": "min-char-lstm"},
    # The same, modified to show samples only at a new lowest smoothed loss, and to save them only if that is low.
    "min-char-lstm-mod-2": {
        **_MIN_CHAR,
        "init": "min-char-lstm",
        "report_every": 1000,
        "sample_every": 0,
        "sample_length": 500,
        "temperature": 0.0,
        "show_below": 1 / 4,
        "save_below": 1 / 6,
    },
    # Bendersky's min-char-rnn.py, the same program with an RNN, and Karpathy's original of it.
    "min-char-rnn": {**_MIN_CHAR, "cell": "rnn", "init": "min-char-rnn"},
    "karpathy-min-char-rnn": {
        **_MIN_CHAR,
        "cell": "rnn",
        "init": "min-char-rnn",
        "seq_length": 25,
        "report_every": 100,
        "sample_every": 100,
    },
    # The Keras example lstm_text_generation.py.
    "keras-lstm-text": {
        **_AS_THE_ORIGINAL,
        "hidden_size": 128,
        "init": "keras",
        "windows": "40:3",
        "batch_size": 128,
        "optimizer": "rmsprop",
        "learning_rate": 0.01,
        "schedule": "constant",
        "beta2": None,
        "rho": 0.9,
        "epsilon": 1e-7,
        "grad_clip_norm": None,
        "lower": True,
        "epochs": 60.0,
        "seconds": None,
        "report_every": 100,
        "sample_every": 0,
        "sample_length": 400,
        "epoch_samples": "window",
    },
    # Karpathy's char-rnn, in Lua.
    "char-rnn": {
        **_AS_THE_ORIGINAL,
        "hidden_size": 128,
        "num_layers": 2,
        "seq_length": 50,
        "batch_size": 50,
        "optimizer": "rmsprop",
        "learning_rate": 2e-3,
        "schedule": "decay",
        "decay_factor": 0.97,
        "decay_after": 9.0,
        "beta2": None,
        "rho": 0.95,
        "grad_clip": 5.0,
        "grad_clip_norm": None,
        "epochs": 50.0,
        "seconds": None,
        "validation": 0.05,
        "sample_every": 1000,
        "temperature": 1.0,
    },
    # Johnson's torch-rnn, in Lua.
    "torch-rnn": {
        **_AS_THE_ORIGINAL,
        "hidden_size": 128,
        "num_layers": 2,
        "embedding_size": 64,
        "seq_length": 50,
        "batch_size": 50,
        "learning_rate": 2e-3,
        "schedule": "decay",
        "decay_factor": 0.5,
        "decay_every": 5.0,
        "beta2": None,
        "grad_clip": 5.0,
        "grad_clip_norm": None,
        "epochs": 50.0,
        "seconds": None,
        "validation": 0.1,
        "sample_every": 1000,
        "temperature": 1.0,
    },
}

#: Options that a preset also sets if the user chooses this schedule; docs/recipes.md says how they were chosen.
WITH_SCHEDULE: dict[tuple[str, str], dict[str, Any]] = {
    ("min-char-lstm-mod-2", "decay"): {  # its author described a rate that starts higher and decays
        "learning_rate": 0.2,
        "decay_factor": 0.8,
        "decay_every": 50.0,
        "decay_after": 50.0,
        "decay_floor": 0.05,
    },
}

#: The program that each preset replaces, for `--preset list`.
REPLACES = {
    "fast": "-",
    "quality": "-",
    "best": "-",
    "min-char-lstm": "min-char-lstm.py",
    "min-char-rnn": "min-char-rnn.py",
    "karpathy-min-char-rnn": "min-char-rnn (the gist)",
    "min-char-lstm-mod-2": "min-char-lstm-mod-2.py",
    "keras-lstm-text": "lstm_text_generation.py",
    "char-rnn": "char-rnn",
    "torch-rnn": "torch-rnn",
}


def is_ours(preset: str) -> bool:
    """Return whether a preset is our own; the others reproduce a program and write samples as it does."""
    return REPLACES[preset] == "-"
