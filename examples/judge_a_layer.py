"""Judge somebody else's layer: the gradients of torch.nn.LSTM, and of one with a planted mistake.

``python examples/judge_a_layer.py`` needs PyTorch and takes seconds. Any layer can be judged that has a way to compute
results and gradients: write the three functions of `kernels.testing.Judged` for it.
"""

import numpy as np
import torch

from kernels import testing


class TorchLSTM:
    """torch.nn.LSTM, in float64, as kernels.testing.judge takes a layer."""

    def __init__(self, T=4, B=2, D=3, H=5):
        torch.manual_seed(0)
        self.layer = torch.nn.LSTM(D, H).double()
        # The arrays are the tensors' own memory, so that a change of an element is a change of the layer.
        self.tensors = dict(self.layer.named_parameters())
        self.tensors |= {"x": torch.randn(T, B, D).double()}
        self.tensors |= {name: torch.randn(1, B, H).double() for name in ("h0", "c0")}
        for each in self.tensors.values():
            each.requires_grad_()

    def arrays(self):
        """What the layer reads."""
        return {name: each.detach().numpy() for name, each in self.tensors.items()}

    def run(self):
        """The results as tensors."""
        out, (h, c) = self.layer(self.tensors["x"], (self.tensors["h0"], self.tensors["c0"]))
        return {"out": out, "h": h, "c": c}

    def forward(self):
        """The results."""
        with torch.no_grad():
            return {name: each.numpy() for name, each in self.run().items()}

    def backward(self, gradients):
        """The gradients, given those of the results."""
        for each in self.tensors.values():
            each.grad = None
        total = sum((each * torch.from_numpy(gradients[name])).sum() for name, each in self.run().items())
        total.backward()
        return {name: each.grad.numpy() for name, each in self.tensors.items()}


class Forgetful(TorchLSTM):
    """The same, but the gradient of the last cell state is lost: the mistake that a dropped ``dc_next`` makes."""

    def backward(self, gradients):
        """The gradients, given those of the results."""
        return super().backward({**gradients, "c": np.zeros_like(gradients["c"])})


def main():
    """Print both verdicts."""
    for name, layer in (("torch.nn.LSTM", TorchLSTM()), ("the same, dc forgotten", Forgetful())):
        errors = testing.judge(layer, name=name)
        print(f"{name}: {'correct' if testing.is_correct(errors) else 'WRONG'}")
        for each in errors:
            print(f"  d{each.tensor:14} {each.error:.1e}")


if __name__ == "__main__":
    main()
