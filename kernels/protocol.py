"""The functions of every backend as a type, for editors, type checkers and readers. Imports nothing at run time.

The annotations name NumPy arrays; the cupy backend of :func:`kernels.load` takes arrays on the GPU instead. The
docstrings of the ops, as in ``help(ops.adam)``, describe each argument.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from typing import Any

    from kernels.spec import Cache, Grads, Mixture, Shape, Workspace
    from kernels.spec.types import Array, Floats, Ids


class Ops(Protocol):
    """The ops of a backend: a module that :func:`kernels.load` returns."""

    __name__: str

    # ----------------------------------------------------------------------------------------------------- one layer
    def lstm_forward(
        self, x: Array, h0: Floats, c0: Floats, W_x: Floats, W_h: Floats, b: Floats, *,
        lengths: Ids | None = None, reverse: bool = False, threads: int = 1,
        out: tuple[Floats, Floats, Floats] | None = None,
    ) -> tuple[Array, Array, Cache]:  # fmt: skip
        """Run one LSTM layer over T steps and B streams; return h, c and the cache."""

    def lstm_backward(
        self, dh: Floats, cache: Cache, dh_last: Floats | None = None, dc_last: Floats | None = None, *,
        threads: int = 1, out: Grads | None = None, dz: Floats | None = None,
    ) -> Grads:  # fmt: skip
        """Backpropagate through one LSTM layer, over all T steps."""

    def lstm_step(
        self, x: Array, h: Floats, c: Floats, W_x: Floats, W_h: Floats, b: Floats, *,
        out: tuple[Floats, Floats, Floats] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Run one step of an LSTM layer, without a T axis; return h and c after it."""

    def gru_forward(
        self, x: Array, h0: Floats, W_x: Floats, W_h: Floats, b_x: Floats, b_h: Floats, *,
        lengths: Ids | None = None, reverse: bool = False, threads: int = 1, out: tuple[Floats, Floats] | None = None,
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Run one GRU layer over T steps and B streams, with PyTorch's equations; return h and the cache."""

    def gru_backward(
        self, dh: Floats, cache: Cache, dh_last: Floats | None = None, *, threads: int = 1,
        out: Grads | None = None, dz: Floats | None = None,
    ) -> Grads:  # fmt: skip
        """Backpropagate through one GRU layer, over all T steps."""

    def gru_step(
        self, x: Array, h: Floats, W_x: Floats, W_h: Floats, b_x: Floats, b_h: Floats, *,
        out: tuple[Floats, Floats] | None = None,
    ) -> Array:  # fmt: skip
        """Run one step of a GRU layer, without a T axis; return h after it."""

    def rnn_forward(
        self, x: Array, h0: Floats, W_x: Floats, W_h: Floats, b: Floats, *, lengths: Ids | None = None,
        reverse: bool = False, threads: int = 1, out: Floats | None = None,
    ) -> tuple[Array, Cache]:  # fmt: skip
        """Run one plain RNN layer over T steps and B streams; return h and the cache."""

    def rnn_backward(
        self, dh: Floats, cache: Cache, dh_last: Floats | None = None, *, threads: int = 1,
        out: Grads | None = None, dz: Floats | None = None,
    ) -> Grads:  # fmt: skip
        """Backpropagate through one plain RNN layer, over all T steps."""

    def rnn_step(
        self, x: Array, h: Floats, W_x: Floats, W_h: Floats, b: Floats, *,
        out: Floats | None = None,
    ) -> Array:  # fmt: skip
        """Run one step of a plain RNN layer, without a T axis; return h after it."""

    def lnlstm_forward(
        self, x: Array, h0: Floats, c0: Floats, W_x: Floats, W_h: Floats, b: Floats, gain_x: Floats, gain_h: Floats,
        gain_c: Floats, b_c: Floats, *, lengths: Ids | None = None, reverse: bool = False, threads: int = 1,
        out: tuple[Floats, Floats, Floats] | None = None,
    ) -> tuple[Array, Array, Cache]:  # fmt: skip
        """Run one layer-normalised LSTM layer over T steps and B streams; return h, c and the cache."""

    def lnlstm_backward(
        self, dh: Floats, cache: Cache, dh_last: Floats | None = None, dc_last: Floats | None = None, *,
        threads: int = 1, out: Grads | None = None, dz: Floats | None = None,
    ) -> Grads:  # fmt: skip
        """Backpropagate through one layer-normalised LSTM layer, over all T steps."""

    def lnlstm_step(
        self, x: Array, h: Floats, c: Floats, W_x: Floats, W_h: Floats, b: Floats, gain_x: Floats, gain_h: Floats,
        gain_c: Floats, b_c: Floats, *,
        out: tuple[Floats, Floats, Floats] | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """Run one step of a layer-normalised LSTM layer, without a T axis; return h and c after it."""

    # ------------------------------------------------------------------------------------------- loss and optimizers
    def softmax_cross_entropy(
        self, logits: Floats, targets: Ids, *, ignore_index: int | None = None, out: Floats | None = None
    ) -> tuple[float, Array]:
        """Return the summed cross entropy of softmax(logits) against the targets, in nats, and its gradient."""

    def regression_loss(
        self, outputs: Floats, targets: Floats, *, loss: str = "squared", delta: float = 1.0, out: Floats | None = None
    ) -> tuple[float, Array]:
        """Return a summed loss of real numbers (squared, huber or gaussian), and its gradient."""

    def clip(self, grad: Floats, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
        """Clip a flat gradient in place, by element and then by norm."""

    def sgd(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, momentum: float = 0.0,
    ) -> None:  # fmt: skip
        """Make one update by gradient descent, in place."""

    def momentum(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, momentum: float = 0.9,
    ) -> None:  # fmt: skip
        """Make one update by gradient descent with momentum, in place."""

    def adagrad(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, epsilon: float = 1e-8,
    ) -> None:  # fmt: skip
        """Make one update by Adagrad, in place."""

    def rmsprop(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, rho: float = 0.99, epsilon: float = 1e-8,
    ) -> None:  # fmt: skip
        """Make one update by RMSprop, in place."""

    def adam(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
    ) -> None:  # fmt: skip
        """Make one update by Adam, in place."""

    def adamw(
        self, theta: Floats, grad: Floats, state: Floats, step: int, *, learning_rate: float,
        grad_clip: float | None = None, beta1: float = 0.9, beta2: float = 0.999, epsilon: float = 1e-8,
        weight_decay: float = 0.01,
    ) -> None:  # fmt: skip
        """Make one update by AdamW, Adam with decoupled weight decay, in place."""

    # --------------------------------------------------------------------------------------------------- whole model
    def loss_and_grad(
        self, theta: Floats, h: Floats, c: Floats, x: Array, *, shape: Shape, targets: Array | None = None,
        loss: str = "cross_entropy", delta: float = 1.0, ignore_index: int | None = None, last_only: bool = False,
        dropout: float = 0.0, masks: Ids | None = None, bfloat16: bool = False, workspace: Workspace | None = None,
        threads: int | None = None,
    ) -> tuple[float, Array, Array, Array]:  # fmt: skip
        """Return the loss of a model over one sequence, its gradient, and h and c after the last step."""

    def train_steps(
        self, theta: Floats, state: Floats, h: Floats, c: Floats, ids: Array, starts: Ids, reset: Array,
        learning_rate: Floats | float, *, shape: Shape, seq_length: int, targets: Array | None = None,
        loss: str = "cross_entropy", delta: float = 1.0, ignore_index: int | None = None, step: int = 0,
        optimizer: str = "adagrad",
        hyper: dict[str, float] | None = None, grad_scale: float = 1.0, grad_clip: float | None = None,
        grad_clip_norm: float | None = None, last_only: bool = False, dropout: float = 0.0, masks: Ids | None = None,
        weight_drop: float = 0.0, seed: int = 0, bfloat16: bool = False, smooth_loss: float = inf,
        stop_below: float = -inf, workspace: Workspace | None = None, threads: int = 1, out: Floats | None = None,
    ) -> Array:  # fmt: skip
        """Run n iterations of truncated backpropagation through time, in place; return the loss of each."""

    def score(
        self, theta: Floats, h: Floats, c: Floats, x: Array, *, shape: Shape, targets: Array | None = None,
        loss: str = "cross_entropy", delta: float = 1.0, ignore_index: int | None = None,
        workspace: Workspace | None = None, threads: int = 1, out: Floats | None = None,
    ) -> Array:  # fmt: skip
        """Return the log probability of each character of a text, given the characters before it."""

    def sample(
        self, theta: Floats, h: Floats, c: Floats, x: Ids, uniforms: Floats, *, shape: Shape,
        temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, log_probs: Floats | None = None,
        mixture: Mixture | None = None,
    ) -> Array:  # fmt: skip
        """Sample n characters for each of B streams, each fed back as the next input."""

    def workspace(
        self, shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
    ) -> Workspace | None:
        """Allocate the buffers of a call, to be reused by later calls; None if the backend needs none."""
