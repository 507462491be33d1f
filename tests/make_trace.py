"""Makes tests/data/trace-*.json: short training runs of the reference on made-up text from fixed weights, one per cell.

    python tests/make_trace.py

Run it only if you mean to change the equations. When the committed traces were made, the reference agreed with finite
differences, with PyTorch and with the original scripts.
"""

import json

import numpy as np
from conftest import ROOT, made_up_text
from test_chain import trace_of

import kernels
from charlstm.text.corpus import Vocabulary
from kernels import spec
from kernels.spec import Shape


def main():
    for cell in spec.CELLS:
        make(cell)


def make(cell):
    text = made_up_text(700)
    vocabulary = Vocabulary.of(text)
    shape = Shape(len(vocabulary), 9, 2, cell)
    theta = np.random.RandomState(9).randn(spec.num_parameters(shape)) * 0.1
    trace = {
        "shape": list(shape), "seq_length": 7, "iterations": 150, "grad_clip": 0.5,
        "ids": vocabulary.encode(text).tolist(), "theta": [round(value, 6) for value in theta],
    }  # fmt: skip
    losses, drawn = trace_of(kernels.load("numpy"), trace)
    trace |= {"losses": losses.tolist(), "drawn": drawn.tolist()}
    (ROOT / "tests" / "data" / f"trace-{cell}.json").write_text(json.dumps(trace) + "\n")


if __name__ == "__main__":
    main()
