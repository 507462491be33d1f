"""A net and the n-gram beside it: the run's file, default weights, scores and samples of both, and adaptation."""

import json
import math

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

import charlstm
from charlstm.errors import UserError
from charlstm.model import mixing
from charlstm.model.model import load
from charlstm.ngram.beside import NGram, digest
from charlstm.ngram.growing import Growing
from charlstm.ngram.markov import Model as Markov
from charlstm.runs.begin import resume, start
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus

TEXT = made_up_text(6000)
HELD = TEXT[-600:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    run = start(
        Corpus.from_text(TEXT, "book"),
        small(iterations=60, validation=0.1, mix=0.5),
        str(tmp_path_factory.mktemp("mix") / "run"),
    )
    finish(run)
    return run.folder


def test_a_run_learns_the_n_gram_of_its_training_text_and_keeps_it_once(folder):
    model = load(folder)
    data = (folder / "ngram.safetensors").read_bytes()
    assert model.mix["digest"] == digest(data) == load(folder, "last").mix["digest"]
    ids = Corpus.from_text(TEXT).ids
    markov = Markov.learn(ids[: len(ids) - 600], len(model.vocabulary), 8)
    assert NGram.of(markov).to_bytes() == data == NGram.from_bytes(data, "x").to_bytes()
    assert load(folder, str(next((folder / "checkpoints").iterdir()))).ngram.to_bytes() == data
    found, depths = model.ngram.log_probs(ids[-600:], ids[:-600])
    windows = np.lib.stride_tricks.sliding_window_view(ids[-608:].astype(np.int64), 9)
    assert (found == np.log(markov._probabilities(windows, "kneser-ney"))).all()
    assert depths.max() == 8
    assert depths.min() < 8


def test_the_score_is_that_of_the_mixture_and_says_that_of_its_parts(folder):
    model = load(folder)
    both, net, ngram = (model.score(HELD, mix=mix) for mix in (0.5, 0, 1.0))
    expected = np.log(0.5 * np.exp(net.log_probs) + 0.5 * np.exp(ngram.log_probs))
    assert both.log_probs == pytest.approx(expected, rel=1e-12)
    assert both.net_bits_per_char == pytest.approx(net.bits_per_char, rel=1e-12)
    assert both.ngram_bits_per_char == pytest.approx(ngram.bits_per_char, rel=1e-12)
    assert net.parts is net.ngram_bits_per_char is None
    facts = model.mix
    assert [facts[name] for name in ("mixture", "net", "ngram")] == pytest.approx(
        [both.bits_per_char, both.net_bits_per_char, both.ngram_bits_per_char], rel=1e-6
    )
    assert (facts["weight"], model.score(HELD).bits_per_char) == (0.5, both.bits_per_char)
    [line] = model.scores([HELD])
    assert line.log_probs == pytest.approx(both.log_probs, rel=1e-5)


def test_learned_weights_follow_what_is_read(folder):
    model = load(folder)
    net, ngram = (model.score(HELD, mix=mix).log_probs for mix in (0, 1))
    mixer = mixing.chosen(model, "learned")
    found = [mixer.mixed(*np.array([[a], [b]]), np.array([3])) for a, b in zip(net, ngram, strict=True)]
    whole = mixing.chosen(model, "learned").mixed(net, ngram, np.full(600, 3))
    assert whole.tolist() == np.concatenate(found).tolist()
    assert mixer.weights[3] > 0.7  # the net has been trained for 60 iterations only
    assert set(np.delete(mixer.weights, 3)) == {0.5}
    assert model.score(HELD, mix="learned").bits_per_char < model.score(HELD, mix=0.5).bits_per_char


def test_samples_are_scored_as_they_were_drawn(folder):
    model = load(folder)
    for mix in (0, 0.3, None):
        [one] = model.samples("ab", length=150, seed=4, mix=mix, top_k=5)
        text = model.score("ab" + one.text, mix=mix)
        assert one.log_probs == pytest.approx(text.log_probs[2:], rel=1e-3, abs=1e-4)
    assert model.sample(seed=1, mix="learned") == model.sample(seed=1, mix=0.5)  # nothing has been read
    assert model.sample(TEXT[:200], seed=1, mix="learned") != model.sample(TEXT[:200], seed=1, mix=0.5)
    assert model.sample(seed=1, mix=0) != model.sample(seed=1, mix=0.5)


def test_without_its_n_gram_the_net_speaks_alone_and_says_so(folder, tmp_path):
    (tmp_path / "best.safetensors").write_bytes((folder / "best.safetensors").read_bytes())
    for content, why in ((None, "cannot be read"), (b"other", "not the n-gram that the checkpoint names, or damaged")):
        if content is not None:
            (tmp_path / "ngram.safetensors").write_bytes(content)
        model = load(tmp_path)
        assert model.score(HELD).bits_per_char == load(folder).score(HELD, mix=0).bits_per_char
        assert why in mixing.said(model, None)
        with pytest.raises(UserError, match=f"^--mix 0.5: .*{why}"):
            model.score(HELD, mix=0.5)
    with pytest.raises(UserError, match="--mix: expected a weight from 0 to 1 or learned, got 'half'"):
        load(folder).sample(mix="half")


def test_the_net_alone_is_the_default_where_it_wins(folder, monkeypatch):
    facts = {"digest": "", "weight": 0.0, "net": 1.0, "ngram": 3.0, "mixture": 1.5}
    assert mixing.in_words(facts, "char").endswith("sample and score use the net alone (--mix 0)")
    model = load(folder)
    model.mix = {**model.mix, "weight": 0.0}
    assert mixing.chosen(model, None) is None
    assert mixing.said(model, None) == "mix     the net alone, which did better on held-out text"


def test_a_resumed_run_reads_the_file_or_learns_it_again(corpus, tmp_path):
    run = start(corpus, small(iterations=12, mix=0.5), str(tmp_path / "run"))
    finish(run)
    file = run.folder / "ngram.safetensors"
    data, weights = file.read_bytes(), load(run.folder, "last").mix
    assert weights == {"digest": digest(data), "weight": 0.5}
    file.unlink()
    again = resume(run.folder, chosen={"iterations": 20})
    finish(again)
    assert any(note.startswith("n-gram  order 8 of 3,000 characters, learned in ") for note in again.notes)
    assert file.read_bytes() == data
    more = resume(run.folder, chosen={"iterations": 30})
    finish(more)
    assert not any(note.startswith("n-gram") for note in more.notes)
    assert load(run.folder, "last").mix == weights


def test_runs_without_mixture(corpus, tmp_path):
    for config in (small(iterations=2, mix=0), small(iterations=2, preset="char-rnn", mix=from_preset("char-rnn").mix)):
        run = start(corpus, config, str(tmp_path / config.preset))
        finish(run)
        assert (run.config.mix, run.model.mix, run.model.ngram) == (0, {}, None)
        assert not (run.folder / "ngram.safetensors").exists()
    with pytest.raises(UserError, match="--mix 0.5: the run has no n-gram: it was trained with --mix 0"):
        run.model.score("ab", mix=0.5)


def test_large_texts_are_learned_from_pieces(monkeypatch):
    from charlstm.ngram import beside

    ids = Corpus.from_text(TEXT).ids
    monkeypatch.setattr(beside, "MOST_CHARS", 640)
    model = NGram.learn(ids, 30)
    starts = np.linspace(0, len(ids) - 10, 64).astype(int)
    pieces = np.concatenate([ids[at : at + 10] for at in starts])
    assert model.to_bytes() == NGram.of(Markov.learn(pieces, 30, 8)).to_bytes()


# ----------------------------------------------------------------------------------------------------------- adaptation
def test_what_was_read_counts_as_if_it_had_been_learned():
    ids, V = Corpus.from_text(TEXT).ids, 30
    growing = Growing(NGram.learn(ids[:2000], V), ids[:2000])
    found, depths = growing.read(ids[2000:2100])
    for n in range(0, 100, 9):
        model = NGram.learn(ids[: 2000 + n], V)
        expected, depth = model.log_probs(ids[2000 + n : 2001 + n], ids[: 2000 + n])
        assert (found[n], depths[n]) == (expected[0], depth[0])


def test_adaptation_learns_after_each_segment_wherever_pieces_are_cut(folder):
    from charlstm.model.scoring import Scorer

    model = load(folder)
    before = model.theta.copy()
    text = "hhhh gggg.\n" * 60
    adaptive, static = model.score(text, mix=0, adapt=True), model.score(text, mix=0)
    assert (model.theta == before).all()
    assert adaptive.log_probs[:16] == pytest.approx(static.log_probs[:16], rel=1e-6)
    assert abs(adaptive.log_probs[16:32] - static.log_probs[16:32]).max() > 1e-3
    assert adaptive.bits_per_char < static.bits_per_char - 0.05
    scorer = Scorer(model, adapt=True, mix=0)
    ids, reader = scorer.encoded(text)[0], scorer.reader()
    pieces = [reader.read(ids[a:b])[0] for a, b in ((0, 5), (5, 16), (16, 50), (50, 660))]
    assert np.concatenate(pieces) == pytest.approx(adaptive.log_probs, rel=1e-3, abs=1e-4)
    both = model.score(text, adapt=True)
    assert both.ngram_bits_per_char < model.score(text).ngram_bits_per_char
    assert model.score(text, adapt=True).log_probs.tolist() == both.log_probs.tolist()


def test_a_sample_adapts_to_a_passage(folder):
    model = load(folder)
    passage = "hhhh gggg.\n" * 60
    adapted, plain = (model.sample(length=300, seed=2, mix=0, adapt_to=to) for to in (passage, ""))
    assert sum(adapted.count(each) for each in "gh") > 2 * sum(plain.count(each) for each in "gh")
    assert model.sample(length=50, seed=2, adapt_to=passage) == model.sample(length=50, seed=2, adapt_to=passage)
    with pytest.raises(UserError, match="^--adapt-to: "):
        model.sample(adapt_to="§")


def test_the_command_line(folder, tmp_path, charlstm_command):
    (tmp_path / "held.txt").write_text(HELD)
    done = charlstm_command("score", folder, "held.txt", "--json", "--adapt")
    found = json.loads(done.stdout)
    assert not [name for name in found if name.startswith("bits")]
    assert found["adaptive_bits_per_char"] < found["adaptive_net_bits_per_char"]
    assert done.stderr.decode() == "mix     the net and its n-gram, weight 0.5; --mix 0: the net alone\n"
    done = charlstm_command("score", folder, "held.txt", "--lines", "--adapt")
    assert done.returncode == 2
    done = charlstm_command("sample", folder, "--seed", 3, "--mix", "learned", "--adapt-to", "held.txt", "--length", 20)
    expected = load(folder).sample(length=20, seed=3, mix="learned", adapt_to=HELD)
    assert done.stdout.decode() == expected
    assert math.isfinite(charlstm.load(folder).score(HELD).bits_per_char)
