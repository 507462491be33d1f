"""Units of displayed figures: nats and bits per character, or per byte for a byte model; sums only as a script has them."""

import json
import math

import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.runs.begin import start
from charlstm.show.display import Lines, evaluation, summary
from charlstm.text.corpus import ByteVocabulary, Corpus
from charlstm.training.progress import Progress, told_line
from charlstm.training.trainer import Trainer

CHINESE = "今天天气很好。\n" * 60


def progress_of(nats, steps, **more):
    """A report whose mean loss is this many nats per step."""
    bits = nats / math.log(2)
    plain = {"kind": "tick", "iteration": 1, "iterations": 2, "chars": 24, "epoch": 0.1, "learning_rate": 0.1}
    rest = {"loss": nats * steps, "smooth_loss": nats * steps, "seconds": 1.0, "chars_per_second": 24.0}
    return Progress(**{**plain, **rest, "bits_per_char": bits, "loss_chars": steps, **more})


@pytest.mark.parametrize("steps", [24, 32])
def test_a_loss_of_48_16_over_24_steps_is_told_as_that_of_a_character(steps):
    progress = progress_of(48.16 / 24, steps, val_bits_per_char=2.0)
    assert summary(progress).startswith("loss 2.007  2.895 bits/char  perplexity 7.44  24 chars/s")
    assert evaluation(progress).startswith("iteration 1  validation 2.0000 bits/char (1.3863 nats), perplexity 4.00")
    assert json.loads(told_line(progress))["loss"] == pytest.approx(2.0067, abs=1e-4)


def test_a_model_of_bytes_is_told_by_the_byte_with_the_character_beside_it():
    progress = progress_of(
        math.log(2), 24, bits_per_byte=1.0, bits_per_char=3.0, val_bits_per_byte=2.0, val_bits_per_char=6.0
    )
    assert summary(progress).startswith(
        "loss 0.693/byte  1.000 bits/byte (3.000 bits/char)  perplexity 8.00  24 bytes/s"
    )
    assert "validation 2.0000 bits/byte (1.3863 nats), 6.0000 bits/char, perplexity 64.00" in evaluation(progress)


@pytest.mark.parametrize("cut", range(7))
def test_characters_of_bytes_are_counted_as_they_are_shown(monkeypatch, cut):
    monkeypatch.setattr("charlstm.text.vocabulary._PIECE", 3)
    content = ("今天 aé" * 3).encode()[cut:] + b"\xe4\xff\xc3"
    corpus = Corpus.from_bytes(content)
    assert corpus.vocabulary.count_characters(corpus.ids) == len(content.decode("utf-8", "replace"))


def test_a_run_of_bytes(tmp_path):
    corpus = Corpus.from_bytes(CHINESE.encode(), "chinese")
    run = start(corpus, small(iterations=21, validation=0.1, validate_every=7), str(tmp_path / "run"))
    told = finish(run)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    size = len(CHINESE.encode())
    assert all(line["bits_per_char"] / line["bits_per_byte"] == pytest.approx(22 / 8, rel=0.01) for line in lines)
    measured = next(line for line in lines if "val_bits_per_char" in line)
    tail = CHINESE.encode()[size - round(size * 0.1) :]
    per_char = len(tail) / len(tail.decode("utf-8", "replace"))
    assert measured["val_bits_per_char"] == pytest.approx(measured["val_bits_per_byte"] * per_char, rel=1e-12)
    report = next(p for p in told if p.kind == "report")
    assert report.nats_per_char == pytest.approx(report.loss / 7, rel=1e-12)
    assert "bits/byte (" in summary(report)


def test_metrics_and_samples_of_a_run(tmp_path, corpus, capsys):
    run = start(corpus, small(iterations=26, report_every=1), str(tmp_path / "run"))
    for progress in run.train():
        Lines().show(progress)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[3]["loss"] == pytest.approx(7 * math.log(2) * lines[3]["bits_per_char"], rel=1e-12)
    heads = [line for line in (tmp_path / "run" / "samples.txt").read_text().splitlines() if line.startswith("# iter")]
    assert [float(head.split()[4]) for head in heads] == [
        pytest.approx(math.log(len(corpus.vocabulary)), abs=1e-6),
        pytest.approx(lines[24]["smooth_loss"] / 7, abs=1e-6),
    ]
    assert float(capsys.readouterr().err.split("loss ")[1].split()[0]) < 3


def test_inspect_and_the_baseline_name_their_unit(charlstm_command, tmp_path):
    (tmp_path / "t.txt").write_text(made_up_text(4000))
    plain = [
        "train",
        "t.txt",
        "--bytes",
        "--hidden-size",
        8,
        "--iterations",
        20,
        "--validation",
        0.1,
        "--report-every",
        5,
    ]
    done = charlstm_command(*plain, "--json")
    assert done.returncode == 0, done.stderr
    assert b"bits/byte on 400 held-out bytes" in done.stderr
    assert b"bits per character" not in done.stderr
    told, *others = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["iteration"] for one in others] == [2, 4, 5, 6, 8, 10, 12, 14, 15, 16, 18, 20]
    assert [others[k]["val_bits_per_char"] > 0 for k in (5, 11)] == [True, True]  # one with a report, one without
    written = json.loads((tmp_path / "runs/t/metrics.jsonl").read_text().splitlines()[0])
    assert told["loss"] == pytest.approx(written["loss"] / 24, rel=1e-12)
    assert told["loss"] == pytest.approx(math.log(2) * told["bits_per_byte"], rel=1e-12)
    shown = charlstm_command("inspect", "runs/t").stdout.decode()
    assert "nats per byte" in shown
    assert "t: 4,000 bytes, SHA-256" in shown
    assert "trained  20 iterations, 7,680 bytes" in shown
    rows = [line.split() for line in shown.partition("held-out")[2].splitlines()[1:]]
    assert [int(row[0]) for row in rows] == list(range(2, 21, 2))
    assert all(0 < float(row[3]) < 10 for row in rows)
    assert "bits/byte" in shown
    assert all(0 < float(row[1]) < math.log(256) for row in rows)
    assert all(float(row[2]) == pytest.approx(float(row[1]) / math.log(2), rel=1e-3) for row in rows)


def test_a_markov_model_of_bytes(charlstm_command, tmp_path):
    (tmp_path / "t.txt").write_text(CHINESE)
    assert b" bits per byte, " in charlstm_command("ngram", "t.txt", "--bytes").stderr
    told = json.loads(charlstm_command("ngram", "t.txt", "--bytes", "--json").stdout)
    tail = CHINESE.encode()[-round(0.1 * len(CHINESE.encode())) :]
    assert (told["chars"], told["bytes"]) == (len(CHINESE), len(CHINESE.encode()))
    assert told["bits_per_char"] * len(tail.decode("utf-8", "replace")) == pytest.approx(
        told["bits_per_byte"] * len(tail), rel=1e-12
    )


def test_a_trainer_of_bytes_that_are_no_text():
    corpus = Corpus("noise", ByteVocabulary(), Corpus.from_bytes(bytes(range(256)) * 3).ids)
    assert 1 <= Trainer(small(iterations=1), corpus)._units_per_char < 1.5
