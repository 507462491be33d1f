"""Our implementation as a contestant: it has the same protocol and clock as the rivals, and its own process."""

from benchmarks.rivals import CannotRun
from charlstm.measure.bench import WORKS as ALL
from charlstm.measure.bench import Ours

NEEDS = ("numba",)
WORKS = tuple(ALL)
VERSIONS = ("charlstm", "numpy", "numba", "llvmlite")


class _Last:
    def __init__(self, *arguments):
        self.ours = Ours(*arguments)

    def run(self, count):
        return float(self.ours.run(count)[-1])


class _Bfloat16(_Last):
    """Says what the kernels cannot run in bfloat16, which they refuse at the first call."""

    def __init__(self, *arguments):
        try:
            super().__init__(*arguments)
        except ValueError as error:
            raise CannotRun(str(error)) from error

    def run(self, count):
        try:
            return super().run(count)
        except ValueError as error:
            if self.ours.iteration:
                raise
            raise CannotRun(str(error)) from error


def make(work, ids, threads, backend="numba", dtype="float32"):
    return (_Bfloat16 if dtype == "bfloat16" else _Last)(work, ids, backend, dtype, threads)
