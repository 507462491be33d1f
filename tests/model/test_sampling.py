"""Sampling: how texts end, several texts at once, and the figures of each."""

import pytest
from conftest import made_up_text

from charlstm.errors import UserError


def test_a_stop_string_across_the_border_of_two_calls_ends_the_text(model, backend):
    whole = model.sample("ab", length=300, seed=3, backend=backend)[2:]
    stop = whole[27:37]  # the first call draws 32
    assert whole.find(stop) == 27
    [one] = model.samples("ab", length=300, seed=3, stop=stop, backend=backend)
    assert one.text == whole[:37]
    assert len(one.log_probs) == 37
    assert "".join(model.stream("ab", length=None, seed=3, stop=stop, backend=backend)) == "ab" + whole[:37]


def test_what_stops_is_drawn_not_primed(model):
    assert len(model.sample("ab.", length=40, seed=3, stop="ab.")) > 3


def test_a_text_without_end_begins_like_one_with(model):
    endless = model.stream(length=None, seed=5)
    begun = ""
    while len(begun) < 9000:
        begun += next(endless)
    assert begun[:9000] == model.sample(length=9000, seed=5)
    for ask in (lambda: model.sample(length=None), lambda: model.samples(count=2, length=None)):
        with pytest.raises(UserError, match="without --length or --stop the text would never end: give one of them"):
            ask()


def test_several_texts_are_those_of_the_seeds_from_the_first_on(model, backend):
    options = {"length": 120, "temperature": 0.7, "top_k": 5, "backend": backend}
    several = model.samples("ab", count=3, seed=2**32 - 2, **options)
    assert [one.seed for one in several] == [2**32 - 2, 2**32 - 1, 0]
    for one in several:
        [alone] = model.samples("ab", seed=one.seed, **options)
        assert (one.prime, one.text) == ("ab", alone.text)
        assert one.log_probs == pytest.approx(alone.log_probs, rel=1e-4, abs=1e-5)
    assert len({one.text for one in several}) == 3


def test_each_of_several_texts_ends_by_itself(model):
    several = model.samples(count=5, length=200, seed=1, stop=".")
    assert all(one.text.find(".") in (-1, len(one.text) - 1) for one in several)
    assert len({len(one.text) for one in several}) > 2
    for one in several:
        assert one.text == model.sample(length=200, seed=one.seed, stop=".")
        assert len(one.log_probs) == len(one.text)


def test_log_probs_are_those_of_the_score(model, backend):
    [one] = model.samples(length=200, seed=4, temperature=0.5, top_p=0.8, backend=backend)
    found = model.score(one.text, backend=backend)
    assert one.log_probs == pytest.approx(found.log_probs, rel=1e-4, abs=1e-5)
    assert one.bits_per_char == pytest.approx(found.bits_per_char, rel=1e-5)
    [nothing] = model.samples(length=0)
    assert (nothing.text, nothing.bits_per_char) == ("", None)


@pytest.mark.parametrize("length", [2, 9, 700])
def test_all_of_a_prime_is_read(model, backend, length):
    prime = made_up_text(length, seed=6)
    for one in [*model.samples(prime, length=20, seed=4, backend=backend), *model.samples(prime, 2, length=20, seed=4)]:
        expected = model.score(prime + one.text).log_probs[-20:]
        assert one.log_probs == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_a_seed_is_chosen_and_told_where_none_is_given(model):
    one, other = (model.samples(length=50)[0] for _ in range(2))
    assert one.seed != other.seed
    assert model.samples(length=50, seed=one.seed)[0].text == one.text


def test_one_likeliest_character_is_argmax(model, backend):
    greedy = model.sample("ab", length=60, temperature=0, backend=backend)
    assert model.sample("ab", length=60, top_k=1, temperature=1.3, backend=backend) == greedy
    assert model.sample("ab", length=60, top_p=1e-9, backend=backend) == greedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"length": -1}, "--length: expected at least 0, got -1"),
        ({"temperature": float("nan")}, "--temperature: expected at least 0, got nan"),
        ({"top_k": -1}, "--top-k: expected at least 0, got -1"),
        ({"top_p": 0}, "--top-p: expected more than 0 and at most 1, got 0"),
        ({"top_p": 1.1}, "--top-p: expected more than 0 and at most 1, got 1.1"),
        ({"stop": ""}, "--stop: expected at least one character"),
        ({"stop": "aQ"}, "--stop: the model does not know all characters of 'aQ', so it never writes it"),
        ({"seed": 2**32}, "--seed: expected 0 to 4294967295, got 4294967296"),
        ({"unknown": "maybe"}, "--unknown: expected error, skip or replace:CHAR, got 'maybe'"),
        ({"backend": "torch"}, "--backend: expected one of auto, numpy, numba, cupy, got 'torch'"),
        ({"count": 0}, "--count: expected at least 1, got 0"),
    ],
)
def test_mistakes(model, options, message):
    with pytest.raises(UserError) as caught:
        model.samples(**options)
    assert str(caught.value) == message
    if "count" not in options:
        with pytest.raises(UserError):  # at the call, not at the first piece
            model.stream(**options)
