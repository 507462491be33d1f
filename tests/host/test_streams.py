"""The command line under adverse conditions: closed streams, foreign locales, no home folder, no user name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from children import Terminal, command
from small_runs import finish, small

from charlstm.cli import _guarded, cli
from charlstm.host import places
from charlstm.model.model import load
from charlstm.runs.begin import start
from charlstm.text import downloads
from charlstm.text.corpus import Corpus

TINY = ("--hidden-size", "4", "--seq-length", "5", "--batch-size", "2", "--backend", "numpy", "--sample-every", "0")
#: Makes Python decode arguments as ASCII, which under this locale would otherwise be UTF-8.
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
posix = pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no users with numbers")
TEXT = "雪がふる。天気は雪。\n" * 40


@pytest.fixture(scope="module")
def snow(tmp_path_factory):
    """A run on a text that legacy encodings cannot express, in a folder whose name they cannot express either."""
    folder = tmp_path_factory.mktemp("snow")
    (folder / "雪.txt").write_text(TEXT, encoding="utf-8")
    arguments = ["train", str(folder / "雪.txt"), *TINY, "-n", "3", "-q", "--mix", "0", "--out", str(folder / "run")]
    assert cli.main(arguments, standalone_mode=False) == 0
    return folder


def ran(arguments, cwd, **options):
    return subprocess.run(command(*arguments), cwd=cwd, capture_output=True, check=False, timeout=120, **options)


# ---------------------------------------------------------------------------------------------------------- locales
@pytest.mark.parametrize(
    "env",
    [
        ASCII,
        {"LC_ALL": "C"},
        {"PYTHONIOENCODING": "ascii"},
        {"PYTHONIOENCODING": "latin-1"},
        {"LC_ALL": "POSIX", "PYTHONUTF8": "0"},
    ],
    ids=lambda env: " ".join(f"{name}={value}" for name, value in env.items()),
)
def test_pipes_and_arguments_are_utf8_whatever_the_locale(snow, env):
    done = ran(
        ["sample", "run", "--prime", "雪", "-n", "5", "-s", "1", "--backend", "numpy"], snow, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert text[0] == "雪"
    assert len(text) == 6
    assert set(text) <= set(TEXT)


def test_names_of_files_and_everything_else_under_an_old_locale(snow, tmp_path):
    env = {**os.environ, **ASCII}
    done = ran(["train", snow / "雪.txt", *TINY, "-n", "3", "--separator", "。"], tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    assert "text    雪: 440 characters" in done.stderr.decode()
    assert (tmp_path / "runs" / "雪" / "last.safetensors").exists()
    assert len(done.stdout.decode()) == 501
    missing = ran(["train", "天.txt"], tmp_path, env=env)
    assert missing.returncode == 2
    assert missing.stderr.decode().startswith("charlstm: 天.txt: no such file or folder")
    same = ran(["score", "run", "雪.txt", "--json", "--backend", "numpy"], snow, env=env)
    assert json.loads(same.stdout)["name"] == "雪"


def test_bytes_that_are_no_text_come_out_as_they_came_in(tmp_path):
    done = ran(["train", os.fsdecode(b"caf\xe9.txt")], tmp_path)
    assert done.stderr.startswith(b"charlstm: caf\xe9.txt: no such file or folder")


NO_TEXT = "x\udce9"  # an argument of the bytes 78 E9


def words_of(name):
    """The options of a command that take a word, each with an undecodable value, and the required arguments."""
    needed = {"train": ["book.txt", *TINY, "-n", "3"], "ngram": ["book.txt"], "score": ["run", "book.txt"]}
    for parameter in cli.commands[name].params:
        words = needed.get(name, ["run"])
        if isinstance(parameter, click.Argument):
            yield [*words[:-1], NO_TEXT] if name != "train" else [NO_TEXT]
        elif not parameter.is_flag and not isinstance(parameter.type, click.types.IntParamType):
            yield [*words, f"{parameter.opts[-1]}={'replace:' * (parameter.name == 'unknown')}{NO_TEXT}"]
            yield [*words, f"{parameter.opts[-1]}={NO_TEXT}", *(["--bytes"] if name in ("train", "ngram") else [])]


@pytest.mark.parametrize("name", ["train", "sample", "score", "ngram", "keywords", "verify", "inspect", "gradcheck"])
def test_an_argument_that_is_no_text_is_used_or_refused_in_a_line(name, text_file, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    finish(start(Corpus.from_text(text_file.read_text()), small(iterations=1), "run"))
    for arguments in words_of(name):
        code = _guarded([name, *arguments])  # any other exception would be visible
        told = capfd.readouterr().err.splitlines()
        assert code in (0, 2), (arguments, told)
        assert code == 0 or len(told) <= 4, (arguments, told)


def test_bytes_of_an_argument_are_bytes_to_a_model_of_bytes(tmp_path):
    content = "caf\xe9 au lait\n".encode("latin-1") * 50
    for k in range(3):
        (tmp_path / f"{k}.txt").write_bytes(content)
    done = ran(
        [
            "train",
            *sorted(tmp_path.glob("?.txt")),
            *TINY,
            "-n",
            "3",
            "-q",
            "--bytes",
            "--separator",
            b"\xe9|",
            "-o",
            "run",
        ],
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    model = load(tmp_path / "run")
    assert bytes(model.edges.begin) == b"\xe9|"
    written = ran(
        ["sample", "run", "-p", b"caf\xe9", "-n", "3", "--unknown", "skip", "--backend", "numpy", "-s", "1"], tmp_path
    )
    assert written.stdout.startswith(b"caf\xe9")
    assert model.vocabulary.encode("\udce9\ud800\udcc3\udca9").tobytes() == b"\xe9?\xc3\xa9"
    assert [one.chars for one in model.scores(["a\udce9b", "c"])] == [3, 1]


@pytest.mark.parametrize(
    "arguments", [["sample", "run", "--prime", NO_TEXT], ["train", "雪.txt", "--separator", NO_TEXT]]
)
def test_a_byte_that_no_text_has_is_named(snow, arguments):
    done = ran([*arguments, *([] if arguments[0] == "sample" else TINY)], snow)
    assert done.returncode == 2
    assert b"0xe9, a byte that is not valid UTF-8," in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_terminal_that_cannot_show_a_character_is_told_of(snow):
    arguments = command("sample", "run", "--prime", "雪", "-n", "0", "--stop", "。", "--backend", "numpy", "-s", "1")
    done = Terminal(arguments, 200, cwd=snow, env={"PYTHONIOENCODING": "ascii"})
    assert done.ended() == 0
    lines = done.text.splitlines()
    assert lines[0].startswith("\\u96ea")
    assert lines[-1].startswith("charlstm: this terminal's encoding, ascii, cannot show all characters (")
    assert "LC_ALL=C.UTF-8" in lines[-1]
    locale = Terminal(arguments, 200, cwd=snow, env=ASCII)  # the program restarts itself, and still detects this
    assert locale.ended() == 0
    assert locale.text == done.text
    shown = Terminal(arguments, 200, cwd=snow)
    assert shown.ended() == 0
    assert shown.text.startswith("雪")
    assert "charlstm:" not in shown.text


# --------------------------------------------------------------------------------------------------- closed streams
@pytest.mark.parametrize("closed", ["2>&-", ">&-", ">&- 2>&-", "<&- >&- 2>&-", "<&-"])
def test_closed_streams_train_quietly(text_file, tmp_path, closed):
    line = f'"$@" {closed}'
    arguments = [
        "bash",
        "-c",
        line,
        "bash",
        *command("train", text_file, *TINY, "-n", 20, "--report-every", 1, "-o", "run"),
    ]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    for stream, written in ((">&-", done.stdout), ("2>&-", done.stderr)):
        if stream in closed.split():
            assert written == b""
    assert b"Traceback" not in done.stderr
    checked = ran(["verify", "run"], tmp_path)  # no file got output meant for the closed stream
    assert checked.returncode == 0, checked.stderr
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(each)["iteration"] for each in lines] == list(range(20))


@pytest.mark.parametrize("closed", ["2>&-", ">&-"])
@pytest.mark.parametrize(
    "arguments", [["--help"], ["info"], ["data", "list"], ["sample", "nowhere"], ["nonsense"]], ids=str
)
def test_closed_streams_of_other_commands(tmp_path, closed, arguments):
    done = subprocess.run(
        ["bash", "-c", f'"$@" {closed}', "bash", *command(*arguments)],  # noqa: S607
        cwd=tmp_path, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == (2 if arguments[0] in ("sample", "nonsense") else 0)
    assert b"Traceback" not in done.stdout + done.stderr
    assert b"charlstm:" not in done.stdout


# ------------------------------------------------------------------------------------------------------ no home, no name
NOBODY = """
import os, pwd, sys
def unknown(uid):
    raise KeyError(f"getpwuid(): uid not found: {uid}")
pwd.getpwuid = unknown
from charlstm.cli import main
main(sys.argv[1:])
"""


def as_nobody(arguments, cwd, **env):
    """Run as in a container: no HOME, and a user without a name."""
    kept = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    return subprocess.run(
        [sys.executable, "-c", NOBODY, *map(str, arguments)], cwd=cwd, capture_output=True, check=False, timeout=240,
        env={**kept, "PYTHONPATH": str(Path(places.__file__).parent.parent), "TMPDIR": str(cwd), **env},
    )  # fmt: skip


@posix
def test_every_command_without_a_home_or_a_name(text_file, tmp_path):
    trained = as_nobody(["train", text_file, *TINY, "-n", "5", "-q"], tmp_path)
    assert trained.returncode == 0, trained.stderr
    fallback = tmp_path / f"charlstm-cache-{os.getuid()}"
    assert list((fallback / "data" / "ids").iterdir())
    assert fallback.stat().st_mode & 0o777 == 0o700
    for arguments in (
        ["info"],
        ["data", "list"],
        ["sample", "-n", "3", "--backend", "numpy"],
        ["verify"],
        ["inspect"],
        ["train", "-r", "-n", "7", "-q"],
    ):
        done = as_nobody(arguments, tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
    told = as_nobody(["info"], tmp_path).stdout.decode()
    assert f"text cache   {fallback / 'data'}" in told
    assert f"kernel cache {tmp_path / 'charlstm-kernels-'}{os.getuid()}" in told
    assert not (tmp_path / "~").exists()
    offline = as_nobody(["data", "get", "nietzsche", "--offline"], tmp_path)
    assert offline.returncode == 2
    assert offline.stderr.decode().startswith(f"charlstm: nietzsche: no copy in {fallback / 'data'}")


@posix
@pytest.mark.parametrize("home", ["/dev/null", "relative"])
def test_a_home_that_cannot_be_used(text_file, tmp_path, home):
    done = as_nobody(["train", text_file, *TINY, "-n", "5", "-q"], tmp_path, HOME=home)
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "relative").exists()


@pytest.fixture
def without_cache(monkeypatch, tmp_path):
    if not hasattr(os, "getuid"):
        pytest.skip("the system has no users with numbers")
    monkeypatch.delenv(downloads.FOLDER_VARIABLE, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / f"charlstm-cache-{os.getuid()}"


@pytest.mark.parametrize("answer", [RuntimeError("no home"), KeyError("uid"), "~/.cache/charlstm"], ids=repr)
def test_what_platformdirs_may_answer(monkeypatch, without_cache, answer):
    def user_cache_dir(*_):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("platformdirs.user_cache_dir", user_cache_dir)
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    assert downloads.cache_dir() == without_cache / "data"
    jit = pytest.importorskip("kernels.cpu.compiler")  # alone, or from a Python program without a command line
    assert jit.cache_dir() == without_cache.with_name(f"charlstm-kernels-{os.getuid()}")


def test_a_temporary_folder_that_others_can_change_is_not_used(monkeypatch, without_cache):
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda *_: "/dev/null/nowhere")
    without_cache.mkdir()
    without_cache.chmod(0o777)
    assert downloads.cache_dir() == Path("/dev/null/nowhere/data")
    without_cache.chmod(0o700)
    assert downloads.cache_dir() == without_cache / "data"


def test_a_folder_that_was_chosen_is_used_whatever_there_is(monkeypatch, without_cache):
    monkeypatch.setenv(downloads.FOLDER_VARIABLE, "/dev/null/nowhere")
    assert downloads.cache_dir() == Path("/dev/null/nowhere")
