"""The n-gram beside a model in `sample`: the same rows as the Markov model's, and the same texts on each backend."""

import numpy as np
import pytest
from conftest import made_up_text

import kernels
from charlstm.ngram.beside import NGram
from charlstm.ngram.markov import Model
from charlstm.text.corpus import Corpus
from kernels import spec
from kernels.spec import Shape

CORPUS = Corpus.from_text(made_up_text())
IDS, V = CORPUS.ids.astype(np.int32), len(CORPUS.vocabulary)
MARKOV = Model.learn(CORPUS.ids, V, 8)
NGRAM = NGram.of(MARKOV)
SHAPE = Shape(V, 5, 1, "lstm")


def drawn(ops, theta, mixture, calls=(150,), seed=0, B=2, **how):
    """Return the ids, their log probabilities and the states after some calls that continue each other."""
    h, c = np.zeros((2, 1, B, 5), theta.dtype)
    x, found, random = np.ascontiguousarray(mixture.history[:, -1]), [], np.random.RandomState(seed)
    for n in calls:
        log_probs = np.empty((n, B))
        u = random.random_sample((n, B))
        ids = ops.sample(theta, h, c, x, u, shape=SHAPE, log_probs=log_probs, mixture=mixture, **how)
        found.append((ids, log_probs))
        x = ids[-1].copy()
    return *(np.concatenate(each) for each in zip(*found, strict=True)), h, c


@pytest.fixture(params=[name for name in ("numpy", "numba") if name in kernels.available()])
def host(request):
    return kernels.load(request.param)


@pytest.mark.parametrize("before", [IDS[:3], IDS[:40]], ids=["begin", "within"])
def test_the_probabilities_are_those_of_the_markov_model(host, before):
    theta = np.zeros(spec.num_parameters(SHAPE))
    ids, log_probs, *_ = drawn(host, theta, NGRAM.mixture(np.ones(9), before, 2))
    for stream in range(2):
        text = [*before.tolist(), *ids[:, stream].tolist()]
        for n, found in enumerate(log_probs[:, stream], len(before)):
            assert np.exp(found) == pytest.approx(MARKOV.probabilities(text[:n])[text[n]], rel=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_backends_draw_the_same_from_both_and_calls_can_be_split(host, ref, dtype):
    theta = np.random.RandomState(1).randn(spec.num_parameters(SHAPE)).astype(dtype)
    weights, how = np.linspace(0.1, 0.9, 9), {"temperature": 0.7, "top_k": 6, "top_p": 0.9}
    mixtures = [NGRAM.mixture(weights, IDS[:9], 2) for _ in range(2)]
    ids, log_probs, h, c = drawn(host, theta, mixtures[0], **how)
    others = drawn(ref, theta, mixtures[1], (1, 49, 100), **how)
    assert (ids == others[0]).all()
    tolerance = 1e-12 if dtype == "float64" else 2e-5
    for found, other in zip((log_probs, h, c), others[1:], strict=True):
        assert found == pytest.approx(other, rel=tolerance, abs=tolerance)
    for mixture in mixtures:
        assert (mixture.history == ids[-9:].T).all()
    net = host.sample(theta, *np.zeros((2, 1, 2, 5), dtype), ids[0], np.full((150, 2), 0.5), shape=SHAPE)
    assert (net[:, 0] != ids[:, 0]).any()


def test_nothing_is_written_if_a_logit_is_not_finite(host):
    theta = np.full(spec.num_parameters(SHAPE), np.nan)
    mixture = NGRAM.mixture(np.ones(9), IDS[:9], 2)
    before = mixture.history.copy()
    with pytest.raises(kernels.NotFinite):
        drawn(host, theta, mixture)
    assert (mixture.history == before).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"children": NGRAM.children[:-1]}, r"mixture.children: expected \(A\+1,\)"),
        ({"weights": np.ones(8)}, r"mixture.weights: expected \(D,\)"),
        ({"counts": NGRAM.counts.astype(float)}, "mixture.counts: expected int32"),
        ({"history": np.zeros((1, 9), np.int32)}, r"mixture.history: expected \(B, D\)"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(host, change, message):
    mixture = NGRAM.mixture(np.ones(9), IDS[:9], 2)
    h, c = np.zeros((2, 1, 2, 5))
    given = np.zeros(spec.num_parameters(SHAPE)), h, c, np.zeros(2, np.int32), np.zeros((3, 2))
    with pytest.raises(ValueError, match=f"^{message}"):
        host.sample(*given, shape=SHAPE, mixture=mixture._replace(**change))
    with pytest.raises(TypeError, match="^mixture: expected Mixture, got tuple"):
        host.sample(*given, shape=SHAPE, mixture=tuple(mixture))


@pytest.mark.skipif("numba" not in kernels.available(), reason="NumPy checks each index")
@pytest.mark.parametrize("name", ["children", "grams", "symbols", "chars", "counts"])
def test_a_damaged_trie_touches_no_other_memory(name):
    good = getattr(NGRAM, name)
    wild = np.random.RandomState(3).randint(-(2**31), 2**31, good.shape).astype(np.int32)
    mixture = NGRAM.mixture(np.ones(9), IDS[:9], 2)._replace(**{name: wild})
    ids, *_ = drawn(kernels.load("numba"), np.zeros(spec.num_parameters(SHAPE)), mixture)
    assert ((ids >= 0) & (ids < V)).all()


def test_gpu_arrays_are_refused_in_a_line():
    from kernels.spec import checks
    from kernels.spec.arguments import HOST

    device = HOST._replace(name="a GPU array")
    given = np.zeros(spec.num_parameters(SHAPE)), *np.zeros((2, 1, 2, 5)), np.zeros(2, np.int32), np.zeros((3, 2))
    mixture = NGRAM.mixture(np.ones(9), IDS[:9], 2)
    with pytest.raises(ValueError, match="^mixture: expected None on the cupy backend, which has no n-grams"):
        checks.sample(*given, SHAPE, 1.0, 0, 1.0, None, mixture, device)
