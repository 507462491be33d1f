"""An LSTM trained step by step in NumPy, like the widely copied teaching scripts.

float64; one-hot columns for characters; at each step one product per gate, on the column [x; h]; dictionaries of arrays
by step; clipping and Adagrad array by array. It draws the same initial weights as the preset min-char-lstm and computes
the same losses (tests/test_rivals.py).
"""

import numpy as np

NEEDS = ("numpy",)
WORKS = ("seed",)
VERSIONS = ("numpy",)
GATES = ("f", "i", "g", "o")


def make(work, ids, threads):
    return NumpyLoop(ids, *work.shape[:2], work.seq_length)


class NumpyLoop:
    """The rival's parameters, state and position in the text."""

    def __init__(self, ids, vocab_size, hidden_size=100, seq_length=16, seed=123):
        self.ids, self.V, self.H, self.T = ids, vocab_size, hidden_size, seq_length
        random = np.random.RandomState(seed)
        self.weights = {f"W_{g}": random.randn(hidden_size, vocab_size + hidden_size) * 0.01 for g in GATES}
        self.weights["W_y"] = random.randn(vocab_size, hidden_size) * 0.01
        self.weights |= {f"b_{g}": np.zeros((hidden_size, 1)) for g in GATES} | {"b_y": np.zeros((vocab_size, 1))}
        self.memory = {name: np.zeros_like(value) for name, value in self.weights.items()}
        self.position, self.iteration = 0, 0

    def run(self, iterations):
        """Train; return the last loss."""
        return float([self._iteration() for _ in range(iterations)][-1])

    def _iteration(self):
        if self.position + self.T + 1 >= len(self.ids) or self.iteration == 0:
            self.h, self.c, self.position = np.zeros((self.H, 1)), np.zeros((self.H, 1)), 0
        here = self.ids[self.position : self.position + self.T + 1]
        loss, gradients = self._loss_and_gradients(here[:-1], here[1:])
        for name, gradient in gradients.items():
            np.clip(gradient, -5, 5, out=gradient)
            self.memory[name] += gradient * gradient
            self.weights[name] -= 0.1 * gradient / np.sqrt(self.memory[name] + 1e-8)
        self.position += self.T
        self.iteration += 1
        return loss

    def _loss_and_gradients(self, inputs, targets):
        w = self.weights
        stacked, gate, h, c, probabilities, loss = {}, {}, {-1: self.h}, {-1: self.c}, {}, 0.0
        for t, character in enumerate(inputs):
            x = np.zeros((self.V, 1))
            x[character] = 1
            stacked[t] = np.concatenate([x, h[t - 1]])
            z = {g: w[f"W_{g}"] @ stacked[t] + w[f"b_{g}"] for g in GATES}
            gate[t] = {g: np.tanh(z[g]) if g == "g" else 1 / (1 + np.exp(-z[g])) for g in GATES}
            c[t] = gate[t]["f"] * c[t - 1] + gate[t]["i"] * gate[t]["g"]
            h[t] = np.tanh(c[t]) * gate[t]["o"]
            y = np.exp(w["W_y"] @ h[t] + w["b_y"])
            probabilities[t] = y / np.sum(y)
            loss += -np.log(probabilities[t][targets[t], 0])
        d = {name: np.zeros_like(value) for name, value in w.items()}
        dh_next, dc_next = np.zeros_like(self.h), np.zeros_like(self.c)
        for t in reversed(range(len(inputs))):
            dy = probabilities[t].copy()
            dy[targets[t]] -= 1
            d["W_y"] += dy @ h[t].T
            d["b_y"] += dy
            dh = w["W_y"].T @ dy + dh_next
            k, tanh_c = gate[t], np.tanh(c[t])
            dc = k["o"] * dh * (1 - tanh_c**2) + dc_next
            dz = {
                "f": c[t - 1] * dc * k["f"] * (1 - k["f"]),
                "i": k["g"] * dc * k["i"] * (1 - k["i"]),
                "g": k["i"] * dc * (1 - k["g"] ** 2),
                "o": tanh_c * dh * k["o"] * (1 - k["o"]),
            }
            below = np.zeros_like(stacked[t])
            for g in GATES:
                d[f"W_{g}"] += dz[g] @ stacked[t].T
                d[f"b_{g}"] += dz[g]
                below += w[f"W_{g}"].T @ dz[g]
            dh_next, dc_next = below[self.V :], k["f"] * dc
        self.h, self.c = h[len(inputs) - 1], c[len(inputs) - 1]
        return loss, d
