"""Strings are normalised as files are; one sample per line; samples that stand in the training text."""

import json
import re

import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.model import known
from charlstm.model.known import Known
from charlstm.runs.begin import start
from charlstm.settings.config import from_preset
from charlstm.text import corpus
from charlstm.text.corpus import ByteVocabulary, Corpus
from charlstm.text.encodings import normalised
from charlstm.text.reading import unescaped
from charlstm.training.trainer import Trainer

NAMES = ["Ada", "Bea", "Cid", "Dot", "Eva", "Fay", "Gus", "Hal", "Ida", "Jan"]


@pytest.mark.parametrize("text", ["Ka\r\nMi", "a\rb\r\nc\n\r", "\ufeffab", "\ufeff\ufeffa\r\n", "ab\r", "plain\n"])
def test_a_string_becomes_what_a_file_of_it_does(tmp_path, text):
    (tmp_path / "t.txt").write_bytes(text.encode())
    read = corpus.load([tmp_path / "t.txt"])
    found = Corpus.from_text(text)
    assert found.digest == read.digest
    assert found.vocabulary == read.vocabulary
    assert read.vocabulary.as_read(text) == normalised(text) == read.vocabulary.decode(read.ids)
    assert ByteVocabulary().as_read(text) == text  # as the bytes of a file would be


def test_prime_stop_and_scored_text_are_read_as_files_are(model):
    text = "ab\r\ncd e.\r\n"
    plain = "ab\ncd e.\n"
    assert model.sample("\ufeff" + text, length=9, seed=1) == model.sample(plain, length=9, seed=1)
    assert model.sample("ab", stop="\r\n", length=400, seed=3) == model.sample("ab", stop="\n", length=400, seed=3)
    assert model.score(text).nats == model.score(plain).nats
    found = Corpus.from_text(text, vocabulary=model.vocabulary)
    assert found.vocabulary.decode(found.ids) == plain


@pytest.fixture(scope="module")
def lowered():
    config = from_preset(iterations=5, hidden_size=4, seq_length=8, batch_size=2, sample_every=0, lower=True)
    trainer = Trainer(config, Corpus.from_text(made_up_text()))
    for _ in trainer.run():
        pass
    return trainer.checkpoint()


def test_stop_is_made_lower_case_where_the_text_was(lowered):
    assert lowered.sample("A", stop="D", length=3000, seed=1) == lowered.sample("a", stop="d", length=3000, seed=1)
    assert lowered.sample("A", stop="D", length=3000, seed=1).endswith("d")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (r"\n", "\n"),
        (r"\t\n", "\t\n"),
        ("\n", "\n"),
        (r"\\n", r"\n"),
        (r"\x", r"\x"),
        ("a", "a"),
        ("\\", "\\"),
        ("", ""),
    ],
)
def test_backslashes_mean_the_same_in_every_option(given, meant):
    assert unescaped(given) == meant


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    """A run that has learned names by heart, one per line, and their file."""
    folder = tmp_path_factory.mktemp("names")
    file = folder / "names.txt"
    file.write_text("\n".join(NAMES * 20) + "\n")
    run = start(
        [file],
        small(iterations=800, num_layers=1, hidden_size=24, seq_length=8, learning_rate=0.02, sample_every=0),
        str(folder / "run"),
    )
    finish(run)
    return run, file


def test_a_plain_line_each(named, capsys):
    run, _ = named
    assert _guarded(["sample", str(run.folder), "--count", "20", "--stop", r"\n", "--seed", "1"]) == 0
    lines = capsys.readouterr().out.split("\n")
    assert len(lines) == 21
    assert lines[-1] == ""
    assert sum(line in NAMES for line in lines) > 5
    for one, line in zip(run.load().samples(count=20, seed=1, stop="\n"), lines, strict=False):
        assert one.text == line + "\n"
    assert _guarded(["sample", str(run.folder), "--count", "2", "--stop", "\n", "--seed", "1", "--prime", "A"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert _guarded(["sample", str(run.folder), "--count", "2", "--length", "5"]) == 0
    assert "--- 2 ---" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--json"], ["--stop", r"\n"], ["--stop", "a"]])
def test_new_lines_alone(named, capsys, options):
    run, file = named
    arguments = ["sample", str(run.folder), "--seed", "1", "--temperature", "1.2", *options]
    assert _guarded([*arguments, "--count", "20", "--new"]) == 0
    out = capsys.readouterr().out
    stop = "a" if options[-1:] == ["a"] else "\n"
    if options == ["--json"]:
        found = [json.loads(line)["text"] for line in out.splitlines()]
    else:
        found = (
            out.splitlines()
            if stop == "\n"
            else [text.partition(" ---\n")[2].removesuffix("\n") for text in out.split("--- ")[1:]]
        )
    assert len(found) == 20
    have = file.read_text().split(stop)
    assert not {text.removesuffix(stop) for text in found} & set(have)
    assert _guarded([*arguments, "--count", "20", *([] if options[:1] == ["--stop"] else ["--stop", r"\n"])]) == 0
    unsifted = capsys.readouterr().out
    assert any(name in re.findall(r"\w+", unsifted.replace(r"\n", " ")) for name in NAMES)  # without --new they appear


def test_a_text_that_is_gone_comes_from_the_cache_and_one_that_has_changed_is_no_text_of_the_run(
    named, capsys, monkeypatch, tmp_path
):
    run, file = named
    content = file.read_text()
    arguments = ["sample", str(run.folder), "--new", "--count", "2", "--seed", "1", "--temperature", "1.2"]
    assert _guarded(arguments) == 0
    expected = capsys.readouterr().out
    try:
        file.unlink()
        assert _guarded(arguments) == 0
        assert capsys.readouterr().out == expected
        monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "nothing"))
        assert _guarded(arguments) == 2
        assert capsys.readouterr().err == (
            f"charlstm: --new: {run.folder}: its text came from {file}, which no longer exists, and the cache has "
            "no copy; give it again as TEXT\n"
        )
        file.write_text(content + "more\n")
        assert _guarded(arguments) == 2
        assert (
            capsys.readouterr().err == f"charlstm: --new: {run.folder}: its text, {file}, has changed since training\n"
        )
    finally:
        file.write_text(content)


def test_what_writes_nothing_new_says_so(named, capsys):
    run, _ = named
    assert _guarded(["sample", str(run.folder), "--new", "--count", "3", "--argmax", "--seed", "1"]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    assert (
        found.err
        == "charlstm: --new: found 0 of 3 new samples: the training text has all others of 60 drawn; a higher --temperature may help\n"
    )


@pytest.mark.parametrize("piece", [1, 3, 7, 2**20])
def test_lines_are_found_wherever_pieces_of_the_text_end(monkeypatch, piece):
    monkeypatch.setattr(known, "_PIECE", piece)
    for found in (Corpus.from_text("one\ntwo\u2013\n\nthree"), Corpus.from_bytes("one\ntwo\u2013\n\nthree".encode())):
        lines = Known.of(found, "\n")
        assert all(lines.has(line) for line in ("one", "two\u2013\n", "three\n", "", "\n", "x\none\n"))
        assert not any(lines.has(line) for line in ("on", "ne", "two", "four\n", "one two\n"))
    assert Known.of(Corpus.from_text("ab--cd--e"), "--").has("cd--")


def test_a_stop_that_the_model_never_writes_is_refused_as_before(named):
    run, _ = named
    with pytest.raises(UserError, match=r"--stop: the model does not know all characters of '\\t'"):
        run.load().sample(stop="\t")
