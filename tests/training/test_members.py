"""Several nets side by side: each is a net of its own, they speak together, and the best of several seeds is kept."""

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import everything, finish, small

import kernels
from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.model.model import load
from charlstm.runs import report
from charlstm.runs.begin import prepared, resume, start
from charlstm.runs.inspection import inspect
from charlstm.settings.config import from_model, from_preset
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer
from charlstm.travel import files

TEXT = made_up_text()
CORPUS = Corpus.from_text(TEXT, "book")
OPTIONS = {"num_layers": 1, "backend": "numpy", "validation": 0.1, "seed": 3, "dropout": 0.1}
MEMBERS = {"members": "lstm:7,gru:5"}
ALONE = {"cell": "lstm", "hidden_size": 7}, {"cell": "gru", "hidden_size": 5, "seed": 4}  # the same nets


def trained(folder, **options):
    run = start(CORPUS, small(**{"iterations": 30, **OPTIONS, **options}), str(folder))
    finish(run)
    return run


def ended(**options):
    """The checkpoint that a training without a folder ends with."""
    trainer = Trainer(small(**{**OPTIONS, "iterations": 12, **options}), CORPUS)
    list(trainer.run())
    return trainer.checkpoint()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("members")


@pytest.fixture(scope="module")
def both(folder):
    trained(folder / "both", **MEMBERS, mix=0.5)
    return load(folder / "both")


@pytest.fixture(scope="module")
def each(folder):
    """The nets of `both`, each trained by itself."""
    runs = [trained(folder / own["cell"], **own) for own in ALONE]
    return [run.load("last") for run in runs]


@pytest.mark.parametrize("windows", [None, "7:3"])
def test_a_member_is_the_net_that_a_run_of_its_own_trains(windows):
    nets = ended(windows=windows, **MEMBERS).memories
    for net, own in zip(nets, ALONE, strict=True):
        alone = ended(windows=windows, **own)
        for name in ("theta", "state", "h", "c"):
            assert getattr(net, name).tobytes() == getattr(alone, name).tobytes(), (own, name)


@pytest.mark.skipif("numba" not in kernels.available(), reason="needs Numba")
def test_bits_do_not_depend_on_the_number_of_threads():
    found = [ended(**MEMBERS, backend="numba", threads=threads) for threads in (1, 2, 5)]
    for name in ("theta", "state", "h", "c", "smooth_loss"):
        assert len({np.asarray(getattr(one, name)).tobytes() for one in found}) == 1, name


def test_they_score_by_the_mean_of_their_probabilities(both, each):
    text = TEXT[:200]
    rows = [model.score(text).log_probs for model in each]
    together = both.score(text, mix=0)
    assert together.log_probs == pytest.approx(np.log(np.exp(rows).mean(axis=0)), abs=1e-12)
    assert both.scores([text, text[:9]], mix=0)[0].nats == pytest.approx(together.nats, rel=1e-6)
    mixed = both.score(text, mix=0.3)
    assert mixed.parts[0] == pytest.approx(together.nats)
    ngram = both.score(text, mix=1).log_probs
    expected = np.log(0.7 * np.exp(rows).mean(axis=0) + 0.3 * np.exp(ngram))
    assert mixed.log_probs == pytest.approx(expected, abs=1e-12)
    adapted = [model.score(text, adapt=True).log_probs for model in each]
    found = both.score(text, mix=0, adapt=True).log_probs
    assert found == pytest.approx(np.log(np.exp(adapted).mean(axis=0)), abs=1e-12)
    assert both.each["bits"] == pytest.approx([model.marks["best_validation"] for model in each])


@pytest.mark.parametrize("mix", [0, 0.4])
@pytest.mark.parametrize("backend", [name for name in ("numpy", "numba") if name in kernels.available()])
def test_they_write_what_they_would_score(both, mix, backend):
    one, other = both.samples(TEXT[:20], 2, length=40, seed=5, mix=mix, backend=backend)
    for sample in (one, other):
        scored = both.score(sample.prime + sample.text, mix=mix).log_probs[20:]
        assert sample.log_probs == pytest.approx(scored, abs=2e-5)
    assert one.text != other.text
    assert both.sample(TEXT[:20], length=40, seed=5, mix=mix, backend=backend) == one.prime + one.text
    cold = both.score(likeliest := both.sample(length=9, temperature=0, mix=mix, backend=backend), mix=mix).log_probs
    assert both.score(likeliest[:-1] + "~", mix=mix, unknown="charge").log_probs[:-1] == pytest.approx(cold[:-1])
    assert len(both.sample("a", length=5, seed=1, adapt_to=TEXT[:40], backend=backend)) == 6


def test_a_resumed_run_is_that_of_one_that_was_not_stopped(folder):
    options = {**MEMBERS, "validate_every": 10, "mix": 0.5, "average": 0.3, "schedule": "constant"}
    trained(folder / "whole", **options, iterations=40)
    trained(folder / "parts", **options, iterations=17)
    run = resume(folder / "parts", CORPUS, {"iterations": 40})
    run.trainer.call_iterations = 1
    finish(run)
    assert everything(folder / "parts") == everything(folder / "whole")
    assert load(folder / "parts", "last").each == load(folder / "whole", "last").each


def test_a_checkpoint_holds_all(both):
    read = Checkpoint.from_bytes(both.to_bytes(), "x")
    assert read.to_bytes() == both.to_bytes()
    assert [voice.shape.cell for voice in read.voices] == ["lstm", "gru"]
    assert [voice.theta.tobytes() for voice in read.voices] == [voice.theta.tobytes() for voice in both.voices]
    from safetensors.numpy import load as tensors_of

    assert tensors_of(both.to_bytes())["net2.W_h_l0"].shape == (5, 15)
    both.each, kept = {"bits": [1.0]}, both.each
    with pytest.raises(
        UserError, match="x: undamaged, but not readable by this version of charlstm: each has 1 figures"
    ):
        Checkpoint.from_bytes(both.to_bytes(), "x")
    both.each = kept


def test_another_run_starts_from_all(both):
    config = from_model(both.config, "fast", iterations=1, **{**OPTIONS, "validation": 0.0})
    found = prepared(CORPUS, config, model=both).checkpoint()
    assert found.theta.tobytes() == both.theta.tobytes()
    with pytest.raises(UserError, match="--members: the model of --from has lstm:7,gru:5, got 3; leave it out"):
        from_model(both.config, members=3)


def test_what_reads_a_run_tells_of_them(both, each, folder, tmp_path):
    words = "LSTM, 1 x 7 + GRU, 1 x 5"
    assert words in repr(both)
    found = inspect(folder / "both", "best")
    assert found["model"]["nets"] == words
    assert found["each"].startswith(f"members {words}: {both.each['bits'][0]:.3f}, ")
    path, said = files.export(folder / "both", "json", tmp_path / "net.json", member=2)
    assert said.startswith("GRU, 1 x 5, ")
    assert said.endswith("; not in it: 1 of 2 members (--member), the run's n-gram, which sample and score use, too")
    assert files.read(path).theta.tobytes() == both.voices[1].theta.tobytes()
    with pytest.raises(UserError, match="--member: expected 1 to 2, as many as speak together, got 3"):
        files.export(folder / "both", "json", tmp_path / "net.json", member=3)
    page = report.contents(folder / "both", sampler=True)
    assert page["facts"]["shown"] == "only the first of 2 members"
    assert (page["model"]["cell"], page["model"]["H"]) == ("lstm", 7)


def test_of_several_seeds_the_best_speaks(folder):
    run = trained(folder / "seeds", seeds=3, cell="gru", hidden_size=5, iterations=60)
    alone = [trained(folder / f"seed-{k}", cell="gru", hidden_size=5, iterations=60, seed=k) for k in (3, 4, 5)]
    bits = [
        one.load("last").score("".join(CORPUS.vocabulary.decode(one.trainer.held_out))).bits_per_char for one in alone
    ]
    last, best = load(folder / "seeds", "last"), int(np.argmin(bits))
    assert last.each["bits"] == pytest.approx(bits)
    (voice,) = last.voices
    assert voice.theta.tobytes() == alone[best].trainer.theta.tobytes()
    assert run.model.marks["best_validation"] == min(one.trainer.marks.best_validation for one in alone)
    assert any(note.endswith(f"; seed {3 + best} speaks") for note in run.notes)
    assert last.alone().config.seed == 3 + best


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"members": 0},
            "--members: expected 1 to 64, or CELL:HIDDEN_SIZE for each, such as lstm:224,gru:256, got '0'",
        ),
        ({"members": "lstm,foo:3"}, "--members: expected 1 to 64, or CELL:HIDDEN_SIZE"),
        ({"members": "lstm:0,gru:3"}, "--hidden-size: expected at least 1, got 0"),
        ({"members": 2, "seeds": 2, "validation": 0.1}, "--seeds: keeps one net, and --members averages several"),
        ({"seeds": 2}, "--seeds: needs --validation, to tell which seed is the best"),
        ({"members": 2, "show_below": 0.5}, "--show-below: stops in the middle of a call for one net"),
        ({"members": "lstm,gru", "init": "min-char-lstm"}, "--init min-char-lstm: only for --cell lstm, not gru"),
    ],
    ids=str,
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(UserError, match=f"^{message}"):
        from_preset(**options)


def test_members_are_counted_or_named():
    assert [(net.cell, net.hidden_size, net.seed) for net in from_preset(members=2, seed=7, hidden_size=9).nets] == [
        ("lstm", 9, 7), ("lstm", 9, 8)
    ]  # fmt: skip
    assert [(net.cell, net.hidden_size) for net in from_preset(members="gru:9,lstm").nets] == [
        ("gru", 9),
        ("lstm", 224),
    ]
    assert from_preset(members="gru:9").cell == "gru"
