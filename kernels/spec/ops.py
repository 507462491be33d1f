"""The signature of every op, the same for all backends."""

from inspect import Parameter, Signature

from kernels.spec.layers import LAYERS, WAYS
from kernels.spec.optimizers import OPTIMIZERS, signature


def _bare(signature: Signature) -> str:
    """A signature without its annotations."""
    parameters = [each.replace(annotation=Parameter.empty) for each in signature.parameters.values()]
    return str(Signature(parameters))


OPS = {
    **{
        f"{cell}_{way}": signature
        for cell, layer in LAYERS.items()
        for way, signature in zip(WAYS, layer.signatures, strict=True)
    },
    "softmax_cross_entropy": "(logits, targets, *, ignore_index=None, out=None)",
    "regression_loss": "(outputs, targets, *, loss='squared', delta=1.0, out=None)",
    "clip": "(grad, *, grad_clip=None, grad_clip_norm=None)",
    **{name: _bare(signature(name)) for name in OPTIMIZERS},
    "loss_and_grad": (
        "(theta, h, c, x, *, shape, targets=None, loss='cross_entropy', delta=1.0, ignore_index=None, "
        "last_only=False, dropout=0.0, masks=None, bfloat16=False, workspace=None, threads=None)"
    ),
    "train_steps": (
        "(theta, state, h, c, ids, starts, reset, learning_rate, *, shape, seq_length, targets=None, "
        "loss='cross_entropy', delta=1.0, ignore_index=None, step=0, optimizer='adagrad', "
        "hyper=None, grad_scale=1.0, grad_clip=None, grad_clip_norm=None, last_only=False, "
        "dropout=0.0, masks=None, weight_drop=0.0, seed=0, bfloat16=False, smooth_loss=inf, stop_below=-inf, "
        "workspace=None, threads=1, out=None)"
    ),
    "score": (
        "(theta, h, c, x, *, shape, targets=None, loss='cross_entropy', delta=1.0, ignore_index=None, workspace=None, "
        "threads=1, out=None)"
    ),
    "sample": "(theta, h, c, x, uniforms, *, shape, temperature=1.0, top_k=0, top_p=1.0, log_probs=None, mixture=None)",
}
