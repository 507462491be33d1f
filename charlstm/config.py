"""Every hyperparameter once: name, default, help and limits, for the command line, Python and config.toml alike."""

from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_type_hints

from charlstm.errors import UserError

_MAX_SEED = 2**32 - 1


def _option(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A field with its help; `low` and `high` are allowed, `above` and `below` are not."""
    limits = {"choices": choices, "low": low, "high": high, "above": above, "below": below}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True)
class Config:
    """What a training run is asked to do; the defaults are the preset `fast`.

    Raises
    ------
    UserError
        For a value out of range: ``--hidden-size: expected at least 1, got 0``.
    """

    preset: str = _option("fast", "recipe that the other options start from")
    backend: str = _option("auto", "who does the arithmetic", choices=("auto", "numpy", "numba", "cupy"))
    dtype: str = _option("float32", "precision of all arithmetic", choices=("float32", "float64"))
    threads: int | None = _option(
        None, "threads to work with, at most: any number gives the same bits [all cores]", low=1, high=256
    )
    seed: int = _option(0, "seed of the first weights and of the samples", low=0, high=_MAX_SEED)

    hidden_size: int = _option(224, "hidden units in a layer", low=1, high=65_536)
    num_layers: int = _option(1, "LSTM layers", low=1, high=64)
    embedding_size: int = _option(
        0, "numbers that a character is turned into before the first layer; 0: none", low=0, high=65_536
    )
    dropout: float = _option(0.0, "part of each layer's output that is dropped while training", low=0, below=1)
    init: str = _option("uniform", "first weights", choices=("uniform", "min-char-lstm", "keras"))
    forget_bias: float = _option(1.0, "first bias of the forget gates")

    seq_length: int = _option(24, "characters that a gradient reaches back", low=1, high=1_000_000)
    batch_size: int = _option(16, "streams of text read side by side", low=1, high=1_000_000)
    optimizer: str = _option("adam", "update rule", choices=("adagrad", "rmsprop", "adam", "sgd"))
    learning_rate: float = _option(8e-3, "step size, at first", above=0)
    schedule: str = _option("cosine", "how the step size changes", choices=("constant", "cosine"))
    momentum: float | None = _option(None, "sgd: decay of the sum of gradients [0: none]", low=0, below=1)
    beta1: float | None = _option(None, "adam: decay of the mean gradient [0.9]", low=0, below=1)
    beta2: float | None = _option(0.99, "adam: decay of the mean square; none is 0.999", low=0, below=1)
    rho: float | None = _option(None, "rmsprop: decay of the mean square [0.99]", low=0, below=1)
    epsilon: float | None = _option(None, "optimizer's guard against division by zero [1e-8]", above=0)
    loss_reduction: str = _option(
        "mean", "gradient of the mean loss of a character, or of the sum", choices=("mean", "sum")
    )
    grad_clip: float | None = _option(None, "limit of each element of the gradient", above=0)
    grad_clip_norm: float | None = _option(1.0, "limit of the gradient's Euclidean norm", above=0)

    iterations: int | None = _option(None, "stop after so many updates", low=0, high=10**15)
    seconds: float | None = _option(
        60.0, "stop after so much training, turned into iterations after a short calibration", above=0
    )

    report_every: int = _option(100, "iterations between lines of metrics.jsonl", low=1)
    save_every: float = _option(30.0, "seconds between checkpoints", above=0)
    sample_every: int = _option(500, "iterations between samples while training (0: never)", low=0)
    sample_length: int = _option(200, "characters in such a sample", low=1, high=1_000_000)
    temperature: float = _option(
        0.8, "of those samples: 1 as the model believes, lower is safer, 0 the likeliest", low=0
    )
    encoding: str = _option("utf-8", "encoding of text files")

    def __post_init__(self) -> None:
        kinds = get_type_hints(Config)
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, kinds[item.name], getattr(self, item.name)))
        if self.preset not in PRESETS:
            raise UserError(f"--preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.momentum and self.optimizer != "sgd":
            raise UserError(f"--momentum: goes with --optimizer sgd, not with {self.optimizer}")

    @property
    def hyper(self) -> dict[str, float]:
        """The optimizer's constants that were set, those it has."""
        from kernels.spec import OPTIMIZERS

        return {name: value for name in OPTIMIZERS[self.optimizer].hyper if (value := getattr(self, name)) is not None}


def _checked(item: Any, kind: Any, value: Any) -> Any:
    """`value` as the field's type, within its limits."""
    name, limits = "--" + item.name.replace("_", "-"), item.metadata
    optional = type(None) in get_args(kind)
    if value is None and optional:
        return None
    plain = next(k for k in (get_args(kind) or (kind,)) if k is not type(None))
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    fits = {str: isinstance(value, str), int: is_whole, float: isinstance(value, int | float)}[plain]
    if isinstance(value, bool) or not fits:
        raise UserError(f"{name}: expected {_NAMES[plain]}, got {value!r}")
    value = plain(value)
    if limits["choices"] and value not in limits["choices"]:
        raise UserError(f"{name}: expected one of {', '.join(limits['choices'])}, got {value!r}")
    if limits["low"] is not None and not value >= limits["low"]:
        raise UserError(f"{name}: expected at least {limits['low']}, got {value}")
    if limits["high"] is not None and not value <= limits["high"]:
        raise UserError(f"{name}: expected at most {limits['high']}, got {value}")
    if limits["above"] is not None and not value > limits["above"]:
        raise UserError(f"{name}: expected more than {limits['above']}, got {value}")
    if limits["below"] is not None and not value < limits["below"]:
        raise UserError(f"{name}: expected less than {limits['below']}, got {value}")
    if plain is float and not -1e300 < value < 1e300:
        raise UserError(f"{name}: expected a finite number, got {value}")
    return value


_NAMES = {str: "a word", int: "a whole number", float: "a number"}

BUDGETS = ("iterations", "seconds")

PRESETS: dict[str, dict[str, Any]] = {
    # The best text that a minute of training on two cores buys; docs/recipes.md says how it was chosen.
    "fast": {},
    # Bendersky's min-char-lstm.py, whose text files of under a million characters it would train on for ever.
    "min-char-lstm": {
        "hidden_size": 100,
        "init": "min-char-lstm",
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
    },
}


def from_preset(preset: str = "fast", **chosen: Any) -> Config:
    """The preset's Config with `chosen` over it. A budget that is chosen takes the place of the preset's own.

    Raises
    ------
    UserError
        For an unknown preset or option, or a value out of range.
    """
    names = {item.name for item in fields(Config)}
    unknown = sorted(set(chosen) - names)
    if unknown:
        raise UserError(f"unknown option {unknown[0]!r}: options are {', '.join(sorted(names))}")
    base = dict(PRESETS.get(preset, {}))
    if any(chosen.get(name) is not None for name in BUDGETS):
        base |= dict.fromkeys(BUDGETS)
    return Config(**{**base, "preset": preset, **chosen})


__all__ = ["BUDGETS", "PRESETS", "Config", "from_preset"]
