"""The command line, as a person meets it: in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from children import Terminal, command
from conftest import made_up_text

import kernels
from charlstm.cli import _guarded
from charlstm.settings.presets import PRESETS
from kernels import testing
from kernels.spec import OPTIMIZERS

TINY = ("--hidden-size", 8, "--seq-length", 5, "--batch-size", 2)

MIXED = b"mix     the net and its n-gram, weight 0.5; --mix 0: the net alone\n"


@pytest.fixture
def trained(charlstm_command, text_file):
    done = charlstm_command("train", text_file, *TINY, "--iterations", 30, "--sample-every", 10)
    assert done.returncode == 0, done.stderr
    return done


def one_line(done, code=2):
    assert done.returncode == code, done.stderr
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 1, lines
    assert "Traceback" not in lines[0]
    assert lines[0].startswith("charlstm: ")
    return lines[0].removeprefix("charlstm: ")


def test_train_then_sample(trained, charlstm_command, tmp_path):
    notes = trained.stderr.decode()
    assert "text    book: 3,000 characters, 11 distinct" in notes
    assert "folder  runs/book" in notes
    assert "iteration 30/30" in notes
    assert "done    30 iterations reached: 30 iterations" in notes
    assert "charlstm train --resume=runs/book --iterations 60" in notes
    assert len(trained.stdout.decode()) == 501  # text, and nothing else
    one = charlstm_command("sample", "runs/book", "--length", 50, "--seed", 1, "--prime", "ab")
    two = charlstm_command("sample", "runs/book", "--length", 50, "--seed", 1, "--prime", "ab")
    assert one.returncode == 0
    assert one.stdout == two.stdout
    assert len(one.stdout) == 52
    greedy = charlstm_command("sample", "runs/book", "--length", 50, "--argmax", "--checkpoint", "last")
    assert (
        greedy.stdout
        == charlstm_command("sample", "runs/book/last.safetensors", "--length", 50, "--temperature", 0).stdout
    )


def test_going_on(trained, charlstm_command):
    done = charlstm_command("train", "--resume", "--iterations", 40)
    assert done.returncode == 0, done.stderr
    assert "folder  runs/book, resuming after 30 iterations" in done.stderr.decode()
    nothing = charlstm_command("train", "--resume=runs/book")
    assert nothing.returncode == 0
    assert "nothing to do: the budget (40 iterations) is used up" in nothing.stderr.decode()
    assert nothing.stdout == b""
    never = charlstm_command("train", "--resume", "book.txt", "--iterations", 50)  # book.txt is TEXT
    assert never.returncode == 0, never.stderr
    assert "resuming after 40 iterations" in never.stderr.decode()


def test_json_into_a_closed_pipe_saves_and_ends_quietly(text_file, tmp_path):
    train = (
        f"{sys.executable} -m charlstm train book.txt --hidden-size 8 --iterations 100000000 --report-every 1 --json"
    )
    command = f"{train} --out run 2>notes | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)  # noqa: S607
    line, code = done.stdout.decode().splitlines()
    assert json.loads(line)["iteration"] == 0
    assert code == "0"
    assert "Traceback" not in (tmp_path / "notes").read_text()
    assert (tmp_path / "run" / "last.safetensors").exists()


def test_quiet_and_json(charlstm_command, text_file):
    silent = charlstm_command("train", text_file, *TINY, "--iterations", 5, "--quiet")
    assert (silent.returncode, silent.stdout, silent.stderr) == (0, b"", b"")
    reported = charlstm_command("train", text_file, *TINY, "--iterations", 5, "--json", "--report-every", 2)
    lines = [json.loads(line) for line in reported.stdout.splitlines()]
    assert [line["iteration"] for line in lines] == [0, 2, 4]


def test_text_from_standard_input_and_the_folder_name(charlstm_command, tmp_path):
    done = charlstm_command("train", "-", *TINY, "--iterations", 3, "--quiet", stdin=made_up_text().encode())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "stdin" / "last.safetensors").exists()


@pytest.mark.parametrize("preset", ["min-char-lstm", "karpathy-min-char-rnn"])
def test_the_original_presets_take_input_txt(charlstm_command, tmp_path, preset):
    (tmp_path / "input.txt").write_text(made_up_text())
    done = charlstm_command("train", "--preset", preset, "--hidden-size", 8, "--iterations", 3)
    assert done.returncode == 0, done.stderr
    assert "training on input.txt" in done.stderr.decode()
    assert f"model   {preset[-4:].strip('-').upper()}, 1 x 8 hidden units" in done.stderr.decode()


def test_the_list_of_presets(charlstm_command):
    done = charlstm_command("train", "--preset", "list")
    head, *lines = done.stdout.decode().splitlines()
    assert head.split() == ["preset", "replaces", "model", "reads", "learns", "by", "budget"]
    assert [line.split()[0] for line in lines] == list(PRESETS)
    keras = next(line for line in lines if line.startswith("keras-lstm-text"))
    assert re.split("  +", keras)[1:] == [
        "lstm_text_generation.py", "1 x 128", "128 x 40:3", "rmsprop 0.01, constant", "60 epochs",
    ]  # fmt: skip


def test_the_original_style_prints_that_alone_on_stdout(charlstm_command, text_file):
    done = charlstm_command(
        "train", text_file, "--preset", "min-char-lstm", "--hidden-size", 8, "--iterations", 201, "--style", "original"
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert lines[0] == "data has 3000 characters, 11 unique."
    assert lines[-1].startswith("iter 200 (p=208), loss ")
    assert "done    201 iterations reached" in done.stderr.decode()
    again = charlstm_command("train", "--resume", "--iterations", 401, "--style", "original")
    assert re.findall("^iter .*?,", again.stdout.decode(), re.MULTILINE) == ["iter 400 (p=416),"]


def test_keywords(charlstm_command, text_file, tmp_path):
    trained = charlstm_command("train", text_file, *TINY, "--iterations", 30, "--sample-every", 10, "--quiet")
    assert trained.returncode == 0, trained.stderr
    samples = tmp_path / "runs" / "book" / "samples.txt"
    head, words = "# iteration 10  loss 1.000000  temperature 0.8\n", re.findall(r"\w+", made_up_text())
    samples.write_text(f"{head}{words[0]} zebra {words[0]} zebra {words[0]}\n\n{head}quagga\n\n")
    done = charlstm_command("keywords", "runs/book", "--top", 2)
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.decode().splitlines()] == [
        ["word", "in", "samples", "in", "text"], [words[0], "3", str(words.count(words[0]))], ["zebra", "2", "0"], [],
        ["2", "of", "3", "words", "are", "not", "in", "book:"], ["zebra", "2"], ["quagga", "1"],
    ]  # fmt: skip
    told = [json.loads(line) for line in charlstm_command("keywords", "runs/book", "--json").stdout.splitlines()]
    assert told[1] == {"word": "zebra", "in_samples": 2, "in_text": 0}
    assert len(told) == 3


def test_patience_ends_a_run_and_the_way_on_is_told(charlstm_command, text_file):
    done = charlstm_command(
        "train", text_file, *TINY, "--iterations", 400, "--validation", 0.2, "--validate-every", 5, "--patience", 2,
        "--learning-rate", 9, "--schedule", "constant",
    )  # fmt: skip
    notes = done.stderr.decode()
    assert "done    the patience of 2 evaluations reached" in notes
    assert re.search(r"iteration \d+  validation \d+\.\d{4} bits/char \(\d+\.\d{4} nats\), perplexity", notes)
    assert re.search(r"baseline: order-5 Markov model, \d\.\d{3} bits/char on 600 held-out characters", notes)
    on = re.search(r"resume  charlstm (.*)", notes)[1].split()
    more = charlstm_command(*on)
    assert more.returncode == 0, more.stderr
    assert "iterations reached" in more.stderr.decode()


def test_a_closed_pipe_ends_quietly(trained, tmp_path):
    command = (
        f"{sys.executable} -m charlstm sample runs/book --length 1000000 --seed 1 | head -c 20; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)  # noqa: S607
    assert done.stderr == MIXED
    assert done.stdout[20:].strip() == b"0"


def test_a_text_without_end_until_its_reader_has_gone(trained, tmp_path):
    command = (
        f"{sys.executable} -m charlstm sample runs/book --length 0 --seed 1 | head -c 30000; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, timeout=60, check=False)  # noqa: S607
    assert done.stderr == MIXED
    assert done.stdout[30000:].strip() == b"0"


def test_a_text_without_end_until_ctrl_c(trained, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "charlstm", "sample", "runs/book", "--length", "0"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert len(process.stdout.read(5000)) == 5000
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err.strip()) == (130, MIXED.strip())


def test_several_texts_stop_strings_and_json(trained, charlstm_command):
    plain = ("sample", "runs/book", "--length", 40, "--seed", 1, "--prime", "ab", "--top-k", 6, "--top-p", 0.9)
    text = charlstm_command(*plain).stdout.decode()
    told = [json.loads(line) for line in charlstm_command(*plain, "--count", 2, "--json").stdout.splitlines()]
    assert [one["seed"] for one in told] == [1, 2]
    assert told[0]["prime"] + told[0]["text"] == text
    assert set(told[0]) == {"prime", "text", "seed", "temperature", "bits_per_char", "log_probs"}
    assert len(told[0]["log_probs"]) == 40
    assert charlstm_command(*plain, "--count", 2).stdout.decode() == (
        f"--- 1 ---\n{text}\n--- 2 ---\nab{told[1]['text']}\n"
    )
    stopped = charlstm_command(*plain[:2], *plain[4:], "--length", 0, "--stop", text[10:12])
    assert stopped.stdout.decode() == text[: text.index(text[10:12], 2) + 2]


def test_score(trained, charlstm_command, text_file):
    done = charlstm_command("score", "runs/book", text_file, "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    parts = {"net_bits_per_char", "ngram_bits_per_char"}
    assert set(told) == {"name", "chars", "bits_per_char", "nats_per_char", "perplexity", "nats"} | parts
    assert (told["name"], told["chars"]) == ("book", 3000)
    said = charlstm_command("score", "runs/book", "-", stdin=text_file.read_bytes()).stdout.decode()
    assert said == (
        f"stdin: 3,000 characters, {told['bits_per_char']:.4f} bits per character ({told['nats_per_char']:.4f} nats), "
        f"perplexity {told['perplexity']:.4f}; net alone {told['net_bits_per_char']:.4f}, "
        f"n-gram alone {told['ngram_bits_per_char']:.4f}\n"
    )
    lines = [
        json.loads(line) for line in charlstm_command("score", "runs/book", text_file, "--per-char").stdout.splitlines()
    ]
    assert "".join(line["char"] for line in lines) == text_file.read_text()
    assert -sum(line["log_prob"] for line in lines) == pytest.approx(told["nats"])
    assert sum(line["bits"] for line in lines) / 3000 == pytest.approx(told["bits_per_char"])


def test_scoring_characters_it_never_saw(trained, charlstm_command):
    message = one_line(charlstm_command("score", "runs/book", "-", stdin=b"aXb"))
    assert message == (
        "stdin: the character 'X' at position 1 is not in the model's vocabulary; --unknown skip leaves such characters "
        "out, --unknown replace:CHAR reads CHAR instead"
    )
    done = charlstm_command("score", "runs/book", "-", "--unknown", "skip", "--json", stdin=b"aXa")
    assert json.loads(done.stdout)["chars"] == 2
    assert "stdin: the text is empty" in one_line(charlstm_command("score", "runs/book", "-"))
    assert "already prints JSON" in one_line(charlstm_command("score", "runs/book", "-", "--json", "--per-char"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_stopping_saves_and_says_how_to_go_on(text_file, tmp_path, number, code, charlstm_command):
    process = subprocess.Popen(
        [sys.executable, "-m", "charlstm", "train", text_file, *map(str, TINY), "--iterations", "100000000", "--out", "run"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    metrics, deadline = tmp_path / "run" / "samples.txt", time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert b"charlstm train --resume=run" in err
    assert out == b""
    assert charlstm_command("train", "--resume=run", "--iterations", 1).returncode == 0


def test_a_live_terminal_shows_a_bar_and_the_latest_sample(text_file, tmp_path):
    terminal = Terminal(command("train", text_file, *TINY, "--iterations", "300"), 90, cwd=tmp_path)
    assert terminal.ended() == 0
    assert "iteration 300/300" in terminal.text
    assert "bits/char" in terminal.text
    assert "sample after 0 iterations" in terminal.text
    assert "done    300 iterations reached" in terminal.text


# ------------------------------------------------------------------------------------------------------- bad input
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "missing.txt"], "missing.txt: no such file or folder (built-in texts: python-docs, us-constitution, nietzsche, tinyshakespeare, names)"),
        (["train", "empty-folder"], "empty-folder: no text in this folder; supported: .gz, .bz2, .xz, .zip, .epub, .docx, .pdf, .html, .htm, .xhtml, .srt, .vtt, .txt, .text, .csv with --column, .jsonl with --field"),
        (["train", "empty.txt"], "empty: the text is empty"),
        (["train", "one.txt"], "one: the text has a single distinct character, 'a': there is nothing to learn"),
        (["train", "short.txt", "--batch-size", "1"], "the text has 20 characters, too few for 1 streams of two sequences of 24 (at least 50): a smaller --seq-length may fit"),
        (["train", "latin.txt"], "latin.txt: byte 3 is not utf-8 (unexpected end of data): --encoding latin-1 reads 'café'"),
        (["train", "book.txt", "--out", "full"], "--out full: already exists and is not empty; choose another folder"),
        (["train", "book.txt", "--out", "book.txt"], "book.txt: cannot be written: File exists"),
        (["train", "book.txt", "--out", "book.txt/run"], "book.txt/run: cannot be written: Not a directory"),
        (["train", "book.txt", "--hidden-size", "0"], "--hidden-size: expected at least 1, got 0"),
        (["train", "book.txt", "--hidden-size", "ten"], "Invalid value for '-H' / '--hidden-size': expected a whole number, got 'ten'"),
        (["train", "book.txt", "--learning-rate", "nan"], "--learning-rate: expected a finite number, got nan"),
        (["train", "book.txt", "--optimizer", "adm"], f"--optimizer: expected one of {', '.join(OPTIMIZERS)}, got 'adm'"),
        (["train", "book.txt", "--preset", "slow"], f"--preset: expected one of {', '.join(PRESETS)}, got 'slow'"),
        (["train", "book.txt", "--backend", "cupy"], f"--backend cupy: {kernels.missing('cupy')}"),
        (["train", "book.txt", "--hiden-size", "3"], "No such option"),
        (["train", "book.txt", "--style", "old"], "--style: expected own or original, got 'old'"),
        (["train", "book.txt", "--style", "original"], "--style original: not available for preset fast, only for min-char-lstm, min-char-rnn, karpathy-min-char-rnn, min-char-lstm-mod-2, keras-lstm-text"),
        (["train", "book.txt", "--preset", "min-char-lstm", "--style", "original", "--quiet"], "--style original: cannot be combined with --quiet"),
        (["train", "book.txt", "--preset", "min-char-lstm", "--style", "original", "--report-every", "7"], "--report-every: expected a divisor of 200 with --style original, got 7"),
        (["train", "book.txt", "--windows", "40"], "--windows: expected MAXLEN:STEP, for example 40:3, got '40'"),
        (["train", "book.txt", "--patience", "3"], "--patience: needs --validation"),
        (["keywords", "nowhere"], "nowhere/samples.txt: cannot be read: No such file or directory"),
        (["train", "book.txt", "--bytes", "--lower"], "--bytes: reads the text as it is, so it cannot be combined with --lower"),
        (["train", "file:///book.txt"], "file:///book.txt: only http and https URLs are supported; give a file by its path"),
        (["train", "book.txt", "--from", "nowhere"], "nowhere: no such run folder"),
        (["train", "--from", "full"], "--from: needs a TEXT to train on"),
        (["train", "--resume=x", "--from", "y"], "--from: cannot be combined with --resume, which continues from the weights of the run"),
        (["data", "get", "bible"], "bible: neither a URL nor a built-in text (python-docs, us-constitution, nietzsche, tinyshakespeare, names)"),
        (["train", "book.txt", "--encoding", "klingon"], "--encoding: Python knows no encoding 'klingon'"),
        (["train", "--resume=full"], "full: no checkpoint here (last.safetensors is missing): is this the folder of a run?"),
        (["train", "--resume"], "--resume: no run with a checkpoint in runs/; name a folder: --resume=RUN"),
        (["train", "--resume=x", "--out", "y"], "--out: cannot be combined with --resume, which keeps the folder of the run"),
        (["sample", "full"], "full: no checkpoint here (best.safetensors is missing): is this the folder of a run?"),
        (["sample", "nowhere"], "nowhere: no such run folder"),
        (["sample", "book.txt"], "book.txt: not a checkpoint, or a damaged one"),
        (["sample", "full", "--checkpoint", "x"], "x: cannot be read: No such file or directory"),
        (["sample"], "RUN: no run with a checkpoint in runs/; name a folder: charlstm sample RUN"),
        (["inspect"], "RUN: no run with a checkpoint in runs/; name a folder: charlstm inspect RUN"),
        (["score", "full"], "Missing argument 'TEXT...'."),
        (["score", "nowhere", "book.txt"], "nowhere: no such run folder"),
        (["smaple"], "No such command 'smaple'"),
        (["gradcheck", "--backend", "torch"], "--backend: expected one of auto, numpy, numba, cupy, got 'torch'"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)  # fmt: skip
def test_a_mistake_is_one_line(charlstm_command, text_file, tmp_path, arguments, message):
    (tmp_path / "empty-folder").mkdir()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "something").write_text("kept")
    for name, content in {"empty": b"", "one": b"aaaa", "short": b"abcdefghij" * 2, "latin": b"caf\xe9"}.items():
        (tmp_path / f"{name}.txt").write_bytes(content)
    before = sorted(tmp_path.rglob("*"))
    said = one_line(charlstm_command(*arguments))
    assert said.startswith(message) if message.startswith("No such") else said == message  # click words those
    assert sorted(tmp_path.rglob("*")) == before


def test_files_that_may_not_be_read_or_folders_written(charlstm_command, text_file, tmp_path):
    if not hasattr(os, "geteuid") or os.geteuid() == 0:
        pytest.skip("root, and any user of Windows, may read and write here")
    (tmp_path / "secret.txt").write_text("x")
    (tmp_path / "secret.txt").chmod(0)
    assert one_line(charlstm_command("train", "secret.txt")) == "secret.txt: cannot be read: Permission denied"
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot be written: Permission denied" in one_line(
        charlstm_command("train", text_file, "--out", "locked/run")
    )


def test_an_unknown_prime_character_and_the_way_out(trained, charlstm_command):
    message = one_line(charlstm_command("sample", "runs/book", "--prime", "aXb"))
    assert message == (
        "--prime: the character 'X' at position 1 is not in the model's vocabulary; --unknown skip leaves such characters out"
    )
    done = charlstm_command("sample", "runs/book", "--prime", "aXb", "--unknown", "skip", "--length", 3)
    assert done.stdout.startswith(b"ab")


def test_a_loss_that_is_not_finite_exits_with_1(charlstm_command, text_file, tmp_path):
    done = charlstm_command(
        "train", text_file, *TINY, "--iterations", 50, "--learning-rate", "3e38", "--quiet", "--out", "run"
    )
    assert "a weight is not finite after 1 iterations: training stopped" in one_line(done, 1)


def test_a_damaged_checkpoint_is_named(trained, charlstm_command, tmp_path):
    file = tmp_path / "runs" / "book" / "last.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 4
    file.write_bytes(data)
    message = one_line(charlstm_command("sample", "runs/book", "--checkpoint", "last"))
    assert message == "runs/book/last.safetensors: damaged: its content does not match its SHA-256"
    again = charlstm_command("train", "--resume")
    assert again.returncode == 0
    assert (
        "runs/book/last.safetensors: damaged: its content does not match its SHA-256; resuming from iteration 1 instead"
        in again.stderr.decode()
    )
    assert charlstm_command("sample", "runs/book", "--checkpoint", "last", "--length", 3).returncode == 0


# ------------------------------------------------------------------------------------------------ gradcheck and info
def test_the_verdict_of_gradcheck(monkeypatch, capsys):
    """tests/kernel/test_chain.py makes the same checks; here they are made up, but for their form."""
    first, asked = next(testing.gradient_errors(kernels.load("numpy"))), []
    errors = [1e-9, 3e-8]

    def made_up(ops, *how):
        asked.append(how)
        return [first._replace(error=error) for error in errors]

    monkeypatch.setattr(testing, "gradient_errors", made_up)
    assert _guarded(["gradcheck", "--backend", "numpy"]) == 0
    right = "all correct: 2 gradients in float64, worst relative error 3.0e-08 (limit 1e-06)"
    assert capsys.readouterr().out.splitlines()[0] == right
    for wrong, told in ((2e-6, "2.0e-06"), (float("nan"), "inf")):
        errors[0] = wrong
        assert _guarded(["gradcheck", "--backend", "numpy"]) == 1
        lines = capsys.readouterr().out.splitlines()
        assert ["WRONG" in line for line in lines] == [True, False, True, False]
        assert told in lines[0]
    chosen = ["--cell", "gru", "--sizes", "4,3,5,2", "--layers", "2"]
    assert _guarded(["gradcheck", "--backend", "numpy", *chosen]) == 1
    assert asked[-1] == (0, ["gru"], testing.Sizes(4, 3, 5, 2), (2,))
    capsys.readouterr()
    for option, given, message in (
        ("--cell", "tree", "--cell: expected one of all, lstm, gru, rnn, lnlstm on the numpy backend, got 'tree'"),
        ("--sizes", "4,3", "--sizes: expected four whole numbers of at least 1, such as 5,2,7,3, got '4,3'"),
        ("--sizes", "4,3,x,2", "--sizes: expected four whole numbers of at least 1, such as 5,2,7,3, got '4,3,x,2'"),
    ):
        assert _guarded(["gradcheck", "--backend", "numpy", option, given]) == 2
        assert message in capsys.readouterr().err


def test_gradcheck_of_one_cell(charlstm_command):
    done = charlstm_command("gradcheck", "--backend", "numpy", "--cell", "rnn", "--sizes", "3,2,4,2", "--layers", 1)
    assert done.returncode == 0
    first, _, *rows = done.stdout.decode().splitlines()
    assert first.startswith(f"all correct: {len(rows)} gradients in float64")
    assert all(" rnn " in row or "cross_entropy" in row for row in rows)
    assert any("lengths reverse" in row for row in rows)


@pytest.mark.long
def test_gradcheck(charlstm_command):
    done = charlstm_command("gradcheck", "--backend", "numpy")
    assert done.returncode == 0
    lines = done.stdout.decode().splitlines()
    assert lines[0].endswith("(limit 1e-06)")
    assert lines[0].startswith(f"all correct: {len(lines) - 2} gradients")


def test_info(charlstm_command):
    done = charlstm_command("info")
    assert done.returncode == 0, done.stderr
    text = done.stdout.decode()
    assert "backend      numpy: available" in text
    assert f"backend      cupy: {kernels.missing('cupy') or 'available'}" in text
    assert "kernel cache" in text
    assert "text cache" in text


def test_help_lists_every_command_and_option(charlstm_command):
    done = charlstm_command("--help")
    assert done.returncode == 0
    assert all(word in done.stdout.decode() for word in ("train", "sample", "score", "gradcheck", "info"))
    text = charlstm_command("train", "--help").stdout.decode()
    assert all(word in text for word in ("--hidden-size", "[224]", "--resume", "|".join(OPTIMIZERS)))
    assert charlstm_command().returncode == 0
    assert charlstm_command("--version").stdout.decode().strip() == "charlstm, version 0.1.0"
