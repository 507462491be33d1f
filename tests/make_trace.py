"""Make tests/data/trace.json: a short training run of numpy_ref on made-up text from fixed weights.

    python tests/make_trace.py

Run it only where the equations are meant to change; it records what the reference did when it agreed with finite
differences, with PyTorch and with the original script.
"""

import json

import numpy as np
from conftest import ROOT, made_up_text
from test_chain import trace_of

import kernels
from charlstm.corpus import Vocabulary
from kernels import spec
from kernels.spec import Shape


def main():
    text = made_up_text(700)
    vocabulary = Vocabulary.of(text)
    shape = Shape(len(vocabulary), 9, 2)
    theta = np.random.RandomState(9).randn(spec.num_parameters(shape)) * 0.1
    trace = {
        "shape": list(shape), "seq_length": 7, "iterations": 150, "grad_clip": 0.5,
        "ids": vocabulary.encode(text).tolist(), "theta": [round(value, 6) for value in theta],
    }  # fmt: skip
    losses, drawn = trace_of(kernels.load("numpy"), trace)
    trace |= {"losses": losses.tolist(), "drawn": drawn.tolist()}
    (ROOT / "tests" / "data" / "trace.json").write_text(json.dumps(trace) + "\n")


if __name__ == "__main__":
    main()
