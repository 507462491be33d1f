"""report.html of a run: what is measured for it, and the file.

The page is drawn by :mod:`charlstm.show.report`; the numbers come from the run's files, its checkpoint and its text.
Without its text, which may have moved, a report has no novelty, and the model reads a text of its own.
"""

import base64
import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from charlstm.errors import RunFailed, UserError
from charlstm.figures import for_json
from charlstm.model import inside, mixing
from charlstm.model.model import Model, load
from charlstm.ngram.markov import baseline_bits
from charlstm.runs import disk, novelty
from charlstm.runs.begin import training_text
from charlstm.runs.inspection import curves
from charlstm.runs.keywords import saved_samples
from charlstm.settings.config import BUDGETS, Config, from_preset
from charlstm.show import hints
from charlstm.show.plotting import Curves
from charlstm.show.report import page
from charlstm.text import downloads, heldout
from charlstm.text.reading import Fetch
from kernels import spec

REPORT = "report.html"
LARGEST = 400_000  #: parameters of a net whose weights are in the report unless asked otherwise
_POINTS = 600  # of a curve
_SAMPLES, _SAMPLE_CHARS = 60, 1_500
_ACTIVATIONS = 320_000  # units times characters of the passage: bytes of their activations, before base64
_PASSAGE = (100, 1_200)  # its least and greatest length
_LINE = 500  # characters in which a line break is looked for
_WRITTEN = 2_000  # characters that a model without its text writes for itself
_COPIED_FROM = 20


class Text(NamedTuple):
    """The text that the model reads for the report."""

    ids: np.ndarray
    what: str  #: where it comes from
    baseline: float | None  #: held-out bits per id of the n-gram model
    fault: str = ""  #: why the training text is missing


def write(
    run: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    checkpoint: str = "best",
    sampler: bool | None = None,
    fetch: Fetch = downloads.fetch,
) -> Path:
    """Write the report of a run, which may still be training: one self-contained page.

    Parameters
    ----------
    run : the run folder
    out : the file; by default report.html in the run folder
    checkpoint : "best", "last" or a file: the model that the report is about
    sampler : whether the weights are in the page, for its live sampler and its reading of pasted texts; by default for
        nets of up to 400,000 parameters, which keeps the page below 3 MB
    fetch : turns a URL or a built-in name into a file

    Returns
    -------
    Path
        The file.

    Raises
    ------
    UserError
        If it is not the folder of a run, has no checkpoint yet, or a file is damaged.
    RunFailed
        If the file cannot be written.
    """
    html = page(contents(run, checkpoint, sampler, fetch)).encode()
    path = Path(run) / REPORT if out is None else Path(out)
    try:
        disk.write(path, html)
    except OSError as error:
        raise RunFailed(f"{path}: cannot be written: {error.strerror or error}") from None
    return path


def contents(
    run: str | os.PathLike[str], checkpoint: str = "best", sampler: bool | None = None, fetch: Fetch = downloads.fetch
) -> dict[str, Any]:
    """Everything that the page shows, as JSON has it: see charlstm/show/report/page.js."""
    from threadpoolctl import threadpool_limits

    plain = os.fspath(run)
    given = curves(plain)
    model = load(plain, checkpoint)
    # one BLAS thread gives the same bits everywhere; weights may have grown without bound
    with threadpool_limits(1, "blas"), np.errstate(over="ignore", invalid="ignore"):
        return _contents(plain, checkpoint, given, model, sampler, fetch)


def _contents(
    run: str, checkpoint: str, given: Curves, model: Model, sampler: bool | None, fetch: Fetch
) -> dict[str, Any]:
    text, net = _text(model, run, given.baseline, fetch), model.alone()
    weights = _weights(net, len(net.theta) <= LARGEST if sampler is None else sampler)
    which = "" if checkpoint == "best" else f" --checkpoint {hints.quoted(checkpoint)}"
    return {
        "name": Path(os.path.abspath(run)).name,
        "unit": given.unit,
        "facts": _facts(model),
        "curves": _curves(given, text.baseline, len(model.vocabulary)),
        "samples": _samples(run),
        "model": {**_described(net), **weights},
        "passage": _passage(net, text),
        "inside": _inside(net, text),
        "novelty": _novelty(run, fetch),
        "fault": text.fault,
        "options": _options(model.config),
        "environment": _environment(Path(run)),
        "command": command(model),
        "sampling": hints.sampling(Path(run)) + which + (" --mix 0" if model.mix else ""),
    }


def _text(model: Model, run: str, baseline: float | None, fetch: Fetch) -> Text:
    """Held-out text, else the training text, else what the model itself writes; baseline: as the run measured it."""
    config = model.config
    try:
        corpus = training_text(model, run, fetch)
        learned, held_out = heldout.split(corpus, config.validation, config.validation_from, config.seed)
    except (UserError, RunFailed) as error:
        [sample] = model.samples(length=_WRITTEN, seed=0)
        ids = model.vocabulary.encode(sample.text, "skip")
        return Text(ids, "a text that the model wrote, because its training text was not found", baseline, str(error))
    if baseline is None and len(held_out) >= 2 and len(learned) >= 2:
        baseline = baseline_bits(learned, held_out, len(model.vocabulary))
    if len(held_out) >= _PASSAGE[0]:
        return Text(held_out, "held-out text", baseline)
    return Text(learned, "training text", baseline)


def _facts(model: Model) -> dict[str, Any]:
    marks, unit, count = model.marks, model.vocabulary.short_unit, len(model.voices)
    mix = [mixing.each_in_words(model.config, model.each, unit), mixing.in_words(model.mix, unit)]
    first = f"only the first of {count} members" if count > 1 else "the net alone"
    return {
        "text": model.corpus["name"],
        "chars": model.corpus["num_ids"],
        "parameters": len(model.theta),
        "iterations": model.iteration,
        "seconds": round(model.seconds, 1),
        "read": model.iteration * model.config.iteration_chars,
        "best": for_json(marks.get("best_validation")),
        "mix": "; ".join(filter(None, mix)),
        "shown": first,
        "seqLength": model.config.seq_length,
    }


def _curves(given: Curves, baseline: float | None, vocab_size: int) -> dict[str, Any]:
    """The curves, thinned to what a screen can show; all losses in bits per character, or per byte."""
    short = "byte" if given.unit == "byte" else "char"
    history = given.history
    x = history.get("iteration", np.empty(0, np.int64))

    def points(values: np.ndarray, means: bool = False) -> list[list[float]]:
        return _thinned(x, np.asarray(values, np.float64), means)

    empty = np.full(len(x), np.nan)
    return {
        "raw": points(history.get("loss", empty) / np.log(2)),
        "smooth": points(history.get(f"bits_per_{short}", empty), means=True),
        "heldOut": points(history.get(f"val_bits_per_{short}", empty)),
        "rate": points(history.get("learning_rate", empty)),
        "chars": points(history.get("chars", empty)),
        "seconds": points(history.get("seconds", empty)),
        "baseline": for_json(baseline),
        "guess": float(np.log2(vocab_size)),
    }


def _thinned(x: np.ndarray, y: np.ndarray, means: bool) -> list[list[float]]:
    """Up to _POINTS points: of each stretch its mean, or else its last point. Gaps are left out."""
    there = np.isfinite(y)
    x, y = x[there], y[there]
    pieces = [piece for piece in np.array_split(np.arange(len(x)), min(len(x), _POINTS) or 1) if len(piece)]
    return [[int(x[piece[-1]]), _short(y[piece].mean() if means else y[piece[-1]])] for piece in pieces]


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _samples(run: str) -> list[dict[str, Any]]:
    """The saved samples, iteration 0 included; if there are too many, those at growing distances."""
    try:
        found = saved_samples(run, 0)
    except UserError:
        return []
    places = np.unique(np.geomspace(1, max(1, len(found)), min(len(found), _SAMPLES)).round().astype(int))
    return [{"iteration": found[at - 1][0], "text": found[at - 1][1][:_SAMPLE_CHARS]} for at in places]


def _described(model: Model) -> dict[str, Any]:
    shape, vocabulary = model.shape, model.vocabulary
    return {
        "cell": shape.cell,
        "V": shape.vocab_size,
        "H": shape.hidden_size,
        "L": shape.num_layers,
        "E": shape.embedding_size,
        "isOfBytes": vocabulary.unit == "byte",
        "vocabulary": [] if vocabulary.unit == "byte" else [ord(each) for each in vocabulary.characters],
        "begin": list(model.edges.begin),
        "end": list(model.edges.end),
        "lower": model.config.lower,
        "temperature": model.config.temperature,
        "epsilon": spec.LAYER_NORM_EPSILON,
    }


def _weights(model: Model, wanted: bool) -> dict[str, Any]:
    """The parameters as float32, and where each block of them begins; or why they are missing."""
    with np.errstate(over="ignore"):
        theta = model.theta.astype("<f4")
    if wanted and np.isfinite(theta).all():
        blocks = {name: [offset, *dims] for name, offset, dims in spec.blocks(model.shape)}
        return {"weights": base64.b64encode(theta.tobytes()).decode(), "blocks": blocks}
    if wanted:
        return {"weights": "", "missing": "its weights have grown too large for 32-bit numbers"}
    count = len(theta)
    why = f"its {count:,} parameters would add {count * 16 / 3e6:.1f} MB; charlstm report --sampler includes them"
    return {"weights": "", "missing": why}


def _passage(model: Model, text: Text) -> dict[str, Any]:
    """Ids from the first whole line of the text on, what each unit remembers after each, and their surprise."""
    least, most = _PASSAGE
    units = model.shape.hidden_size * model.shape.num_layers
    count = min(most, max(least, _ACTIVATIONS // units))
    line = inside.as_characters(model, text.ids[:_LINE]).find("\n") + 1
    begin = line if len(text.ids) - line >= count else 0
    ids = np.array(text.ids[begin : begin + count], np.int64)
    remembered, bits = inside.passage(model, ids)
    levels = np.rint(127 * np.nan_to_num(np.clip(remembered, -1, 1))).astype(np.int8)
    return {
        "what": text.what,
        "ids": ids.tolist(),
        "bits": [round(float(each), 3) for each in bits],
        "units": base64.b64encode(levels.tobytes()).decode(),
    }


def _inside(model: Model, text: Text) -> dict[str, Any] | None:
    """Gates, time constants, telling units and the reach of the gradient; None for a text of one id."""
    if len(text.ids) < 2:
        return None
    found, reach = inside.look_inside(model, text.ids), inside.gradient_reach(model, text.ids)
    return {
        "chars": found.chars,
        "what": text.what,
        "gates": [
            {"layer": each.layer, "gate": each.gate, "low": _rounded(each.low), "high": _rounded(each.high)}
            for each in found.gates
        ],
        "constants": [[_short(value) for value in layer] for layer in found.constants],
        "keeps": inside.KEEPS.get(model.shape.cell),
        "telling": [
            {"feature": each.feature, "units": [[layer, unit, round(r, 3)] for layer, unit, r in each.units]}
            for each in found.telling
        ],
        "reach": None if reach is None else {name: _listed(values) for name, values in asdict(reach).items()},
    }


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 3) for value in values]


def _listed(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else [_short(value) if np.isfinite(value) else 0.0 for value in values]


def _novelty(run: str, fetch: Fetch) -> dict[str, Any]:
    """How much of each saved sample is copied, the held-out text last; or why that is not known."""
    try:
        name, found = novelty.of_run(run, _COPIED_FROM, fetch)
    except (UserError, RunFailed) as error:
        return {"fault": str(error)}
    shown = [*found[:-1][-10:], found[-1]]
    rows = [{"iteration": iteration, **asdict(each), "longest": len(each.longest)} for iteration, each in shown]
    longest = max((each.longest for iteration, each in found if iteration is not None), key=len)
    return {"text": name, "least": _COPIED_FROM, "rows": rows, "longest": longest[:500]}


def _options(config: Config) -> list[list[str]]:
    """All options with their values, and for those changed from the preset what the preset has."""
    base = asdict(from_preset(config.preset))
    return [
        [name, _word(value), "" if value == base[name] else _word(base[name])] for name, value in asdict(config).items()
    ]


def _word(value: Any) -> str:
    return "none" if value is None else " ".join(value) if isinstance(value, tuple) else str(value)


def _environment(folder: Path) -> dict[str, Any]:
    """The content of environment.json; what is wrong with it if it cannot be read."""
    path = folder / "environment.json"
    try:
        return dict(json.loads(path.read_bytes()))
    except OSError as error:
        return {"missing": f"{path.name} cannot be read: {error.strerror or error}"}
    except (ValueError, TypeError):
        return {"missing": f"{path.name} is damaged"}


def command(model: Model) -> str:
    """The command that trains this model again; plans, where a budget in seconds led to any, give the same bits."""
    config = model.config
    base = asdict(from_preset(config.preset))
    sources = [hints.quoted(each) for each in model.corpus["sources"]] or ["TEXT"]
    words = ["charlstm train", *sources, f"--preset {config.preset}"]
    changed = {name: value for name, value in asdict(config).items() if value != base[name]}
    for name, value in changed.items():
        option = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            words.append(option if value else f"--no-{name.replace('_', '-')}")
        elif isinstance(value, tuple):
            words += [f"{option} {hints.quoted(each)}" for each in value]
        elif not (value is None and name in BUDGETS):
            words.append(f"{option} {hints.quoted(_word(value))}")
    return " ".join(words)
