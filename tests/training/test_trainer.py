"""Budgets, validation, the plateau schedule, windows, samples at new best losses and after epochs."""

import json
import math

import numpy as np
import pytest
from conftest import BACKENDS, made_up_text

import kernels
from charlstm.errors import Diverged, UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.runs.begin import resume, start
from charlstm.settings.config import fitting_dropout, from_preset
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer
from kernels import spec

SMALL = {
    "hidden_size": 11, "seq_length": 7, "batch_size": 3, "report_every": 1, "sample_every": 0, "schedule": "constant",
    "learning_rate": 0.02, "dropout": 0.0, "weight_drop": 0.0, "mix": 0.0,
}  # fmt: skip


def small(**options):
    return from_preset(**{**SMALL, **options})


@pytest.fixture(scope="module")
def corpus():
    return Corpus.from_text(made_up_text(), "book")


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def trained(corpus, **options):
    """A trainer that has run, and every Progress that it yielded."""
    trainer = Trainer(small(**options), corpus)
    return trainer, list(trainer.run())


def of_kind(progress, kind):
    return [p for p in progress if p.kind == kind]


# ---------------------------------------------------------------------------------------------------------- budgets
@pytest.mark.parametrize(
    ("budgets", "iterations", "words"),
    [
        ({"epochs": 0.5}, 71, "0.5 epochs"),  # of 142 iterations
        ({"epochs": 2, "max_chars": 1000}, 48, "1,000 characters"),
        ({"iterations": 20, "max_chars": 1000}, 20, "20 iterations"),
        ({"iterations": 20, "until_loss": 0.1, "seconds": 1e6}, 20, "20 iterations"),
    ],
    ids=str,
)
def test_the_first_budget_that_is_reached_ends_the_run_and_is_named(corpus, budgets, iterations, words):
    trainer, progress = trained(corpus, **budgets)
    assert (trainer.iteration, trainer.ended_by()) == (iterations, words)
    assert progress[-1].chars == 21 * iterations


@pytest.mark.parametrize("recent", [50_000, 420])  # more than a pass; 20 iterations, which do not divide a pass
def test_until_loss_ends_where_the_mean_of_the_last_pass_or_characters_is_low(corpus, backend, monkeypatch, recent):
    monkeypatch.setattr("charlstm.training.trainer._RECENT", recent)
    _, progress = trained(corpus, iterations=450, backend=backend)
    losses = np.array([p.loss / 7 for p in of_kind(progress, "report")])
    size = 142 if recent == 50_000 else 20
    means = losses[: 450 // size * size].reshape(-1, size).mean(axis=1)
    at = int(np.argmin(means))
    limit = (means[at] + np.delete(means, at).min()) / 2
    assert at
    assert means[at] < limit < means[:at].min()
    trainer, _ = trained(corpus, until_loss=limit, backend=backend)
    assert trainer.iteration == (at + 1) * size
    assert trainer.ended_by() == f"a loss below {limit:g} nats per character"
    whole, _ = trained(corpus, iterations=trainer.iteration, backend=backend)
    assert trainer.theta.tobytes() == whole.theta.tobytes()


def test_until_loss_is_the_same_in_parts_and_begins_anew_where_it_is_asked_for_later(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("charlstm.training.trainer._RECENT", 420)
    until = {"until_loss": 2.0, "iterations": 2000, "schedule": "constant", "validation": 0.1, "validate_every": 7}
    whole = start(corpus, small(**until), str(tmp_path / "whole"))
    assert max(p.iteration for p in whole.train()) % 20 == 0
    parts = start(corpus, small(**until), str(tmp_path / "parts"))
    for progress in parts.train():
        parts.stop = progress.iteration >= 7
    parts = resume(tmp_path / "parts", corpus)
    assert parts.trainer.iteration == 7
    list(parts.train())
    assert 20 < parts.trainer.iteration == whole.trainer.iteration < 2000
    later = start(corpus, small(iterations=7, schedule="constant"), str(tmp_path / "later"))
    list(later.train())
    later = resume(tmp_path / "later", corpus, {"until_loss": 1e9})
    list(later.train())
    assert later.trainer.iteration == 40


def test_a_loss_alone_leaves_cosine_without_an_end(corpus):
    with pytest.raises(UserError, match="--schedule cosine: needs a known end"):
        Trainer(small(until_loss=1.0, schedule="cosine"), corpus).calibrate()


def test_budgets_are_totals(corpus, tmp_path):
    for _ in start(corpus, small(max_chars=21 * 30), str(tmp_path / "run")).train():
        pass
    more = resume(tmp_path / "run", corpus, {"epochs": 0.5})
    for _ in more.train():
        pass
    assert (more.trainer.iteration, more.trainer.ended_by()) == (71, "0.5 epochs")


# ------------------------------------------------------------------------------------------------------- validation
def test_the_text_and_the_processor_choose_what_the_config_leaves_open(tmp_path, monkeypatch):
    """The choices are stored with the run, which goes on with them wherever it goes on."""
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 1001))) * 2
    kinds = {"few": Corpus.from_text(many[:1000] * 2, "few"), "many": Corpus.from_text(many, "many")}
    sizes = {"hidden_size": 64, "batch_size": 4, "num_layers": 1}
    for gains, dtype in ((False, "float32"), (True, "bfloat16")):
        monkeypatch.setattr(kernels, "gains_by_bfloat16", lambda shape, batch_size, gains=gains: gains)
        for name, embedding_size in (("few", 0), ("many", 64)):
            config = Trainer(small(iterations=2, backend="numba", **sizes), kinds[name]).config
            assert (config.dtype, config.embedding_size) == (dtype, embedding_size)
    assert Trainer(small(iterations=2, backend="numpy", **sizes), kinds["few"]).config.dtype == "float32"
    run = start(kinds["few"], small(iterations=2, backend="numba", **sizes), str(tmp_path / "run"))
    list(run.train())
    monkeypatch.setattr(kernels, "gains_by_bfloat16", lambda shape, batch_size: False)
    again = resume(tmp_path / "run", kinds["few"], {"iterations": 3})
    assert (again.config.dtype, again.config.embedding_size) == ("bfloat16", 0)
    assert len(list(again.train())) > 0


def test_a_model_that_could_learn_the_text_by_heart_gets_dropout_and_weight_drop(corpus):
    assert [fitting_dropout(224, 1, n) for n in (0, 40_811, 418_543, 1_003_854, 10**7)] == [0.5, 0.5, 0.25, 0, 0]
    assert [fitting_dropout(hidden_size, 2, 10**6) for hidden_size in (11, 224, 512)] == [0, 0.2, 0.5]
    rate = fitting_dropout(40, 1, len(corpus.ids))
    assert rate > 0
    for name in ("dropout", "weight_drop"):
        for given, found in ((None, rate), (0.0, 0.0), (0.2, 0.2)):
            config = Trainer(small(backend="numpy", hidden_size=40, **{name: given}), corpus).config
            assert getattr(config, name) == found
        assert getattr(from_preset("quality"), name) is None
        assert getattr(from_preset("torch-rnn"), name) == 0


def test_the_end_of_the_text_is_kept_back_and_measured(corpus, backend):
    trainer, progress = trained(
        corpus, iterations=60, validation=0.2, validate_every=25, backend=backend, dtype="float64"
    )
    evaluations = of_kind(progress, "evaluation")
    assert [p.iteration for p in evaluations] == [25, 50, 60]
    first = Corpus("first", corpus.vocabulary, corpus.ids[:2400])
    without, _ = trained(first, iterations=60, backend=backend, dtype="float64")
    assert trainer.theta.tobytes() == without.theta.tobytes()  # nothing was learned from the end, no state was changed
    x = np.concatenate([[0], corpus.ids[2400:]]).astype(np.int32)[:, None]  # a text begins after a line break
    h, c = np.zeros((2, 1, 1, 11))
    loss = kernels.load("numpy").loss_and_grad(trainer.voices[0].theta, h, c, x, shape=trainer.shape)[0]
    assert evaluations[-1].val_bits_per_char == pytest.approx(loss / 600 / math.log(2), rel=1e-12)


def test_best_is_the_checkpoint_that_validation_likes_most(corpus, tmp_path):
    rising = {"iterations": 80, "validation": 0.2, "validate_every": 10, "learning_rate": 0.02, "hidden_size": 40}
    run = start(corpus, small(**rising), str(tmp_path / "run"))
    for _ in run.train():
        pass
    worse = resume(tmp_path / "run", corpus, {"iterations": 120, "learning_rate": 5.0})
    for _ in worse.train():
        pass
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {line["iteration"]: line["val_bits_per_char"] for line in lines if "val_bits_per_char" in line}
    assert list(measured) == list(range(10, 130, 10))
    best = min(measured, key=measured.get)
    assert best <= 80
    assert worse.load("best").iteration == best < worse.load("last").iteration
    assert all(line["val_perplexity"] == 2 ** measured[line["iteration"]] for line in lines if "val_perplexity" in line)


def test_patience_ends_the_run(corpus):
    trainer, progress = trained(
        corpus, iterations=500, validation=0.2, validate_every=10, patience=3, learning_rate=5.0, hidden_size=4
    )
    measured = [p.val_bits_per_char for p in of_kind(progress, "evaluation")]
    assert trainer.ended_by() == "the patience of 3 evaluations"
    assert trainer.iteration == 10 * len(measured) < 500
    best = int(np.argmin(measured))
    assert best == len(measured) - 4
    assert [p.is_best for p in of_kind(progress, "evaluation")][best:] == [True, False, False, False]


def test_a_validation_part_without_two_characters(corpus):
    with pytest.raises(UserError, match="--validation 0.0001: fewer than two characters of book are held out"):
        Trainer(small(iterations=1, validation=1e-4), corpus)


# --------------------------------------------------------------------------------------------------------- plateaus
@pytest.mark.parametrize("validation", [0.0, 0.2])
def test_a_plateau_lowers_the_rate(corpus, validation):
    trainer, progress = trained(
        corpus, iterations=700, learning_rate=3.0, schedule="plateau", decay_factor=0.25, plateau_patience=2,
        validation=validation, validate_every=20 if validation else None, hidden_size=4,
    )  # fmt: skip
    every = 20 if validation else trainer.batches.iterations_per_pass
    reports = {p.iteration: p for p in of_kind(progress, "report")}
    figures = {p.iteration: p.val_bits_per_char for p in of_kind(progress, "evaluation")}
    best, waited, rate = math.inf, 0, 3.0
    for n in range(700):
        if n and n % every == 0:
            figure = figures[n] if validation else reports[n - 1].smooth_loss
            best, waited = (figure, 0) if figure < best else (best, waited + 1)
            if waited == 2:
                rate, waited = rate / 4, 0
        assert reports[n].learning_rate == rate
    assert rate < 3.0


def everything(run):
    """What a run leaves behind, without times."""
    now = run.trainer.checkpoint()
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        del line["seconds"], line["chars_per_second"]
    arrays = [a.tobytes() for a in (now.theta, now.state, now.h, now.c)]
    return arrays, lines, now.marks, now.smooth_loss, (run.folder / "samples.txt").read_text()


@pytest.mark.parametrize(
    "options",
    [
        {"schedule": "plateau", "learning_rate": 3.0, "plateau_patience": 1, "validation": 0.2, "validate_every": 8},
        {"schedule": "plateau", "learning_rate": 3.0, "plateau_patience": 1, "seq_length": 30, "warmup": 50},
        {"windows": "9:4", "epoch_samples": "state", "sample_length": 20, "batch_size": 40, "schedule": "decay"},
        {"show_below": 1.0, "save_below": 0.95, "sample_length": 20, "temperature": 1.0},
        {"patience": 2, "learning_rate": 5.0, "validation": 0.2, "validate_every": 8, "hidden_size": 4},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_run_that_goes_on_is_as_if_it_had_not_ended(corpus, tmp_path, options):
    def run_to(total, folder):
        (tmp_path / folder).mkdir(exist_ok=True)
        goes_on = (tmp_path / folder / "last.safetensors").exists()
        chosen = {"iterations": total}
        run = (
            resume(tmp_path / folder, corpus, chosen)
            if goes_on
            else start(corpus, small(**options, **chosen), str(tmp_path / folder))
        )
        for _ in run.train():
            pass
        return run

    whole = everything(run_to(90, "whole"))
    for total in (20, 37, 90):
        parts = everything(run_to(total, "parts"))
    at_ends = {20, 37} & {line["iteration"] for line in parts[1] if "val_bits_per_char" in line}
    kept = [line for line in parts[1] if not (line["iteration"] in at_ends and "val_bits_per_char" in line)]
    assert kept == whole[1]
    assert parts[0] == whole[0]
    assert parts[3:] == whole[3:]
    waiting = [name for name in whole[2] if name != "best_validation"]  # also evaluated at the first run's end
    assert [parts[2][name] for name in waiting] == [whole[2][name] for name in waiting]


# ---------------------------------------------------------------------------------------------------------- windows
def test_the_loss_of_windows_is_that_of_one_character(corpus, backend):
    trainer, progress = trained(corpus, windows="9:4", batch_size=5, iterations=40, backend=backend, dtype="float64")
    assert trainer.config.seq_length == 9
    assert trainer.start_loss == math.log(len(corpus.vocabulary))
    first = of_kind(progress, "report")[0]
    assert first.bits_per_char == first.loss / math.log(2)
    fresh = Trainer(small(windows="9:4", batch_size=5, iterations=1, dtype="float64"), corpus)
    starts, reset = fresh.batches.plan(0, 1)
    assert reset.all()
    x = corpus.ids[starts[0] + np.arange(10)[:, None]].astype(np.int32)
    h, c = np.zeros((2, 1, 5, 11))
    loss, grad, *_ = kernels.load("numpy").loss_and_grad(fresh.theta, h, c, x, shape=fresh.shape, last_only=True)
    assert first.loss == pytest.approx(loss / 5, rel=1e-12)
    norm = np.linalg.norm(grad / 5)
    m = 0.1 * grad / 5 * min(1, 1 / norm)  # Adam's first step on the mean gradient, its norm clipped at 1
    step = 0.02 * (m / 0.1) / (np.sqrt((m / 0.1) ** 2) + 1e-8)
    list(fresh.run())
    begun = Trainer(small(windows="9:4", batch_size=5, iterations=1, dtype="float64"), corpus)
    assert begun.theta - fresh.theta == pytest.approx(step, abs=1e-9)


# ---------------------------------------------------------------------------------------------- samples at new bests
def shown_step_by_step(corpus, config):
    """The expected samples by the plain definition: one iteration at a time, on the reference."""
    trainer, ops = Trainer(config, corpus), kernels.load("numpy")
    best = limit = config.show_below * trainer.start_loss
    smooth, shown = trainer.start_loss, []
    for n in range(config.iterations):
        before = trainer.theta.copy()
        [loss] = trainer.train(n, n + 1, np.full(1, config.learning_rate))
        smooth = 0.999 * smooth + 0.001 * loss
        if smooth < best:
            best = smooth
            first = corpus.ids[trainer.batches.plan(n, n + 1)[0][0]].astype(np.int32)
            h, c = trainer.h.copy(), trainer.c.copy()
            uniforms = np.zeros((config.sample_length, 1))
            drawn = ops.sample(before, h, c, first, uniforms, shape=trainer.shape, temperature=0.0)
            shown.append((n, corpus.vocabulary.decode(drawn[:, 0]), smooth < config.save_below * trainer.start_loss))
    assert limit > best
    return shown


@pytest.mark.parametrize(("backend", "threads"), [("numpy", 1), ("numba", 1), ("numba", 3)])
def test_what_is_written_at_each_new_best(corpus, backend, threads):
    options = {
        "hidden_size": 64, "show_below": 0.98, "save_below": 0.97, "sample_length": 20, "iterations": 150, "seed": 1,
        "dtype": "float64",
    }  # fmt: skip
    expected = shown_step_by_step(corpus, from_preset("min-char-lstm-mod-2", backend="numpy", **options))
    config = from_preset("min-char-lstm-mod-2", backend=backend, threads=threads, **options)
    shown = of_kind(Trainer(config, corpus).run(), "sample")
    assert [(p.iteration, p.sample, p.is_kept) for p in shown] == expected
    assert 20 < len(shown) < 140
    assert {p.is_kept for p in shown} == {False, True}


def test_only_what_is_good_enough_is_saved(corpus, tmp_path):
    options = {"show_below": 0.95, "save_below": 0.9, "iterations": 900, "sample_length": 20, "hidden_size": 20}
    run = start(corpus, from_preset("min-char-lstm-mod-2", **options), str(tmp_path / "run"))
    kept = [p for p in run.train() if p.kind == "sample" and p.is_kept]
    blocks = (tmp_path / "run" / "samples.txt").read_text().split("# iteration ")[1:]
    assert [int(block.split()[0]) for block in blocks] == [p.iteration for p in kept]
    assert blocks[0] == f"{kept[0].iteration}  loss {kept[0].smooth_loss / 16:.6f}  temperature 0\n{kept[0].sample}\n\n"


def test_a_loss_that_is_not_finite_while_the_smoothed_one_is_low(corpus):
    trainer = Trainer(small(iterations=50, show_below=1.0, learning_rate=1e30, dtype="float32"), corpus)
    trainer.smooth_loss = 1.0  # as for a run with a low loss that has shown no sample yet
    trainer.theta[:] = np.nan
    with pytest.raises(Diverged, match="the loss of iteration 0 is nan"):
        pytest.fail(f"told of {next(trainer.run())}")
    assert trainer.iteration == 0


# ----------------------------------------------------------------------------------------------- samples after epochs
@pytest.mark.parametrize("kind", ["window", "state"])
def test_four_samples_after_each_epoch_go_on_from_one_piece_of_the_text(corpus, backend, kind):
    options = {"windows": "9:20", "batch_size": 50, "sample_length": 12, "epochs": 2, "backend": backend}
    trainer, progress = trained(corpus, epoch_samples=kind, **options)
    samples = of_kind(progress, "sample")
    assert [(round(p.epoch, 9), p.temperature) for p in samples] == [(e, t) for e in (1, 2) for t in (0.2, 0.5, 1, 1.2)]
    assert len({p.prime for p in samples}) == 2
    assert all(len(p.prime) == 40 and p.prime in made_up_text() and len(p.sample) == 12 for p in samples)
    silent, _ = trained(corpus, **options)
    assert trainer.theta.tobytes() == silent.theta.tobytes()


def test_the_window_is_read_anew_for_every_character(corpus):
    options = {"windows": "9:20", "batch_size": 50, "sample_length": 60, "epochs": 1}
    trainer, progress = trained(corpus, epoch_samples="window", **options)
    _, others = trained(corpus, epoch_samples="state", **options)
    random, ops = np.random.RandomState(0), kernels.load("numpy")
    assert trainer.config.seed == 0
    random.set_state(Trainer(trainer.config, corpus).random.get_state())
    random.randint(0, len(corpus.ids) - 39)
    for sample, other in zip(of_kind(progress, "sample"), of_kind(others, "sample"), strict=True):
        text = sample.prime
        for u in random.random_sample(60):
            ids = corpus.vocabulary.encode(text[-40:]).astype(np.int32)
            h, c = np.zeros((2, 1, 1, 11), np.float32)
            for x in ids[:-1, None]:
                ops.sample(trainer.theta, h, c, x, np.zeros((1, 1)), shape=trainer.shape)
            drawn = ops.sample(
                trainer.theta, h, c, ids[-1:], np.full((1, 1), u), shape=trainer.shape, temperature=sample.temperature
            )
            text += corpus.vocabulary.decode(drawn[0])
        assert sample.prime + sample.sample == text
        assert other.prime == sample.prime
        assert other.sample[0] == sample.sample[0]  # both have read the same forty characters then


def test_a_text_too_short_for_samples_after_epochs():
    with pytest.raises(UserError, match="the text has 39 characters; samples after an epoch need 40 to continue"):
        Trainer(small(seq_length=2, iterations=1, epoch_samples="state"), Corpus.from_text(made_up_text(39)))


def test_marks_stay_in_the_checkpoint(corpus):
    trainer, _ = trained(corpus, iterations=30, validation=0.2, validate_every=10)
    read = Checkpoint.from_bytes(trainer.checkpoint().to_bytes(), "x")
    assert read.marks == trainer.marks.to_dict()
    assert {"best_validation", "patience_best", "patience_waited"} <= set(read.marks)
    assert spec.SMOOTHING == 0.999
