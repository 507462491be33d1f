"""Every hyperparameter once: name, default, help and limits, for the command line, Python and config.toml alike."""

import re
from dataclasses import dataclass, field, fields
from typing import Any, get_args, get_origin, get_type_hints

from charlstm.errors import UserError, unknown_option
from charlstm.settings import plans
from charlstm.settings.presets import PRESETS, WITH_SCHEDULE
from charlstm.settings.unknown import checked as checked_unknown
from charlstm.settings.unknown import named
from kernels.spec import CELLS, OPTIMIZERS, takers

_MAX_SEED = 2**32 - 1
#: Optimizers' constants that an optimizer without them refuses; it ignores the others, as presets set those.
_CONSTANTS = ("momentum", "weight_decay")


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


@dataclass(frozen=True, repr=False)
class Config:
    """What a training run is asked to do; the defaults are the preset `fast`.

    Raises
    ------
    UserError
        For a value out of range: ``--hidden-size: expected at least 1, got 0``.
    """

    preset: str = _option("fast", "recipe that the other options start from; list shows all")
    backend: str = _option("auto", "who does the arithmetic", choices=("auto", "numpy", "numba", "cupy"))
    dtype: str = _option(
        "float32",
        "precision of all arithmetic; bfloat16 is float32 but for the recurrent weights, read as rounded copies: "
        "faster, for --batch-size 1",
        choices=("float32", "float64", "bfloat16"),
    )
    threads: int | None = _option(
        None, "threads to work with, at most: any number gives the same bits [all cores]", low=1, high=256
    )
    seed: int = _option(0, "seed of the first weights and of the samples", low=0, high=_MAX_SEED)

    hidden_size: int = _option(224, "hidden units in a layer", low=1, high=65_536)
    num_layers: int = _option(1, "layers of cells", low=1, high=64)
    cell: str = _option("lstm", "kind of cell", choices=tuple(CELLS))
    embedding_size: int = _option(
        0, "numbers that a character is turned into before the first layer; 0: none", low=0, high=65_536
    )
    dropout: float = _option(0.0, "part of each layer's output that is dropped while training", low=0, below=1)
    init: str = _option("uniform", "first weights", choices=("uniform", "keras", "min-char-lstm", "min-char-rnn"))
    forget_bias: float = _option(1.0, "first bias of the forget gates, which an lstm alone has")

    seq_length: int = _option(24, "characters that a gradient reaches back", low=1, high=1_000_000)
    batch_size: int = _option(16, "streams of text, or windows, read side by side", low=1, high=1_000_000)
    windows: str | None = _option(
        None,
        "read windows of MAXLEN characters, one every STEP, shuffled, each from a zero state, and learn "
        "the one character after each, instead of streams",
    )
    reset_every: int = _option(
        8,
        "iterations after which a stream's state is set to zero, on average, each at its own random moments, at first; "
        "more later (0: only where the text begins again)",
        low=0,
        high=10**9,
    )
    optimizer: str = _option("adam", "update rule", choices=tuple(OPTIMIZERS))
    learning_rate: float = _option(8e-3, "step size, at first", above=0, high=3e38)
    schedule: str = _option("cosine", "how the step size changes", choices=("constant", "decay", "plateau", "cosine"))
    warmup: int = _option(0, "iterations in which the step size rises from zero", low=0)
    decay_factor: float = _option(
        0.5, "decay, plateau: what the step size is multiplied by, each time", above=0, high=1
    )
    decay_every: float = _option(1.0, "decay: epochs from one time to the next", above=0)
    decay_after: float = _option(0.0, "decay: epochs before them", low=0)
    decay_floor: float = _option(0.0, "decay: the step size stays at least that", low=0)
    plateau_patience: int = _option(2, "plateau: evaluations (without validation: epochs) that wait for better", low=1)
    momentum: float | None = _option(
        None, "sgd, momentum: decay of the sum of gradients [sgd 0: none, momentum 0.9]", low=0, below=1
    )
    beta1: float | None = _option(None, "adam, adamw: decay of the mean gradient [0.9]", low=0, below=1)
    beta2: float | None = _option(0.99, "adam, adamw: decay of the mean square; none is 0.999", low=0, below=1)
    rho: float | None = _option(None, "rmsprop: decay of the mean square [0.99]", low=0, below=1)
    weight_decay: float | None = _option(
        None,
        "adamw: fraction by which each update shrinks all weights, per unit of learning rate [0.01]",
        low=0,
        high=3e38,
    )
    epsilon: float | None = _option(None, "optimizer's guard against division by zero [1e-8]", low=2e-38, high=3e38)
    loss_reduction: str = _option(
        "mean", "gradient of the mean loss of a character, or of the sum", choices=("mean", "sum")
    )
    grad_clip: float | None = _option(None, "limit of each element of the gradient", above=0, high=3e38)
    grad_clip_norm: float | None = _option(1.0, "limit of the gradient's Euclidean norm", above=0, high=3e38)

    iterations: int | None = _option(
        None, "stop after so many updates; of several budgets the first", low=0, high=10**15
    )
    epochs: float | None = _option(None, "stop after so many passes over the text", above=0, high=10**9)
    max_chars: int | None = _option(None, "stop after so many characters read", low=1, high=10**18)
    seconds: float | None = _option(
        60.0, "stop after so much training, turned into iterations that are planned anew as it goes on", above=0
    )
    plans: str | None = _option(
        None,
        "0:TOTAL,ITERATION:TOTAL,...: what a budget in seconds became, as config.toml has it, for the same bits",
    )
    until_loss: float | None = _option(
        None,
        "stop when the mean loss of the last pass, or of the last 50,000 characters where a pass has more, is less, in "
        "nats per character",
        above=0,
    )

    validation: float = _option(0.0, "part of the text that is kept back to measure", low=0, below=1)
    validation_from: str = _option(
        "end",
        "which part that is: end; shuffle-lines: all lines are put into an order drawn by the seed, for a sorted list",
        choices=("end", "shuffle-lines"),
    )
    validate_every: int | None = _option(None, "iterations between measurements [ten in a run]", low=1)
    patience: int | None = _option(None, "stop after so many measurements without a better one", low=1)

    report_every: int = _option(100, "iterations between lines of metrics.jsonl", low=1)
    save_every: float = _option(30.0, "seconds between checkpoints", above=0)
    keep: int = _option(3, "checkpoints that are kept, the newest ones; the best is, too", low=1, high=1_000_000)
    sample_every: int = _option(500, "iterations between samples while training (0: never)", low=0)
    sample_length: int = _option(200, "characters in such a sample", low=1, high=1_000_000)
    temperature: float = _option(
        0.8, "of those samples: 1 as the model believes, lower is safer, 0 the likeliest", low=0
    )
    show_below: float | None = _option(
        None, "sample at each new lowest smoothed loss that is below this part of the first one", above=0, high=1
    )
    save_below: float | None = _option(
        None, "of those, write to samples.txt those below this part; none: all", above=0, high=1
    )
    epoch_samples: str = _option(
        "none",
        "after each epoch, samples at four temperatures from a piece of the text; window: re-read it from a zero state "
        "for each character, as the Keras example does; state: carry the state",
        choices=("none", "window", "state"),
    )
    encoding: str = _option("utf-8", "encoding of text files that have no byte order mark")
    format: str = _option(
        "auto",
        "format of all files; auto recognises each by what it begins with, then by its name; text: plain text, "
        "whatever it looks like",
        choices=("auto", "text", "html", "subtitles", "csv", "jsonl"),
    )
    column: str = _option("", "of CSV files: the column to read, by its name or its number [none: as plain text]")
    field: str = _option("", "of JSONL files: the field to read; a.b is the field b of a [none: as plain text]")
    bytes: bool = _option(False, "take text files as bytes, whatever they hold: the vocabulary is the 256 byte values")
    lower: bool = _option(False, "make all letters of the text lower-case")
    weight: tuple[str, ...] = _option(
        (),
        "how often FILE, one of several texts, is read in a pass, where the others, whose number is 1, are read "
        "once; may be given for each",
    )
    separator: str = _option(
        r"\n", r"put between two files where the first does not end in it; \n and \t are line break and tab"
    )
    unknown: str = _option(
        "error", "characters that the vocabulary of --from lacks: error, skip, or replace:CHAR to read CHAR instead"
    )

    def __post_init__(self) -> None:
        kinds = get_type_hints(Config)
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, kinds[item.name], getattr(self, item.name)))
        if self.dtype == "bfloat16" and (self.batch_size != 1 or self.cell != "lstm" or self.embedding_size):
            got = f"--batch-size {self.batch_size} --cell {self.cell} --embedding-size {self.embedding_size}"
            raise UserError(f"--dtype bfloat16: expected --batch-size 1 --cell lstm --embedding-size 0, got {got}")
        if self.windows is not None:
            object.__setattr__(self, "seq_length", self.window[0])
        for name, needed in (
            ("patience", "validation"),
            ("validate_every", "validation"),
            ("save_below", "show_below"),
        ):
            if getattr(self, name) is not None and not getattr(self, needed):
                raise UserError(f"--{name.replace('_', '-')}: needs --{needed.replace('_', '-')}")
        if self.validation_from != "end" and not self.validation:
            raise UserError(f"--validation-from {self.validation_from}: needs --validation")
        if self.plans is not None:
            plans.parse(self.plans)
        if self.preset not in PRESETS:
            raise UserError(f"--preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        for name in filter(self.__getattribute__, _CONSTANTS):
            _see_that_it_goes_with(name, self.optimizer)
        cell = _CELL_OF.get(self.init, self.cell)
        if self.cell != cell:
            raise UserError(f"--init {self.init}: is for --cell {cell}, not {self.cell}; --init uniform is for all")
        checked_unknown(self.unknown)
        for format, option in (("csv", "column"), ("jsonl", "field")):
            if self.format == format and not getattr(self, option):
                raise UserError(f"--format {format}: needs --{option}")
        if self.bytes and (self.lower or self.encoding != "utf-8"):
            what = "--lower" if self.lower else "--encoding"
            raise UserError(f"--bytes: takes the text as it is; {what} does not go with it")
        if not self.bytes and (odd := re.search("[\udc80-\udcff]", self.separator)):
            raise UserError(f"--separator: {named(odd[0])} goes with --bytes alone")

    def __repr__(self) -> str:
        base = {**{item.name: item.default for item in fields(self)}, **PRESETS[self.preset]}
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = [f"{name}={value!r}" for name, value in values.items() if value != base[name] and name != "preset"]
        return f"from_preset({', '.join([repr(self.preset), *changed])})"

    @property
    def window(self) -> tuple[int, int]:
        """Length and distance of windows."""
        found = re.fullmatch(r"([1-9]\d{0,5}):([1-9]\d{0,5})", self.windows or "")
        if found is None:
            raise UserError(f"--windows: expected MAXLEN:STEP, for example 40:3, got {self.windows!r}")
        return int(found[1]), int(found[2])

    @property
    def loss_chars(self) -> int:
        """Characters of a sequence whose loss counts."""
        return 1 if self.windows else self.seq_length

    @property
    def real(self) -> str:
        """The dtype of every array."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def hyper(self) -> dict[str, float]:
        """The optimizer's constants that were set, those it has."""
        return {name: value for name in OPTIMIZERS[self.optimizer].hyper if (value := getattr(self, name)) is not None}


def _checked(item: Any, kind: Any, value: Any) -> Any:
    """`value`, which may be a scalar of NumPy, as the field's type, within its limits."""
    value = plain_number(value)
    name, limits = "--" + item.name.replace("_", "-"), item.metadata
    optional = type(None) in get_args(kind)
    if value is None and optional:
        return None
    plain = next(k for k in (get_args(kind) or (kind,)) if k is not type(None))
    if get_origin(kind) is tuple:
        if isinstance(value, dict):
            value = [f"{each}={number}" for each, number in value.items()]
        value = (value,) if isinstance(value, str) else value
        if not isinstance(value, list | tuple) or not all(isinstance(each, plain) for each in value):
            raise UserError(f"{name}: expected a list of words, got {value!r}")
        return tuple(value)
    is_whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    fits = {
        bool: isinstance(value, bool),
        str: isinstance(value, str),
        int: is_whole,
        float: isinstance(value, int | float),
    }[plain]
    if (isinstance(value, bool) and plain is not bool) or not fits:
        raise UserError(f"{name}: expected {_NAMES[plain]}, got {value!r}")
    value = plain(value)
    if plain is float and not -1e300 < value < 1e300:
        raise UserError(f"{name}: expected a finite number, got {value}")
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
    return value


def plain_number(value: Any) -> Any:
    """A scalar of NumPy, or the like, as Python's own; anything else as it is."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _see_that_it_goes_with(constant: str, optimizer: str) -> None:
    """Raise UserError for a constant that the optimizer does not have."""
    allowed = takers(constant)
    if optimizer not in allowed:
        option = "--" + constant.replace("_", "-")
        raise UserError(f"{option}: goes with --optimizer {' or '.join(allowed)}, not with {optimizer}")


_NAMES = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}

BUDGETS = ("iterations", "epochs", "max_chars", "seconds", "until_loss")

#: Options that say which weights there are, and what they mean.
SIZES = ("cell", "hidden_size", "num_layers", "embedding_size", "bytes")

#: Initialisers that are for one kind of cell.
_CELL_OF = {"min-char-lstm": "lstm", "min-char-rnn": "rnn"}


def see_that_known(chosen: dict[str, Any]) -> None:
    """Raise UserError, with a guess, for a name that is none of Config's."""
    names = {item.name for item in fields(Config)}
    for name in chosen:
        if name not in names:
            raise unknown_option(name, names)


def from_preset(preset: str = "fast", **chosen: Any) -> Config:
    """The preset's Config with `chosen` over it. A budget that is chosen takes the place of the preset's own.

    Raises
    ------
    UserError
        For an unknown preset or option, or a value out of range.
    """
    see_that_known(chosen)
    base = PRESETS.get(preset, {}) | WITH_SCHEDULE.get((preset, chosen.get("schedule", "")), {})
    if any(chosen.get(name) is not None for name in (*BUDGETS, "plans")):
        base |= dict.fromkeys(BUDGETS)
    return Config(**{**base, "preset": preset, **chosen})


def from_model(old: Config, preset: str = "fast", **chosen: Any) -> Config:
    """`from_preset` for a run that begins with the weights of another, whose config is `old`: the sizes are its own.

    So are the precision, and whether letters are made lower-case, where they are not chosen.

    Raises
    ------
    UserError
        For a size that differs, too.
    """
    for name in SIZES:
        if name in chosen and chosen[name] != getattr(old, name):
            raise UserError(
                f"--{name.replace('_', '-')}: the model of --from has {getattr(old, name)}, got {chosen[name]}; "
                "leave it out"
            )
    kept = {name: getattr(old, name) for name in (*SIZES, "dtype", "lower")}
    return from_preset(preset, **{**kept, **chosen})


__all__ = ["BUDGETS", "PRESETS", "SIZES", "Config", "from_model", "from_preset"]
