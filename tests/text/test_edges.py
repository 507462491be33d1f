"""Where a text begins and ends: the same for sample, score, validation and samples during training."""

import json
import math

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

import kernels
from charlstm.errors import UserError
from charlstm.model import checkpoint as checkpoints
from charlstm.runs.begin import resume, start
from charlstm.text import corpus as corpora
from charlstm.text import edges as edges_module
from charlstm.text.corpus import Corpus, Vocabulary
from charlstm.text.edges import Edges, Ending, edges_of, places
from charlstm.training.trainer import Trainer
from kernels import spec

DNA = "".join(np.random.RandomState(3).choice(list("ACGT"), 900)) + "ACGTTGCA" * 60


def trained(corpus, **options):
    trainer = Trainer(small(**{"iterations": 60, "sample_every": 0, "num_layers": 1, **options}), corpus)
    list(trainer.run())
    return trainer


def joined_corpus(separator="|", documents=("abab", "cdcd", "abcd")):
    text = separator.join(documents * 20)
    vocabulary = Vocabulary.of(text)
    return Corpus("book", vocabulary, vocabulary.encode(text), separator=separator, documents=len(documents) * 20)


CORPORA = {
    "after a line break": lambda: Corpus.from_text(made_up_text(), "book"),
    "after nothing": lambda: Corpus.from_text(DNA, "dna"),
    "after a separator": joined_corpus,
    "bytes": lambda: Corpus.from_bytes(made_up_text().encode()),
    "bytes after nothing": lambda: Corpus.from_bytes(DNA.encode()),
}


@pytest.fixture(params=["float64", "float32"])
def dtype(request):
    return request.param


@pytest.mark.parametrize(
    ("kind", "cell"), [*((kind, "lstm") for kind in CORPORA), ("after nothing", "gru"), ("after nothing", "rnn")]
)
def test_a_sample_has_the_probability_that_its_score_tells(kind, cell, dtype, backend):
    model = trained(CORPORA[kind](), dtype=dtype, cell=cell, backend="numpy").checkpoint()
    letters = model.vocabulary.decode(CORPORA[kind]().ids[40:47])
    close = {"abs": 1e-9} if dtype == "float64" else {"rel": 1e-5, "abs": 1e-4}
    for prime in ("", letters[:1], letters):
        for one in model.samples(prime, count=2, length=30, seed=5, temperature=0.7, top_k=3, backend=backend):
            before = model.score(prime, backend=backend).nats if prime else 0.0
            whole = model.score(prime + one.text, backend=backend)
            assert whole.nats - before == pytest.approx(-one.log_probs.sum(), **close)
            assert len(whole.log_probs) == len(prime) + len(one.text)


@pytest.mark.parametrize("kind", CORPORA)
def test_validation_and_the_score_of_the_same_tail_agree(kind, dtype, tmp_path, charlstm_command):
    corpus = CORPORA[kind]()
    trainer = Trainer(small(iterations=30, validation=0.2, validate_every=30, dtype=dtype), corpus)
    told = [p.val_bits_per_char for p in trainer.run() if p.kind == "evaluation"]
    tail = corpus.vocabulary.decode(corpus.ids[len(corpus.ids) - round(0.2 * len(corpus.ids)) :])
    assert told == [pytest.approx(trainer.checkpoint().score(tail).bits_per_char, rel=1e-6)]
    if kind == "after nothing" and dtype == "float32":
        run = start(corpus, small(iterations=30, validation=0.2, validate_every=30), str(tmp_path / "run"))
        finish(run)
        (tmp_path / "tail.txt").write_text(tail)
        told = json.loads(charlstm_command("score", "run", "tail.txt", "--json").stdout)
        line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1])
        assert told["bits_per_char"] == pytest.approx(line["val_bits_per_char"], rel=1e-6)


def test_the_first_character_after_nothing_has_the_probability_of_the_zero_state(backend):
    model = trained(Corpus.from_text(DNA, "dna"), dtype="float64").checkpoint()
    assert model.edges == Edges()
    bias = spec.params(model.theta, model.shape).b_y
    expected = bias - np.log(np.exp(bias).sum())
    assert model.score("G").log_probs == pytest.approx(expected[2:3], abs=1e-12)
    drawn = model.samples("", count=400, length=1, seed=0, temperature=1.0, backend=backend)
    shares = [np.mean([one.text == letter for one in drawn]) for letter in "ACGT"]
    assert shares == pytest.approx(np.exp(expected), abs=0.08)
    likeliest = "ACGT"[int(np.argmax(expected))]
    assert model.sample("", length=1, temperature=0, backend=backend) == likeliest
    assert "".join(model.stream("", length=40, seed=7, backend=backend)) == model.sample(
        "", length=40, seed=7, backend=backend
    )


def test_a_text_after_nothing_costs_about_what_was_measured_while_it_was_trained():
    trainer = trained(Corpus.from_text(DNA, "dna"), iterations=300, validation=0.1, validate_every=100, num_layers=1)
    tail = trainer.corpus.vocabulary.decode(trainer.held_out)
    assert trainer.checkpoint().score(tail).bits_per_char == pytest.approx(trainer.marks.best_validation, rel=0.2)


# ------------------------------------------------------------------------------------------------------------- places
def test_places_are_those_of_a_search_by_python(monkeypatch):
    random = np.random.RandomState(1)
    for _ in range(300):
        monkeypatch.setattr(edges_module, "_PIECE", int(random.randint(1, 9)))
        text = "".join(random.choice(list("ab"), random.randint(0, 25)))
        pattern = "".join(random.choice(list("ab"), random.randint(1, 4)))
        expected, at = [], text.find(pattern)
        while at >= 0:
            expected.append(at)
            at = text.find(pattern, at + len(pattern))
        ids = np.array([ord(each) for each in text], np.uint8)
        most = int(random.randint(1, 30))
        assert places(ids, tuple(map(ord, pattern)), most) == expected[:most]


def test_an_end_is_found_wherever_pieces_are_cut():
    random = np.random.RandomState(0)
    for _ in range(300):
        ids = random.randint(0, 2, random.randint(0, 30))
        stops = [tuple(random.randint(0, 2, random.randint(1, 6)).tolist()) for _ in range(random.randint(1, 3))]
        cuts = sorted(random.randint(0, len(ids) + 1, 4))
        ending, kept = Ending(*stops), 0
        for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True):
            kept += ending.cut(ids[a:b])
        ends = [at + len(stop) for stop in stops for at in places(ids, stop, 1)]
        assert kept == min([*ends, len(ids)])
        assert ending.found == bool(ends)


# ---------------------------------------------------------------------------------------------------------- separators
@pytest.mark.parametrize(
    ("text", "separator", "documents", "begin", "end"),
    [
        ("ab|cd|ef", "|", 3, "|", "|"),
        ("ab|cd|ef|", "|", 3, "|", "|"),
        ("a|b|cd|ef", "|", 3, "|", ""),  # the separator also occurs within a text
        ("a|b|cd|ef|", "|", 3, "|", ""),
        ("ab\ncd", "\n", 2, "\n", ""),  # a line break ends lines
        ("ab\n\ncd\n\nef", "\n\n", 3, "\n\n", "\n\n"),
        ("abcd", "|", 1, "", ""),
        ("ab\ncd", "|", 1, "\n", ""),
        ("abcd", "", 2, "", ""),
        ("ab\ncd", "", 2, "\n", ""),
    ],
)
def test_what_texts_begin_and_end_with(text, separator, documents, begin, end):
    vocabulary = Vocabulary.of(text)
    found = edges_of(vocabulary, vocabulary.encode(text), separator, documents)
    assert [vocabulary.decode(np.array(each, int)) for each in (found.begin, found.end)] == [begin, end]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_a_run_of_joined_texts_begins_and_ends_with_their_separator(tmp_path, as_bytes):
    for k in range(30):
        (tmp_path / f"{k:02}.txt").write_text("abba" + "cd" * (k % 3 + 1))
    sources = sorted(tmp_path.glob("*.txt"))
    options = {
        "separator": "#",
        "bytes": as_bytes,
        "seq_length": 5,
        "num_layers": 1,
        "learning_rate": 0.03,
        "iterations": 150,
        "sample_every": 50,
        "hidden_size": 16,
    }
    run = start(sources, small(**options), str(tmp_path / "run"))
    shown = [p.sample for p in run.train() if p.kind == "sample"]
    model = run.load("last")
    [separator] = model.vocabulary.encode("#").tolist()
    assert model.edges == Edges((separator,), (separator,))
    assert shown[-1].find("#") in (-1, len(shown[-1]) - 1)
    written = [one.text for one in model.samples(count=20, length=None, seed=1)]
    assert all(text.find("#") == len(text) - 1 for text in written)
    x = model.vocabulary.encode("#abba").astype(np.int32)[:, None]
    h, c = np.zeros((2, 1, 1, 16), np.float32)
    expected = kernels.load("numpy").score(model.theta, h, c, x, shape=model.shape)[:, 0]
    assert model.score("abba").log_probs == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert "".join(model.stream(length=None, seed=1)) == written[0]
    letter = written[0][0]
    assert model.sample(length=None, seed=1, stop=letter) == letter
    again = resume(tmp_path / "run", chosen={"iterations": 151})
    assert again.trainer.corpus.edges == model.edges


def test_a_text_that_came_through_a_pipe_keeps_its_edges(tmp_path):
    corpus = joined_corpus()
    kept = corpora.kept(corpus)
    trainer = Trainer(small(iterations=1, seq_length=3), kept)
    facts = trainer.checkpoint().corpus
    assert corpora.cached({**facts, "sources": []}, corpus.vocabulary).edges == corpus.edges != Edges()


def test_older_checkpoints_begin_after_a_line_break(model):
    facts = {name: value for name, value in model.corpus.items() if name not in ("begin", "end")}
    assert edges_module.known(facts, model.vocabulary) == Edges((model.vocabulary.characters.index("\n"),))
    assert edges_module.known(facts, Vocabulary("ACGT")) == Edges()


@pytest.mark.parametrize("ids", [[99], [-1], ["x"], 7])
def test_ids_that_are_none_are_refused(model, ids):
    from dataclasses import replace

    data = replace(model, corpus={**model.corpus, "begin": ids}).to_bytes()
    with pytest.raises(UserError, match="undamaged, but not readable by this version"):
        checkpoints.Checkpoint.from_bytes(data, "x")


# ------------------------------------------------------------------------------------------- samples while it learns
def test_samples_of_our_presets_are_what_sample_writes(corpus):
    same = {"sample_every": 50, "temperature": 0.7, "schedule": "constant"}  # options of runs of other lengths
    trainer = Trainer(small(iterations=51, **same), corpus)
    shown = {p.iteration: p.sample for p in trainer.run() if p.kind == "sample"}
    again = Trainer(small(iterations=50, **same), corpus)
    list(again.run())
    model, random = again.checkpoint(), np.random.RandomState()
    random.set_state(model.random_state)
    uniforms = random.random_sample((30, 1))
    h, c = np.zeros((2, 2, 1, 11), np.float32)
    drawn = kernels.load("numpy").sample(
        model.theta, h, c, np.array(model.edges.begin, np.int32), uniforms, shape=model.shape, temperature=0.7
    )
    assert shown[50] == model.vocabulary.decode(drawn[:, 0])


# -------------------------------------------------------------------------------------------- ids are counted, not text
def test_as_many_log_probs_as_bytes_were_drawn():
    text = "".join(chr(each) for each in np.random.RandomState(0).choice([32, 97, 228, 252, 246], 3000))
    model = trained(Corpus.from_bytes(text.encode("latin-1")), hidden_size=8).checkpoint()
    plain = model.samples(count=200, length=60, seed=1)
    stopped = model.samples(count=200, length=60, seed=1, stop=" ")
    for whole, one in zip(plain, stopped, strict=True):
        assert one.log_probs == pytest.approx(whole.log_probs[: len(one.log_probs)], rel=1e-6)
        if " " in one.text:
            raw = one.text[:-1].replace("\ufffd", "")  # no byte is left out or counted three times
            assert len(raw) < len(one.log_probs) <= 60
            assert len(one.log_probs) < 60 or whole.text.index(" ") == len(one.text) - 1
            assert one.bits_per_byte == pytest.approx(-one.log_probs.mean() / math.log(2))


@pytest.mark.parametrize("seed", range(1, 5))
def test_a_sample_of_bytes_ends_at_the_byte_that_stops_it(seed):
    content = ("äöü " * 400).encode("latin-1")  # four bytes per round: invalid UTF-8 shows as U+FFFD
    model = trained(Corpus.from_bytes(content), iterations=300, hidden_size=16).checkpoint()
    [one] = model.samples("", length=60, seed=seed, temperature=0.0, stop=" ")
    [whole] = model.samples("", length=60, seed=seed, temperature=0.0)
    assert one.text == whole.text[: len(one.text)] == "\ufffd" * (len(one.text) - 1) + " "
    assert len(one.log_probs) == len(one.text) <= 4
    assert model.samples("", length=60, seed=seed, stop="ä")[0].text.count("ä") in (0, 1)


def test_a_large_text_that_is_read_again_has_as_many_texts(tmp_path, id_cache):
    for k in range(30):
        (tmp_path / f"{k:02}.txt").write_text("abba" + "cd" * (k % 3 + 1))
    sources = sorted(tmp_path.glob("*.txt"))
    first, again = (corpora.load(sources, separator="#") for _ in range(2))
    assert (tmp_path / "cache").exists()
    assert first.documents == again.documents == 30
    assert first.edges == again.edges == Edges((0,), (0,))
