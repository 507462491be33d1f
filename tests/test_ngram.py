"""Compare the Markov model with a plain implementation on dictionaries, and test its command."""

import json
import math
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import islice, pairwise

import numpy as np
import pytest
from conftest import made_up_text

from benchmarks.ngram import made_up, measure
from charlstm.errors import UserError
from charlstm.ngram import markov as ngram
from charlstm.ngram.markov import Model
from charlstm.text.corpus import Corpus, Vocabulary

ORDERS = range(1, 9)
SMOOTHINGS = ("kneser-ney", "witten-bell", "none")
TEXT = made_up_text(400)


def ids_of(text):
    return Vocabulary.of(text).encode(text)


class Plain:
    """The equations of charlstm.ngram on dictionaries, one character at a time, without any of its code."""

    def __init__(self, ids, vocab_size, order):
        self.V, self.order = vocab_size, order
        ids = [int(each) for each in ids]
        windows = [tuple(ids[i : i + order + 1]) for i in range(len(ids) - order)]
        self.raw, self.before = {}, {}
        for k in range(order + 1):
            self.raw[k], predecessors = defaultdict(Counter), defaultdict(set)
            for window in windows:
                gram = window[order - k :]
                self.raw[k][gram[:-1]][gram[-1]] += 1
                if k < order:
                    predecessors[gram].add(window[order - k - 1])
            self.before[k] = self.raw[k]
            if k < order:
                self.before[k] = defaultdict(Counter)
                for gram, found in predecessors.items():
                    self.before[k][gram[:-1]][gram[-1]] = len(found)

    def probability(self, context, character, smoothing):
        context, p = tuple(context), 1 / self.V
        for k in range(min(len(context), self.order) + 1):
            h = context[len(context) - k :]
            if h not in self.raw[k]:
                break
            table = self.before[k] if smoothing == "kneser-ney" else self.raw[k]
            count, total, kinds = table[h][character], sum(table[h].values()), len([n for n in table[h].values() if n])
            if smoothing == "kneser-ney":
                D = self.discount(table)
                p = max(count - D, 0) / total + D * kinds / total * p
            elif smoothing == "witten-bell":
                p = (count + kinds * p) / (total + kinds)
            else:
                p = count / total
        return p

    def discount(self, table):
        counts = [n for after in table.values() for n in after.values()]
        once, twice = counts.count(1), counts.count(2)
        return once / (once + 2 * twice) if once else 0.5


def contexts_of(ids, vocab_size, order):
    """Return contexts: some of the text, empty, too long, unseen, and the text's end."""
    draws = np.random.RandomState(order)
    ids = [int(each) for each in ids]
    known = [ids[i : i + order] for i in draws.choice(len(ids) - order, 12, replace=False)]
    unknown = [draws.randint(0, vocab_size, n).tolist() for n in range(order + 3)]
    return [*known, *unknown, ids[-order:], ids[:1], ids[-order - 4 :]]


# ---------------------------------------------------------------------------------------------------- probabilities
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", ORDERS)
def test_probabilities_are_those_of_dictionaries_and_sum_to_1(order, smoothing):
    ids, V = ids_of(TEXT), len(Vocabulary.of(TEXT)) + 2  # two characters that never occur
    model, plain = Model.learn(ids, V, order), Plain(ids, V, order)
    for context in contexts_of(ids, V, order):
        got = model.probabilities(context, smoothing)
        wanted = [plain.probability(context, character, smoothing) for character in range(V)]
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=0)
        assert got.sum() == pytest.approx(1, abs=1e-12)
        assert smoothing == "none" or got.min() > 0


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("text", ["ab", "aab", "abcabcabc" * 3, "abcdefgh"], ids=repr)
def test_probabilities_of_texts_with_hardly_anything_to_count(text, smoothing):
    ids, V = ids_of(text), len(Vocabulary.of(text)) + 1
    model, plain = Model.learn(ids, V, 1), Plain(ids, V, 1)
    for context in [[], *([each] for each in range(V))]:
        got = model.probabilities(context, smoothing)
        wanted = [plain.probability(context, character, smoothing) for character in range(V)]
        np.testing.assert_allclose(got, wanted, rtol=1e-12, atol=0)
        assert got.sum() == pytest.approx(1, abs=1e-12)
        assert smoothing == "none" or got.min() > 0


@pytest.mark.parametrize("V", [200, 5000])
@pytest.mark.parametrize("smoothing", SMOOTHINGS)
def test_grams_that_do_not_fit_into_an_integer(V, smoothing):
    """At order 8, (V + 1) ** 9 takes 69 and 111 bits, so ranks replace the first characters once or twice."""
    ids = ids_of(TEXT).astype(np.uint16) * (V // 20) + 1
    model, plain = Model.learn(ids, V, 8), Plain(ids, V, 8)
    for context in contexts_of(ids, V, 8)[:16]:
        got, near = model.probabilities(context, smoothing), sorted({*ids.tolist(), 0, V - 1})
        wanted = [plain.probability(context, character, smoothing) for character in near]
        np.testing.assert_allclose(got[near], wanted, rtol=1e-12, atol=0)
        assert got.sum() == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("order", [1, 3, 8])
@pytest.mark.parametrize("length", [2, 3, 9, 150])
def test_bits_per_char_of_each_character_but_the_first_given_those_before(order, smoothing, length):
    ids, V = ids_of(TEXT), len(Vocabulary.of(TEXT))
    model, plain = Model.learn(ids[:-150], V, order), Plain(ids[:-150], V, order)
    kept = ids[-150:][:length].tolist()
    p = [plain.probability(kept[:i], kept[i], smoothing) for i in range(1, length)]
    wanted = math.inf if 0 in p else -sum(map(math.log2, p)) / len(p)
    assert model.bits_per_char(ids[-150:][:length], smoothing) == pytest.approx(wanted, rel=1e-12)


def test_counting_writes_to_no_array_and_takes_any_integers():
    ids, V = ids_of(TEXT), len(Vocabulary.of(TEXT))
    assert not ids.flags.writeable
    bits = Model.learn(ids, V, 4).bits_per_char(ids[:90])
    for dtype in (np.uint16, np.uint32, np.int64):
        assert Model.learn(ids.astype(dtype), V, 4).bits_per_char(ids[:90].astype(dtype)) == bits


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: Model.learn(ids_of(TEXT), 9, 0), "--order: expected 1 to 8, got 0"),
        (lambda: Model.learn(ids_of(TEXT), 9, 9), "--order: expected 1 to 8, got 9"),
        (lambda: Model.learn(ids_of("abcd"), 4, 4), "--order 4: needs at least 5 characters to learn from, got 4"),
        (
            lambda: Model.learn(ids_of("abcd"), 4, 1).bits_per_char(ids_of("abcd")[:1]),
            "bits per character: needs at least 2 characters to measure, got 1",
        ),
        (
            lambda: Model.learn(ids_of("abcd"), 4, 1).probabilities([0], "laplace"),
            "--smoothing: expected one of kneser-ney, witten-bell, none, got 'laplace'",
        ),
    ],
)
def test_what_cannot_be_done_is_said(ask, message):
    with pytest.raises(UserError) as error:
        ask()
    assert str(error.value) == message


# ----------------------------------------------------------------------------------------------------------- draws
def successors(text, order):
    found = defaultdict(Counter)
    for i in range(len(text) - order):
        found[text[i : i + order]][text[i + order]] += 1
    return found


def written(model, vocabulary, *arguments, **options):
    return vocabulary.decode(np.array(list(model.sample(*arguments, **options))))


def test_only_what_followed_as_much_of_the_end_as_the_text_knows_is_drawn():
    order, vocabulary = 3, Vocabulary.of(TEXT)
    known = [successors(TEXT, k) for k in range(order + 1)]
    text = written(Model.learn(ids_of(TEXT), len(vocabulary), order), vocabulary, 3000, seed=1)
    assert len(text) == 3003
    backed_off = 0
    for i in range(order, len(text)):
        k = next(k for k in range(order, -1, -1) if text[i - k : i] in known[k])
        assert text[i] in known[k][text[i - k : i]]
        backed_off += k < order
    assert 0 < backed_off < 300  # the text's end has no known successor


def test_each_is_drawn_as_often_as_it_followed():
    text = "abacabadabacabae" * 30
    vocabulary = Vocabulary.of(text)
    out = written(Model.learn(ids_of(text), len(vocabulary), 1), vocabulary, 20_000, seed=2)
    after, wanted = Counter(b for a, b in pairwise(out) if a == "a"), successors(text, 1)["a"]
    for character, count in wanted.items():
        share = count / wanted.total()
        assert abs(after[character] / after.total() - share) < 5 * math.sqrt(share * (1 - share) / after.total())


@pytest.mark.parametrize("by_frequency", [True, False])
def test_the_first_state_is_known_and_drawn_by_frequency_or_from_all_alike(by_frequency):
    text = "abab" * 20 + "cd"  # "cd" has no successor; of 80 states, ab 20, ba 19, bc 1
    vocabulary, known = Vocabulary.of(text), successors(text, 2)
    model = Model.learn(ids_of(text), len(vocabulary), 2)
    begun = Counter(written(model, vocabulary, 0, seed=seed, by_frequency=by_frequency) for seed in range(900))
    total = sum(after.total() for after in known.values())
    for state, after in known.items():
        share = after.total() / total if by_frequency else 1 / len(known)
        assert abs(begun[state] / 900 - share) < 5 * math.sqrt(share * (1 - share) / 900)
    assert begun.keys() <= known.keys()


@pytest.mark.parametrize("order", [1, 3, 8])
def test_every_part_of_the_unit_interval_draws_its_character_or_state(order):
    ids, V = ids_of(TEXT), len(Vocabulary.of(TEXT))
    model, plain = Model.learn(ids, V, order), Plain(ids, V, order)
    for context in contexts_of(ids, V, order):
        ends = [tuple(context[len(context) - k :]) for k in range(min(len(context), order) + 1)]
        after = next(plain.raw[k][ends[k]] for k in range(len(ends) - 1, -1, -1) if ends[k] in plain.raw[k])
        total = after.total()
        assert Counter(model._draw(context[-order:], (n + 0.5) / total) for n in range(total)) == after
    total, known = len(ids) - order, model.num_contexts
    states = Counter(tuple(model._state((n + 0.5) / total, True)) for n in range(total))
    assert states == {state: after.total() for state, after in plain.raw[order].items()}
    assert {tuple(model._state((n + 0.5) / known, False)) for n in range(known)} == plain.raw[order].keys()


def test_dead_ends_go_on_from_a_shorter_context():
    text = "xyxyxyxz"  # z never has a successor, in a context of any length
    vocabulary = Vocabulary.of(text)
    model = Model.learn(ids_of(text), len(vocabulary), 3)
    out = written(model, vocabulary, 500, vocabulary.encode("yxz"), seed=1)
    assert len(out) == 503
    assert out.startswith("yxz")
    assert out.count("z") > 5  # sampling reached z repeatedly and continued
    assert written(model, vocabulary, 4, vocabulary.encode("zzzzzxy"), seed=1).startswith("zzzzzxyx")  # x follows xy


def test_an_unknown_context_counts_as_its_longest_known_end_not_as_one_beside_it():
    text = "aabx" * 12 + "baby" * 4 + "c"  # aab: x, bab: y; cab is unseen, so its end ab gives x or y
    vocabulary = Vocabulary.of(text)
    model = Model.learn(ids_of(text), len(vocabulary), 3)
    drawn = Counter(written(model, vocabulary, 1, vocabulary.encode("cab"), seed=seed)[3] for seed in range(200))
    assert set(drawn) == {"x", "y"}
    assert abs(drawn["y"] / 200 - 1 / 4) < 5 * math.sqrt(1 / 4 * 3 / 4 / 200)


def test_a_seed_is_one_text_of_any_length():
    model = Model.learn(ids_of(TEXT), len(Vocabulary.of(TEXT)), 4)
    long = list(model.sample(100, seed=3))
    assert list(model.sample(40, seed=3)) == long[:44]
    assert list(islice(model.sample(None, seed=3), 104)) == long
    assert list(model.sample(100, seed=4)) != long
    assert list(model.sample(100)) != list(model.sample(100))


# --------------------------------------------------------------------------------------- the baseline, markov-model.py
@pytest.mark.parametrize("smoothing", ngram.SMOOTHINGS)
@pytest.mark.parametrize("measured", [1, 2, 7, 1000])
def test_a_large_text_is_measured_a_piece_at_a_time(monkeypatch, smoothing, measured):
    text = made_up_text(2000)
    vocabulary = Vocabulary.of(text)
    ids = vocabulary.encode(text)
    model = Model.learn(ids, len(vocabulary), 4)
    whole = [model.bits_per_char(ids[:length], smoothing) for length in (2, 4, 5, 300)]
    monkeypatch.setattr(ngram, "_MEASURED", measured)
    found = [model.bits_per_char(ids[:length], smoothing) for length in (2, 4, 5, 300)]
    np.testing.assert_allclose(found, whole, rtol=1e-12)


def test_the_baseline_is_order_5_of_the_first_five_million(monkeypatch):
    text = made_up_text(3000)
    corpus = Corpus.from_text(text)
    learned, held_out = corpus.split(0.1)
    V = len(corpus.vocabulary)
    assert ngram.baseline_bits(learned, held_out, V) == Model.learn(learned, V, 5).bits_per_char(held_out)
    assert ngram._LINE_CHARS == 5_000_000
    monkeypatch.setattr(ngram, "_LINE_CHARS", 1000)
    assert ngram.baseline_bits(learned, held_out, V) == Model.learn(learned[:1000], V, 5).bits_per_char(held_out)
    assert math.isfinite(ngram.baseline_bits(learned[:3], held_out, V))  # this text is too short for order 5


def markov_model(text, order=4):
    """Return the states and counts of markov-model.py, which does not count the last transition."""
    model = {}
    for i in range(len(text) - order - 1):
        model.setdefault(text[i : i + order], Counter()).update(text[i + order])
    return model


@pytest.mark.parametrize("text", [TEXT, "a.b*a.b+a.b\na.b*c", "abcdea"], ids=["words", "signs", "short"])
def test_the_original_prints_its_states_and_counts(text):
    wanted = markov_model(text)
    lines = "\n".join(ngram.original(text, seed=1))
    shown = "\n".join(f"{state} {after}" for state, after in islice(wanted.items(), 11))
    head = f"Learning model...\nModel has {len(wanted)} states\n{shown}\nSampling...\n"
    assert lines.startswith(head)
    out = lines.removeprefix(head)
    assert len(out) == 204
    assert out[:4] in wanted
    for i in range(200):
        assert out[i + 4] in wanted.get(out[i : i + 4], text)  # without successors, any character


def test_the_original_needs_a_state():
    with pytest.raises(UserError, match="--style original: needs at least 6 characters, got 5"):
        list(ngram.original("abcde"))


# ------------------------------------------------------------------------------------------------------ the command
def test_the_command_writes_and_measures(charlstm_command, text_file):
    text = text_file.read_text()
    done = charlstm_command("ngram", text_file, "--seed", 1, "--length", 150)
    assert done.returncode == 0, done.stderr
    out, notes = done.stdout.decode(), done.stderr.decode().splitlines()
    known = successors(text[:2700], 5)
    assert len(out) == 155
    assert out[:5] in known
    corpus = Corpus.from_text(text)
    learned, held_out = corpus.split(0.1)
    bits = Model.learn(learned, len(corpus.vocabulary), 5).bits_per_char(held_out)
    assert notes[0] == "text    book: 3,000 characters, 11 distinct"
    assert notes[1] == f"model   Markov, order 5, {len(known):,} contexts, kneser-ney"
    figures = f"done    {bits:.4f} bits per character ({bits * math.log(2):.4f} nats), perplexity {2**bits:.2f} on"
    assert notes[2].startswith(figures)
    assert charlstm_command("ngram", text_file, "--seed", 1, "--length", 150).stdout == done.stdout


def test_the_command_in_json_and_its_options(charlstm_command, text_file):
    text, corpus = text_file.read_text().lower(), Corpus.from_text(text_file.read_text().lower())
    asked = ("--order", 3, "--smoothing", "witten-bell", "--validation", 0.2, "--lower", "--prime", "ABC", "--json")
    got = json.loads(charlstm_command("ngram", "-", *asked, "--length", 9, stdin=text.upper().encode()).stdout)
    learned, held_out = corpus.split(0.2)
    model = Model.learn(learned, len(corpus.vocabulary), 3)
    assert got.pop("bits_per_char") == pytest.approx(model.bits_per_char(held_out, "witten-bell"), rel=1e-12)
    assert got.pop("text").startswith("abc")
    assert got.pop("seconds") > 0
    assert got == {
        "name": "stdin", "chars": 3000, "order": 3, "smoothing": "witten-bell", "validation": 0.2,
        "contexts": len(successors(text[:2400], 3)),
    }  # fmt: skip
    assert json.loads(charlstm_command("ngram", text_file, "--validation", 0, "--json").stdout)["bits_per_char"] is None


def test_the_command_says_where_a_character_was_impossible(charlstm_command, tmp_path):
    (tmp_path / "a.txt").write_text("ab" * 50 + "cd")
    asked = ("ngram", "a.txt", "--smoothing", "none", "--validation", 0.05)
    assert json.loads(charlstm_command(*asked, "--json").stdout)["bits_per_char"] is None
    assert "infinite bits per character" in charlstm_command(*asked).stderr.decode()
    assert json.loads(charlstm_command(*asked[:2], "--json").stdout)["bits_per_char"] > 0


def test_the_command_takes_bytes(charlstm_command, tmp_path):
    content = "naïve ünd café ".encode() * 30 + bytes([0xFF, 0])
    (tmp_path / "bytes.bin").write_bytes(content)
    done = charlstm_command("ngram", "bytes.bin", "--bytes", "--seed", 1, "--json")
    assert done.returncode == 0, done.stderr
    got = json.loads(done.stdout)
    assert (got["bytes"], got["chars"]) == (len(content), len(content.decode("utf-8", "replace")))
    assert "ï" in got["text"] or "é" in got["text"] or "ü" in got["text"]


def test_the_command_in_the_style_of_the_original(charlstm_command, text_file):
    done = charlstm_command("ngram", text_file, "--style", "original", "--seed", 5)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode() == "".join(line + "\n" for line in ngram.original(text_file.read_text(), seed=5))


def test_a_text_without_end_until_its_reader_has_gone(text_file, tmp_path):
    command = f"{sys.executable} -m charlstm ngram book.txt --length 0 | head -c 5000; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)  # noqa: S607
    assert done.stdout[5000:].strip() == b"0"
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.txt"], "nowhere.txt: no such file or folder (built-in texts: "),
        (["book.txt", "--order", "9"], "Invalid value for '--order': 9 is not in the range 1<=x<=8."),
        (["book.txt", "--smoothing", "laplace"], "Invalid value for '--smoothing': 'laplace' is not one of"),
        (["book.txt", "--validation", "1"], "--validation: expected less than 1, got 1.0"),
        (["book.txt", "--validation", "0.0001"], "--validation 0.0001: fewer than two characters of book are held out"),
        (["book.txt", "--length", "-1"], "--length: expected at least 0, got -1"),
        (["book.txt", "--length", "0", "--json"], "--length: expected at least 1, got 0"),
        (["book.txt", "--seed", "-1"], "--seed: expected at least 0, got -1"),
        (["book.txt", "--prime", "aXb"], "--prime: the character 'X' at position 1 is not in the model's vocabulary"),
        (["book.txt", "--style", "new"], "--style: expected own or original, got 'new'"),
        (["book.txt", "--style", "original", "--json"], "--style original: cannot be combined with --json"),
        (["tiny.txt"], "--order 5: needs at least 6 characters to learn from, got 4"),
        (["tiny.txt", "--style", "original"], "--style original: needs at least 6 characters, got 4"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line(charlstm_command, text_file, tmp_path, arguments, message):
    (tmp_path / "tiny.txt").write_text("abca")
    options = ["--validation", "0"] if arguments == ["tiny.txt"] else []
    done = charlstm_command("ngram", *arguments, *options)
    assert (done.returncode, done.stdout) == (2, b"")
    last = done.stderr.decode().splitlines()[-1]
    assert last.startswith(f"charlstm: {message}"), last
    assert b"Traceback" not in done.stderr


# -------------------------------------------------------------------------------------------------------------- size
@pytest.mark.long
def test_100_megabytes_at_order_5_take_4_gigabytes_at_most(tmp_path):
    draws, path = np.random.RandomState(0), tmp_path / "big.txt"
    words = [
        "".join(draws.choice(list("etaoinshrdlucmfwypvbgkjqxzETAOIN"), draws.randint(1, 10))) for _ in range(20_000)
    ]
    few = " ".join(word for n, word in enumerate(words) for _ in range(1 + 2000 // (n + 10)))  # Zipf's law
    path.write_text(made_up(few, 100_000_000))
    found = measure(path)
    print({name: found[name] for name in ("command_seconds", "peak_rss", "contexts", "bits_per_char")})
    assert found["chars"] == 100_000_000
    assert found["peak_rss"] < 4e9
