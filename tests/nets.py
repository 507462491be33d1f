"""Nets with random weights, and what they compute: the logits of the NumPy reference."""

import numpy as np

import kernels
from charlstm.text.edges import Edges
from charlstm.text.vocabulary import Vocabulary
from charlstm.travel.net import Net
from kernels import spec
from kernels.spec import Shape

EDGES = Edges((0,), ())
CHARACTERS = "\n abc\u00e9\U0001f600"
CELLS = ("lstm", "gru", "rnn")


def net(cell="lstm", layers=2, embedding=0, dtype="float32", hidden=5, characters=CHARACTERS, edges=EDGES):
    shape = Shape(len(characters), hidden, layers, cell, embedding)
    theta = np.random.RandomState(7).uniform(-1.5, 1.5, spec.num_parameters(shape)) * hidden**-0.5
    return Net(shape, theta.astype(dtype), Vocabulary(characters), edges)


def start(net, B, seed=3):
    """A state that is not zero: h and c, (L, B, H)."""
    dims = (2, net.shape.num_layers, B, net.shape.hidden_size)
    return np.random.RandomState(seed).uniform(-0.5, 0.5, dims).astype(net.theta.dtype)


def ids(net, T, B, seed=4):
    return np.random.RandomState(seed).randint(0, net.shape.vocab_size, (T, B)).astype(np.int32)


def logits(net, x, state):
    """The logits (T, B, V) for ids (T, B), and the state after them."""
    ops, params, last = kernels.load("numpy"), net.params, np.array(state)
    below = x if params.embedding is None else params.embedding[x]
    for k, layer in enumerate(params.layers):
        states = [np.ascontiguousarray(each[k]) for each in state[: 2 if net.shape.cell == "lstm" else 1]]
        *made, _ = getattr(ops, f"{net.shape.cell}_forward")(below, *states, *layer)
        for n, each in enumerate(made):
            last[n, k] = each[-1]
        below = np.ascontiguousarray(made[0][1:])
    return below @ params.W_y + params.b_y, last
