"""Several ranks encode one text: the same vocabulary, ids, digest and cache as one process makes."""

import gzip
import json
import shutil
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from conftest import made_up_text
from texts import names
from thread_ranks import on_ranks

from charlstm.errors import OtherRankFailed, UserError
from charlstm.text import corpus, idcache, mapped, reading, shards
from charlstm.text.batches import Streams
from charlstm.text.encoder import Encoder

FILES = {
    "a.txt": "Das ist ΑΣ",  # a capital sigma at the end of a rank's share
    "b.txt": "",
    "c.txt": "ends in a line break\r\n",
    "d.txt": made_up_text(900),
    "e.txt": "".join(map(chr, range(0x400, 0x540))),  # more than 256 kinds, which one rank alone reads
    "f.txt": made_up_text(700, 1) + "\n--\n",
    "g.txt": "the end",
    "r.csv": "name,text\n1,one\n2,two\n",
    "s.csv": "name,text\n",  # no texts
}


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "texts"
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8", newline="")
    (folder / "h.txt.gz").write_bytes(gzip.compress(made_up_text(300, 2).encode(), mtime=0))
    return folder


@pytest.fixture
def alone(monkeypatch, tmp_path):
    """Return what one process makes of a text, with a cache of its own."""

    def alone(*sources, **options):
        with monkeypatch.context() as patch:
            patch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "alone"))
            found = corpus.load(sources, **options)
            return found, sorted((tmp_path / "alone" / "ids").iterdir())

    return alone


def same(found, expected):
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert (found.digest, found.vocabulary) == (expected.digest, expected.vocabulary)
    for name in ("name", "sources", "is_frozen", "remark", "spans", "documents", "edges"):
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize(
    ("ranks", "options"),
    [
        (2, {}),
        (3, {}),
        (12, {}),
        (4, {"lower": True}),
        (3, {"as_bytes": True}),
        (3, {"as_bytes": True, "lower": True, "separator": "\nÄ\n"}),
        (3, {"lower": True, "separator": "\nÄ\n"}),
        (5, {"separator": ""}),
        (5, {"separator": "\n--\n"}),
        (7, {"column": "text"}),
    ],
)
def test_ranks_encode_what_one_process_does(texts, id_cache, alone, monkeypatch, ranks, options):
    monkeypatch.setattr(idcache, "PIECE", 300)
    expected, files = alone(texts, **options)
    for found in on_ranks(ranks, lambda world: corpus.load([texts], world=world, **options)):
        same(found, expected)
    assert names(id_cache) == [".ids", ".json"]
    for ours, theirs in zip(sorted(id_cache.iterdir()), files, strict=True):
        assert ours.name == theirs.name
        if ours.suffix == ".json":
            assert len(json.loads(ours.read_text()).pop("pieces")) == -(-expected.ids.nbytes // 300)


def test_a_second_start_decodes_nothing_and_one_process_finds_it_too(texts, id_cache, monkeypatch):
    monkeypatch.setattr(idcache, "PIECE", 300)
    first, *_ = on_ranks(3, lambda world: corpus.load([texts], world=world))
    monkeypatch.setattr(reading.Part, "texts", None)
    for found in [*on_ranks(2, lambda world: corpus.load([texts], world=world)), corpus.load([texts])]:
        same(found, first)


def test_ranks_find_what_one_process_encoded(texts, id_cache, monkeypatch):
    first = corpus.load([texts])
    monkeypatch.setattr(reading.Part, "texts", None)
    for found in on_ranks(2, lambda world: corpus.load([texts], world=world)):
        same(found, first)


@pytest.mark.parametrize("damage", ["first", "last", "longer", "missing"])
def test_damaged_ids_are_encoded_again(texts, id_cache, alone, monkeypatch, damage):
    monkeypatch.setattr(idcache, "PIECE", 300)
    expected, _ = alone(texts)
    on_ranks(3, lambda world: corpus.load([texts], world=world) and None)
    [path] = id_cache.glob("*.ids")
    content = bytearray(path.read_bytes())
    path.unlink()
    if damage in ("first", "last"):
        content[0 if damage == "first" else -1] ^= 1
    if damage != "missing":
        path.write_bytes(content + bytes(600 if damage == "longer" else 0))
    for found in on_ranks(3, lambda world: corpus.load([texts], world=world)):
        same(found, expected)


def test_a_file_that_is_no_text_is_told_by_its_rank_and_nothing_stays(texts, id_cache):
    (texts / "g.txt").write_bytes(made_up_text(800).encode() + b"\xff\xfe")
    found = on_ranks(3, lambda world: corpus.load([texts], world=world))
    told = [error for error in found if isinstance(error, UserError)]
    assert "g.txt: byte 800 is not utf-8" in str(told)
    assert len(told) == 1
    assert sum(isinstance(error, OtherRankFailed) for error in found) == 2
    assert names(id_cache) == []


def test_what_the_first_rank_refuses_ends_all(tmp_path, texts, id_cache):
    first, *others = on_ranks(3, lambda world: corpus.load([tmp_path / "nowhere"], world=world))
    assert "nowhere: no such file or folder" in str(first)
    assert {type(error) for error in others} == {OtherRankFailed}
    first, *others = on_ranks(2, lambda world: corpus.load([texts], field="x", world=world))
    assert "--field x: no file is JSONL" in str(first)
    assert names(id_cache) == []


def test_a_full_disk_ends_all_ranks(texts, id_cache, monkeypatch):
    append = idcache.Spool.append

    def full(spool, ids):
        append(spool, ids)
        spool.trouble = "the disk is full"

    monkeypatch.setattr(idcache.Spool, "append", full)
    first, other = on_ranks(2, lambda world: corpus.load([texts], world=world))
    assert (str(first), type(other)) == ("the disk is full", OtherRankFailed)
    assert names(id_cache) == []


def test_an_exception_leaves_no_file(texts, id_cache, monkeypatch):
    monkeypatch.setattr(Encoder, "kinds", property(lambda encoder: 1 / 0))
    found = on_ranks(2, lambda world: corpus.load([texts], world=world))
    assert any(isinstance(error, ZeroDivisionError) for error in found)
    assert names(id_cache) == []


def test_ranks_without_a_common_cache_read_all_by_themselves(texts, tmp_path, alone, id_cache, monkeypatch):
    expected, _ = alone(texts)
    mine = threading.local()
    monkeypatch.setattr(idcache, "folder", lambda: tmp_path / f"cache-{mine.rank}")

    def load(world):
        mine.rank = world.rank
        return corpus.load([texts], world=world)

    for found in on_ranks(2, load):
        same(found, expected)
    assert [names(tmp_path / f"cache-{rank}") for rank in range(2)] == [[".ids", ".json"]] * 2


@pytest.mark.parametrize("limit", [100, 2**24])
def test_a_spool_is_drained_from_its_end_and_shrinks(id_cache, monkeypatch, limit):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    monkeypatch.setattr(idcache, "_PIECE", 300)
    for count in (0, 150, 1000):
        expected, spool = np.arange(count), idcache.Spool(np.dtype(np.uint16))
        spool.append(expected)
        found, sizes = np.zeros(count, int), []
        for at, piece in spool.drained():
            found[at : at + len(piece)] = piece
            sizes += [path.stat().st_size for path in id_cache.iterdir()] if limit == 100 else [2 * at]
        np.testing.assert_array_equal(found, expected)
        assert sizes == list(range((2 * count - 1) // 300 * 300, -1, -300))
        assert len(spool) == 0
        spool.discard()


@pytest.mark.parametrize("options", [{"copies": (2, 1)}, {"separator": "'", "lower": True}, {"vocabulary": True}])
def test_what_is_not_dealt_is_read_by_the_first_rank_first(texts, id_cache, alone, monkeypatch, options):
    sources = [texts / "d.txt", texts / "f.txt"]
    if "vocabulary" in options:
        options = {"vocabulary": corpus.load(sources).vocabulary}
    expected, _ = alone(*sources, **options)
    monkeypatch.setattr(shards, "load", None)
    for found in on_ranks(2, lambda world: corpus.load(sources, world=world, **options)):
        same(found, expected)


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_files_are_dealt_in_order_and_about_evenly(ranks):
    sizes = np.random.RandomState(0).randint(0, 1000, 100).tolist()
    shares = shards.dealt(sizes, ranks)
    assert [n for share in shares for n in range(100)[share]] == list(range(100))
    for share in shares:
        assert abs(sum(sizes[share]) - sum(sizes) / ranks) <= 1000
    assert [n for share in shards.dealt([5], ranks) for n in [5][share]] == [5]


def test_a_large_slice_is_mapped_only_when_it_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(mapped, "SMALL", 10)
    expected = np.arange(100_000, dtype=np.uint16)
    expected.tofile(tmp_path / "ids")
    ids = mapped.Filed(tmp_path / "ids", expected.dtype)
    (tmp_path / "ids").rename(tmp_path / "renamed")
    assert (len(ids), ids.nbytes, ids.dtype) == (100_000, 200_000, np.uint16)
    part = ids[5000:-1][40_000:80_000]
    assert type(part) is type(ids[10:]) is mapped.Filed
    assert _mapped(tmp_path / "renamed") == 0
    found = np.asarray(part)
    np.testing.assert_array_equal(found, expected[45_000:85_000])
    assert not found.flags.writeable
    if sys.platform == "linux":
        assert found.nbytes <= _mapped(tmp_path / "renamed") <= found.nbytes + 2 * 4096
    np.testing.assert_array_equal(ids[7:12], expected[7:12])
    np.testing.assert_array_equal(ids[7:40:3], expected[7:40:3])
    np.testing.assert_array_equal(ids[[3, 99_999]], expected[[3, 99_999]])
    assert (ids[-1], len(ids[5:3]), len(np.asarray(ids[100_000:]))) == (99_999 % 65_536, 0, 0)
    with pytest.raises(TypeError, match="maps them"):
        ids == 3  # noqa: B015


def _mapped(path):
    """The bytes of a file that this process has mapped; 0 where the system does not say."""
    lines = Path("/proc/self/maps").read_text().splitlines() if sys.platform == "linux" else []
    ends = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return sum(int(end, 16) - int(begin, 16) for begin, end in ends)


@pytest.mark.parametrize("num_ids", [200, 263, 264])
def test_streams_read_no_more_than_their_extent(num_ids):
    plan, T = Streams(num_ids, 5, 8), 5
    starts, _ = plan.plan(0, plan.iterations_per_pass)
    for share in (slice(0, 2), slice(2, 4), slice(6, 8), slice(0, 8)):
        extent = plan.extent(share)
        assert extent == slice(starts[:, share].min(), starts[:, share].max() + T + 1)
        assert extent.stop <= num_ids


def test_the_large_text_in_use_stays_in_the_cache(texts, id_cache, monkeypatch):
    monkeypatch.setattr(idcache, "MOST_BYTES", 1500)
    found = corpus.load([texts])
    assert found.ids.nbytes > 1500
    corpus.kept(corpus.Corpus.from_text(made_up_text(300)))
    assert (id_cache / f"{found.digest}.ids").exists()
    shutil.copytree(texts, texts.parent / "more")
    (texts.parent / "more" / "z.txt").write_text("!")
    corpus.load([texts.parent / "more"])
    assert not (id_cache / f"{found.digest}.ids").exists()
