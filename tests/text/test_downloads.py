"""Downloads, from a local server that misbehaves in every way it can, into a cache that never holds half a file."""

import gzip
import hashlib
import io
import os
import shutil
import socket
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import SHARED, made_up_text, needs_shared

from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.text import corpus, downloads
from charlstm.text.downloads import BuiltIn, DownloadFailed

CONTENT = made_up_text().encode()
FLIPPED = bytes([CONTENT[0] ^ 1]) + CONTENT[1:]
SHA256, OTHER = (hashlib.sha256(content).hexdigest() for content in (CONTENT, FLIPPED))


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT under any path; the first part of the path selects a fault."""

    def do_GET(self):
        self.server.hits += 1
        how = self.path.split("/")[1]
        if how in ("404", "500"):
            self.send_error(int(how))
        elif how == "redirect":
            self._answer(302, b"", Location="/ok/elsewhere.txt")
        elif how == "loop":
            self._answer(302, b"", Location=self.path)
        elif how == "to-file":
            self._answer(302, b"", Location="file:///etc/hostname")
        elif how == "short":
            self._answer(200, CONTENT[:1000], length=len(CONTENT))
        elif how == "slow":
            self._answer(200, CONTENT[:1000], length=len(CONTENT))
            self.server.done.wait(20)
        elif how == "silent":
            self.server.done.wait(20)
        elif how == "gzip":
            self._answer(200, gzip.compress(CONTENT), **{"Content-Encoding": "gzip"})
        elif how == "nonsense":
            self._answer(200, CONTENT, length="many")
        else:
            self._answer(200, FLIPPED if how == "flip" else CONTENT)

    def _answer(self, status, body, length=None, **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body) if length is None else length, **headers}.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as serving:
        serving.daemon_threads = True
        serving.hits, serving.done = 0, threading.Event()
        serving.url = f"http://127.0.0.1:{serving.server_port}"
        thread = threading.Thread(target=serving.serve_forever, args=(0.02,))
        thread.start()
        yield serving
        serving.done.set()
        serving.shutdown()
        thread.join()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache" / "texts"
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(folder))
    return folder


@pytest.fixture
def built_in(server, monkeypatch):
    """A built-in text "tiny", and a function that changes what is served for it."""

    def serve(how="ok"):
        text = BuiltIn("public domain", f"{server.url}/{how}/tiny.txt", len(CONTENT), SHA256)
        monkeypatch.setitem(downloads.BUILT_IN, "tiny", text)
        return text.url

    serve()
    return serve


def files(folder):
    return sorted(path.name for path in folder.rglob("*")) if folder.exists() else []


def one_line(capsys):
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("charlstm: ")
    assert err.count("\n") == 1
    return err.removeprefix("charlstm: ").strip()


# ------------------------------------------------------------------------------------------------------------ fetch
@pytest.mark.parametrize("how", ["ok", "redirect", "gzip", "nonsense"])
def test_a_url_is_downloaded_once_and_kept(server, cache, how):
    notes = []
    path = downloads.fetch(f"{server.url}/{how}/book.txt", note=notes.append)
    assert path.read_bytes() == CONTENT
    assert files(cache) == [path.name]
    assert SHA256 in notes[-1]
    before = server.hits
    assert downloads.fetch(f"{server.url}/{how}/book.txt", note=notes.append) == path
    assert downloads.fetch(f"{server.url}/{how}/book.txt", offline=True) == path
    assert server.hits == before
    assert f"the copy in {path}" in notes[-1]
    assert downloads.fetch(f"{server.url}/flip/book.txt") != path  # another URL with the same last part


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ("404", "the server answers 404"),
        ("500", "the server answers 500"),
        ("short", "the connection ended before the text did"),
        ("slow", "no answer for 0.3 s"),
        ("silent", "no answer for 0.3 s"),
        ("loop", "Exceeded 30 redirects."),
        ("to-file", "No connection adapters were found for 'file:///etc/hostname'"),
    ],
)
def test_a_server_that_misbehaves_is_one_line_and_leaves_nothing(server, cache, monkeypatch, capsys, how, reason):
    monkeypatch.setattr(downloads, "TIMEOUT", 0.3)
    url = f"{server.url}/{how}/book.txt"
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch(url)
    assert str(caught.value).startswith(f"{url}: cannot be downloaded: {reason}")
    assert files(cache) == []
    assert _guarded(["train", url, "--quiet"]) == 1
    assert one_line(capsys).startswith(f"{url}: cannot be downloaded: {reason}")
    assert files(cache) == []


def test_a_server_that_is_not_there(cache):
    with socket.socket() as reserved:  # bound, so that no other process takes it, but not listening
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}/book.txt"
        with pytest.raises(DownloadFailed, match="no connection: .*refused"):
            downloads.fetch(url)
    assert files(cache) == []


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///book.txt",
        "http://127.0.0.1:99999/a",
        "http://a..b/",
        "https://[1/",
        "http://127.0.0.1:1/\udcff",
    ],
)
def test_urls_that_are_none(cache, url):
    with pytest.raises((DownloadFailed, UserError)) as caught:
        downloads.fetch(url)
    assert str(caught.value).startswith(url)


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/book.txt", "FILE://x"])
def test_other_kinds_of_url_are_refused(cache, url):
    with pytest.raises(UserError, match="only http and https URLs are supported; give a file by its path"):
        corpus.load([url])


def test_a_built_in_text_must_have_its_sha256(server, cache, built_in, capsys):
    url = built_in("flip")
    with pytest.raises(DownloadFailed) as caught:
        downloads.fetch("tiny")
    assert str(caught.value) == (
        f"tiny: the text has changed: {url} serves SHA-256 {OTHER}, expected {SHA256}; "
        "if you trust it, give the URL instead of the name"
    )
    assert files(cache) == []
    assert _guarded(["data", "get", "tiny"]) == 1
    assert "expected" in capsys.readouterr().err
    assert downloads.fetch(url).read_bytes() == FLIPPED
    assert downloads.cached("tiny") is None


def test_a_damaged_copy_of_a_built_in_text_is_not_used(server, cache, built_in):
    path = downloads.fetch("tiny")
    assert files(cache) == ["tiny.txt"]
    path.write_bytes(FLIPPED)
    before = server.hits
    with pytest.raises(UserError, match=f"tiny: no copy in {cache}, and --offline forbids downloading"):
        downloads.fetch("tiny", offline=True)
    assert server.hits == before
    assert downloads.fetch("tiny").read_bytes() == CONTENT
    assert server.hits == before + 1


def test_offline_touches_no_network(server, cache, built_in, monkeypatch, capsys):
    def connect(*_):
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connect)
    for name in ("tiny", f"{server.url}/ok/book.txt"):
        for command in (["train", name, "--offline"], ["data", "get", name, "--offline"]):
            assert _guarded(command) == 2
            assert one_line(capsys) == f"{name}: no copy in {cache}, and --offline forbids downloading"
    assert files(cache.parent) == []
    assert server.hits == 0


def test_an_interrupted_download_leaves_nothing(server, cache, monkeypatch):
    import requests

    def interrupted(self, size):
        yield CONTENT[:100]
        assert len(files(cache)) == 1
        raise KeyboardInterrupt

    monkeypatch.setattr(requests.Response, "iter_content", interrupted)
    with pytest.raises(KeyboardInterrupt):
        downloads.fetch(f"{server.url}/ok/book.txt")
    assert files(cache) == []


def test_several_at_once(server, cache, built_in):
    found = []
    threads = [threading.Thread(target=lambda: found.append(downloads.fetch("tiny").read_bytes())) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 5
    assert files(cache) == ["tiny.txt"]


def test_a_folder_that_cannot_be_written(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"file: cannot be written: .*; CHARLSTM_DATA_DIR names another folder"):
        downloads.fetch(f"{server.url}/ok/book.txt")


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://example.org/a/book.txt?raw=1", "book"),
        ("https://example.org/a%20tale.txt", "a-tale"),
        ("https://example.org/x%2F..%2F..%2Fetc", "etc"),
        ("https://example.org/a/..", "example.org"),
        ("http://example.org:80", "example.org-80"),
        ("https://example.org/.hidden", "hidden"),
        ("https://example.org/%E5%8F%A4.txt", "古"),
        ("https://example.org/" + "x" * 300, "x" * 50),
    ],
)
def test_the_name_of_a_url_is_its_last_part_and_fit_for_a_folder(url, name):
    assert downloads.short_name(url) == name


def test_the_table():
    assert set(downloads.BUILT_IN) == {"python-docs", "us-constitution", "nietzsche", "tinyshakespeare", "names"}
    for name, text in downloads.BUILT_IN.items():
        assert text.licence
        if name != "python-docs":
            assert text.url.startswith("https://")
            assert len(bytes.fromhex(text.sha256)) == 32


@needs_shared
@pytest.mark.parametrize("name", ["nietzsche", "tinyshakespeare"])
def test_the_table_is_that_of_the_texts(name):
    path = SHARED / "data" / f"{name}.txt"
    assert (path.stat().st_size, downloads.sha256(path)) == (
        downloads.BUILT_IN[name].size,
        downloads.BUILT_IN[name].sha256,
    )


# ------------------------------------------------------------------------------------------- texts and command line
def test_texts_of_urls_and_built_in_names(server, cache, built_in, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    url = f"{server.url}/ok/{'long' * 100}/book.txt"
    both = corpus.load([url, "tiny"])
    assert both.name == "book"
    assert both.sources == (url, "tiny")
    assert both.vocabulary.decode(both.ids) == CONTENT.decode() + "\n" + CONTENT.decode()
    assert corpus.load(["tiny"], encoding="utf-16").digest == corpus.load(["tiny"]).digest  # it has its own encoding
    (tmp_path / "tiny").write_text("a file of that name wins")
    here = corpus.load(["tiny"])
    assert here.vocabulary.decode(here.ids) == "a file of that name wins"
    assert here.sources == (str(tmp_path / "tiny"),)  # so it is found again from another folder


def test_data_get_and_list(server, cache, built_in, capsys):
    assert _guarded(["data", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["name", "bytes", "licence", "local", "url"]
    assert [line.split()[0] for line in lines[1:]] == list(downloads.BUILT_IN)
    assert "in Python" in lines[1]
    assert lines[-1].split() == ["tiny", "3,000", "public", "domain", "no", downloads.BUILT_IN["tiny"].url]
    assert server.hits == 0
    for _ in range(2):
        assert _guarded(["data", "get", "tiny"]) == 0
        assert capsys.readouterr().out == f"{cache / 'tiny.txt'}\n"
    assert server.hits == 1
    _guarded(["data", "list"])
    assert " cached " in capsys.readouterr().out.splitlines()[-1]
    for name, message in {
        "python-docs": "python-docs: this text comes with Python and is not downloaded; train on it by its name",
        "bible": "bible: neither a URL nor a built-in text (python-docs, us-constitution, nietzsche, tinyshakespeare, names, tiny)",
    }.items():
        assert _guarded(["data", "get", name]) == 2
        assert one_line(capsys) == message


@pytest.mark.parametrize("name", ["tiny", "URL"])
def test_a_run_goes_on_from_the_cache(server, cache, built_in, tmp_path, monkeypatch, capsys, name):
    monkeypatch.chdir(tmp_path)
    source = "tiny" if name == "tiny" else f"{server.url}/ok/novel.txt"
    options = ["--hidden-size", "8", "--seq-length", "5", "--batch-size", "2", "--quiet", "--backend", "numpy"]
    assert _guarded(["train", source, *options, "--iterations", "3"]) == 0
    folder = tmp_path / "runs" / ("tiny" if name == "tiny" else "novel")
    assert (folder / "last.safetensors").exists()
    assert server.hits == 1
    assert _guarded(["train", f"--resume={folder}", "--iterations", "5", "--offline", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert server.hits == 1
    shutil.rmtree(cache)
    assert _guarded(["train", f"--resume={folder}", "--iterations", "6", "--offline", "--quiet"]) == 2
    assert ": no copy in" in one_line(capsys)


def test_the_bar_is_for_a_terminal(server, cache):
    pty = pytest.importorskip("pty")
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "charlstm", "data", "get", f"{server.url}/ok/book.txt"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "90"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, env=environment, timeout=60, check=True)
    os.close(terminal)
    shown = io.BytesIO()
    while True:
        try:
            piece = os.read(controller, 65536)
        except OSError:  # how Linux reports the end of a terminal
            break
        if not piece:
            break
        shown.write(piece)
    os.close(controller)
    assert "3.0/3.0 kB" in shown.getvalue().decode()
    assert done.stdout.decode().strip().endswith("-book")
    plain = subprocess.run(command, capture_output=True, env=environment, timeout=60, check=True)
    assert plain.stdout == done.stdout
    assert b"kB" not in plain.stderr
