"""All hyperparameters: name, default, help and limits, shared by the command line, Python and config.toml."""

import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any, get_args, get_origin, get_type_hints

from charlstm.errors import UserError, unknown_option
from charlstm.settings import plans
from charlstm.settings.presets import PRESETS, WITH_SCHEDULE
from charlstm.settings.unknown import checked as checked_unknown
from charlstm.settings.unknown import named
from kernels.spec import CELLS, OPTIMIZERS, takers

_MAX_SEED = 2**32 - 1
MOST_NETS = 64  #: that a run trains side by side
#: Texts of more kinds of characters than EMBEDDED_FROM get an embedding of this size: see docs/recipes.md.
EMBEDDING, EMBEDDED_FROM = 64, 1000
#: Rate of dropout and of weight drop if there is one recurrent weight for each id of the text, what ten times as many
#: add, and the highest.
DROPPED, DROPPED_MORE, DROPPED_MOST = 0.45, 0.65, 0.5
#: Constants that an optimizer without them refuses. It ignores the other constants, because presets set them.
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
    """Return a field with its help and limits; `low` and `high` are inclusive, `above` and `below` exclusive."""
    limits = {"choices": choices, "low": low, "high": high, "above": above, "below": below}
    return field(default=default, metadata={"help": help, **limits})


@dataclass(frozen=True, repr=False)
class Config:
    """The options of a training run; the defaults are nearly those of the preset `fast`: see :func:`from_preset`.

    Raises
    ------
    UserError
        For a value out of range: ``--hidden-size: expected at least 1, got 0``.
    """

    preset: str = _option("fast", "recipe that sets the defaults of the other options; list: show all presets")
    backend: str = _option(
        "auto",
        "compute backend; auto: cupy if an NVIDIA GPU is predicted to be faster, else the processor",
        choices=("auto", "numpy", "numba", "cupy"),
    )
    dtype: str = _option(
        "auto",
        "floating-point precision; bfloat16: float32, but matrix products read numbers rounded to bfloat16 (mixed "
        "precision); auto: bfloat16 for batches on processors that multiply it faster, else float32",
        choices=("auto", "float32", "float64", "bfloat16"),
    )
    threads: int | None = _option(
        None, "maximum number of threads; results are identical for any number [all cores]", low=1, high=256
    )
    seed: int = _option(0, "random seed for the initial weights, batches, dropout and samples", low=0, high=_MAX_SEED)

    hidden_size: int = _option(224, "hidden units per layer", low=1, high=65_536)
    num_layers: int = _option(1, "number of stacked layers", low=1, high=64)
    cell: str = _option("lstm", "recurrent cell; lnlstm: layer-normalised LSTM, CPU only", choices=tuple(CELLS))
    embedding_size: int | None = _option(
        None,
        f"size of the character embedding before the first layer; 0: no embedding [0; "
        f"{EMBEDDING} for more than {EMBEDDED_FROM:,} kinds of characters]",
        low=0,
        high=65_536,
    )
    sync_every: int = _option(
        1,
        "with several ranks: updates that each rank makes by itself before weights and optimizer state are averaged; "
        "1: the gradients of every iteration are summed, which is as good as one process",
        low=1,
        high=10**6,
    )
    sync_dtype: str = _option(
        "float32",
        "with several ranks: what gradients travel as; bfloat16: half the bytes, and what rounding loses is added to "
        "the next gradient",
        choices=("float32", "bfloat16"),
    )
    dropout: float | None = _option(
        0.0,
        "dropout rate: fraction of each layer's outputs zeroed during training; none: what suits text and model, "
        "as in fast and quality",
        low=0,
        below=1,
    )
    weight_drop: float | None = _option(
        0.0,
        "weight drop rate: fraction of the recurrent weights that each iteration leaves out; none: what suits text and "
        "model, as in fast and quality",
        low=0,
        below=1,
    )
    init: str = _option(
        "uniform", "initialisation of the weights", choices=("uniform", "keras", "min-char-lstm", "min-char-rnn")
    )
    forget_bias: float = _option(1.0, "initial bias of the forget gates (lstm and lnlstm)")

    members: str = _option(
        "1",
        "nets that are trained side by side, a net a core, and speak together, by the mean of their probabilities: how "
        "many, which differ by their seeds, or CELL:HIDDEN_SIZE,... for each, such as lstm:224,gru:256",
    )
    seeds: int = _option(
        1,
        "nets that are trained side by side from this many seeds, --seed and those after it; the one with the lowest "
        "held-out loss speaks",
        low=1,
        high=MOST_NETS,
    )
    mix: float = _option(
        0.5,
        "weight of an n-gram that is learned beside the net, when sampling and scoring; 0: no n-gram",
        low=0,
        high=1,
    )

    seq_length: int = _option(24, "truncated-BPTT length, in characters", low=1, high=1_000_000)
    batch_size: int = _option(16, "streams of text (with --windows: windows) read in parallel", low=1, high=1_000_000)
    windows: str | None = _option(
        None,
        "train on shuffled windows of MAXLEN characters, one starting every STEP characters, instead of streams; "
        "each starts from a zero state, and only the character after it is predicted",
    )
    reset_every: int = _option(
        8,
        "mean number of iterations between random resets of a stream's state to zero, at the start; it grows during "
        "training (0: reset only where the text starts over)",
        low=0,
        high=10**9,
    )
    optimizer: str = _option("adam", "update rule", choices=tuple(OPTIMIZERS))
    learning_rate: float = _option(8e-3, "initial learning rate", above=0, high=3e38)
    schedule: str = _option("cosine", "learning rate schedule", choices=("constant", "decay", "plateau", "cosine"))
    average: float = _option(
        0.05,
        "let the mean of the weights over this last part of the run so far speak, 0.05 for a twentieth, instead of the "
        "newest weights; 0: the newest weights",
        low=0,
        high=1,
    )
    warmup: int = _option(0, "iterations over which the learning rate rises from zero", low=0)
    decay_factor: float = _option(
        0.5, "decay, plateau: factor applied to the learning rate at each drop", above=0, high=1
    )
    decay_every: float = _option(1.0, "decay: epochs between drops", above=0)
    decay_after: float = _option(0.0, "decay: epochs before the drops start", low=0)
    decay_floor: float = _option(0.0, "decay: lower limit of the learning rate", low=0)
    plateau_patience: int = _option(
        2, "plateau: evaluations (without validation: epochs) without improvement before a drop", low=1
    )
    momentum: float | None = _option(
        None, "momentum coefficient, for sgd and momentum [sgd: 0, momentum: 0.9]", low=0, below=1
    )
    beta1: float | None = _option(None, "adam, adamw: decay rate of the mean gradient [0.9]", low=0, below=1)
    beta2: float | None = _option(
        0.99, "adam, adamw: decay rate of the mean squared gradient; none: 0.999", low=0, below=1
    )
    rho: float | None = _option(None, "rmsprop: decay rate of the mean squared gradient [0.99]", low=0, below=1)
    weight_decay: float | None = _option(
        None,
        "adamw: weight decay; each update shrinks all weights by the learning rate times this fraction [0.01]",
        low=0,
        high=3e38,
    )
    epsilon: float | None = _option(
        None, "constant in the optimizer's denominator that prevents division by zero [1e-8]", low=2e-38, high=3e38
    )
    loss_reduction: str = _option(
        "mean", "loss to differentiate: mean or sum over the characters of a batch", choices=("mean", "sum")
    )
    grad_clip: float | None = _option(None, "clip each gradient element to this absolute value", above=0, high=3e38)
    grad_clip_norm: float | None = _option(1.0, "clip the gradient to this Euclidean norm", above=0, high=3e38)

    iterations: int | None = _option(
        None,
        "stop after this many updates; the first of several budgets to be reached ends the run",
        low=0,
        high=10**15,
    )
    epochs: float | None = _option(None, "stop after this many passes over the text", above=0, high=10**9)
    max_chars: int | None = _option(None, "stop after reading this many characters", low=1, high=10**18)
    seconds: float | None = _option(
        60.0,
        "stop after about this many seconds of training; the number of iterations is estimated as it runs",
        above=0,
    )
    plans: str | None = _option(
        None,
        "0:TOTAL,ITERATION:TOTAL,...: iteration counts that a budget in seconds led to, from config.toml; they "
        "reproduce that run exactly",
    )
    until_loss: float | None = _option(
        None,
        "stop when the mean training loss, in nats per character, falls below this; the mean is over the last pass, or "
        "over the last 50,000 characters if a pass is longer",
        above=0,
    )

    validation: float = _option(0.0, "fraction of the text held out for validation", low=0, below=1)
    validation_from: str = _option(
        "end",
        "what is held out: the end of the text, or the end after shuffling its lines with the seed (for sorted lists)",
        choices=("end", "shuffle-lines"),
    )
    validate_every: int | None = _option(
        None,
        "iterations between evaluations on the held-out text [ten per run, fewer if they take long]",
        low=1,
    )
    patience: int | None = _option(None, "stop after this many evaluations without improvement", low=1)

    report_every: int = _option(100, "iterations between lines of metrics.jsonl", low=1)
    diagnostics: bool = _option(
        True,
        "measure gradient norm, clipping, update size and gate saturation, at most every 1,000 iterations; changes no "
        "result",
    )
    tensorboard: bool = _option(False, "also write what TensorBoard reads into the run folder, samples included")
    save_every: float = _option(30.0, "seconds between checkpoints", above=0)
    plot: bool = _option(True, "draw the loss after training, as loss.png and loss.svg in the run folder")
    plot_every: float | None = _option(
        None, "also draw it while training, every so many seconds, at least 60 [only after training]", low=60
    )
    keep: int = _option(3, "number of newest checkpoints to keep; the best one is always kept", low=1, high=1_000_000)
    sample_every: int | None = _option(
        None, "iterations between samples during training; 0: none [after 0, 10, 30, 100, 300, 1,000, ...]", low=0
    )
    sample_length: int = _option(200, "characters per sample during training", low=1, high=1_000_000)
    temperature: float = _option(
        0.8, "sampling temperature; 1: the model's own distribution, below 1: safer, 0: likeliest character", low=0
    )
    show_below: float | None = _option(
        None,
        "also sample whenever the smoothed loss sets a new minimum below this fraction of its initial value",
        above=0,
        high=1,
    )
    save_below: float | None = _option(
        None,
        "with --show-below: save a sample to samples.txt only below this fraction; none: save every sample",
        above=0,
        high=1,
    )
    epoch_samples: str = _option(
        "none",
        "after each epoch, sample at four temperatures, starting from a random piece of the text; window: reread the "
        "last characters from a zero state for each new one, as the Keras example does; state: carry the state over",
        choices=("none", "window", "state"),
    )
    encoding: str = _option("utf-8", "encoding of text files without a byte order mark")
    format: str = _option(
        "auto",
        "format of all files; auto: recognise each by its first bytes, then by its name; text: plain text, whatever "
        "the content looks like",
        choices=("auto", "text", "html", "subtitles", "csv", "jsonl"),
    )
    column: str = _option("", "column of CSV files to read, by name or number [none: read as plain text]")
    field: str = _option("", "field of JSONL files to read; a.b is field b of a [none: read as plain text]")
    bytes: bool = _option(False, "read text files as raw bytes: the vocabulary is the 256 byte values")
    lower: bool = _option(False, "convert the text to lower case")
    weight: tuple[str, ...] = _option(
        (),
        "read FILE, one of several texts, NUMBER times as often as a text without a weight; can be repeated",
    )
    documents: str = _option(
        "auto",
        "what a document is; lines: each line, so training reads the lines in an order shuffled with the seed, and "
        "holds out whole lines from everywhere; texts: each text; auto: lines for a list of at least 100 short lines",
        choices=("auto", "texts", "lines"),
    )
    separator: str = _option(
        r"\n", r"string inserted between two files unless the first one ends with it; \n: line break, \t: tab"
    )
    unknown: str = _option(
        "error", "characters missing from the vocabulary of --from: stop with an error, skip them, or read them as CHAR"
    )

    def __post_init__(self) -> None:
        kinds = get_type_hints(Config)
        for item in fields(self):
            object.__setattr__(self, item.name, _checked(item, kinds[item.name], getattr(self, item.name)))
        if self.windows is not None:
            object.__setattr__(self, "seq_length", self.window[0])
        members = self._members()
        if not self.members.isdigit():  # named one by one: spell out the sizes that --hidden-size gave
            words = ",".join(f"{own['cell']}:{own['hidden_size']}" for own in members)
            object.__setattr__(self, "members", words)
        for name, value in members[0].items():
            object.__setattr__(self, name, value)
        if self.sync_dtype == "bfloat16" and (self.sync_every > 1 or self.dtype == "float64"):
            other = "--dtype float64" if self.dtype == "float64" else "--sync-every, which sends no gradients"
            raise UserError(f"--sync-dtype bfloat16: cannot be combined with {other}")
        for name, needed in (
            ("patience", "validation"),
            ("validate_every", "validation"),
            ("save_below", "show_below"),
        ):
            if getattr(self, name) is not None and not getattr(self, needed):
                raise UserError(f"--{name.replace('_', '-')}: needs --{needed.replace('_', '-')}")
        if self.validation_from != "end" and not self.validation and self.documents != "lines":
            raise UserError(f"--validation-from {self.validation_from}: needs --validation")
        if len(self.nets) > 1 and self.show_below is not None:
            raise UserError("--show-below: stops in the middle of a call for one net; it has no --members or --seeds")
        if self.seeds > 1 and len(members) > 1:
            raise UserError("--seeds: keeps one net, and --members averages several: choose one of them")
        if self.seeds > 1 and not self.validation:
            raise UserError("--seeds: needs --validation, to tell which seed is the best")
        if self.plans is not None:
            plans.parse(self.plans)
        if self.preset not in PRESETS:
            raise UserError(f"--preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        for name in filter(self.__getattribute__, _CONSTANTS):
            _see_that_it_goes_with(name, self.optimizer)
        cell = _CELL_OF.get(self.init, self.cell)
        if self.cell != cell:
            raise UserError(
                f"--init {self.init}: only for --cell {cell}, not {self.cell}; --init uniform works for all"
            )
        checked_unknown(self.unknown)
        for format, option in (("csv", "column"), ("jsonl", "field")):
            if self.format == format and not getattr(self, option):
                raise UserError(f"--format {format}: needs --{option}")
        if self.bytes and (self.lower or self.encoding != "utf-8"):
            what = "--lower" if self.lower else "--encoding"
            raise UserError(f"--bytes: reads the text as it is, so it cannot be combined with {what}")
        if not self.bytes and (odd := re.search("[\udc80-\udcff]", self.separator)):
            raise UserError(f"--separator: {named(odd[0])} can only be used with --bytes")

    def __repr__(self) -> str:
        base = {**{item.name: item.default for item in fields(self)}, **PRESETS[self.preset]}
        values = {item.name: getattr(self, item.name) for item in fields(self)}
        changed = [f"{name}={value!r}" for name, value in values.items() if value != base[name] and name != "preset"]
        return f"from_preset({', '.join([repr(self.preset), *changed])})"

    def _members(self) -> list[dict[str, Any]]:
        """The cell and the size of each member."""
        own = {"cell": self.cell, "hidden_size": self.hidden_size}
        if re.fullmatch(r"\d{1,9}", self.members):
            found = [own] * int(self.members)
        else:
            each = [re.fullmatch(r"([a-z]+)(?::(\d{1,9}))?", words) for words in self.members.split(",")]
            found = [{"cell": m[1], "hidden_size": int(m[2] or self.hidden_size)} for m in each if m and m[1] in CELLS]
            found = found if len(found) == len(each) else []
        if not 1 <= len(found) <= MOST_NETS:
            expected = f"1 to {MOST_NETS}, or CELL:HIDDEN_SIZE for each, such as lstm:224,gru:256"
            raise UserError(f"--members: expected {expected}, got {self.members!r}")
        return found

    @property
    def nets(self) -> tuple["Config", ...]:
        """The config of each net that is trained, as if by itself: members or seeds have seeds that follow each other.

        A run of one net has one, this one.
        """
        each = self._members() * self.seeds
        if len(each) == 1:
            return (self,)
        return tuple(
            replace(self, **own, members="1", seeds=1, seed=(self.seed + k) % (_MAX_SEED + 1))
            for k, own in enumerate(each)
        )

    @property
    def net_in_words(self) -> str:
        """The kind and the size of the net, or of each member."""
        each = [f"{own['cell'].upper()}, {self.num_layers} x {own['hidden_size']}" for own in self._members()]
        words = " + ".join(each) if len(set(each)) > 1 or len(each) == 1 else f"{len(each)} of {each[0]}"
        return words if self.seeds == 1 else f"{self.seeds} seeds of {words}"

    @property
    def window(self) -> tuple[int, int]:
        """Length of a window, and distance between the starts of two."""
        found = re.fullmatch(r"([1-9]\d{0,5}):([1-9]\d{0,5})", self.windows or "")
        if found is None:
            raise UserError(f"--windows: expected MAXLEN:STEP, for example 40:3, got {self.windows!r}")
        return int(found[1]), int(found[2])

    @property
    def loss_chars(self) -> int:
        """Number of characters per sequence whose loss counts."""
        return 1 if self.windows else self.seq_length

    @property
    def iteration_chars(self) -> int:
        """Number of characters read in one iteration."""
        return self.batch_size * self.seq_length

    @property
    def real(self) -> str:
        """The dtype of all arrays."""
        return "float64" if self.dtype == "float64" else "float32"

    @property
    def hyper(self) -> dict[str, float]:
        """The constants of the optimizer that are set, without those of other optimizers."""
        return {name: value for name in OPTIMIZERS[self.optimizer].hyper if (value := getattr(self, name)) is not None}


def _checked(item: Any, kind: Any, value: Any) -> Any:
    """Convert `value`, which may be a NumPy scalar, to the field's type and check its limits."""
    value = plain_number(value)
    if item.name == "members" and isinstance(value, int):
        value = str(value)
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
            raise UserError(f"{name}: expected a list of strings, got {value!r}")
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
    """Convert a NumPy scalar to a Python number; return anything else unchanged."""
    return value.item() if getattr(value, "shape", None) == () and hasattr(value, "item") else value


def _see_that_it_goes_with(constant: str, optimizer: str) -> None:
    """Raise UserError if the optimizer does not have the constant."""
    allowed = takers(constant)
    if optimizer not in allowed:
        option = "--" + constant.replace("_", "-")
        raise UserError(f"{option}: only for --optimizer {' or '.join(allowed)}, not for {optimizer}")


_NAMES = {bool: "true or false", str: "a word", int: "a whole number", float: "a number"}


def fitting_dropout(hidden_size: int, num_layers: int, length: int) -> float:
    """The rate of dropout and of weight drop, a multiple of 0.05, that suits a model of these sizes and so many ids.

    The more recurrent weights there are for each id, the more easily the text is learned by heart. They are counted as
    those of an LSTM for every cell.
    """
    rate = DROPPED + DROPPED_MORE * math.log10(4 * num_layers * hidden_size**2 / max(length, 1))
    return min(DROPPED_MOST, max(0, round(20 * rate)) / 20)


BUDGETS = ("iterations", "epochs", "max_chars", "seconds", "until_loss")

#: Options that fix the number of weights and their meaning.
SIZES = ("cell", "hidden_size", "num_layers", "embedding_size", "members", "bytes")

#: Initialisations that work for one kind of cell only.
_CELL_OF = {"min-char-lstm": "lstm", "min-char-rnn": "rnn"}


def see_that_known(chosen: dict[str, Any]) -> None:
    """Raise UserError, with a suggestion, for a name that Config does not have."""
    names = {item.name for item in fields(Config)}
    for name in chosen:
        if name not in names:
            raise unknown_option(name, names)


def from_preset(preset: str = "fast", **chosen: Any) -> Config:
    """Return the preset's Config with the options in `chosen` replaced; a chosen budget replaces the preset's budgets.

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
    """Return the Config of a new run that starts from the weights of a run with config `old`; see `from_preset`.

    The sizes come from `old`, and so do `dtype` and `lower` unless `chosen` sets them.

    Raises
    ------
    UserError
        As `from_preset`, and for a size that differs from the one in `old`.
    """
    for name in SIZES:
        if name in chosen and str(chosen[name]) != str(getattr(old, name)):
            raise UserError(
                f"--{name.replace('_', '-')}: the model of --from has {getattr(old, name)}, got {chosen[name]}; "
                "leave it out"
            )
    kept = {name: getattr(old, name) for name in (*SIZES, "dtype", "lower")}
    return from_preset(preset, **{**kept, **chosen})


__all__ = ["BUDGETS", "EMBEDDED_FROM", "EMBEDDING", "PRESETS", "SIZES", "Config", "from_model", "from_preset"]
