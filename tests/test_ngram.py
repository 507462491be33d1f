"""The Markov model, judged by plain dictionaries and by what markov-model.py counts and prints."""

import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice

import numpy as np
import pytest
from conftest import SHARED, made_up_text, needs_shared

from benchmarks.ngram import made_up, measure
from charlstm import UserError, ngram
from charlstm.config import from_preset
from charlstm.corpus import Corpus, load
from charlstm.ngram import ORDERS, SMOOTHINGS, Model, line_to_beat
from charlstm.trainer import Trainer

TEXT = made_up_text(700, seed=3) + "Zq"
CORPUS = Corpus.from_text(TEXT + "!?")  # two characters that the text to learn from never has
IDS, V = CORPUS.ids[: len(TEXT)], len(CORPUS.vocabulary)


def counted(ids, order, smoothing):
    """Dictionaries: for each length of context, context -> Counter of what follows, as the smoothing counts it."""
    ids = list(map(int, ids))
    windows = [tuple(ids[t - order : t + 1]) for t in range(order, len(ids))]
    grams = {order: Counter(windows)}
    for k in reversed(range(order)):
        longer = set(grams[k + 1]) if smoothing == "kneser-ney" else windows
        grams[k] = Counter(gram[len(gram) - k - 1 :] for gram in longer)
    tables = {k: defaultdict(Counter) for k in grams}
    for k, counter in grams.items():
        for gram, count in counter.items():
            tables[k][gram[:-1]][gram[-1]] = count
    return tables


def plain(tables, context, w, smoothing, vocab_size):
    """P(w | context) by the equations, one context after the other, from the longest down."""
    k = len(context)
    followers = tables[k].get(tuple(context))
    below = plain(tables, context[1:], w, smoothing, vocab_size) if k else 1 / vocab_size
    if followers is None:
        return below
    total, kinds, c = sum(followers.values()), len(followers), followers[w]
    if smoothing == "none":
        return c / total
    if smoothing == "witten-bell":
        return (c + kinds * below) / (total + kinds)
    values = [n for each in tables[k].values() for n in each.values()]
    n1, n2 = values.count(1), values.count(2)
    discount = n1 / (n1 + 2 * n2) if n1 else 0.5
    return max(c - discount, 0) / total + discount * kinds / total * below


def contexts(order):
    """Known ones, unknown ones, the text's end, short ones, none, and one that is longer than counts."""
    random = np.random.RandomState(order)
    known = [IDS[at : at + order] for at in random.randint(0, len(IDS) - order, 12)]
    wild = [random.randint(0, V, order) for _ in range(4)]
    return [*known, *wild, IDS[len(IDS) - order :], *(IDS[40 : 40 + k] for k in range(order)), IDS[5:25]]


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_are_those_of_plain_dictionaries_and_sum_to_one(order, smoothing):
    model, tables = Model.learn(IDS, V, order), counted(IDS, order, smoothing)
    for context in contexts(order):
        found = model.probabilities(context, smoothing)
        expected = [plain(tables, list(map(int, context[-order:])), w, smoothing, V) for w in range(V)]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
        assert abs(found.sum() - 1) < 1e-12
        assert smoothing == "none" or found.min() > 0


def test_a_character_never_seen_is_possible_where_nothing_was_counted_once():
    ids = [0, 1, 0, 0, 1, 1] * 20
    found = Model.learn(np.array(ids), 3, 1).probabilities([0])
    expected = [plain(counted(ids, 1, "kneser-ney"), [0], w, "kneser-ney", 3) for w in range(3)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    assert found[2] > 0


@pytest.mark.parametrize("smoothing", SMOOTHINGS[:2])
@pytest.mark.parametrize("order", [1, 5, 8])
def test_bits_per_char_are_the_mean_of_plain_ones(order, smoothing):
    ids, tables = CORPUS.ids[-90:], counted(IDS, order, smoothing)
    bits = [
        -math.log2(plain(tables, list(map(int, ids[max(0, t - order) : t])), int(ids[t]), smoothing, V))
        for t in range(1, len(ids))
    ]
    found = Model.learn(IDS, V, order).bits_per_char(ids, smoothing)
    assert abs(found - sum(bits) / len(bits)) < 1e-12


def test_a_vocabulary_too_large_for_one_integer_gives_the_same_counts():
    spread, size = IDS.astype(np.int64) * 99_991, V * 99_991  # size ** 4 > 2 ** 63
    small, large = Model.learn(IDS, V, 8), Model.learn(spread, size, 8)
    for one, other in zip(small.levels, large.levels, strict=True):
        for name in ("counts", "before", "starts"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        np.testing.assert_array_equal(one.grams % (V + 1) * 99_991, other.grams % (size + 1))
    assert large.bits_per_char(spread[:50], "none") == small.bits_per_char(IDS[:50], "none")
    assert list(large.sample(30, seed=1)) == [99_991 * each for each in small.sample(30, seed=1)]


def states_of(text, order):
    """What markov-model.py counts, and the transition that it leaves out."""
    states = defaultdict(Counter)
    for at in range(len(text) - order - 1):
        states[text[at : at + order]][text[at + order]] += 1
    return states


def test_counts_are_the_original_s_and_the_last_transition():
    expected = states_of(TEXT, 4)
    expected[TEXT[-5:-1]][TEXT[-1]] += 1
    model = Model.learn(IDS, V, 4)
    assert model.num_contexts == len(expected)
    assert sorted(model.levels[-1].counts) == sorted(n for each in expected.values() for n in each.values())
    for state, followers in expected.items():
        p = model.probabilities(CORPUS.vocabulary.encode(state), "none")
        found = {CORPUS.vocabulary.characters[k]: p[k] * followers.total() for k in np.flatnonzero(p)}
        assert found == pytest.approx(followers, rel=1e-12)


@pytest.mark.parametrize("text", [TEXT, "abcabd" * 3 + "abcabx", "a.*b\n" * 4 + "a.*b?"])
def test_style_original_prints_what_the_original_prints(text):
    states = states_of(text, 4)
    shown = [f"{state} {counter}" for state, counter in islice(states.items(), 11)]
    *lines, sample = ngram.original(text, seed=1)
    assert lines == ["Learning model...", f"Model has {len(states)} states", *shown, "Sampling..."]
    assert len(sample) == 204
    assert sample[:4] in states


def test_draws_are_those_of_the_text_and_dead_ends_back_off():
    model = Model.learn(IDS, V, 4)
    assert model.num_contexts == len({TEXT[at : at + 4] for at in range(len(TEXT) - 4)})
    tables = counted(IDS, 4, "none")
    ids = list(model.sample(3000, prime=IDS[-4:], seed=2))  # nothing follows the end of the text
    assert ids[:4] == list(IDS[-4:])
    dead_ends = 0
    for t in range(4, len(ids)):
        known = next(k for k in range(4, -1, -1) if tuple(ids[t - k : t]) in tables[k])
        assert tables[known][tuple(ids[t - known : t])][ids[t]] > 0
        dead_ends += known < 4
    assert dead_ends
    assert set(model.sample(300, prime=[V - 1], seed=2)) <= {V - 1, *map(int, IDS)}


@pytest.mark.parametrize("order", [1, 3, 8])
def test_draws_are_as_frequent_as_in_the_text(order):
    model, tables = Model.learn(IDS, V, order), counted(IDS, order, "none")
    for context in contexts(order):
        history = list(map(int, context[-order:]))
        known = next(k for k in range(len(history), -1, -1) if tuple(history[len(history) - k :]) in tables[k])
        followers = tables[known][tuple(history[len(history) - known :])]
        total = followers.total()
        assert Counter(model._draw(history, (n + 0.5) / total) for n in range(total)) == followers


def test_first_states_are_as_frequent_as_in_the_text_or_all_alike():
    model, tables = Model.learn(IDS, V, 3), counted(IDS, 3, "none")
    total, known = len(IDS) - 3, model.num_contexts
    drawn = Counter(tuple(model._state((n + 0.5) / total, True)) for n in range(total))
    assert drawn == {state: followers.total() for state, followers in tables[3].items()}
    assert {tuple(model._state((n + 0.5) / known, False)) for n in range(known)} == set(tables[3])
    alike = {tuple(model.sample(0, seed=seed, by_frequency=False)) for seed in range(50)}
    assert alike != {tuple(model.sample(0, seed=seed)) for seed in range(50)}


def test_same_seed_same_text():
    model = Model.learn(IDS, V)
    assert list(model.sample(100, seed=7)) == list(islice(model.sample(None, seed=7), 105))
    assert list(model.sample(100, seed=7)) != list(model.sample(100, seed=8))
    assert list(model.sample(100)) != list(model.sample(100))


def test_line_to_beat():
    ids = np.tile(CORPUS.ids, 3)
    assert line_to_beat(ids[:1000], ids[1000:], V) == Model.learn(ids[:1000], V, 5).bits_per_char(ids[1000:])
    assert 0 < line_to_beat(ids[:3], ids[3:], V) < math.inf


def test_line_to_beat_learns_five_million_at_most(monkeypatch):
    monkeypatch.setattr(ngram, "_LINE_CHARS", 200)
    assert line_to_beat(IDS[:500], IDS[500:], V) == Model.learn(IDS[:200], V, 5).bits_per_char(IDS[500:])


def test_mistakes():
    for order in (0, 9):
        with pytest.raises(UserError, match=f"--order: expected 1 to 8, got {order}"):
            Model.learn(IDS, V, order)
    with pytest.raises(UserError, match="--order 3: needs at least 4 characters to learn from, got 3"):
        Model.learn(IDS[:3], V, 3)
    model = Model.learn(IDS[:4], V, 3)
    with pytest.raises(UserError, match="at least 2 characters to measure, got 1"):
        model.bits_per_char(IDS[:1])
    with pytest.raises(UserError, match="--smoothing: expected one of kneser-ney, witten-bell, none, got 'laplace'"):
        model.bits_per_char(IDS, "laplace")
    with pytest.raises(UserError, match="--style original: needs at least 6 characters, got 5"):
        list(ngram.original("abcde"))


def test_the_end_that_is_kept_back_is_that_of_training():
    corpus = Corpus.from_text(made_up_text(1003))
    trainer = Trainer(from_preset("fast", hidden_size=3, validation=0.17), corpus)
    learned, kept_back = corpus.split(0.17)
    model, figures = ngram.learn_and_measure(corpus, 3, "witten-bell", 0.17)
    assert (len(trainer._ids), len(trainer._kept_back)) == (len(learned), len(kept_back)) == (832, 171)
    assert figures.bits_per_char == Model.learn(learned, 11, 3).bits_per_char(kept_back, "witten-bell")
    assert model.num_contexts == figures.contexts


def test_command(charlstm_command, text_file):
    done = charlstm_command("ngram", "book.txt", "--seed", 3, "--length", 50, "--prime", "ab", "--lower")
    assert done.returncode == 0, done.stderr
    text, model, figures = done.stderr.decode().splitlines()
    assert text == "text    book: 3,000 characters, 11 distinct"
    assert model.startswith("model   Markov, order 5, ")
    assert model.endswith(" contexts, kneser-ney")
    corpus = load([text_file])
    bits = line_to_beat(*corpus.split(0.1), 11)
    assert figures.startswith(f"done    {bits:.4f} bits per character (")
    assert len(done.stdout) == 52
    assert done.stdout.startswith(b"ab")
    as_json = charlstm_command("ngram", "book.txt", "--seed", 3, "--length", 50, "--prime", "ab", "--json")
    found = json.loads(as_json.stdout)
    assert found.pop("seconds") > 0
    contexts = found.pop("contexts")
    assert f" {contexts:,} contexts" in model
    assert found == {
        "name": "book", "chars": 3000, "order": 5, "smoothing": "kneser-ney", "validation": 0.1, "bits_per_char": bits,
        "text": done.stdout.decode(),
    }  # fmt: skip


def test_command_without_smoothing_validation_or_characters(charlstm_command, text_file):
    plain = charlstm_command("ngram", "book.txt", "--order", 8, "--smoothing", "none", "--json")
    assert b'"bits_per_char": null' in plain.stdout
    assert b"infinite bits per character" in plain.stderr
    everything = charlstm_command("ngram", "-", "--bytes", "--validation", 0, "--order", 1, stdin="äöäöäö".encode())
    assert everything.returncode == 0, everything.stderr
    assert b"text    stdin: 12 bytes, a vocabulary of 256" in everything.stderr
    assert b"done    learned all of the text" in everything.stderr
    assert set(everything.stdout.decode()) <= set("äö\ufffd")


def test_command_in_the_original_s_style(charlstm_command, text_file):
    done = charlstm_command("ngram", "book.txt", "--style", "original", "--seed", 1)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "".join(f"{line}\n" for line in ngram.original(text_file.read_text(), seed=1))


def test_a_closed_pipe_ends_text_without_end(text_file, tmp_path):
    command = (
        f"{sys.executable} -m charlstm ngram book.txt --length 0 2>notes | head -c 100000; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)  # noqa: S607
    assert len(done.stdout) == 100_002
    assert done.stdout.endswith(b"0\n")
    assert "Traceback" not in (tmp_path / "notes").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--order", 9), "9 is not in the range 1<=x<=8"),
        (("--smoothing", "laplace"), "'laplace' is not one of"),
        (("--validation", "nan"), "--validation: expected at least 0, got nan"),
        (("--validation", 0.0001), "--validation 0.0001: less than two characters of book are kept back"),
        (("--length", -1), "--length: expected at least 0, got -1"),
        (("--length", 0, "--json"), "--length: expected at least 1, got 0"),
        (("--prime", "Z"), "--prime: the character 'Z' at place 0 is not in the model's vocabulary"),
        (("--seed", -1), "--seed: expected at least 0, got -1"),
        (("--style", "new"), "--style: expected own or original, got 'new'"),
        (("--style", "original", "--json"), "--style original: --json does not go with it"),
        (("--style", "original", "--prime", "a"), "--style original: --prime does not go with it"),
        (("--bytes", "--lower"), "--bytes: takes the text as it is"),
    ],
)
def test_a_mistake_is_one_line(charlstm_command, text_file, arguments, message):
    done = charlstm_command("ngram", "book.txt", *arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert message in done.stderr.decode().splitlines()[-1]
    assert b"Traceback" not in done.stderr


@needs_shared
def test_bits_per_character_of_tinyshakespeare():
    corpus = load([SHARED / "data" / "tinyshakespeare.txt"])
    bits = line_to_beat(*corpus.split(0.1), len(corpus.vocabulary))
    assert round(bits, 4) == 2.2478


@pytest.mark.long
def test_ten_megabytes_of_words_in_a_tenth_of_the_limits(tmp_path):
    path = tmp_path / "made-up.txt"
    path.write_text(made_up(made_up_text(20_000), 10**7))
    found = measure(path)
    assert found["chars"] == 10**7
    assert found["command_seconds"] < 12
    assert found["peak_rss"] < 400e6
