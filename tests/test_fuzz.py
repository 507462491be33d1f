"""Fuzz commands and files: every failure is one line and an exit code, with no traceback and no stray files."""

import contextlib
import io
import os
import shutil
from dataclasses import fields

import pytest
from conftest import made_up_text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_runs import finish

from charlstm import cli
from charlstm.runs.begin import start
from charlstm.settings.config import Config, from_preset

QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[*HealthCheck])
TINY = {"hidden_size": 3, "seq_length": 5, "batch_size": 2, "iterations": 2, "backend": "numpy", "sample_length": 9}

WORDS = st.sampled_from(
    [
        "",
        "0",
        "1",
        "2",
        "-1",
        "3",
        "0.5",
        "1e-3",
        "1e999",
        "nan",
        "-inf",
        "none",
        "x",
        "True",
        "\u0663",
        "1_0",
        " 1",
        "-",
        "--",
    ]
)
ANYTHING = WORDS | st.text(max_size=8) | st.floats().map(str) | st.integers().map(str)
SIZES = st.sampled_from(["-1", "0", "1", "2", "7", "none", "x", "", "99999999", "1.5", "nan", "1e1"])
ENDLESS = st.sampled_from(["-1", "0", "x", "none", "nan", ""])  # for options whose valid values may run for long
BOUNDED = {
    "hidden-size": SIZES, "num-layers": SIZES, "embedding-size": SIZES, "seq-length": SIZES, "batch-size": SIZES,
    "sample-length": SIZES, "iterations": SIZES.filter("99999999".__ne__), "seconds": ENDLESS, "epochs": ENDLESS,
    "max-chars": ENDLESS, "until-loss": ENDLESS, "threads": ENDLESS, "backend": st.sampled_from(["numpy", "cupy", "x"]),
}  # fmt: skip


@st.composite
def train_options(draw):
    """Draw some of train's options in any order, with valid and invalid values."""
    chosen = draw(st.lists(st.sampled_from([item for item in fields(Config) if item.type != "bool"]), max_size=5))
    arguments = []
    for item in chosen:
        name = item.name.replace("_", "-")
        right = st.sampled_from([*(item.metadata["choices"] or ()), str(item.default)])
        value = draw(BOUNDED[name] if name in BOUNDED else ANYTHING | right)
        arguments += [f"--{name}={value}"] if draw(st.booleans()) else [f"--{name}", value]
    return arguments + draw(
        st.lists(st.sampled_from(["--lower", "--bytes", "--quiet", "--json", "--style=original"]), max_size=2)
    )


TEXTS = st.sampled_from(
    ["book.txt", "nowhere.txt", "-", ".", "ftp://x/y", "http://127.0.0.1:1/x", "nietzsche", "run", "\0"]
)
OTHERS = st.one_of(
    st.tuples(st.just("sample"), st.just("--length=5"), st.sampled_from(
        ["--prime", "--temperature", "--top-k", "--top-p", "--stop", "--seed", "--unknown", "--checkpoint", "--count"]), ANYTHING),
    st.tuples(st.just("score"), st.sampled_from(["--unknown", "--checkpoint", "--encoding", "--json", "--per-char"]), ANYTHING),
    st.tuples(st.just("ngram"), st.just("--length=5"), st.just("--offline"), st.sampled_from(
        ["--order", "--smoothing", "--validation", "--prime", "--seed", "--encoding", "--separator", "--style"]), ANYTHING),
    st.tuples(st.sampled_from(["keywords", "verify", "inspect"]), st.sampled_from(["--top", "--json", "--checkpoint"]), ANYTHING),
    st.tuples(st.just("data"), st.sampled_from(["list", "get"]), st.just("--offline"), ANYTHING),
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Provide a folder with a text and a run, in which commands run; nothing outside it may change."""
    outer = tmp_path_factory.mktemp("outer")
    inner = outer / "inner"
    inner.mkdir()
    (inner / "book.txt").write_text(made_up_text(400))
    finish(start([inner / "book.txt"], from_preset(**TINY), str(outer / "kept")))
    before, variable = os.getcwd(), os.environ.get("CHARLSTM_DATA_DIR")
    os.chdir(inner)
    os.environ["CHARLSTM_DATA_DIR"] = str(inner / "cache")
    yield inner
    os.chdir(before)
    os.environ.pop("CHARLSTM_DATA_DIR")
    if variable is not None:
        os.environ["CHARLSTM_DATA_DIR"] = variable


def fresh(place):
    """Restore the folder to its initial state."""
    for path in place.iterdir():
        if path.name != "book.txt":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    shutil.copytree(place.parent / "kept", place / "run")


def outside(place):
    return sorted(
        (str(path), path.stat().st_mtime_ns)
        for path in place.parent.rglob("*")
        if place not in path.parents and path != place
    )


def obeyed(place, arguments):
    """Run a command; its exit code must be documented, and an error must be one line."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", "backslashreplace") for _ in range(2))
    before, patch = outside(place), pytest.MonkeyPatch()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), patch.context() as stdin:
        stdin.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"from standard input " * 9)))
        code = cli._guarded([str(each) for each in arguments])
    err.flush()
    said = err.buffer.getvalue().decode()
    assert code in (0, 1, 2), (code, arguments, said)
    assert "Traceback" not in said
    if code:
        assert said.splitlines()[-1].startswith("charlstm: "), (arguments, said)
    if code == 2:
        assert len([line for line in said.splitlines() if line.startswith("charlstm: ")]) == 1, said
    assert outside(place) == before
    return code


@QUICK
@given(options=train_options(), texts=st.lists(TEXTS, max_size=2))
def test_train(place, options, texts):
    fresh(place)
    caps = [
        f"--{name.replace('_', '-')}={value}"
        for name, value in TINY.items()
        if not any(option.startswith(f"--{name.replace('_', '-')}") for option in options)
    ]
    obeyed(place, ["train", *caps, *options, "--offline", "--out=new", "--", *(texts or ["book.txt"])])


@QUICK
@given(options=train_options())
def test_resume(place, options):
    fresh(place)
    obeyed(place, ["train", "--resume=run", "--iterations=3", *options, "--offline"])


@QUICK
@given(
    command=OTHERS,
    target=st.sampled_from(["run", "run/last.safetensors", "book.txt", "nowhere", "run/metrics.jsonl", ""]),
    text=TEXTS,
)
def test_other_commands(place, command, target, text):
    fresh(place)
    name, *options = command
    rest = {"ngram": [text], "score": [target, text], "data": []}.get(name, [target])
    obeyed(place, [name, *options, "--", *rest])


@QUICK
@given(
    name=st.sampled_from(["config.toml", "metrics.jsonl", "samples.txt", "environment.json", ".lock", "last.safetensors", "best.safetensors"]),
    content=st.binary(max_size=200) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace")),
)  # fmt: skip
def test_any_bytes_in_the_files_of_a_run(place, name, content):
    fresh(place)
    path = place / "run" / name
    path.unlink(missing_ok=True)
    path.write_bytes(content)
    for command in ("verify", "inspect", "keywords"):
        obeyed(place, [command, "run"])
    obeyed(place, ["sample", "run", "--length=3"])
    assert obeyed(place, ["train", "--resume=run", "--iterations=4"]) == 0
    is_mended = name in ("config.toml", ".lock", "last.safetensors", "best.safetensors")
    assert obeyed(place, ["verify", "run"]) <= (not is_mended)


@QUICK
@given(content=st.binary(max_size=300), encoding=st.sampled_from(["utf-8", "utf-16", "latin-1", "cp932", "utf-7", "idna", "rot13", "hex", "x"]),
       more=st.lists(st.sampled_from(["--lower", "--bytes", "--validation=0.2", "--separator="]), max_size=2))  # fmt: skip
def test_any_bytes_as_a_text(place, content, encoding, more):
    fresh(place)
    (place / "any.txt").write_bytes(content)
    caps = [f"--{name.replace('_', '-')}={value}" for name, value in TINY.items()]
    obeyed(place, ["train", "any.txt", f"--encoding={encoding}", *caps, "--out=new", *more])
    obeyed(place, ["score", "run", "any.txt", f"--encoding={encoding}"])
