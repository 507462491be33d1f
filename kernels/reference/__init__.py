"""Every op in plain NumPy, written for readability. Finite differences verify it; it verifies every other backend.

T seq_length, B batch_size, V vocab_size, H hidden_size, L num_layers, E embedding_size, D width of a layer's input, N
number of parameters. Equations, gate order and the layout of flat vectors: :mod:`kernels.spec`. Ops check their
arguments and take any C-contiguous float32 or float64 arrays; each docstring says what the op writes in place.
"""

from kernels.reference import optimizers
from kernels.reference.gru import gru_backward, gru_forward, gru_step
from kernels.reference.lnlstm import lnlstm_backward, lnlstm_forward, lnlstm_step
from kernels.reference.loss import regression_loss, softmax_cross_entropy
from kernels.reference.lstm import lstm_backward, lstm_forward, lstm_step
from kernels.reference.model import loss_and_grad, score, train_steps
from kernels.reference.optimizers import clip
from kernels.reference.rnn import rnn_backward, rnn_forward, rnn_step
from kernels.reference.sampling import sample
from kernels.spec import workspace

globals().update(optimizers.OPS)  # sgd, adagrad and the others: a function for each row of spec.OPTIMIZERS

__all__ = [
    "clip",
    "gru_backward",
    "gru_forward",
    "gru_step",
    "lnlstm_backward",
    "lnlstm_forward",
    "lnlstm_step",
    "loss_and_grad",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "regression_loss",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
    "sample",
    "score",
    "softmax_cross_entropy",
    "train_steps",
    "workspace",
]
__all__ += list(optimizers.OPS)


def __dir__() -> list[str]:
    return sorted(__all__)
