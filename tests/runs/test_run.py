"""Training from end to end: the run folder, resuming, checkpoints, samples."""

import json
import os
import threading
import tomllib
from dataclasses import asdict
from itertools import pairwise

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import SMALL, everything, finish, small

import charlstm
from charlstm.errors import Diverged, UserError
from charlstm.model import checkpoint
from charlstm.runs import disk
from charlstm.runs.begin import Run, resume, start
from charlstm.settings.config import Config, from_model
from charlstm.text.corpus import ByteVocabulary, Corpus
from charlstm.training import steps
from charlstm.training.trainer import Trainer


def test_the_run_folder(text_file, tmp_path, backend):
    run = start([text_file], small(iterations=60, backend=backend), str(tmp_path / "run"))
    progress = finish(run)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [0, 10, 20, 30, 40, 50]
    assert set(lines[0]) == {
        "iteration", "chars", "epoch", "loss", "smooth_loss", "bits_per_char", "perplexity", "learning_rate", "seconds",
        "chars_per_second",
    }  # fmt: skip
    assert [line["chars"] for line in lines] == [21 * (line["iteration"] + 1) for line in lines]
    assert lines[0]["loss"] == pytest.approx(7 * lines[0]["bits_per_char"] * np.log(2))
    assert lines[-1]["bits_per_char"] < lines[0]["bits_per_char"]
    assert lines[0]["perplexity"] == pytest.approx(np.exp(lines[0]["loss"] / 7))
    assert lines[0]["learning_rate"] == 8e-3 > lines[-1]["learning_rate"] > 0
    assert all(a["seconds"] < b["seconds"] for a, b in pairwise(lines))
    samples = (tmp_path / "run" / "samples.txt").read_text().split("# iteration ")[1:]
    assert [block.split()[0] for block in samples] == ["0", "25", "50"]
    assert all(len(block.partition("\n")[2]) == 30 + 2 for block in samples)
    assert [p.iteration for p in progress if p.kind == "sample"] == [0, 25, 50]
    config = tomllib.loads((tmp_path / "run" / "config.toml").read_text())
    asked = {name: value for name, value in asdict(run.config).items() if value is not None}
    assert config == {name: list(value) if isinstance(value, tuple) else value for name, value in asked.items()}
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["backend"] == backend
    assert environment["versions"]["numpy"] == np.__version__
    assert {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*")} == {
        ".lock", "best.safetensors", "checkpoints", "checkpoints/step-000000000001.safetensors",
        "checkpoints/step-000000000060.safetensors", "config.toml", "environment.json", "last.safetensors",
        "metrics.csv", "metrics.jsonl", "samples.txt",
    }  # fmt: skip
    assert (tmp_path / "run" / "last.safetensors").samefile(tmp_path / "run/checkpoints/step-000000000060.safetensors")
    assert run.load("last").iteration == 60


def test_the_loss_falls_on_a_text_with_something_to_learn(corpus, tmp_path):
    run = start(corpus, small(iterations=600, hidden_size=32), str(tmp_path / "run"))
    progress = [p for p in finish(run) if p.kind == "report"]
    assert progress[0].bits_per_char > 3
    assert progress[-1].bits_per_char < 2.3


def test_smoothing_is_the_original_scripts(corpus, tmp_path):
    run = start(corpus, small(iterations=20, report_every=1), str(tmp_path / "run"))
    smooth = np.log(len(corpus.vocabulary)) * 7
    for p in (p for p in finish(run) if p.kind == "report"):
        smooth = 0.999 * smooth + 0.001 * p.loss
        assert p.smooth_loss == pytest.approx(smooth, rel=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimizer": "adagrad", "learning_rate": 0.05, "num_layers": 1},
        {"cell": "gru", "optimizer": "adamw", "weight_decay": 0.1},
        {"cell": "rnn", "backend": "numpy"},
        {
            "optimizer": "sgd",
            "learning_rate": 0.5,
            "momentum": 0.9,
            "dropout": 0.3,
            "weight_drop": 0.3,
            "embedding_size": 5,
        },
        {"batch_size": 9, "schedule": "decay", "decay_every": 0.3, "report_every": 1, "backend": "numpy"},
        {"windows": "9:4", "batch_size": 20, "num_layers": 1, "epoch_samples": "state", "optimizer": "rmsprop"},
        {"schedule": "plateau", "validation": 0.1, "validate_every": 7, "plateau_patience": 1, "learning_rate": 0.3},
        {"batch_size": 1, "optimizer": "adagrad", "learning_rate": 0.1, "show_below": 1.0, "loss_reduction": "sum"},
    ],
    ids=str,
)
@pytest.mark.parametrize("stops", [[0], [1], [25], [33], [20, 33, 47, 47]], ids=str)
def test_resuming_is_exact(corpus, tmp_path, stops, options):
    """47 is the edge of an epoch of nine streams."""
    options = {"schedule": "constant", **options}
    finish(start(corpus, small(iterations=60, **options), str(tmp_path / "whole")))
    parts = tmp_path / "parts"
    run = start(corpus, small(iterations=stops[0], **options), str(parts))
    for total in [*stops[1:], 60]:
        finish(run)
        run = resume(parts, corpus, {"iterations": total})
    finish(run)
    whole, resumed = everything(tmp_path / "whole"), everything(parts)
    assert resumed[:4] == whole[:4]


def test_a_run_that_goes_on_to_nowhere_keeps_its_last_evaluation(corpus, tmp_path):
    run = start(corpus, small(iterations=33, validation=0.1, validate_every=10), str(tmp_path / "run"))
    finish(run)
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert before.splitlines()[-1].startswith('{"iteration": 33, ')
    again = resume(tmp_path / "run", corpus)
    assert [p.kind for p in finish(again)] == ["evaluation"]
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[:-1] == before.splitlines()[:-1]
    assert json.loads(before.splitlines()[-1]).items() >= {"iteration": 33, "chars": 693}.items()
    assert (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[-1].startswith('{"iteration": 33, ')


MEASURED = {"validation": 0.1, "validate_every": 5, "report_every": 10, "schedule": "constant"}


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("stops", [[], [10], [15], [20, 20, 33], [40]], ids=str)
def test_an_iteration_with_a_report_and_a_measurement_has_one_line(corpus, tmp_path, stops):
    whole = start(corpus, small(iterations=42, **MEASURED), str(tmp_path / "whole"))
    told = {(p.kind, p.iteration): p for p in finish(whole)}
    parts = tmp_path / "parts"
    for number, total in enumerate([*stops, 42]):
        run = (
            resume(parts, corpus, {"iterations": total})
            if number
            else start(corpus, small(iterations=total, **MEASURED), str(parts))
        )
        finish(run)
        found = [line["iteration"] for line in metrics(parts)]
        assert found == [*(n for n in range(total) if n % 10 == 0 or (n and n % 5 == 0)), total]
        assert "val_bits_per_char" in metrics(parts)[-1]  # the last one has no report yet
    assert everything(parts) == everything(tmp_path / "whole")
    for line in metrics(parts)[1:]:
        n = line["iteration"]
        assert line["val_bits_per_char"] == told["evaluation", n].val_bits_per_char
        if n % 10 == 0:
            assert line["loss"] == told["report", n].loss


def test_a_measurement_that_waits_for_its_report_is_not_lost(corpus, tmp_path):
    """Whether the run ends in another way, or reports come at other times when it goes on."""
    run = start(corpus, small(iterations=42, **MEASURED), str(tmp_path / "run"))
    for progress in run.train():
        run.stop = progress.iteration == 20
    assert [line["iteration"] for line in metrics(tmp_path / "run")][-2:] == [15, 20]
    measured = metrics(tmp_path / "run")[-1]["val_bits_per_char"]
    for every, kinds in ((7, 20), (10, 20)):
        again = resume(tmp_path / "run", corpus, {"report_every": every, "iterations": 20})
        finish(again)
        assert [line["iteration"] for line in metrics(tmp_path / "run")][-2:] == [15, kinds]
    finish(resume(tmp_path / "run", corpus, {"report_every": 7, "iterations": 25}))
    lines = metrics(tmp_path / "run")
    assert [line["iteration"] for line in lines] == [0, 5, 10, 15, 20, 21, 25]
    assert lines[4]["val_bits_per_char"] == measured


def test_a_run_that_is_iterated_again_loses_no_line(corpus, tmp_path):
    run = start(corpus, small(iterations=33, validation=0.1, validate_every=10), str(tmp_path / "run"))
    for progress in run.train():
        if progress.iteration >= 15:
            run.stop = True
    run.stop = False
    finish(run)
    finish(run)
    finish(start(corpus, small(iterations=33, validation=0.1, validate_every=10), str(tmp_path / "whole")))
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")


def test_resuming_after_a_stop_in_the_middle_cuts_back_what_came_later(corpus, tmp_path, backend):
    finish(start(corpus, small(iterations=60, backend=backend), str(tmp_path / "whole")))
    run = start(corpus, small(iterations=60, backend=backend), str(tmp_path / "parts"))
    run.trainer.call_iterations = 1
    for progress in run.train():
        if progress.iteration >= 17:
            run.stop = True
    for name in ("metrics.jsonl", "samples.txt"):
        with open(tmp_path / "parts" / name, "a") as file:
            file.write("written after the checkpoint, before the crash\n")
    finish(resume(tmp_path / "parts", corpus))
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


def test_the_same_seed_gives_the_same_bits_and_another_does_not(corpus, tmp_path):
    runs = [start(corpus, small(iterations=30, seed=s), str(tmp_path / f"{k}")) for k, s in enumerate((1, 1, 2))]
    for k, run in enumerate(runs):
        run.trainer.call_iterations = (1, 7, 1)[k]  # how the iterations are cut into calls must not matter
        finish(run)
    one, same, other = (everything(run.folder) for run in runs)
    assert one == same
    assert one != other


def test_dropout_masks_depend_on_no_call(corpus, tmp_path, monkeypatch):
    options = small(iterations=30, dropout=0.5)
    one = start(corpus, options, str(tmp_path / "one"))
    finish(one)
    assert one.trainer.call_iterations > 1
    monkeypatch.setattr(steps, "_MASK_BYTES", 1)
    other = start(corpus, options, str(tmp_path / "other"))
    assert [p.iteration for p in finish(other) if p.kind == "tick"] == list(range(1, 31))  # one to a call
    assert everything(other.folder) == everything(one.folder)
    finish(start(corpus, small(iterations=30), str(tmp_path / "none")))
    assert everything(tmp_path / "none") != everything(one.folder)


def test_the_same_bits_with_dropout_for_any_number_of_threads(corpus, tmp_path):
    options = {
        "iterations": 20,
        "dropout": 0.3,
        "weight_drop": 0.4,
        "embedding_size": 6,
        "hidden_size": 100,
        "batch_size": 8,
    }
    for threads in (1, 2, 3):
        finish(start(corpus, small(threads=threads, **options), str(tmp_path / f"{threads}")))
    one, two, three = (everything(tmp_path / f"{threads}") for threads in (1, 2, 3))
    assert one == two == three


def test_a_checkpoint_from_before_an_option_has_its_default(saved):
    now = saved.trainer.checkpoint()
    rest = dict(vars(now.config))
    for name in ("embedding_size", "dropout", "weight_drop", "momentum", "weight_decay"):
        del rest[name]
    assert Config(**{**checkpoint._BEFORE, **rest}) == now.config


def test_a_budget_in_seconds_becomes_iterations(corpus, tmp_path):
    run = start(corpus, small(seconds=0.5), str(tmp_path / "run"))
    with pytest.raises(RuntimeError, match="calibrate"):
        _ = run.trainer.iterations
    theta = run.trainer.theta.copy()
    run.trainer.calibrate()
    assert (run.trainer.theta == theta).all()
    assert run.trainer.iteration == 0
    assert run.trainer.iterations > 10
    first = finish(run)[-1]
    assert first.iteration == run.trainer.iterations
    again = start(corpus, small(plans=run.config.plans), str(tmp_path / "again"))
    finish(again)
    assert everything(tmp_path / "again") == everything(tmp_path / "run")
    more = resume(tmp_path / "run", corpus, {"seconds": 1.0})
    finish(more)
    assert more.trainer.iterations > first.iteration
    assert finish(resume(tmp_path / "run", corpus)) == []  # the number is kept, whatever the clock says now
    both = start(corpus, small(seconds=1000, iterations=5), str(tmp_path / "both"))
    assert finish(both)[-1].iteration == 5
    with pytest.raises(
        UserError, match="no budget: give --iterations, --epochs, --max-chars, --seconds or --until-loss"
    ):
        start(corpus, small(seconds=None), str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_resume_refuses_what_would_not_be_the_same_run(corpus, text_file, tmp_path, monkeypatch):
    finish(start(corpus, small(iterations=5), str(tmp_path / "run")))
    with pytest.raises(UserError, match="--hidden-size cannot change when a run is resumed"):
        resume(tmp_path / "run", corpus, {"hidden_size": 12})
    assert resume(tmp_path / "run", corpus, {"hidden_size": 11}).trainer.iteration == 5
    with pytest.raises(UserError, match="other: not the text that this run was trained on"):
        resume(tmp_path / "run", Corpus.from_text(made_up_text(seed=9), "other"))
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "another cache"))
    with pytest.raises(
        UserError, match="run: its text came from book, which no longer exists, and the cache has no copy"
    ):
        resume(tmp_path / "run")
    with pytest.raises(UserError, match="no such run folder"):
        resume(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="no run with a checkpoint in runs/"):
        resume()
    finish(start([text_file], small(iterations=3)))
    finish(start([text_file], small(iterations=4)))
    newest = resume()
    assert newest.folder.as_posix() == "runs/book-2"
    with pytest.raises(
        UserError, match="runs/book-2: in use by this process: wait for it or stop it; if it has ended, rem"
    ):
        resume()
    newest._lock.release()
    text_file.write_text(made_up_text(seed=8))
    with pytest.raises(UserError, match="not the text"):
        resume()


def test_a_loss_that_is_not_finite_keeps_the_last_good_checkpoint(corpus, tmp_path, backend):
    options = {"schedule": "constant", "sample_every": 0, "backend": backend}
    finish(start(corpus, small(iterations=50, **options), str(tmp_path / "run")))
    kept = (tmp_path / "run" / "last.safetensors").read_bytes()
    worse = resume(tmp_path / "run", corpus, {"iterations": 90, "sample_every": 0})
    worse.trainer.theta[0] = np.nan
    with pytest.raises(
        Diverged, match=r"(the loss of iteration 50 is nan|a weight is not finite after 5\d iterations): training"
    ):
        finish(worse)
    assert (tmp_path / "run" / "last.safetensors").read_bytes() == kept


def test_best_is_the_checkpoint_of_the_lowest_smoothed_loss(corpus, tmp_path):
    run = start(corpus, small(iterations=300, save_every=1e-9, schedule="constant"), str(tmp_path / "run"))
    finish(run)
    again = resume(tmp_path / "run", corpus, {"iterations": 600, "learning_rate": 30.0})  # far too much
    finish(again)
    best, last = again.load("best"), again.load("last")
    assert best.iteration < last.iteration == 600
    assert best.smooth_loss < last.smooth_loss
    assert resume(tmp_path / "run", corpus)._best_loss == best.smooth_loss


# ------------------------------------------------------------------------------------ how the text is read, and from
def test_how_the_text_is_read_is_kept(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(made_up_text().upper(), "utf-16")
    options = {"lower": True, "separator": r"\t<>\n", "encoding": "utf-16", "iterations": 3}
    run = start([tmp_path], small(**options), str(tmp_path / "run"))
    finish(run)
    text = run.trainer.corpus.vocabulary.decode(run.trainer.corpus.ids)
    assert text == made_up_text() + "\t<>\n" + made_up_text()
    monkeypatch.chdir("/")
    assert finish(resume(tmp_path / "run", chosen={"iterations": 5}))[-1].iteration == 5
    with pytest.raises(UserError, match="--lower cannot change when a run is resumed"):
        resume(tmp_path / "run", chosen={"lower": False})
    model = run.load("last")
    assert model.sample("ABC", length=5, seed=1) == model.sample("abc", length=5, seed=1)


def test_a_text_that_is_gone_comes_from_the_cache(text_file, tmp_path, charlstm_command):
    options = ["--iterations", "5", "--out", "run", "--hidden-size", "4", "--backend", "numpy"]
    done = charlstm_command("train", "-", *options, stdin=made_up_text().encode())
    assert done.returncode == 0, done.stderr
    assert charlstm_command("train", "--resume=run", "--iterations", "7").returncode == 0
    finish(start([text_file], small(iterations=5), str(tmp_path / "moved")))
    text_file.rename(tmp_path / "elsewhere.txt")
    assert finish(resume(tmp_path / "moved", chosen={"iterations": 7}))[-1].iteration == 7
    text_file.write_text(made_up_text(seed=8))  # but what is there is not passed over
    with pytest.raises(UserError, match="not the text that this run was trained on"):
        resume(tmp_path / "moved")
    assert finish(resume(tmp_path / "moved", [tmp_path / "elsewhere.txt"], {"iterations": 9}))[-1].iteration == 9


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_not_waited_for_again(tmp_path):
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(made_up_text()))
    writer.start()
    finish(start([pipe], small(iterations=5), str(tmp_path / "run")))
    writer.join()
    assert finish(resume(tmp_path / "run", chosen={"iterations": 7}))[-1].iteration == 7


def test_a_model_of_bytes_writes_whole_characters(tmp_path):
    (tmp_path / "arrows.txt").write_text("\u2192" * 999, "utf-8")
    options = {"num_layers": 1, "iterations": 300, "bytes": True}
    run = start([tmp_path / "arrows.txt"], small(**options), str(tmp_path / "run"))
    finish(run)
    model = run.load("last")
    assert model.vocabulary == ByteVocabulary()
    pieces = list(model.stream("\u2192", length=300, temperature=0))
    assert len(pieces) > 3  # the first of 32 bytes, which is no whole number of arrows
    assert "".join(pieces) == "\u2192" * 101
    assert finish(resume(tmp_path / "run", chosen={"iterations": 302}))[-1].iteration == 302


@pytest.fixture
def new_text(tmp_path):
    (tmp_path / "new.txt").write_text(made_up_text(seed=7))
    return tmp_path / "new.txt"


def test_a_run_can_begin_with_anothers_weights(saved, new_text, tmp_path):
    new_text.write_text("abc " * 200)  # fewer kinds of characters than the model knows
    model, options = saved.load(), {"seq_length": 6, "batch_size": 4, "schedule": "constant"}
    run = start([new_text], from_model(model.config, iterations=8, **options), str(tmp_path / "parts"), model=model)
    now = run.trainer.checkpoint()
    assert now.theta.tobytes() == model.theta.tobytes()
    assert now.vocabulary == model.vocabulary
    assert model.state.any()
    assert (now.iteration, now.state.any(), now.h.shape) == (0, False, (1, 4, 3))
    finish(run)
    finish(resume(tmp_path / "parts", chosen={"iterations": 12}))
    finish(start([new_text], from_model(model.config, iterations=12, **options), str(tmp_path / "whole"), model=model))
    assert everything(tmp_path / "parts")[:4] == everything(tmp_path / "whole")[:4]
    other = from_model(model.config, dtype="float64", iterations=1)
    wide = start([new_text], other, str(tmp_path / "64"), model=model).trainer.theta
    assert wide.tobytes() == model.theta.astype(np.float64).tobytes()


def test_a_text_with_characters_that_the_model_lacks(saved, new_text, tmp_path):
    model, text = saved.load(), new_text.read_text()
    new_text.write_text(text.replace("b", "B"))
    with pytest.raises(
        UserError, match="new: the character 'B' at position .*--unknown skip leaves such characters out"
    ):
        start([new_text], from_model(model.config, iterations=1), str(tmp_path / "new"), model=model)
    assert not (tmp_path / "new").exists()
    for unknown, expected in {"skip": text.replace("b", ""), "replace:c": text.replace("b", "c")}.items():
        folder = tmp_path / unknown[:4]
        config = from_model(model.config, iterations=2, unknown=unknown)
        finish(start([new_text], config, str(folder), model=model))
        again = resume(folder)
        assert model.vocabulary.decode(again.trainer.corpus.ids) == expected
    with pytest.raises(UserError, match="a different vocabulary or sizes"):
        start(Corpus.from_text(text + "Z"), from_model(model.config), str(tmp_path / "n"), model=model)
    with pytest.raises(UserError, match="a different vocabulary or sizes"):
        start([new_text], small(iterations=1, unknown="skip", hidden_size=4, num_layers=1), "n", model=model)


def test_from_the_python_interface_and_from_a_run_of_bytes(new_text, tmp_path):
    options = {**SMALL, "iterations": 2, "report_every": 1}
    charlstm.train(new_text, out=str(tmp_path / "a"), bytes=True, **options)
    new_text.write_bytes(b"\xff\xfe\x00 anything goes " * 200)
    run = charlstm.train(new_text, out=str(tmp_path / "b"), from_run=tmp_path / "a", iterations=2)
    assert (run.config.bytes, run.config.hidden_size, run.config.num_layers) == (True, 11, 2)


# ---------------------------------------------------------------------------------------------------------- samples
def test_sampling(saved):
    model = saved.load()
    text = model.sample("ab", length=300, seed=3)
    assert text.startswith("ab")
    assert len(text) == 302
    assert set(text) <= set(model.vocabulary.characters)
    assert model.sample("ab", length=300, seed=3) == text
    assert model.sample("ab", length=300, seed=4) != text
    assert model.sample("ab", length=100, seed=3) == text[:102]  # longer only goes on
    assert model.sample("ab", length=300, seed=3, backend="numpy") == text
    pieces = list(model.stream("ab", length=300, seed=3))
    assert "".join(pieces) == text
    assert len(pieces) > 3
    greedy = model.sample(length=50, temperature=0)
    assert greedy == model.sample(length=50, temperature=0, seed=1)
    assert model.sample("", length=0) == ""


def test_a_prime_is_read_before_writing(corpus, tmp_path):
    run = start(corpus, small(iterations=400, hidden_size=32, num_layers=1), str(tmp_path / "run"))
    finish(run)
    model = run.load()
    texts = {model.sample(prime, length=20, temperature=0)[len(prime) :] for prime in ("a", "b", ".\n", "abc ")}
    assert len(texts) > 1


def test_prime_characters_it_never_saw(saved):
    model = saved.load()
    with pytest.raises(UserError, match="--prime: the character 'Q' at position 1 .*--unknown skip leaves"):
        model.sample("aQb")
    assert model.sample("aQb", unknown="skip", length=5, seed=1) == model.sample("ab", length=5, seed=1)
    with pytest.raises(UserError):
        model.sample(unknown="maybe")
    with pytest.raises(UserError):
        model.sample(temperature=-1)


def test_the_python_interface(text_file, tmp_path):
    run = charlstm.train(text_file, out=str(tmp_path / "run"), **SMALL, iterations=3)
    assert isinstance(run, Run)
    model = charlstm.load(tmp_path / "run")
    assert model.sample("a", length=3, seed=1) == run.load().sample("a", length=3, seed=1)
    config, corpus = charlstm.from_preset(**SMALL, iterations=3), charlstm.Corpus.from_text(made_up_text())
    steps = list(charlstm.Trainer(config, corpus).run())
    assert [p.iteration for p in steps if p.kind == "tick"][-1] == 3
    with pytest.raises(AttributeError, match="no attribute 'tain'"):
        _ = charlstm.tain


# ------------------------------------------------------------------------------------------- what once went wrong
def test_many_short_calls_between_samples(corpus, tmp_path):
    """The length of a call once doubled for ever when samples cut it short, until it was infinite."""
    tiny = {"hidden_size": 1, "num_layers": 1, "batch_size": 1, "seq_length": 1, "sample_length": 1}
    run = start(corpus, small(iterations=1200, sample_every=1, **tiny), str(tmp_path / "run"))
    assert finish(run)[-1].iteration == 1200
    assert run.trainer.call_iterations < 1e6


def test_resuming_touches_no_file_but_the_runs_own(saved, corpus):
    victim = saved.folder.parent / "victim.txt"
    victim.write_text("precious")
    now = saved.trainer.checkpoint()
    now.files = {"../victim.txt": 0, "metrics.jsonl": 10**6}
    disk.write(saved.folder / "last.safetensors", now.to_bytes())
    (saved.folder / "metrics.jsonl").write_text("short\n")
    resume(saved.folder, corpus)
    assert victim.read_text() == "precious"
    assert (saved.folder / "metrics.jsonl").read_text() == "short\n"  # never made longer


def test_a_damaged_best_does_not_stand_in_the_way(saved, corpus):
    (saved.folder / "best.safetensors").write_bytes(b"damaged")
    finish(resume(saved.folder / "last.safetensors", corpus, {"iterations": 20}))
    assert saved.load("best").iteration <= 20


def test_weights_that_no_text_can_be_drawn_by_are_one_line(corpus, tmp_path, backend):
    finish(start(corpus, small(iterations=25, backend=backend), str(tmp_path / "run")))
    run = resume(tmp_path / "run", corpus, {"iterations": 60})  # to begin with a sample
    run.trainer.theta[...] = np.nan
    with pytest.raises(
        Diverged, match="the model cannot sample: its weights have grown .*; the newest checkpoint is iteration 25"
    ):
        finish(run)
    model = run.load("last")
    model.theta[...] = np.nan
    with pytest.raises(Diverged, match="the model cannot sample"):
        model.sample(length=3, seed=1, backend=backend)


def test_weights_that_are_not_finite_are_not_saved(corpus, tmp_path):
    run = start(corpus, small(iterations=1, learning_rate=3e38), str(tmp_path / "run"))
    with pytest.raises(Diverged, match="a weight is not finite after 1 iterations"):
        finish(run)
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_a_trainer_alone_turns_its_seconds_into_iterations(corpus):
    trainer = Trainer(small(seconds=0.05), corpus)
    assert list(trainer.run())[-1].iteration == trainer.iterations


def test_the_figures_go_on_after_a_resume(corpus, tmp_path):
    finish(start(corpus, small(iterations=301, schedule="constant"), str(tmp_path / "run")))
    first = next(p for p in resume(tmp_path / "run", corpus, {"iterations": 303}).train() if p.kind == "tick")
    assert first.bits_per_char < 0.8 * np.log2(len(corpus.vocabulary))
