"""`--style original` prints what the replaced script prints."""

import hashlib
import json
import re

import pytest
from conftest import SHARED, made_up_text, needs_shared

from charlstm.errors import UserError
from charlstm.settings.config import from_preset
from charlstm.settings.presets import PRESETS
from charlstm.show.originals import STYLES, style_of
from charlstm.text import corpus as corpora
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer


def printed(capsys, preset, corpus, **options):
    """A run's stdout, and every Progress of its trainer."""
    trainer = Trainer(from_preset(preset, **options), corpus)
    style, progress = style_of(trainer.config)(trainer), []
    for p in trainer.run():
        style.show(p)
        progress.append(p)
    style.close()
    return capsys.readouterr().out, progress


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_text(made_up_text(700))


HEADER = """\
data has 700 characters, 11 unique.
char_to_ix {'\\n': 0, ' ': 1, '.': 2, 'a': 3, 'b': 4, 'c': 5, 'd': 6, 'e': 7, 'f': 8, 'g': 9, 'h': 10}
ix_to_char {0: '\\n', 1: ' ', 2: '.', 3: 'a', 4: 'b', 5: 'c', 6: 'd', 7: 'e', 8: 'f', 9: 'g', 10: 'h'}
"""
TINY = {"hidden_size": 5, "iterations": 1201}


def of_kind(progress, kind):
    return [p for p in progress if p.kind == kind]


@needs_shared
@pytest.mark.parametrize("report_every", [1, 200])
def test_min_char_lstm_prints_the_trace(capsys, report_every):
    oracle = json.loads((SHARED / "oracle" / "lstm-us-constitution-seed123.json").read_text())
    corpus = corpora.load([SHARED / "data" / oracle["corpus"]])
    options = {"seed": 123, "dtype": "float64", "iterations": oracle["iters"], "report_every": report_every}
    text, _ = printed(capsys, "min-char-lstm", corpus, **options)
    assert text.split("\n", 3)[3] == oracle["stdout"]  # after the three lines of the header


@pytest.mark.parametrize(
    ("preset", "header", "line", "every", "T"),
    [
        ("min-char-lstm", HEADER, "iter {n} (p={p}), loss {loss:.6f}\n", 200, 16),
        ("min-char-rnn", HEADER, "iter {n} (p={p}), loss: {loss:.6f}\n", 200, 16),
        ("karpathy-min-char-rnn", HEADER.partition("\n")[0] + "\n", "iter {n}, loss: {loss:.6f}\n", 100, 25),
    ],
)
def test_the_min_char_scripts(capsys, corpus, preset, header, line, every, T):
    text, progress = printed(capsys, preset, corpus, **TINY, report_every=50)
    losses = {p.iteration: p.smooth_loss for p in of_kind(progress, "report")}
    samples = {p.iteration: p.sample for p in of_kind(progress, "sample")}
    assert list(samples) == list(range(0, 1201, 1000 if every == 200 else 100))
    expected, p = header, 0
    for n in range(1201):
        p = 0 if p + T + 1 >= 700 else p
        expected += f"----\n {samples[n]} \n----\n" if n in samples else ""
        expected += line.format(n=n, p=p, loss=losses[n]) if n % every == 0 else ""
        p += T
    assert text == expected


def test_min_char_lstm_mod_2(capsys, corpus):
    options = {"hidden_size": 20, "iterations": 2001, "show_below": 0.85, "save_below": 0.84, "sample_length": 9}
    text, progress = printed(capsys, "min-char-lstm-mod-2", corpus, **options, report_every=500)
    per_pass = (700 - 16 - 2) // 16 + 1
    limit = 0.85 * 38.3663243657
    events = {p.iteration: p for p in of_kind(progress, "report") if p.iteration % 1000 == 0 and p.smooth_loss > limit}
    assert list(events) == [0]
    events |= {p.iteration: p for p in of_kind(progress, "sample")}
    expected = HEADER + "\nStart Loss: 38.366324\n\n"
    for n in sorted(events):
        expected += f"DATE: iter {n} (p={n % per_pass * 16}), loss {events[n].smooth_loss:.6f}\n"
        expected += f"----\n {events[n].sample} \n----\n" if events[n].sample else ""
        expected += "\nSaving to file\n\n" if events[n].sample and events[n].is_kept else ""
    assert re.sub(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "DATE", text, flags=re.MULTILINE) == expected
    assert 10 < expected.count("Saving") < len(events) - 10


def trace_of_mod_2(backend, threads):
    """The losses at every hundredth iteration, and what was shown and saved, in the form of the trace."""
    corpus = corpora.load([SHARED / "data" / "us-constitution.txt"])
    config = from_preset(
        "min-char-lstm-mod-2", seed=123, dtype="float64", iterations=36_000, report_every=100, backend=backend,
        threads=threads,
    )  # fmt: skip
    progress = list(Trainer(config, corpus).run())
    samples = of_kind(progress, "sample")
    shown = [[p.iteration, hashlib.sha256(p.sample.encode()).hexdigest()[:16]] for p in samples]
    smooth = [p.smooth_loss for p in of_kind(progress, "report")]
    return smooth, shown, [p.iteration for p in samples if p.is_kept]


@needs_shared
@pytest.mark.parametrize(("backend", "threads"), [("numba", 2), pytest.param("numpy", 1, marks=pytest.mark.long)])
def test_mod_2_shows_and_saves_what_the_trace_does(backend, threads):
    oracle = json.loads((SHARED / "oracle" / "mod2-us-constitution-seed123.json").read_text())
    smooth, shown, saved = trace_of_mod_2(backend, threads)
    assert smooth == pytest.approx(oracle["smooth_every_100"], abs=1e-6)
    assert shown == oracle["shown"]
    assert saved == oracle["saved"]


def test_keras_lstm_text(capsys, corpus):
    options = {"hidden_size": 5, "epochs": 2, "sample_length": 7, "batch_size": 60, "epoch_samples": "state"}
    text, progress = printed(capsys, "keras-lstm-text", corpus, **options)
    samples = of_kind(progress, "sample")
    expected = "corpus length: 700\ntotal chars: 11\nnb sequences: 220\nVectorization...\nBuild model...\n"
    for epoch in (0, 1):
        expected += f"\n----- Generating text after Epoch: {epoch}\n"
        for p, diversity in zip(samples[4 * epoch :][:4], ("0.2", "0.5", "1.0", "1.2"), strict=True):
            expected += f"----- diversity: {diversity}\n"
            expected += f'----- Generating with seed: "{p.prime}"\n{p.prime}{p.sample}\n'
    assert text == expected


def test_presets_that_replace_no_such_script():
    for name in PRESETS:
        if name in STYLES:
            assert style_of(from_preset(name)) is STYLES[name]
        else:
            with pytest.raises(UserError, match=f"--style original: not available for preset {name}, only for min-"):
                style_of(from_preset(name))


def test_reports_that_miss_the_scripts_lines():
    with pytest.raises(UserError, match="--report-every: expected a divisor of 200 with --style original, got 300"):
        style_of(from_preset("min-char-rnn", report_every=300))
