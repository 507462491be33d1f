"""Scoring a text. test_chain.py and test_peers.py test the kernels' part."""

import math

import numpy as np
import pytest
from conftest import made_up_text

import kernels
from charlstm.errors import UserError
from charlstm.model import forward, scoring
from kernels import spec


def plain_log_probs(model, text):
    """ln p character by character in plain NumPy, from a zero state and a line break."""
    theta = model.voices[0].theta.astype(np.float64)
    params, H = spec.params(theta, model.shape), model.shape.hidden_size
    [layer] = params.layers
    h, c, last, out = np.zeros(H), np.zeros(H), "\n", []
    for character in text:
        z = layer.W_x[model.vocabulary.characters.index(last)] + h @ layer.W_h + layer.b
        i, f, o = (1 / (1 + np.exp(-z[k * H : (k + 1) * H])) for k in (0, 1, 3))
        c = f * c + i * np.tanh(z[2 * H : 3 * H])
        h = o * np.tanh(c)
        logits = h @ params.W_y + params.b_y
        out.append(logits[model.vocabulary.characters.index(character)] - np.log(np.exp(logits).sum()))
        last = character
    return np.array(out)


def test_a_text_by_plain_arithmetic(model, backend):
    text = made_up_text(1200, seed=7)  # more than two calls of the kernels read
    found, expected = model.score(text, backend=backend), plain_log_probs(model, text)
    assert found.log_probs == pytest.approx(expected, rel=1e-4, abs=1e-5)
    assert found.chars == 1200
    assert found.nats == pytest.approx(-expected.sum(), rel=1e-5)
    assert found.nats_per_char == pytest.approx(-expected.mean(), rel=1e-5)
    assert found.bits_per_char == pytest.approx(-expected.mean() / math.log(2), rel=1e-5)
    assert found.perplexity == pytest.approx(2**found.bits_per_char)
    assert found.bits_per_char < math.log2(len(model.vocabulary))  # it has learned something


@pytest.mark.parametrize("steps", [1, 7, 511, 512, 5000])
def test_the_pieces_in_which_a_text_is_read_do_not_matter(model, monkeypatch, steps):
    text = made_up_text(1025, seed=8)
    whole = model.score(text).log_probs
    monkeypatch.setattr(forward, "READ_STEPS", steps)
    assert model.score(text).log_probs == pytest.approx(whole, rel=1e-4, abs=1e-5)


def test_bits_of_ids(model, backend):
    text = made_up_text(700, seed=9)
    ops, ids = kernels.load(backend), model.vocabulary.encode(text)
    found = scoring.bits_per_unit([(ops, *model.voices[0])], model.edges.begin, ids).net
    assert found == pytest.approx(model.score(text).bits_per_char, rel=1e-5)


def test_one_character_and_characters_it_never_saw(model):
    assert model.score("a").chars == 1
    assert model.score("aQb", unknown="skip").log_probs.tolist() == model.score("ab").log_probs.tolist()
    with pytest.raises(UserError, match="^the character 'Q' at position 1 is not .*; --unknown skip leaves such"):
        model.score("aQb")
    for text, unknown in (("", "error"), ("QQ", "skip")):
        with pytest.raises(UserError, match="there is nothing to score"):
            model.score(text, unknown=unknown)
    with pytest.raises(UserError, match="--unknown: expected error, skip, charge or replace:CHAR, got 'maybe'"):
        model.score("a", unknown="maybe")
