"""The cache of ids: found again, bounded, damaged, impossible to write; and training from it."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import made_up_text
from texts import digest_of, is_mapped, names

from charlstm.errors import UserError
from charlstm.model.model import load
from charlstm.settings.config import from_preset
from charlstm.text import corpus, idcache, reading
from charlstm.text.corpus import Corpus, Vocabulary
from charlstm.text.encoder import Encoder
from charlstm.training.trainer import Trainer


def test_a_second_start_reads_ids_from_the_cache(tmp_path, id_cache, monkeypatch):
    file = tmp_path / "a b\n.txt"
    file.write_text(made_up_text(5000), newline="")
    first = corpus.load([file])
    assert names(id_cache) == [".ids", ".json"]
    monkeypatch.setattr(reading.Part, "texts", None)  # nothing may be decoded again
    second = corpus.load([file])
    os.rename(file, tmp_path / "moved.txt")
    moved = corpus.load([tmp_path / "moved.txt"])
    for found in (second, moved):
        assert is_mapped(found.ids)
        assert not found.ids.flags.writeable
        np.testing.assert_array_equal(found.ids, first.ids)
        assert (found.vocabulary, found.digest) == (first.vocabulary, first.digest)
    assert second.name == first.name == "a b\n"


def test_what_was_read_otherwise_or_is_another_text_is_read_anew(tmp_path, id_cache):
    file = tmp_path / "t.txt"
    text = "A" + made_up_text(4999)
    file.write_text(text)
    plain = corpus.load([file])
    for options in ({"lower": True}, {"as_bytes": True}, {"encoding": "utf-16-le"}):
        other = corpus.load([file], **options)
        assert other.digest != plain.digest
        assert corpus.load([file], **options).digest == other.digest
    file.write_text("B" + text[1:])  # the size stays the same
    assert corpus.load([file]).digest != plain.digest
    file.write_text(text)
    assert corpus.load([file]).digest == plain.digest
    both = corpus.load([file, file], separator="-")
    assert both.digest == corpus.load([file, file], separator="-").digest != corpus.load([file, file]).digest


@pytest.mark.parametrize("damage", ["flip", "cut", "odd", "empty", "grow", "note", "no ids", "nonsense"])
def test_a_damaged_cache_is_not_trusted(tmp_path, id_cache, damage):
    (tmp_path / "t.txt").write_text("".join(map(chr, range(32, 700))) + made_up_text(5000), encoding="utf-8")
    first = corpus.load([tmp_path / "t.txt"])
    facts = {"name": "t", "sources": [], "digest": first.digest}
    expected, vocabulary = first.ids.copy(), first.vocabulary
    del first
    [ids], [note] = id_cache.glob("*.ids"), id_cache.glob("*.json")
    content = bytearray(ids.read_bytes())
    if damage == "note":
        noted = json.loads(note.read_text())
        note.write_text(json.dumps({**noted, "vocabulary": noted["vocabulary"][::-1]}))
        assert corpus.cached(facts, vocabulary) is not None
    elif damage == "nonsense":
        note.write_text("{")
    else:
        ids.unlink()
        if damage == "flip":
            content[100] ^= 1
        cut = {"cut": content[:-2], "odd": content[:-1], "empty": b"", "grow": content + b"ab"}.get(damage, content)
        if damage != "no ids":
            ids.write_bytes(cut)
        assert corpus.cached(facts, vocabulary) is None
    again = corpus.load([tmp_path / "t.txt"])
    np.testing.assert_array_equal(again.ids, expected)
    np.testing.assert_array_equal(corpus.cached(facts, vocabulary).ids, expected)
    assert names(id_cache) == [".ids", ".json"]


@pytest.mark.parametrize("limit", [100, 2**24])
def test_a_text_is_found_again_by_its_digest(id_cache, monkeypatch, limit):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(made_up_text(5000).encode())))
    read = corpus.load(["-"])
    kept = corpus.kept(read)
    assert kept is read
    facts = {"name": "stdin", "sources": ["-"], "digest": kept.digest, "num_ids": 5000, "is_frozen": False}
    [path] = id_cache.iterdir()
    os.utime(path, (1, 1))
    found = corpus.cached(facts, kept.vocabulary)
    assert path.stat().st_mtime > 1  # marked as just used
    assert (found.name, found.sources, found.is_frozen) == ("stdin", ("-",), False)
    assert is_mapped(found.ids) == (limit == 100)
    assert not found.ids.flags.writeable
    np.testing.assert_array_equal(found.ids, read.ids)
    assert found.digest == idcache.digest_of(found.vocabulary, found.ids) == kept.digest
    assert names(id_cache) == [".ids"]
    assert corpus.cached({**facts, "digest": "0" * 64}, kept.vocabulary) is None
    (id_cache.parent / "mine.ids").write_bytes(b"no one's business")
    assert corpus.cached({**facts, "digest": "../mine"}, kept.vocabulary) is None
    assert (id_cache.parent / "mine.ids").exists()
    assert (
        corpus.cached(facts, Vocabulary(kept.vocabulary.characters + "~")) is None
    )  # the file has been removed: see the next line
    assert names(id_cache) == []


def test_a_small_damaged_copy_is_replaced(id_cache):
    text = Corpus.from_text("abcabc")
    assert corpus.kept(text) is text
    [path] = id_cache.iterdir()
    path.write_bytes(b"\0\0\0\0\0\0")
    corpus.kept(text)
    assert path.read_bytes() == text.ids.tobytes()


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, id_cache):
    (tmp_path / "t.txt").write_text(made_up_text(5000))
    (tmp_path / "cache").write_text("in the way")
    for read in (lambda: corpus.load([tmp_path / "t.txt"]), lambda: corpus.load([tmp_path / "t.txt"], as_bytes=True)):
        found = read()
        assert not is_mapped(found.ids)
        assert not found.ids.flags.writeable
        assert len(found.ids) == 5000
        assert found.remark.startswith(f"the text stays in memory: {id_cache}: cannot be written: ")
        assert "CHARLSTM_DATA_DIR names another folder" in found.remark
        assert corpus.kept(found) is found
    small = corpus.kept(Corpus.from_text("abcabc"))
    assert small.remark.startswith(f"resuming this run will need the text again: {id_cache}: cannot be written")


@pytest.mark.parametrize("fails_at", [0, 3, 20])
@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_a_disk_that_gets_full_stops_nothing(tmp_path, id_cache, monkeypatch, fails_at, unknown):
    class Full(io.FileIO):
        writes = 0

        def write(self, content):
            Full.writes += 1
            if Full.writes > fails_at:
                raise OSError(28, "No space left on device")
            return super().write(content[: len(content) // 2 + 1])  # a write may store only a part

    monkeypatch.setattr(idcache.io, "FileIO", Full)
    monkeypatch.setattr(reading, "PIECE", 500)
    text, vocabulary = made_up_text(5000), Vocabulary("\n .abcdef")
    (tmp_path / "t.txt").write_text(text)
    options = {"vocabulary": vocabulary, "unknown": unknown} if unknown == "skip" else {}
    found = corpus.load([tmp_path / "t.txt"], **options)
    expected = vocabulary if unknown == "skip" else Vocabulary.of(text)
    np.testing.assert_array_equal(found.ids, expected.encode(text, unknown))
    assert "No space left on device" in found.remark
    assert names(id_cache) == []


def test_an_unfinished_file_that_somebody_cuts_is_one_line(tmp_path, id_cache, monkeypatch):
    finish = Encoder.finish

    def cut(encoder):
        [path] = id_cache.iterdir()
        os.truncate(path, 1000)
        return finish(encoder)

    monkeypatch.setattr(Encoder, "finish", cut)
    (tmp_path / "t.txt").write_text(made_up_text(5000))
    with pytest.raises(UserError, match=r"new-.*\.tmp was truncated while it was being written"):
        corpus.load([tmp_path / "t.txt"])
    assert names(id_cache) == []


def test_reading_that_fails_leaves_no_file(tmp_path, id_cache):
    (tmp_path / "t.txt").write_bytes(made_up_text(5000).encode() + b"\xff")
    with pytest.raises(UserError, match="byte 5000 is not utf-8"):
        corpus.load([tmp_path / "t.txt"])
    assert names(id_cache) == []


def test_the_cache_does_not_grow_for_ever(id_cache, monkeypatch):
    monkeypatch.setattr(idcache, "MOST_BYTES", 1000)
    monkeypatch.setattr(idcache, "MOST_FILES", 4)
    texts = [Corpus.from_text(made_up_text(300, seed)) for seed in range(6)]
    for n, text in enumerate(texts):
        corpus.kept(text)
        os.utime(id_cache / f"{text.digest}.ids", (n + 1, n + 1))
    kept = [text for text in texts if (id_cache / f"{text.digest}.ids").exists()]
    assert kept == texts[3:]
    corpus.kept(texts[3])  # used again, so another text is the oldest now
    corpus.kept(texts[0])
    assert {path.stem for path in id_cache.iterdir()} == {texts[0].digest, texts[3].digest, texts[5].digest}
    small = [Corpus.from_text("ab" * n) for n in range(1, 9)]
    for text in small:
        corpus.kept(text)
    assert len(names(id_cache)) == 4
    corpus.kept(Corpus.from_text(made_up_text(3000)))  # larger than the whole limit: the file in use stays
    assert [path.stat().st_size for path in id_cache.iterdir()] == [3000]
    [path] = id_cache.iterdir()
    os.utime(path, (2**32, 2**32))  # a time set by a wrong clock
    corpus.kept(texts[0])
    assert (id_cache / f"{texts[0].digest}.ids").exists()


def test_files_of_dead_processes_are_removed_and_foreign_ones_are_not(id_cache):
    id_cache.mkdir(parents=True)
    for name in ("new-old.tmp", "new-young.tmp", "mine.txt"):
        (id_cache / name).write_text("x" * 10)
    os.utime(id_cache / "new-old.tmp", (1, 1))
    corpus.kept(Corpus.from_text("abc"))
    assert {path.name for path in id_cache.iterdir() if path.suffix != ".ids"} == {"new-young.tmp", "mine.txt"}


def test_what_is_mapped_outlives_its_file(tmp_path, id_cache):
    (tmp_path / "t.txt").write_text(made_up_text(5000))
    found = corpus.load([tmp_path / "t.txt"])
    expected = found.ids.copy()
    for path in id_cache.iterdir():
        idcache.remove(path)  # Windows refuses to remove a mapped file
    np.testing.assert_array_equal(found.ids, expected)


def test_several_processes_at_once(text_file, id_cache):
    program = (
        "import sys; from charlstm.text import corpus, idcache, reading; idcache.IN_MEMORY = reading.PIECE = 100\n"
        "for _ in range(20): print(corpus.load([sys.argv[1]]).digest)"
    )
    command = [sys.executable, "-c", program, str(text_file)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=60)[0].split() for process in running]
    assert printed == [[digest_of(text_file.read_text())] * 20] * 3
    assert names(id_cache) == [".ids", ".json"]


def test_training_on_a_mapped_text_gives_the_same_bits(tmp_path, id_cache, monkeypatch, backend):
    text = "".join(map(chr, range(1000, 1300))) + made_up_text(4000)
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    mapped = corpus.load([tmp_path / "t.txt"])
    monkeypatch.setattr(idcache, "IN_MEMORY", 2**24)
    held = corpus.load([tmp_path / "t.txt"])
    assert (is_mapped(mapped.ids), is_mapped(held.ids)) == (True, False)
    assert mapped.ids.dtype == np.uint16
    weights = []
    for each in (mapped, held):
        options = {"hidden_size": 8, "seq_length": 5, "batch_size": 3, "validation": 0.1, "sample_every": 10}
        trainer = Trainer(from_preset(iterations=25, backend=backend, **options), each)
        assert np.shares_memory(trainer.ids, each.ids)
        for _ in trainer.run():
            pass
        weights.append(trainer.theta.tobytes())
        assert not hasattr(each.ids, "flush")  # a plain array: kernels accept no other
    assert weights[0] == weights[1]


def test_a_run_leaves_its_text_in_the_cache(tmp_path, id_cache, charlstm_command):
    options = [
        "--iterations",
        "3",
        "--hidden-size",
        "8",
        "--seq-length",
        "5",
        "--batch-size",
        "2",
        "--backend",
        "numpy",
    ]
    text = made_up_text().encode()
    done = charlstm_command("train", "-", *options, "--out", "a", stdin=text)
    assert done.returncode == 0, done.stderr
    old = load(tmp_path / "a", "last")
    found = corpus.cached(old.corpus, old.vocabulary)
    assert found.vocabulary.decode(found.ids).encode() == text
    resumed = Trainer(old.config, found, old)
    assert resumed.iteration == 3
    (tmp_path / "file").write_text("in the way")
    done = charlstm_command(
        "train", "-", *options, "--out", "b", stdin=text, env={"CHARLSTM_DATA_DIR": str(tmp_path / "file")}
    )
    assert done.returncode == 0
    assert b"resuming this run will need the text again: " in done.stderr


WATCHED = """
import sys, threading, time
from charlstm import from_preset
from charlstm.runs.begin import start

def watch():
    while True:
        facts = dict(line.split(":", 1) for line in open("/proc/self/status"))
        peak[0] = max(peak[0], int(facts["RssAnon"].split()[0]) / 1024)
        time.sleep(0.05)

peak = [0]
threading.Thread(target=watch, daemon=True).start()
for windows in (None, "20:1"):
    config = from_preset(iterations=30, hidden_size=16, seq_length=20, batch_size=4, validation=0.001, windows=windows)
    run = start([sys.argv[1]], config, sys.argv[2] + str(windows))
    for _ in run.train():
        pass
    assert run.load("last").iteration == 30
    assert len(run.trainer.ids) > 150_000_000
print(peak[0])
"""


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_large_text_trains_in_little_memory(tmp_path):
    text = made_up_text(100_000).encode()
    with open(tmp_path / "t.txt", "wb") as out:
        for n in range(2000):
            out.write(text[n:] + "→".encode())
    command = [sys.executable, "-c", WATCHED, tmp_path / "t.txt", tmp_path / "run"]
    environment = {**os.environ, "CHARLSTM_DATA_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    print(f"RssAnon {float(done.stdout):.0f} MiB")
    assert float(done.stdout) < 200  # Python, Numba and the model take about 100 of these
