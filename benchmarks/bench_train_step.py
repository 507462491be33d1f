"""Time of training iterations of the work `seed`, ours and the rival's.

The mean of a round divided by `extra_info["iterations"]` is the time of one iteration. Compile time is spent before.
"""

import os

import pytest
from threadpoolctl import threadpool_limits

from benchmarks import works
from benchmarks.rival_numpy_loop import NumpyLoop

OURS = [("numba", "float32", 500), ("numba", "float64", 200), ("numpy", "float64", 20)]


@pytest.fixture(autouse=True)
def one_thread():
    with threadpool_limits(1):
        yield


def measure(benchmark, run, count, work):
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    benchmark.extra_info.update(work=work, iterations=count, load_before=load)
    benchmark.group = work
    return benchmark.pedantic(run, rounds=7, warmup_rounds=2)


@pytest.mark.parametrize(("backend", "dtype", "count"), OURS, ids=str)
def test_seed(benchmark, backend, dtype, count):
    trainer = works.seed_trainer(backend, dtype)
    losses = measure(benchmark, works.iterations(trainer, count), count, "seed, 1 thread")
    assert len(losses) == count


def test_seed_rival_numpy_loop(benchmark):
    corpus = works.seed_corpus()
    rival = NumpyLoop(corpus.ids, len(corpus.vocabulary))
    assert len(measure(benchmark, lambda: rival.run(20), 20, "seed, 1 thread")) == 20
