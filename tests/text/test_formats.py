"""File formats: archives, documents, encodings, files that are not text, and files made to expand without limit."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
from made_files import CSV, JSONL, PAGE, PAGE_TEXT, PNG, SRT, VTT, docx, epub, pdf, zipped
from small_runs import finish, small
from texts import digest_of

from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.runs.begin import resume, start
from charlstm.settings.config import Config
from charlstm.text import archives, corpus, formats, markup, reading, tables

PLAIN = "One line.\nTwo \u2013 lines.\n"


def load(tmp_path, name, content, **options):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return corpus.load([tmp_path / name], **options)


def text_of(found):
    return found.vocabulary.decode(found.ids)


READ = [
    ("page.html", PAGE, PAGE_TEXT, {}, "1 HTML file: tags, scripts and styles left out"),
    ("page", PAGE, PAGE_TEXT, {}, "1 HTML file: "),
    ("bits.htm", "<p>a<p>b<div>c</div>d", "a\n\nb\nc\nd\n", {}, "1 HTML file: "),
    ("book.epub", epub(), "Second.\n\nFirst \u2013 chapter.\n", {}, "1 EPUB file: tags, the table of contents and pictures left out"),
    ("book", epub(), "Second.\n\nFirst \u2013 chapter.\n", {}, "1 EPUB file: "),
    ("letter.docx", docx(), "One two\tthree\nFour\nfive \u2013\n", {}, "1 DOCX file: formats, notes, comments and pictures left out"),
    ("paper.pdf", pdf("Hello there", "", "General"), "Hello there\n\nGeneral\n", {}, "1 PDF file: layout and pictures left out"),
    ("film.srt", SRT, "Hello\nthere\nYou\nagain\n", {}, "1 subtitle file: times, numbers and tags left out"),
    ("film.txt", SRT, "Hello\nthere\nYou\nagain\n", {}, "1 subtitle file: "),
    ("film.vtt", VTT, "Hi you\n7\n", {}, "1 subtitle file: "),
    ("t.csv", CSV, "One, two\nthree\nfour", {"column": "text"}, "1 CSV file: the other columns left out\nleft out: rows with an empty column text (1)"),
    ("t.csv", CSV.replace(",", ";").replace("One;", "One,"), "One, two\nthree\nfour", {"column": "text"}, "1 CSV file: "),
    ("t.tsv", "a\tb\nc\td\n", "b\nd", {"column": "2"}, "1 CSV file: "),
    ("t.csv", CSV, CSV, {}, ""),
    ("data", CSV, "One, two\nthree\nfour", {"column": "text", "format": "csv"}, "1 CSV file: "),
    ("t.jsonl", JSONL, "One\nthree", {"field": "a.b"}, "1 JSONL file: the other fields left out\nleft out: lines with an empty field a.b (1)"),
    ("t.ndjson", JSONL, "x\ntwo", {"field": "c"}, "1 JSONL file: "),
    ("t.jsonl", JSONL, JSONL, {}, ""),
    ("page.html", PAGE, PAGE, {"format": "text"}, ""),
    ("t.txt.gz", gzip.compress(PLAIN.encode()), PLAIN, {}, ""),
    ("t.gz", gzip.compress(PLAIN.encode()[:9]) + gzip.compress(PLAIN.encode()[9:]) + b"\0\0", PLAIN, {}, ""),
    ("t.bz2", bz2.compress(PLAIN.encode()), PLAIN, {}, ""),
    ("t.xz", lzma.compress(PLAIN.encode()) + lzma.compress(b"more"), PLAIN + "more", {}, ""),
    ("page.html.gz", gzip.compress(PAGE.encode()), PAGE_TEXT, {}, "1 HTML file: "),
    (
        "t.zip", zipped({"B.TXT": "bee\n", "a.txt": "ay", "x.png": PNG, "d/h.html": "<p>html</p>", "__MACOSX/._a.txt": b"\0\1"}), "bee\nay\nhtml\n", {},
        "1 HTML file: tags, scripts and styles left out\nleft out: .png files in archives (1)",
    ),
    ("utf-16.txt", PLAIN.replace("\n", "\r\n").encode("utf-16"), PLAIN, {}, ""),
    ("utf-16.txt", b"\xfe\xff" + PLAIN.encode("utf-16-be"), PLAIN, {"encoding": "latin-1"}, ""),
    ("utf-32.txt", PLAIN.encode("utf-32"), PLAIN, {}, ""),
    ("page.html", '<html><meta charset="windows-1252">caf\u00e9 \u2013 au lait'.encode("cp1252"), "caf\u00e9 \u2013 au lait\n", {}, "1 HTML file: "),
]  # fmt: skip


@pytest.mark.parametrize("size", [3, 2**20])
@pytest.mark.parametrize(
    ("name", "content", "expected", "options", "told"),
    READ,
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_formats_are_read(tmp_path, monkeypatch, size, name, content, expected, options, told):
    monkeypatch.setattr(reading, "PIECE", size)
    monkeypatch.setattr(archives, "PIECE", size)
    found = load(tmp_path, name, content, **options)
    assert text_of(found) == expected
    assert found.digest == digest_of(expected)
    assert found.remark.startswith(told)
    assert bool(found.remark) == bool(told)
    if "encoding" not in options:
        sys.stdin = io.TextIOWrapper(io.BytesIO(content if isinstance(content, bytes) else content.encode()))
        try:
            options = {
                **options,
                **({"format": "csv"} if "column" in options else {}),
                **({"format": "jsonl"} if "field" in options else {}),
            }
            if not name.endswith((".htm", ".csv", ".jsonl")) or options:  # recognised by name only
                assert text_of(corpus.load(["-"], **options)) == expected
        finally:
            sys.stdin = sys.__stdin__


@pytest.mark.parametrize(
    ("name", "content", "expected", "options", "told"),
    READ,
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_second_start_reads_nothing_as_a_text(
    tmp_path, id_cache, monkeypatch, name, content, expected, options, told
):
    monkeypatch.setattr(corpus.idcache, "IN_MEMORY", 1)
    first = load(tmp_path, name, content, **options)
    with monkeypatch.context() as patch:
        patch.setattr(reading.Part, "texts", None)  # the text must not be read again
        again = corpus.load([tmp_path / name], **options)
    assert (again.digest, again.remark) == (first.digest, first.remark)
    assert text_of(again) == expected


def test_the_same_bytes_under_another_name_may_be_another_text(tmp_path, id_cache):
    content = "<p>one <b>two</b></p>" * 30
    for name, expected in (("t.txt", content), ("t.html", "one two\n\n" * 29 + "one two\n"), ("u.txt", content)):
        assert text_of(load(tmp_path, name, content)) == expected


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("t.epub", lambda text: epub([f"<p>{text}</p>"])),
        ("t.docx", lambda text: docx(f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>")),
        ("t.zip", lambda text: zipped({"a.txt": text})),
        ("t.gz", lambda text: gzip.compress(text.encode())),
        ("t.html", lambda text: f"<html>{text}"),
        ("t.csv", lambda text: f"text\n{text}\n"),
        ("t.jsonl", lambda text: f'{{"text": "{text}"}}\n'),
        ("t.srt", lambda text: f"1\n00:00:01,000 --> 00:00:02,000\n{text}\n"),
        ("t.pdf", pdf),
    ],
)
def test_a_run_notices_that_its_text_has_changed(tmp_path, name, make):
    options = {"csv": {"column": "text"}, "jsonl": {"field": "text"}}.get(name.partition(".")[2], {})
    load(tmp_path, name, make("one two three " * 20), **options)
    run = start([tmp_path / name], small(iterations=1, **options), str(tmp_path / "run"))
    finish(run)
    resume(run.folder)._lock.release()
    (tmp_path / name).write_bytes(
        content if isinstance(content := make("one two there " * 20), bytes) else content.encode()
    )
    with pytest.raises(UserError, match="not the text that this run was trained on"):
        resume(run.folder)


def test_a_folder_mixes_formats_and_tells_what_was_not_read(tmp_path):
    files = {
        "B.TXT": "bee", "c.Txt": "cee\n", "a.txt": "ay", "d/page.HTML": "<p>dee</p>", "e.epub": epub(), "f.png": PNG, "g.PNG": PNG,
        "h.md": "no", "i.csv": CSV, "j.txt.gz": gzip.compress(b"jay"), "k.png.gz": b"no", "Makefile": "no", ".hidden.cfg": "no",
    }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    found = corpus.load([tmp_path])
    assert text_of(found) == "bee\nay\ncee\ndee\nSecond.\n\nFirst \u2013 chapter.\njay"
    assert found.remark.splitlines() == [
        f"{tmp_path}: 6 files read; not read: 2 .png, 1 .csv, 1 .gz, 1 .md, 1 without an ending",
        "1 HTML file: tags, scripts and styles left out",
        "1 EPUB file: tags, the table of contents and pictures left out",
    ]
    assert text_of(corpus.load([tmp_path], column="text")).endswith("One, two\nthree\nfour\njay")


def test_the_table_is_whole():
    assert set(formats.FORMATS) >= set(Config.__dataclass_fields__["format"].metadata["choices"]) - {"auto"}
    ends = [end for row in formats.FORMATS.values() for end in row.suffixes]
    assert len(ends) == len(set(ends))


LEGACY = [
    ("gb18030", "\u4eca\u5929\u5929\u6c14\u5f88\u597d\uff0c\u6211\u4eec\u53bb\u516c\u56ed\u6563\u6b65\u3002", "--encoding gb18030 reads '\u4eca\u5929\u5929\u6c14"),
    ("cp1252", "\u201cWell,\u201d said he \u2013 it\u2019s a caf\u00e9.", "--encoding cp1252 reads '\u201cWell,\u201d said"),
    ("latin-1", "un caf\u00e9 au lait", "--encoding latin-1 reads 'n caf\u00e9 au lait"),
    ("cp932", "\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8\u3067\u3059\u3002", "--encoding cp932 reads '\u65e5\u672c\u8a9e"),
    ("cp1251", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043a\u0430\u043a \u0434\u0435\u043b\u0430? \u0421\u0435\u0433\u043e\u0434\u043d\u044f", "--encoding cp1251 reads '\u041f\u0440\u0438\u0432\u0435\u0442"),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "text", "way_out"), LEGACY)
def test_a_legacy_encoding_is_named_with_what_to_type_and_never_used_unasked(tmp_path, encoding, text, way_out):
    with pytest.raises(UserError) as caught:
        load(tmp_path, "t.txt", (text * 5).encode(encoding))
    assert way_out in str(caught.value)
    assert "\n" not in str(caught.value)
    typed = str(caught.value).partition("--encoding ")[2].split()[0]
    assert text_of(load(tmp_path, "t.txt", (text * 5).encode(encoding), encoding=typed)) == text * 5


NO_TEXT = [
    ("a.txt", PNG, "a PNG image, not text: leave it out, or give --bytes"),
    ("a.txt", b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    ("a", b"\x7fELF\2\1\1\0\0", "an executable"),
    ("a.exe", b"MZ\x90\0\3", "an executable"),
    ("a.doc", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1\0\0", "an old Word, Excel or PowerPoint document, not text: save it as .docx or as plain text"),
    ("a.rtf", b"{\\rtf1\\ansi Hello}", "an RTF document"),
    ("a.tar.gz", gzip.compress(b"a.txt".ljust(257, b"\0") + b"ustar\0" + b"00".ljust(300, b"\0")), "a tar archive, not text: unpack it, and give the folder"),
    ("a.mobi", b"Book".ljust(60, b"\0") + b"BOOKMOBI", "a Kindle book, not text: convert it to EPUB"),
    ("a.bin", bytes(range(256)) * 10, "does not look like text: leave it out, or give --bytes"),
    ("a.txt", ("no mark here, it is as a program wrote it" * 2).encode("utf-16-le"), "looks like utf-16-le, without a byte order mark: --encoding utf-16-le reads it"),
    ("a.txt", ("no mark here, it is as a program wrote it" * 2).encode("utf-32-be"), "--encoding utf-32-be reads it"),
    ("a.xlsx", zipped({"xl/workbook.xml": "<x/>"}), "an Excel workbook: save it as CSV"),
    ("a.odt", zipped({"mimetype": "application/vnd.oasis.opendocument.text", "content.xml": "<x/>"}), "an OpenDocument file: save it as .docx"),
    ("a.zip", zipped({"a.png": PNG, "b.png": PNG}), "no text in this archive; not read: 2 .png"),
    ("a.zip", b"PK\3\4" + b"x" * 50, "damaged, or cut short"),
    ("a.gz", gzip.compress(b"hello there" * 50)[:-9], "damaged, or cut short"),
    ("a.gz", gzip.compress(b"hello there" * 50) + b"rubbish", "damaged, or cut short"),
    ("a.xz", lzma.compress(b"hello there")[:-6], "damaged, or cut short"),
    ("a.bz2", b"BZh91AY&SY" + b"x" * 40, "damaged, or cut short"),
    ("a.epub", epub()[:-50], "damaged, or cut short"),
    ("a.epub", zipped({"META-INF/container.xml": "<container/>"}), "names no book"),
    ("a.epub", epub(**{"META-INF/encryption.xml": '<e><CipherReference URI="OPS/text/part%200.xhtml"/></e>'}), "its chapters are encrypted"),
    ("a.docx", zipped({"word/document.xml": "<w:document"}), "damaged: not valid XML"),
    ("a.pdf", pdf("", ""), "holds no text; if its pages are images, run OCR"),
    ("a.pdf", b"%PDF-1.4\nnothing", "damaged, or unreadable by pypdf"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), NO_TEXT)
def test_what_is_no_text_is_named_with_the_way_out(tmp_path, name, content, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, content)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "a"))
    assert load(tmp_path, name, content, as_bytes=True).ids.tobytes() == content


TABLES = [
    ("t.csv", CSV, {"column": "txt"}, "t.csv: has no column 'txt': did you mean 'text'?"),
    ("t.csv", CSV, {"column": "9"}, "t.csv: has no column '9': it has 'id', 'text'"),
    ("t.jsonl", JSONL, {"field": "cc"}, "t.jsonl: no line has a field 'cc': did you mean 'c'?"),
    ("t.jsonl", '{"a": 1}\n', {"field": "a"}, "t.jsonl: line 1: field 'a' is not text: 1"),
    ("t.jsonl", '{"a": "b"}\nno\n', {"field": "a"}, "t.jsonl: line 2: not JSON: "),
    ("t.jsonl", "[" * 100_000, {"field": "a"}, "t.jsonl: line 1: not JSON: "),
    ("t.jsonl", "[1]", {"field": "a"}, "t.jsonl: line 1: expected a JSON object, got [1]"),
    (
        "t.txt",
        "abc",
        {"column": "text"},
        "--column text: no file is CSV (names ending in .csv or .tsv); --format csv reads all files as CSV",
    ),
    ("t.txt", "abc", {"field": "text"}, "--field text: no file is JSONL"),
]


@pytest.mark.parametrize(("name", "content", "options", "message"), TABLES)
def test_tables_that_will_not_do(tmp_path, name, content, options, message):
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, content, **options)
    assert message in str(caught.value)


# -------------------------------------------------------------------------------------------------------------- bombs
def zip_bomb(size):
    return zipped({f"{n}.txt": b"ab" * (size // 8) for n in range(4)})


ENTITIES = '<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;">]>'
BOMBS = [
    ("t.gz", gzip.compress(b"ab" * 2**21), "unpacks to more than 200 times its size"),
    ("t.bz2", bz2.compress(b"ab" * 2**21), "unpacks to more than 200 times its size"),
    ("t.xz", lzma.compress(b"ab" * 2**21), "unpacks to more than 200 times its size"),
    ("t.zip", zip_bomb(2**22), "unpacks to more than 200 times its size"),
    ("t.epub", epub(chapters=("ab " * 2**20,)), "unpacks to more than 200 times its size"),
    ("t.docx", docx("<w:p><w:r><w:t>" + "ab " * 2**20 + "</w:t></w:r></w:p>"), "unpacks to more than 200 times its size"),
    ("t.epub", epub(head=ENTITIES), "declares XML entities"),
    ("t.epub", zipped({"META-INF/container.xml": ENTITIES + "<x>&b;</x>"}), "declares XML entities"),
    ("t.docx", docx(head=ENTITIES), "declares XML entities"),
    ("t.docx", docx(head='<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>'), "declares XML entities"),
    ("t.docx", docx("<w:p>" * 1200 + "</w:p>" * 1200), "more than 1,000 nested elements"),
    ("t.zip", zipped({"a.txt": b"ab", "b.zip": zipped({"c.txt": b"cd"})}), "b.zip: an archive in an archive: unpack it"),
    ("t.zip", zipped({"a.txt": zipped({"c.txt": b"cd"})}), "a.txt: an archive in an archive"),
    ("t.gz", gzip.compress(gzip.compress(b"abc")), "an archive in an archive"),
    ("t.gz", gzip.compress(epub()), "an archive in an archive"),
    ("t.zip", zipped({"a.txt": b"ab" * 1000}, compress_type=zipfile.ZIP_LZMA), "uses a compression other than deflate"),
    ("t.zip", zipped({"a.txt": b"ab" * 1000}, compress_type=zipfile.ZIP_BZIP2), "uses a compression other than deflate"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), BOMBS)
def test_what_is_made_to_blow_up_is_refused(tmp_path, monkeypatch, name, content, message):
    monkeypatch.setattr(archives, "ALWAYS", 2**20)
    with pytest.raises(UserError) as caught:
        load(tmp_path, name, content)
    assert message in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == [name]


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress], ids=lambda pack: pack.__module__)
def test_memory_while_unpacking_is_that_of_a_few_pieces(pack):
    packed = pack(bytes(2**25))
    tracemalloc.start()
    size = sum(len(piece) for piece in archives.unpacked([packed], "t"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size == 2**25
    assert peak < 2**24  # 8 MiB of it are the dictionary of xz


def test_a_dictionary_of_4_gigabytes_is_refused(tmp_path):
    packed = bytearray(lzma.compress(b"one two three", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 4096}]))
    size = 4 * packed[12] + 4  # size of the block's header
    place = packed.index(b"\x21\x01", 12) + 2
    packed[place] = 40
    packed[12 + size - 4 : 12 + size] = zlib.crc32(packed[12 : 12 + size - 4]).to_bytes(4, "little")
    with pytest.raises(UserError, match="t.xz: damaged, or cut short: Memory usage limit exceeded"):
        load(tmp_path, "t.xz", bytes(packed))


def test_tags_lines_and_fields_without_an_end_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "PIECE", 100)
    for module in (markup, tables):
        monkeypatch.setattr(module, "LONGEST", 1000)
    for name, content, options in (
        ("t.html", "<html><p title='" + "x" * 200_000, {}),
        ("t.docx", docx("<w:p a='" + "x" * 5000), {}),
        ("t.jsonl", '{"a": "' + "x" * 5000, {"field": "a"}),
        ("t.csv", "a,b\n" + "x" * 5000, {"column": "a"}),
        ("t.vtt", "WEBVTT\n\n" + "x" * 5000, {}),
    ):
        with pytest.raises(UserError, match="of more than 1,000 "):
            load(tmp_path, name, content, **options)


@pytest.mark.parametrize("wide", [False, True])
def test_an_archive_of_too_many_files_is_not_even_listed(tmp_path, monkeypatch, wide):
    if wide:
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 5)  # forces the zip64 format
    content = zipped({f"{n}.txt": b"ab\n" for n in range(20)})
    assert (b"PK\6\6" in content) == wide
    assert len(load(tmp_path, "t.zip", content).ids) == 60
    monkeypatch.setattr(archives, "_DIRECTORY", 1000)
    monkeypatch.setattr(zipfile.ZipFile, "_RealGetContents", None)
    with pytest.raises(UserError, match=r"t\.zip: has too many files for an archive: unpack it"):
        load(tmp_path, "t.zip", content)


def test_names_in_an_archive_are_read_and_never_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    content = zipped({"../evil.txt": "one", "/charlstm-evil.txt": "two", "C:\\evil.txt": "three"})
    found = load(tmp_path / "in", "t.zip", content)
    assert sorted(text_of(found).split()) == ["one", "three", "two"]
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["in", "t.zip"]
    assert not (Path("/") / "charlstm-evil.txt").exists()


def test_pdf_without_its_library_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pypdf", None)
    with pytest.raises(UserError, match=r"paper\.pdf: reading PDF needs a library: pip install 'charlstm\[texts\]'"):
        load(tmp_path, "paper.pdf", pdf("Hello"))


def test_many_short_rows_are_read_as_fast_as_one_text(tmp_path):
    pieces = list(reading.gathered("ab" for _ in range(100_000)))
    assert len(pieces) < 20
    assert "".join(pieces) == "ab" * 100_000


def test_a_text_is_scored_as_the_run_read_its_own_unless_told_otherwise(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.jsonl").write_text('{"text": "one two three "}\n' * 20)
    finish(start(["t.jsonl"], small(iterations=2, field="text"), "run"))
    (tmp_path / "u.jsonl").write_text('{"text": "one two"}\n{"body": "three"}\n')
    (tmp_path / "u.csv").write_text("id;words\n1;one two\n")
    (tmp_path / "u.txt").write_text("one two")
    expected = None
    for options in (["u.txt"], ["u.jsonl"], ["u.csv", "--column", "words"], ["u.txt", "--format", "text"]):
        assert _guarded(["score", "run", *options, "--json"]) == 0, capsys.readouterr().err
        found = json.loads(capsys.readouterr().out)["nats"]
        expected = expected or found
        assert found == expected
    assert _guarded(["score", "run", "u.jsonl", "--field", "boddy"]) == 2
    assert "no line has a field 'boddy': it has 'text'" in capsys.readouterr().err
    assert _guarded(["score", "run", "u.jsonl", "--format", "jsn"]) == 2
