"""The softmax readout's loss and its gradient, row by row; and log probabilities."""

import math

from kernels.cpu.compiler import entry, inner
from kernels.cpu.emit.activations import exp


@inner
def softmax_loss(z, target, d):
    """Write softmax - onehot of one row of logits z (V,) to d, which may be z itself; return the loss."""
    V = z.shape[0]
    largest = z[0]
    for j in range(V):
        largest = z[j] if z[j] > largest else largest
    at_target = z[target] - largest
    for j in range(V):
        d[j] = exp(z[j] - largest)
    total = z.dtype.type(0)
    for j in range(V):
        total += d[j]
    scale = z.dtype.type(1) / total
    for j in range(V):
        d[j] *= scale
    d[target] -= z.dtype.type(1)
    return math.log(float(total)) - float(at_target)


@inner
def log_prob(logits, target):
    """Log softmax(logits)[target] in float64."""
    V = logits.shape[0]
    largest = float(logits[0])
    for j in range(V):
        largest = max(largest, float(logits[j]))
    total = 0.0
    for j in range(V):
        total += exp(float(logits[j]) - largest)
    return float(logits[target]) - largest - math.log(total)


@entry
def cross_entropy(logits, targets, dlogits):
    """Return the loss of logits (T, B, V), summed in float64; write its gradient to dlogits."""
    loss = 0.0
    for t in range(logits.shape[0]):
        for r in range(logits.shape[1]):
            loss += softmax_loss(logits[t, r], targets[t, r], dlogits[t, r])
    return loss
