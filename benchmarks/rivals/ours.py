"""Our implementation as a contestant: it has the same protocol and clock as the rivals, and its own process."""

from charlstm.measure.bench import WORKS as ALL
from charlstm.measure.bench import Ours

NEEDS = ("numba",)
WORKS = tuple(ALL)
VERSIONS = ("charlstm", "numpy", "numba", "llvmlite")


class _Last:
    def __init__(self, ours):
        self.ours = ours

    def run(self, count):
        return float(self.ours.run(count)[-1])


def make(work, ids, threads, backend="numba", dtype="float32"):
    return _Last(Ours(work, ids, backend, dtype, threads))
