"""A rival: PyTorch as it is usually written: foreach optimizers; for samples nn.LSTMCell, nn.Linear and multinomial.

It is slower than benchmarks/rivals/pytorch.py; it is measured because the bars were set against it.
"""

from benchmarks.rivals import pytorch

NEEDS = ("torch",)
WORKS = ("seed", "sample")
VERSIONS = ("torch",)


def make(work, ids, threads):
    return pytorch.make(work, ids, threads, usual=True)
