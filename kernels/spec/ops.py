"""The signature of every op, the same for all backends."""

from kernels.spec.layers import LAYERS

OPS = {
    **{
        f"{cell}_{way}": signature
        for cell, layer in LAYERS.items()
        for way, signature in zip(("forward", "backward"), layer.signatures, strict=True)
    },
    "softmax_cross_entropy": "(logits, targets, *, out=None)",
    "clip": "(grad, *, grad_clip=None, grad_clip_norm=None)",
    "sgd": "(theta, grad, state, step, *, learning_rate, grad_clip=None, momentum=0.0)",
    "adagrad": "(theta, grad, state, step, *, learning_rate, grad_clip=None, epsilon=1e-08)",
    "rmsprop": "(theta, grad, state, step, *, learning_rate, grad_clip=None, rho=0.99, epsilon=1e-08)",
    "adam": "(theta, grad, state, step, *, learning_rate, grad_clip=None, beta1=0.9, beta2=0.999, epsilon=1e-08)",
    "loss_and_grad": "(theta, h, c, x, *, shape, last_only=False, dropout=0.0, masks=None, workspace=None)",
    "train_steps": (
        "(theta, state, h, c, ids, starts, reset, learning_rate, *, shape, seq_length, step=0, optimizer='adagrad', "
        "hyper=None, grad_scale=1.0, grad_clip=None, grad_clip_norm=None, last_only=False, "
        "dropout=0.0, masks=None, bfloat16=False, smooth_loss=inf, stop_below=-inf, workspace=None, threads=1, "
        "out=None)"
    ),
    "score": "(theta, h, c, x, *, shape, workspace=None, out=None)",
    "sample": "(theta, h, c, x, uniforms, *, shape, temperature=1.0, top_k=0, top_p=1.0, log_probs=None)",
}
