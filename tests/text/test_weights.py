"""Weighted texts: what a pass reads, and what weights must not change."""

import json
from fractions import Fraction

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small
from texts import is_mapped

import charlstm
from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.model.model import load
from charlstm.runs.begin import resume, start
from charlstm.text import corpus, idcache, weights
from charlstm.text.corpus import Corpus, Vocabulary
from charlstm.text.weights import copies_of, order_of, repeated
from charlstm.training.trainer import Trainer

TEXTS = {"a.txt": "aaaa.\nab", "b.txt": "bbbbbb.\n", "c.txt": "cc"}


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in TEXTS.items():
        (tmp_path / name).write_text(content)


@pytest.mark.parametrize(
    ("given", "copies"),
    [
        ((), ()),
        (("a.txt=2",), (2, 1, 1)),
        (("a.txt=1.5",), (3, 2, 2)),
        (("a.txt=2", "b.txt=0.5"), (4, 1, 2)),
        (("a.txt=2", "b.txt=2", "c.txt=2"), (1, 1, 1)),
        (("a.txt=1/3",), (1, 3, 3)),
        (("./a.txt=2",), (2, 1, 1)),
        (("b.txt=2", "b.txt=3"), (1, 3, 1)),
        (("a.txt=100",), (100, 1, 1)),
    ],
)
def test_weights_are_copies_in_the_same_ratio(given, copies):
    assert copies_of(given, list(TEXTS)) == copies


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("a.txt=0", "--weight: expected FILE=NUMBER, a number above 0, for example a.txt=2, got 'a.txt=0'"),
        ("a.txt=-1", "--weight: expected FILE=NUMBER"),
        ("a.txt=inf", "--weight: expected FILE=NUMBER"),
        ("a.txt=1/0", "--weight: expected FILE=NUMBER"),
        ("a.txt=", "--weight: expected FILE=NUMBER"),
        ("atxt=2", "--weight atxt=2: 'atxt' is not one of the texts: did you mean 'a.txt'?"),
        ("2", "--weight 2: '' is not one of the texts: the texts are a.txt, b.txt, c.txt"),
        ("x\0=2", "--weight x\0=2: 'x\\x00' is not one of the texts"),
        (
            "a.txt=1.0001",
            "--weight: a.txt=1.0001 needs 10,001 copies of a text in a pass, more than 100: give rounder numbers",
        ),
    ],
)
def test_weights_that_will_not_do(given, message):
    with pytest.raises(UserError) as caught:
        copies_of([given], list(TEXTS))
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize("copies", [(4, 1, 2), (1, 1, 1), (3, 2, 2), (100, 1, 7)])
def test_copies_are_spread_over_the_pass(copies):
    order = order_of(copies)
    assert tuple(order.count(place) for place in range(len(copies))) == copies
    for place, count in enumerate(copies):
        for turn, at in enumerate(k for k, each in enumerate(order) if each == place):
            assert abs(Fraction(at, len(order)) - Fraction(turn, count)) <= Fraction(1, count)
    assert order_of((4, 1, 2)) == [0, 2, 0, 1, 0, 2, 0]


def read(**options):
    copies = copies_of(["a.txt=2"], list(TEXTS))
    return corpus.load(list(TEXTS), copies=copies, **options)


def test_a_pass_reads_the_copies_and_what_is_kept_back_once():
    found = read()
    decode = found.vocabulary.decode
    assert decode(found.ids) == "aaaa.\nab\nbbbbbb.\ncc\n"  # every text ends in the separator, including the last
    assert found.spans == ((9, 2), (17, 1), (20, 1))
    assert decode(repeated(found.ids, found.spans, found.vocabulary)) == "aaaa.\nab\nbbbbbb.\ncc\naaaa.\nab\n"
    learned, held_out = found.split(0.4)
    assert decode(held_out) == "bbb.\ncc\n"
    assert decode(repeated(learned, found.spans, found.vocabulary)) == "aaaa.\nab\nbbbaaaa.\nab\n"
    assert found.remark == (
        "a pass reads a.txt 2 times, b.txt 1 time, c.txt 1 time; the held-out text is the end of all texts, read once"
    )
    assert corpus.load(list(TEXTS)).spans == ()


@pytest.mark.parametrize("limit", [1, 2**24])
def test_copies_in_memory_and_mapped_from_the_cache_are_the_same(id_cache, monkeypatch, limit):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    corpus.load(list(TEXTS))  # the cache must not confuse this with the weighted text
    for options in ({}, {"lower": True}, {"as_bytes": True}, {"separator": "--"}):
        first = read(**options)
        ids = repeated(first.ids, first.spans, first.vocabulary)
        assert is_mapped(ids) == (limit == 1)
        assert not ids.flags.writeable
        again = read(**options)
        assert again.spans == first.spans
        assert again.remark == first.remark
        plain = [
            each + ("--" if "separator" in options else "" if each.endswith("\n") else "\n") for each in TEXTS.values()
        ]
        assert first.vocabulary.decode(ids) == "".join(plain[place] for place in order_of((2, 1, 1)))


@pytest.mark.parametrize("piece", [1, 3, 2**20])
def test_ends_count_what_was_not_left_out(monkeypatch, piece):
    monkeypatch.setattr(idcache, "_PIECE", piece)
    monkeypatch.setattr(weights, "_PIECE", piece)
    found = read(vocabulary=Vocabulary.of("ac.\n"), unknown="skip")
    decode = found.vocabulary.decode
    assert decode(found.ids) == "aaaa.\na\n.\ncc\n"
    assert found.spans == ((8, 2), (10, 1), (13, 1))
    assert decode(repeated(found.ids, found.spans, found.vocabulary)) == "aaaa.\na\n.\ncc\naaaa.\na\n"


@pytest.fixture
def voices(tmp_path):
    for name, seed in (("a.txt", 1), ("b.txt", 2)):
        (tmp_path / name).write_text(made_up_text(400, seed))


def test_training_is_that_on_a_text_with_the_copies_in_it(voices, tmp_path):
    options = {"iterations": 30, "hidden_size": 4, "num_layers": 1}
    run = charlstm.train("a.txt", "b.txt", weight={"a.txt": 2}, **options)
    a, b = ((tmp_path / name).read_text() for name in ("a.txt", "b.txt"))
    a, b = (text if text.endswith("\n") else text + "\n" for text in (a, b))
    by_hand = Trainer(small(**{**run.config.__dict__, "weight": ()}), Corpus.from_text(a + b + a))
    for _ in by_hand.run():
        pass
    assert by_hand.theta.tobytes() == run.load("last").theta.tobytes()
    assert run.config.weight == ("a.txt=2",)
    assert len(run.trainer.ids) == len(a + b + a)
    assert "a.txt=2" in (run.folder / "config.toml").read_text()


def test_a_weighted_run_goes_on_from_anywhere_and_from_the_cache(voices, tmp_path, monkeypatch):
    options = {"weight": ["a.txt=1.5"], "hidden_size": 4, "num_layers": 1, "validation": 0.1, "schedule": "constant"}
    whole = start(["a.txt", "b.txt"], small(iterations=40, **options), "whole")
    finish(whole)
    run = start(["a.txt", "b.txt"], small(iterations=15, **options), "run")
    finish(run)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = resume(tmp_path / "run", (), {"iterations": 25})
    finish(again)
    (tmp_path / "a.txt").unlink()
    last = resume(tmp_path / "run", (), {"iterations": 40})  # from the copy in the cache
    finish(last)
    assert last.load("last").theta.tobytes() == load(tmp_path / "whole", "last").theta.tobytes()
    assert last.trainer.corpus.spans == whole.trainer.corpus.spans
    with pytest.raises(UserError, match="--weight cannot change when a run is resumed"):
        resume(tmp_path / "run", (), {"weight": ("a.txt=2",)})
    with pytest.raises(UserError, match="--weight: this run has weights for 2 texts, got 1"):
        resume(tmp_path / "run", [tmp_path / "b.txt"])


def test_the_command_line_says_what_a_pass_reads(voices, capsys):
    options = ["--iterations", "2", "--hidden-size", "3", "--seq-length", "5", "--batch-size", "2", "--json"]
    assert (
        _guarded(
            ["train", "a.txt", "b.txt", "--weight", "a.txt=2", "--weight", "b.txt=3", *options, "--report-every", "1"]
        )
        == 0
    )
    found = capsys.readouterr()
    assert "a pass reads a.txt 2 times, b.txt 3 times; the held-out text is the end" in found.err
    epoch = json.loads(found.out.splitlines()[-1])["epoch"]
    ids = (2 * 401 + 3 * 401) // 2  # one of two streams
    assert epoch == pytest.approx(2 / ((ids - 5 - 2) // 5 + 1), rel=0.02)
    assert _guarded(["train", "a.txt", "--weight", "c.txt=2", *options]) == 2
    assert (
        capsys.readouterr().err
        == "charlstm: --weight c.txt=2: 'c.txt' is not one of the texts: did you mean 'a.txt'?\n"
    )


def test_a_text_in_memory_has_no_weights():
    with pytest.raises(UserError, match="--weight: only for files; text is a text in memory"):
        charlstm.train(texts=["abc"], weight={"a": 2}, iterations=1)
    assert np.array_equal(repeated(np.arange(3, dtype=np.uint8), (), Vocabulary("abc")), [0, 1, 2])
