"""min-char-rnn in plain NumPy, one character at a time, straight from its equations, without code of the kernels.

Tests compare training of the RNN with it. The script's first iterations are chaotic (large Adagrad steps on weights
near zero): weights that differ by 1e-15 give losses that differ by several nats after 20 iterations. To follow a trace
of the script from its start, code must therefore round alike: one product of a C-ordered matrix and a column per
character.
"""

import numpy as np


class Original:
    """Weights, Adagrad state and hidden state of min-char-rnn; :meth:`iterate` makes one iteration of training."""

    def __init__(self, text, seed, hidden_size=100, seq_length=16):
        random, characters = np.random.RandomState(seed), sorted(set(text))
        self.ids = [characters.index(c) for c in text]
        self.T, self.V, self.H, V, H = seq_length, len(characters), hidden_size, len(characters), hidden_size
        weights = (random.randn(*dims) * 0.01 for dims in ((H, V), (H, H), (V, H)))
        self.weights = [*weights, np.zeros((H, 1)), np.zeros((V, 1))]
        self.memory = [np.zeros_like(w) for w in self.weights]
        self.h, self.place = np.zeros((H, 1)), 0

    def one_hot(self, k):
        return np.eye(self.V)[:, k : k + 1]

    def iterate(self):
        """Train on the next sequence; return its loss in nats, summed over the sequence."""
        if self.place + self.T + 1 >= len(self.ids):
            self.h, self.place = np.zeros((self.H, 1)), 0
        W_x, W_h, W_y, b, b_y = self.weights
        x = [self.one_hot(k) for k in self.ids[self.place : self.place + self.T]]
        targets = self.ids[self.place + 1 : self.place + self.T + 1]
        h, probs, loss = [self.h], [], 0.0
        for column, target in zip(x, targets, strict=True):
            h.append(np.tanh(W_x @ column + W_h @ h[-1] + b))
            powers = np.exp(W_y @ h[-1] + b_y)
            probs.append(powers / powers.sum())
            loss -= float(np.log(probs[-1][target, 0]))
        gradients, dh_next = [np.zeros_like(w) for w in self.weights], np.zeros_like(b)
        for t in reversed(range(self.T)):
            dlogits = probs[t] - self.one_hot(targets[t])
            dh = W_y.T @ dlogits + dh_next
            dz = (1 - h[t + 1] * h[t + 1]) * dh
            dh_next = W_h.T @ dz
            parts = (dz @ x[t].T, dz @ h[t].T, dlogits @ h[t + 1].T, dz, dlogits)
            for total, part in zip(gradients, parts, strict=True):
                total[...] += part
        for weight, memory, gradient in zip(self.weights, self.memory, gradients, strict=True):
            clipped = np.clip(gradient, -5, 5)
            memory[...] += clipped * clipped
            weight[...] += -0.1 * clipped / np.sqrt(memory + 1e-8)
        self.h, self.place = h[-1], self.place + self.T
        return loss

    @staticmethod
    def flat(arrays):
        """Return weights or optimizer state in the order of kernels/spec/cells.py."""
        W_x, W_h, W_y, b, b_y = arrays
        return np.concatenate([a.ravel() for a in (W_x.T, W_h.T, b, W_y.T, b_y)])
