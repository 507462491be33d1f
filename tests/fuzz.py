"""A coverage-guided fuzzer for the readers of checkpoints and texts, to run by hand for as long as you like.

    pip install atheris
    python tests/fuzz.py checkpoint -max_total_time=600
    python tests/fuzz.py text -max_total_time=600

On any error other than a one-line message it stops with a traceback and the input that caused it.
"""

import hashlib
import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["charlstm", "safetensors"]):
    from charlstm.errors import UserError
    from charlstm.model import checkpoint as module
    from charlstm.model.checkpoint import Checkpoint
    from charlstm.text import corpus

HERE = Path(__file__).parent
ENCODINGS = ("utf-8", "utf-16", "utf-32", "latin-1", "cp932", "utf-7", "utf-8-sig")


def checkpoint(data):
    """Read the bytes as they are, then with a correct digest, which tests the code behind the digest check."""
    place = module._digest_place(data)
    tried = [data]
    if place.stop > place.start:
        digest = hashlib.sha256(data[: place.start] + b"0" * 64 + data[place.stop :]).hexdigest().encode()
        tried.append(data[: place.start] + digest + data[place.stop :])
    for content in tried:
        try:
            read = Checkpoint.from_bytes(content, "x")
        except UserError as error:
            if not str(error).startswith("x: "):
                raise RuntimeError("the line does not name the file") from error
        else:
            read.to_bytes()


def text(data):
    """Read the bytes as a text; the first byte selects how."""
    if not data:
        return
    how, rest = data[0], data[1:]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "x.txt")
        path.write_bytes(rest)
        encoding = ENCODINGS[how % len(ENCODINGS)]
        try:
            read = corpus.load([path], encoding, lower=bool(how & 64), as_bytes=bool(how & 128))
        except UserError:
            return
        content = read.vocabulary.decode(read.ids)
        if not how & 128:
            whole = rest.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
            if content != (whole.lower() if how & 64 else whole):
                raise RuntimeError("read in pieces, it is another text")


if __name__ == "__main__":
    seeds = tempfile.mkdtemp()
    for number, path in enumerate((HERE / "data").glob("*.safetensors")):
        Path(seeds, f"{number}").write_bytes(path.read_bytes())
    target = {"checkpoint": checkpoint, "text": text}[sys.argv.pop(1)]
    atheris.Setup([*sys.argv, *([seeds] if target is checkpoint else []), "-max_len=9000"], target)
    atheris.Fuzz()
