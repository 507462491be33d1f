"""PyTorch as an expert writes it: each choice is the fastest of those tried.

nn.LSTM (with oneDNN; without it the same work takes 1.5 times as long) on rows of an identity matrix or, if the model
has an embedding, of nn.Embedding; fused
optimizers where PyTorch has them for the CPU, else foreach; gradients set to None, not zeroed. PyTorch's second bias
stays zero. Under autocast to bfloat16 (pytorch_bf16.py), products read bfloat16 and weights, optimizer and loss stay
float32. Its Adagrad has epsilon outside the root; with epsilon in the initial accumulator instead, it equals ours.
"""

import numpy as np

from charlstm.measure.bench import COST_V
from kernels import spec

NEEDS = ("torch",)
BATCHES = ("h256-b16", "h256-b32", "gru-256", "keras", "keras-all", "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024")
VOCABULARIES = tuple(f"cost-v-{V}" for V in COST_V)
WORKS = ("seed", *BATCHES, *VOCABULARIES, "sample")
VERSIONS = ("torch",)


def make(work, ids, threads, usual=False, device="cpu", bfloat16=False):
    import torch

    torch.set_num_threads(threads)
    if work.optimizer:
        return Training(work, ids, usual, device, bfloat16)
    return UsualSampling(work, ids) if usual else Sampling(work, ids)


def build(theta, shape):
    """Build nn.LSTM (nn.GRU, nn.RNN) and nn.Linear from theta (N,), in its dtype: our columns are their rows.

    PyTorch's second bias is 0 where our cell has only one. The embedding, if there is one, is :func:`embedding`'s.
    """
    import torch

    V, H, L, cell = shape[:4]
    real = torch.from_numpy(theta[:0]).dtype
    lstm = getattr(torch.nn, cell.upper())(shape.embedding_size or V, H, L, dtype=real)
    readout = torch.nn.Linear(H, V, dtype=real)
    params = spec.params(theta, shape)
    with torch.no_grad():
        for k, layer in enumerate(params.layers):
            getattr(lstm, f"weight_ih_l{k}").copy_(torch.from_numpy(layer.W_x.T.copy()))
            getattr(lstm, f"weight_hh_l{k}").copy_(torch.from_numpy(layer.W_h.T.copy()))
            getattr(lstm, f"bias_ih_l{k}").copy_(torch.from_numpy(layer[2].copy()))
            second = getattr(lstm, f"bias_hh_l{k}")
            if cell == "gru":
                second.copy_(torch.from_numpy(layer.b_h.copy()))
            else:
                second.zero_().requires_grad_(False)
        readout.weight.copy_(torch.from_numpy(params.W_y.T.copy()))
        readout.bias.copy_(torch.from_numpy(params.b_y.copy()))
    return lstm, readout


def embedding(theta, shape):
    """Build nn.Embedding from theta (N,), or None if the shape has none."""
    import torch

    if not shape.embedding_size:
        return None
    rows = spec.params(theta, shape).embedding
    return torch.nn.Embedding.from_pretrained(torch.from_numpy(rows.copy()), freeze=False)


def optimizer_of(work, trained, usual):
    import torch

    has_no_fused = trained[0].is_cuda and work.optimizer == "adagrad"
    way = {"foreach": True} if usual or has_no_fused else {"fused": True}
    constants = spec.hyper_values(work.optimizer, work.hyper)
    if work.optimizer == "adagrad":
        start = {"initial_accumulator_value": constants["epsilon"], "eps": 0.0}
        return torch.optim.Adagrad(trained, lr=work.learning_rate, **way, **start)
    if work.optimizer == "rmsprop":
        decay = {"alpha": constants["rho"], "eps": constants["epsilon"]}
        return torch.optim.RMSprop(trained, lr=work.learning_rate, foreach=True, **decay)
    betas = {"betas": (constants["beta1"], constants["beta2"]), "eps": constants["epsilon"]}
    return torch.optim.Adam(trained, lr=work.learning_rate, **way, **betas)


class Training:
    """Trains with cuDNN on a GPU, in full precision as ours (cuDNN's recurrent layers use TF32 by default)."""

    def __init__(self, work, ids, usual=False, device="cpu", bfloat16=False):
        import torch

        torch.backends.cudnn.allow_tf32 = False
        self.torch, self.work, self.bfloat16 = torch, work, bfloat16
        self.ids = torch.from_numpy(ids.astype(np.int64)).to(device)
        weights = work.weights("float32")
        table = embedding(weights, work.shape)
        modules = [module.to(device) for module in (table, *build(weights, work.shape)) if module is not None]
        self.lstm, self.readout = modules[-2:]
        self.look_up = table or torch.eye(work.shape.vocab_size, device=device).__getitem__
        self.trained = [p for module in modules for p in module.parameters() if p.requires_grad]
        self.optimizer = optimizer_of(work, self.trained, usual)
        self.plan, self.iteration = work.plan(len(ids)), 0
        self.steps = torch.arange(work.seq_length + 1, device=device)[:, None]
        self.zero = torch.zeros(work.shape.num_layers, work.batch_size, work.shape.hidden_size, device=device)
        self.start = (self.zero, self.zero) if work.shape.cell == "lstm" else self.zero
        self.state = self.start

    def run(self, count):
        starts, reset = self.plan.plan(self.iteration, self.iteration + count)
        for start, zero in zip(self.torch.from_numpy(starts).to(self.ids.device), reset.tolist(), strict=True):
            loss = self._iterate(start, zero)
        self.iteration += count
        return loss.item()

    def _iterate(self, start, zero):
        torch, work = self.torch, self.work
        with torch.autocast(self.ids.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, state = self._forward(self.ids[start + self.steps], self.start if zero else self.state)
        self.optimizer.zero_grad()
        (loss * work.grad_scale if work.mean else loss).backward()
        if work.grad_clip is not None:
            torch.nn.utils.clip_grad_value_(self.trained, work.grad_clip)
        if work.grad_clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.trained, work.grad_clip_norm)
        self.optimizer.step()
        self.state = tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
        return loss.detach()

    def _forward(self, x, state):
        """Return the summed loss of the ids x (T+1, B) and the state after them."""
        out, state = self.lstm(self.look_up(x[:-1]), state)
        if self.work.last_only:
            out, targets = out[-1], x[-1]
        else:
            out, targets = out.flatten(0, 1), x[1:].flatten()
        return self.torch.nn.functional.cross_entropy(self.readout(out), targets, reduction="sum"), state


class Sampling:
    """Sample one character at a time with an LSTM cell in inference mode, from the same uniform numbers as ours.

    This is a third faster than calling nn.LSTMCell and nn.Linear as modules, and twice as fast as torch.multinomial.
    """

    def __init__(self, work, ids):
        import torch

        from charlstm.measure.bench import SEED

        lstm, readout = build(work.weights("float32"), work.shape)
        self.cell, self.readout = ([p.detach() for p in m.parameters()] for m in (lstm, readout))
        V, H = work.shape[:2]
        self.torch, self.V, self.random = torch, V, np.random.RandomState(SEED)
        self.rows = list(torch.eye(V)[:, None].unbind())
        self.state, self.x = (torch.zeros(1, H), torch.zeros(1, H)), int(ids[0])

    def run(self, count):
        torch, linear, state, x = self.torch, self.torch.nn.functional.linear, self.state, self.x
        with torch.inference_mode():
            for u in self.random.random_sample(count).tolist():
                state = torch.lstm_cell(self.rows[x], state, *self.cell)
                cumulative = torch.softmax(linear(state[0], *self.readout)[0], 0).cumsum(0)
                x = min(int(cumulative.numpy().searchsorted(u, "right")), self.V - 1)
        self.state, self.x = state, x
        return float(x)


class UsualSampling:
    """Sample with modules and torch.multinomial, which draws a different text from the same distribution."""

    def __init__(self, work, ids):
        import torch

        V, H = work.shape[:2]
        lstm, self.readout = build(work.weights("float32"), work.shape)
        self.torch, self.cell, self.eye = torch, torch.nn.LSTMCell(V, H), torch.eye(V)
        with torch.no_grad():
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                getattr(self.cell, name).copy_(getattr(lstm, f"{name}_l0"))
        self.state, self.x = (torch.zeros(1, H), torch.zeros(1, H)), int(ids[0])

    def run(self, count):
        torch = self.torch
        with torch.inference_mode():
            for _ in range(count):
                self.state = self.cell(self.eye[self.x][None], self.state)
                probabilities = torch.softmax(self.readout(self.state[0])[0], 0)
                self.x = torch.multinomial(probabilities, 1).item()
        return float(self.x)
