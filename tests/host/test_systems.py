"""What is different on macOS and Windows, played out on this system."""

import errno
import io
import os
import sys
from types import SimpleNamespace

import pytest
from conftest import ROOT

from charlstm.host import machine, streams
from charlstm.runs import disk
from charlstm.show import hints


@pytest.fixture
def on_macos(monkeypatch):
    """Play macOS; return the list of what is asked of its fcntl, and a dict whose `error` that raises."""
    asked, answer = [], {}

    def fcntl(descriptor, command):
        asked.append((descriptor, command))
        if "error" in answer:
            raise OSError(answer["error"], "no")

    monkeypatch.setitem(sys.modules, "fcntl", SimpleNamespace(fcntl=fcntl, F_FULLFSYNC=51))
    monkeypatch.setattr(disk.os, "fsync", lambda descriptor: asked.append((descriptor, "fsync")))
    monkeypatch.setattr(sys, "platform", "darwin")
    return asked, answer


def test_macos_is_told_to_empty_the_cache_of_the_drive(on_macos):
    asked, answer = on_macos
    disk.sync(7)
    assert asked == [(7, 51)]
    answer["error"] = errno.ENOTSUP
    disk.sync(8)
    assert asked[1:] == [(8, 51), (8, "fsync")]
    answer["error"] = errno.EIO
    with pytest.raises(OSError, match="no"):
        disk.sync(9)


@pytest.fixture
def held(monkeypatch, tmp_path):
    """Return a function that renames a file, denied so many times at first, and the pauses that were made."""
    pauses, real = [], os.replace

    def rename(denials):
        def replace(old, new):
            if len(pauses) < denials:
                raise PermissionError(errno.EACCES, "held by a scanner")
            real(old, new)

        (tmp_path / "old").write_bytes(b"x")
        monkeypatch.setattr(disk.os, "replace", replace)
        disk.replace(tmp_path / "old", tmp_path / "new")

    monkeypatch.setattr(disk.time, "sleep", pauses.append)
    return rename, pauses


def test_a_rename_waits_for_a_scanner_on_windows_alone(held, monkeypatch, tmp_path):
    rename, pauses = held
    with pytest.raises(PermissionError):
        rename(1)
    assert pauses == []
    monkeypatch.setattr(disk, "_OTHERS_HOLD_FILES", True)
    rename(3)
    assert (tmp_path / "new").exists()
    assert len(pauses) == 3
    pauses.clear()
    with pytest.raises(PermissionError):
        rename(10**6)
    assert 1 < sum(pauses) < 5


def test_a_redirected_stream_is_utf8_with_plain_line_ends(monkeypatch):
    written = io.BytesIO()
    stream = io.TextIOWrapper(written, encoding="cp1252", newline="\r\n")  # as on Windows
    out = streams._usable(stream, 1)
    out.write("雪\n")
    out.flush()
    assert written.getvalue() == "雪\n".encode()


def test_commands_are_quoted_for_windows_there(monkeypatch):
    assert hints.quoted("a b") == "'a b'"
    monkeypatch.setattr(hints, "_IS_WINDOWS", True)
    assert hints.quoted("a b") == '"a b"'
    assert hints.quoted(r"runs\book") == r"runs\book"
    assert hints.option("prime", 'so "new"') == r'--prime="so \"new\""'


def test_the_processor_has_a_name_on_macos_and_windows(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    done = SimpleNamespace(stdout="Apple M4\n")
    asked = SimpleNamespace(run=lambda words, **_: done if words[-1] == "machdep.cpu.brand_string" else None)
    monkeypatch.setattr(machine, "subprocess", asked)
    assert machine.processor() == "Apple M4"
    done.stdout = ""
    assert machine.processor() != ""

    class Key(list):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    registry = SimpleNamespace(
        HKEY_LOCAL_MACHINE=2, OpenKey=lambda *where: Key(where), QueryValueEx=lambda key, name: (f"{name} {key[0]} ", 1)
    )
    monkeypatch.setitem(sys.modules, "winreg", registry)
    monkeypatch.setattr(sys, "platform", "win32")
    assert machine.processor() == "ProcessorNameString 2"


def test_line_ends_in_a_checkout_are_the_same_everywhere():
    """Digests of the pages' charts and results are of the bytes in the tree."""
    rules = (ROOT / ".gitattributes").read_text("utf-8").splitlines()
    assert "* text=auto eol=lf" in rules
    binary = {rule.split()[0] for rule in rules if rule.endswith(" binary")}
    suffixes = {path.suffix for path in (ROOT / "tests" / "data").iterdir()} - {".json"}
    assert {f"*{suffix}" for suffix in suffixes} <= binary
