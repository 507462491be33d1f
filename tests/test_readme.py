"""Run the commands and the Python of README.md and docs/: Python unchanged, shell lines one after the other.

The texts are made up, the models small, and the budgets cut to a fraction of a second. Lines that call make or pip, and
lines that would download, are only parsed.
"""

import os
import re
import subprocess

import pytest
from children import words
from conftest import ROOT, made_up_text

import charlstm
from charlstm.cli import cli, main
from charlstm.text import downloads

#: Pages whose Python needs other frameworks (make test-peers).
PEERS = {"frameworks.md": ("torch", "jax"), "travel.md": ("torch", "keras", "onnxruntime")}
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SMALL = {"hidden_size": 4, "seq_length": 5, "batch_size": 2, "sample_every": 100}


def blocks(language, pages=PAGES):
    """Return every code block of a language, with its page and first line."""
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.M | re.S):
            yield pytest.param(found[1], id=f"{page.name}-{text[: found.start()].count(chr(10)) + 1}")


@pytest.fixture
def texts(tmp_path, monkeypatch):
    """Provide a folder with the texts that the pages mention."""
    monkeypatch.chdir(tmp_path)
    for name in ("book", "a", "other", "letters"):
        (tmp_path / f"{name}.txt").write_text("The end. " + made_up_text(3000))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "b.txt").write_text(made_up_text(500, seed=6))
    names = made_up_text(2000).replace(" ", "\n").replace(".", "")
    (tmp_path / "names.txt").write_text(re.sub("\n+", "\n", names))
    return tmp_path


@pytest.fixture
def quick(monkeypatch):
    """Make training from Python use small models and a hundredth of the time."""

    def cut(real):
        return lambda *sources, seconds=60, **options: real(*sources, seconds=seconds / 300, **{**options, **SMALL})

    for name in ("train", "start"):
        monkeypatch.setattr(charlstm, name, cut(getattr(charlstm, name)))
    resume = charlstm.resume
    monkeypatch.setattr(charlstm, "resume", lambda run, seconds: resume(run, seconds=seconds / 300))


def stories():
    """Group the blocks: each block of README runs alone, those of another page run in order."""
    yield from (pytest.param([each.values[0]], id=each.id) for each in blocks("python", PAGES[:1]))
    for page in PAGES[1:]:
        if found := [each.values[0] for each in blocks("python", [page])]:
            marks = (pytest.mark.peers, pytest.mark.filterwarnings("ignore")) if page.name in PEERS else ()
            yield pytest.param(found, id=page.name, marks=marks)


@pytest.mark.parametrize("story", list(stories()))
def test_python_as_it_stands(story, texts, quick, capsys, monkeypatch, request):
    for package in PEERS.get(request.node.callspec.id, ()):
        monkeypatch.setenv("KERAS_BACKEND", os.environ.get("KERAS_BACKEND", "torch"))
        pytest.importorskip(package, reason=f"{package} is not installed: make test-peers")
    if any('"runs/book"' in block for block in story if "charlstm.train" not in block) and "train" not in story[0]:
        charlstm.train("book.txt", out="runs/book", iterations=3, backend="numpy", quiet=True)
    names = {}
    for block in story:
        exec(compile(block, "block", "exec"), names)  # noqa: S102


def cut(arguments):
    """Shorten a command to a fraction of a second: a smaller model, a shorter text, fewer iterations."""
    name, *rest = arguments
    budget = {"--seconds": None, "--iterations": None, "--chars": None, "--plans": "0:9"}
    changed = budget if name in ("train", "compare") else {"--length": "50"}
    kept, given = [], iter(rest)
    for word in given:
        if word not in changed:
            kept.append(word)
        elif next(given) and changed[word]:
            kept += [word, changed[word]]
    if name == "train" and "list" not in rest and "--plans" not in rest:
        kept += ["--iterations", "60" if "--resume" in rest else "9"]
    if name == "train" and not {"list", "--from", "--resume"} & set(rest):
        kept += ["--hidden-size", "4", "--seq-length", "5", "--sample-every", "3", "--sample-length", "50"]
    if name == "compare" and "--runs" not in rest:
        kept += ["--chars", "800", "--length", "20"]
    return [name, *kept, *(["--backend", "numpy"] if name == "gradcheck" else [])]


def is_only_parsed(arguments):
    """Return whether a line would download, measure for minutes, or need software that may be missing here."""
    fetched = {name for name, text in downloads.BUILT_IN.items() if text.url}
    return arguments[0] in ("bench", "sweep") or bool(fetched & set(arguments)) or "cupy" in arguments


@pytest.mark.parametrize("block", list(blocks("sh")))
def test_shell_lines(block, texts, capsysbinary):
    subprocess.run(["bash", "-n"], input=block.encode(), check=True)  # noqa: S607
    lines = [line for line in block.splitlines() if line.startswith("charlstm ")]
    for name in ("names", "book"):  # a run that an earlier block of the page created
        if any(f"runs/{name}" in line for line in lines) and not lines[0].startswith(f"charlstm train {name}.txt"):
            lines.insert(0, f"charlstm train {name}.txt")
    for line in lines:
        arguments = words(line.partition("  #")[0])
        command = cli.commands[arguments[0]]
        if is_only_parsed(arguments):
            command.make_context(arguments[0], [each for each in arguments[1:] if each != "list"])
            continue
        with pytest.raises(SystemExit) as ended:
            main(cut(arguments))
        told = capsysbinary.readouterr()
        assert ended.value.code == 0, (line, told.err.decode())
