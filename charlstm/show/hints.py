"""The command lines that messages suggest; tests/show/test_hints.py runs every kind of them."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path

_IS_WINDOWS = os.name == "nt"
_NAMED = {"\n": r"\n", "\t": r"\t", "\r": r"\r", "\\": r"\\", "'": r"\'"}


def quoted(word: str | os.PathLike[str]) -> str:
    """Quote a word for the shell, including spaces, quotes, line breaks and bytes that are not text.

    On Windows, quote it as its programs split their command lines.
    """
    word = os.fspath(word)
    if _IS_WINDOWS:
        return subprocess.list2cmdline([word])
    if word.isprintable():
        return shlex.quote(word)
    return "$'" + "".join(_escaped(character) for character in word) + "'"


def _escaped(character: str) -> str:
    if character in _NAMED:
        return _NAMED[character]
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode("utf-8", "surrogateescape"))


def option(name: str, value: object) -> str:
    """`--name=value`."""
    return f"--{name}={quoted(_place(value) if isinstance(value, Path) else str(value))}"


def going_on(folder: Path, options: Sequence[tuple[str, object]] = ()) -> str:
    """The command that resumes a run, with any changed options."""
    return " ".join(["charlstm train", option("resume", folder), *(f"--{n} {quoted(str(v))}" for n, v in options)])


def sampling(folder: Path) -> str:
    """The command that samples from a run's model."""
    return f"charlstm sample {quoted(_place(folder))}"


def _place(path: Path) -> str:
    """The path, prefixed if a command could mistake it for an option."""
    return re.sub("^-", "./-", os.fspath(path))
