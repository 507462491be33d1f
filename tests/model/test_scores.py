"""Scores of many lines, of large texts in blocks, of bytes, and of characters that a model has never seen."""

import json
import math
import tracemalloc

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.errors import UserError
from charlstm.model import forward, scoring
from charlstm.model.scoring import CorpusScorer, Scorer
from charlstm.runs.begin import start
from charlstm.text import corpus as corpora
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer

UNKNOWN_BITS = math.log2(0x110000 - 11)  # the model has eleven characters


def scorer_of(model, text, tmp_path, **options):
    (tmp_path / "scored.txt").write_bytes(text.encode())
    return CorpusScorer(Scorer(model, **options), corpora.load([tmp_path / "scored.txt"], to_learn=False))


# ---------------------------------------------------------------------------------------------------------------- lines
@pytest.mark.parametrize("at_once", [1, 40, 8192])
def test_lines_have_the_scores_that_each_has_by_itself(model, backend, monkeypatch, at_once):
    monkeypatch.setattr(forward, "_AT_ONCE", at_once)
    monkeypatch.setattr(forward, "READ_STEPS", 16)
    random = np.random.RandomState(2)
    lines = [made_up_text(int(size), seed=k) for k, size in enumerate(random.randint(1, 60, 30))]
    found = model.scores([*lines, ""], backend=backend)
    for line, one in zip(lines, found[:-1], strict=True):
        assert one.log_probs == pytest.approx(model.score(line, backend=backend).log_probs, rel=1e-4, abs=1e-5)
    assert (found[-1].units, found[-1].skipped) == (0, 0)
    assert math.isnan(found[-1].bits_per_char)


def test_lines_of_a_model_whose_texts_begin_after_nothing_or_after_more_than_one_character():
    dna = Corpus.from_text("ACGTTGCA" * 100)
    vocabulary = dna.vocabulary
    two = Corpus("two", vocabulary, dna.ids, separator="GC", documents=101)
    for corpus, size in ((dna, 0), (two, 2)):
        trainer = Trainer(small(iterations=10, dtype="float64"), corpus)
        list(trainer.run())
        checkpoint = trainer.checkpoint()
        assert len(checkpoint.edges.begin) == size
        lines = ["A", "GATTACA", "CCCCCCCCCCCCCC", "T"]
        for line, one in zip(lines, checkpoint.scores(lines), strict=True):
            assert one.log_probs == pytest.approx(checkpoint.score(line).log_probs, abs=1e-12)


def test_lines_share_their_buffers(model, monkeypatch):
    made, workspace = [], forward.spec.workspace
    monkeypatch.setattr(forward.spec, "workspace", lambda *sizes: made.append(sizes[1:3]) or workspace(*sizes))
    model.scores(["abc de."] * 20_000 + ["abcdefgha"] * 10_000, backend="numba")
    assert len(made) <= 4  # two lengths, and one remainder of each


def test_mistakes_of_lines(model):
    with pytest.raises(UserError, match="^text 1: the character 'Q' at position 1 is not"):
        model.scores(["ab", "aQ"])
    with pytest.raises(UserError, match="expected several texts, got one"):
        model.scores("abc")


def test_score_lines(charlstm_command, saved, tmp_path):
    text = "ab cd.\n\nabé\néé\nfgh"
    (tmp_path / "lines.txt").write_text(text)
    done = charlstm_command("score", "run", "lines.txt", "--lines", "--unknown", "skip")
    assert done.returncode == 0, done.stderr
    model = saved.load("best")
    figures = [float(line) for line in done.stdout.split()]
    expected = [model.score(line, unknown="skip").bits_per_char for line in ("ab cd.", "ab", "fgh")]
    assert [figures[k] for k in (0, 2, 4)] == pytest.approx(expected, abs=1e-4)
    assert np.isnan([figures[k] for k in (1, 3)]).all()
    told = [
        json.loads(line)
        for line in charlstm_command(
            "score", "run", "lines.txt", "--lines", "--unknown", "skip", "--json"
        ).stdout.splitlines()
    ]
    assert [(one["chars"], one["skipped"]) for one in told] == [(6, 0), (0, 0), (2, 1), (0, 2), (3, 0)]
    assert told[1]["bits_per_char"] is None
    assert told[0]["bits_per_char"] == pytest.approx(expected[0], rel=1e-6)


@pytest.mark.parametrize("piece", [1, 3, 2**16])
def test_lines_are_cut_where_the_text_has_line_breaks(model, tmp_path, monkeypatch, piece):
    monkeypatch.setattr(scoring, "_PIECE", piece)
    monkeypatch.setattr(scoring, "_LINES", 2)
    for text in ("ab\ncd\n", "\n\na", "abc", "a\n\n"):
        found = scorer_of(model, text, tmp_path)
        sizes = [one.units for one in found.lines()]
        assert sizes == [len(line) for line in text.removesuffix("\n").split("\n")]


# ------------------------------------------------------------------------------------------------- large texts in blocks
@pytest.mark.parametrize("unknown", ["error", "skip", "charge", "replace:a"])
def test_a_text_in_blocks_has_the_score_of_the_whole(model, tmp_path, monkeypatch, unknown):
    monkeypatch.setattr(scoring, "_PIECE", 97)
    text = made_up_text(1500, seed=3)
    if unknown != "error":
        text = text[:200] + "ΩЖ" + text[200:900] + "Ω" + text[900:]
    whole = model.score(text, unknown=unknown)
    found = scorer_of(model, text, tmp_path, unknown=unknown)
    totals = found.totals()
    assert (totals.units, totals.chars, totals.skipped) == (whole.units, whole.chars, whole.skipped)
    assert totals.nats == pytest.approx(whole.nats, rel=1e-6)
    told = list(found.characters())
    assert [p for _, p in told] == pytest.approx(whole.log_probs, rel=1e-4, abs=1e-5)
    kept = "".join(found.corpus.vocabulary.characters[k] for k, _ in told)
    assert kept == (text.translate({ord("Ω"): None, ord("Ж"): None}) if unknown == "skip" else text)


def test_memory_does_not_grow_with_a_text_that_is_scored(model, tmp_path, id_cache, monkeypatch):
    monkeypatch.setattr(scoring, "_PIECE", 4096)
    peaks = []
    for size in (50_000, 400_000):
        (tmp_path / "large.txt").write_text(made_up_text(3000) * (size // 3000))
        found = CorpusScorer(Scorer(model), corpora.load([tmp_path / "large.txt"], to_learn=False))
        tracemalloc.start()
        found.totals()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 100_000


def test_a_text_of_one_kind_of_character_can_be_scored(model, tmp_path):
    assert scorer_of(model, "aaaa", tmp_path).totals().nats == pytest.approx(model.score("aaaa").nats, rel=1e-6)


# -------------------------------------------------------------------------------------------- characters never seen
def test_what_is_left_out_is_counted_and_can_be_charged(model):
    plain, left_out = model.score("abcd"), model.score("a☃☃☃bcd", unknown="skip")
    assert left_out.log_probs.tolist() == plain.log_probs.tolist()
    assert (plain.skipped, left_out.skipped) == (0, 3)
    charged = model.score("a☃☃☃bcd", unknown="charge")
    assert (charged.chars, charged.skipped) == (7, 3)
    assert charged.log_probs[1:4] == pytest.approx(np.full(3, -UNKNOWN_BITS * math.log(2)), rel=1e-12)
    assert np.delete(charged.log_probs, [1, 2, 3]).tolist() == plain.log_probs.tolist()
    assert model.score("☃", unknown="charge").bits_per_char == pytest.approx(20.0874, abs=1e-3)
    replaced = model.score("a☃☃☃bcd", unknown="replace:e")
    assert replaced.log_probs.tolist() == model.score("aeeebcd").log_probs.tolist()
    assert [one.skipped for one in model.scores(["ab", "☃"], unknown="skip")] == [0, 1]


def test_replace_works_in_every_command_and_is_in_the_help(charlstm_command, saved, tmp_path, model):
    (tmp_path / "other.txt").write_text("ab☃cd" * 30)
    with_snow = charlstm_command(
        "sample", "run", "--prime", "a☃b", "--unknown", "replace:c", "--seed", 1, "--length", 20
    )
    plain = charlstm_command("sample", "run", "--prime", "acb", "--seed", 1, "--length", 20)
    assert with_snow.stdout == plain.stdout != b""
    one, other = (
        charlstm_command("score", "run", *arguments, "--json")
        for arguments in (["other.txt", "--unknown", "replace:e"], ["-"])
    )
    assert other.returncode == 2
    assert json.loads(one.stdout)["chars"] == 150
    trained = charlstm_command(
        "train", "other.txt", "--from", "run", "--unknown", "replace:e", "--iterations", 2, "--batch-size", 1, "--quiet"
    )
    assert trained.returncode == 0, trained.stderr
    for command in ("sample", "score", "train"):
        assert b"replace:CHAR" in charlstm_command(command, "--help").stdout
    for call in (lambda: model.sample("a☃", unknown="replace:☃"), lambda: model.score("a☃", unknown="replace:☃")):
        with pytest.raises(UserError, match="one character that the model knows"):
            call()


def test_what_is_left_out_is_said(charlstm_command, saved):
    def told(unknown, *more):
        return charlstm_command(
            "score", "run", "-", "--unknown", unknown, *more, stdin="a☃☃☃bcd".encode()
        ).stdout.decode()

    assert told("skip").rstrip().endswith("; 3 unknown characters skipped")
    assert told("charge").rstrip().endswith("; 3 unknown characters charged")
    assert json.loads(told("skip", "--json"))["skipped"] == 3
    lines = [json.loads(line) for line in told("charge", "--per-char").splitlines()]
    assert "".join(line["char"] for line in lines) == "a☃☃☃bcd"
    assert lines[2]["bits"] == pytest.approx(UNKNOWN_BITS)
    assert "".join(json.loads(line)["char"] for line in told("skip", "--per-char").splitlines()) == "abcd"
    (saved.folder.parent / "other.txt").write_text("a☃☃☃bcd\n" * 60)
    for command, said in (
        (("score", "run", "other.txt", "--lines", "--unknown", "skip"), "180 unknown characters skipped"),
        (
            ("score", "run", "other.txt", "--per-char", "--unknown", "charge"),
            "180 unknown characters charged",
        ),
        (
            ("sample", "run", "--prime", "a☃b", "--unknown", "skip", "--length", 3),
            "1 unknown character ",
        ),
        (
            ("train", "other.txt", "--from", "run", "--unknown", "skip", "-n", 1, "--batch-size", 1),
            "180 unknown characters skipped",
        ),
    ):
        done = charlstm_command(*command)
        assert done.returncode == 0
        assert said in done.stderr.decode()


def test_a_name_with_snowmen_in_it_has_the_score_of_the_name_alone_only_where_they_are_left_out():
    trainer = Trainer(small(iterations=20), Corpus.from_text("Kami\nMika\nAki\n" * 40))
    list(trainer.run())
    model = trainer.checkpoint()
    plain, skipped, charged = (
        model.score(text, unknown=unknown)
        for text, unknown in (("Kami", "error"), ("K☃☃☃ami", "skip"), ("K☃☃☃ami", "charge"))
    )
    assert (skipped.bits_per_char, skipped.chars, skipped.skipped) == (plain.bits_per_char, 4, 3)
    assert charged.nats == pytest.approx(plain.nats + 3 * math.log(0x110000 - len(model.vocabulary)), rel=1e-12)
    assert charged.bits_per_char > plain.bits_per_char + 5


# ---------------------------------------------------------------------------------------------------------------- bytes
def test_a_text_of_bytes_is_told_by_the_byte(charlstm_command, tmp_path):
    text = "今天天气很好。\n" * 40
    run = start(Corpus.from_bytes(text.encode()), small(iterations=20, bytes=True), str(tmp_path / "run"))
    finish(run)
    (tmp_path / "t").write_text("今天")
    told = json.loads(charlstm_command("score", "run", "t", "--json").stdout)
    found = run.load("best").score("今天")
    assert (told["chars"], told["bytes"]) == (found.chars, found.bytes) == (2, 6)
    assert told["bits_per_byte"] == pytest.approx(found.bits_per_byte, rel=1e-6)
    assert told["bits_per_char"] == pytest.approx(3 * told["bits_per_byte"], rel=1e-12)
    said = charlstm_command("score", "run", "t").stdout.decode()
    assert said.startswith(f"t: 2 characters in 6 bytes, {told['bits_per_byte']:.4f} bits per byte (")
    assert f"{told['bits_per_char']:.4f} bits per character" in said
    lines = [json.loads(line) for line in charlstm_command("score", "run", "t", "--per-char").stdout.splitlines()]
    assert [line["byte"] for line in lines] == list("今天".encode())
    [figure] = charlstm_command("score", "run", "t", "--lines").stdout.split()
    assert float(figure) == pytest.approx(told["bits_per_byte"], abs=1e-4)
    (tmp_path / "latin").write_bytes("äöü".encode("latin-1"))
    told = json.loads(charlstm_command("score", "run", "latin", "--json").stdout)
    assert (told["chars"], told["bytes"]) == (3, 3)
    [drawn] = charlstm_command("sample", "run", "--json", "--length", 9, "--seed", 1).stdout.splitlines()
    one = json.loads(drawn)
    assert one["bits_per_byte"] == pytest.approx(-sum(one["log_probs"]) / 9 / math.log(2))
