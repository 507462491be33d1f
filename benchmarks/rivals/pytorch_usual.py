"""PyTorch as it is usually written: foreach optimizers; nn.LSTMCell, nn.Linear and multinomial for sampling.

This is slower than benchmarks/rivals/pytorch.py; we measure it because the bars were set relative to it.
"""

from benchmarks.rivals import pytorch

NEEDS = ("torch",)
WORKS = ("seed", "sample")
VERSIONS = ("torch",)


def make(work, ids, threads):
    return pytorch.make(work, ids, threads, usual=True)
