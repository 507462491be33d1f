"""A charlstm model in PyTorch: its weights in torch.nn.LSTM and torch.nn.Linear, checked against the reference.

    python examples/to_pytorch.py runs/book [--out book.pt]

It converts LSTM models without an embedding, of any size and number of layers, and writes a state_dict.
"""

import argparse

import numpy as np
import torch

import charlstm
import kernels
from kernels import spec

parser = argparse.ArgumentParser()
parser.add_argument("run", help="the folder of a run, or a checkpoint")
parser.add_argument("--out", default="model.pt", help="file for the state_dict")
arguments = parser.parse_args()


class CharLSTM(torch.nn.Module):
    """Characters in, logits of the next character out."""

    def __init__(self, vocab_size: int, hidden_size: int, num_layers: int) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(vocab_size, hidden_size, num_layers)
        self.readout = torch.nn.Linear(hidden_size, vocab_size)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (T, B, V) for ids (T, B)."""
        one_hot = torch.nn.functional.one_hot(ids, self.readout.out_features).float()
        return self.readout(self.lstm(one_hot)[0])


def converted(model: charlstm.Checkpoint) -> CharLSTM:
    """Return the model in PyTorch: its matrices are the transposes of ours, and its second bias is zero."""
    V, H, L, cell, E = model.shape
    if cell != "lstm" or E:
        raise SystemExit(f"to_pytorch: expected an LSTM without an embedding, got {cell!r} with embedding size {E}")
    ours, net = spec.params(model.theta.astype(np.float32), model.shape), CharLSTM(V, H, L)
    weights = {"readout.weight": ours.W_y.T, "readout.bias": ours.b_y}
    for k, layer in enumerate(ours.layers):
        weights |= {f"lstm.weight_ih_l{k}": layer.W_x.T, f"lstm.weight_hh_l{k}": layer.W_h.T}
        weights |= {f"lstm.bias_ih_l{k}": layer.b, f"lstm.bias_hh_l{k}": np.zeros_like(layer.b)}
    net.load_state_dict({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in weights.items()})
    return net.eval()


model = charlstm.load(arguments.run)
net = converted(model)
torch.save(net.state_dict(), arguments.out)

# One text, read by both from a zero state.
x = model.vocabulary.encode(model.sample(length=300, seed=0)).astype(np.int32)[:, None]
state = np.zeros((2, model.shape.num_layers, 1, model.shape.hidden_size), np.float32)
ours = kernels.load("numpy").score(model.theta.astype(np.float32), *state, x, shape=model.shape)
with torch.no_grad():
    log_probs = torch.log_softmax(net(torch.from_numpy(x[:-1].astype(np.int64))), -1).numpy()
theirs = np.take_along_axis(log_probs, x[1:, :, None], 2)[..., 0]
print(f"{arguments.out}: {sum(p.numel() for p in net.parameters()):,} parameters")
print(f"largest difference of the log probabilities of {len(ours)} characters: {np.abs(ours - theirs).max():.1e}")
