"""A one-layer LSTM language model in plain Python numbers, one unit at a time, without code of the kernels.

It follows the equations of kernels/spec/cells.py; tests compare the forward pass and the loss with it.
"""

import math
from itertools import pairwise


def loss_and_state(W_x, W_h, b, W_y, b_y, h, c, ids):
    """Return the loss (nats) of predicting ids[1:] from ids[:-1], and the final h and c; arguments are nested lists."""
    H, total = len(h), 0.0

    def sigmoid(x):
        return 1 / (1 + math.exp(-x))

    for now, following in pairwise(ids):
        z = [W_x[now][j] + b[j] + sum(h[k] * W_h[k][j] for k in range(H)) for j in range(4 * H)]
        for_next_h, for_next_c = [], []
        for j in range(H):
            i, f, g, o = sigmoid(z[j]), sigmoid(z[H + j]), math.tanh(z[2 * H + j]), sigmoid(z[3 * H + j])
            for_next_c.append(f * c[j] + i * g)
            for_next_h.append(o * math.tanh(for_next_c[-1]))
        h, c = for_next_h, for_next_c
        logits = [b_y[v] + sum(h[k] * W_y[k][v] for k in range(H)) for v in range(len(b_y))]
        total += math.log(sum(math.exp(logit) for logit in logits)) - logits[following]
    return total, h, c
