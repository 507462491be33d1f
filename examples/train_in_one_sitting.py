"""A character LSTM in one sitting: a text, a vocabulary, initial weights, training, a held-out score, a sample.

    python examples/train_in_one_sitting.py [TEXT] [--iterations 4000] [--hidden-size 128] [--backend numba]

It needs only NumPy and `kernels`, and reads straight down. Without TEXT it trains on the documentation inside Python.
On two cores it takes about 15 seconds, and a minute the first time, when Numba compiles.
"""

import argparse
import os
from pathlib import Path
from pydoc_data import topics

import numpy as np

import kernels
from kernels.spec import GATE_F, Shape, num_parameters, params, slots, workspace

# ---------------------------------------------------------------------------------------------------------- settings
parser = argparse.ArgumentParser()
parser.add_argument("text", nargs="?", type=Path, help="a file of text, UTF-8")
parser.add_argument("--iterations", type=int, default=4000)
parser.add_argument("--hidden-size", type=int, default=128)
parser.add_argument("--seq-length", type=int, default=64, help="truncated-BPTT length, in characters")
parser.add_argument("--batch-size", type=int, default=16, help="number of streams of text read in parallel")
parser.add_argument("--learning-rate", type=float, default=0.02, help="peak of the schedule")
parser.add_argument("--temperature", type=float, default=0.7)
parser.add_argument("--length", type=int, default=500, help="length of the sample, in characters")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--backend", choices=("numpy", "numba"), default="numba")
settings = parser.parse_args()
ops = kernels.load(settings.backend)
random = np.random.default_rng(settings.seed)
T, B, H = settings.seq_length, settings.batch_size, settings.hidden_size

# --------------------------------------------------------------------------------------------- text, vocabulary, ids
text = settings.text.read_text("utf-8") if settings.text else "\n\n".join(topics.topics.values())
characters = sorted(set(text))
id_of = {character: k for k, character in enumerate(characters)}
ids = np.array([id_of[character] for character in text], np.uint32)
held_out = ids[len(ids) * 19 // 20 :].astype(np.int32)  # the last twentieth is not trained on
ids = ids[: -len(held_out)]
print(f"{len(text):,} characters, {len(characters)} different ones, {len(held_out):,} held out")

# ------------------------------------------------------------------------------- initial weights, in one flat vector
shape = Shape(vocab_size=len(characters), hidden_size=H, num_layers=1, cell="lstm")
theta = random.uniform(-1, 1, num_parameters(shape)).astype(np.float32) / np.float32(np.sqrt(H))
first_layer = params(theta, shape).layers[0]  # views: writing to them writes to theta
first_layer.b[...] = 0
first_layer.b[GATE_F * H : (GATE_F + 1) * H] = 1  # at first, the cell keeps its state
state = np.zeros((slots("adam"), len(theta)), np.float32)  # Adam's two moments
h, c = np.zeros((1, B, H), np.float32), np.zeros((1, B, H), np.float32)
print(f"{len(theta):,} parameters")

# ------------------------------------------------- which characters each iteration reads, and its learning rate
stride = (len(ids) - 1) // B  # stream b starts at b * stride, moves T characters per iteration, then restarts
per_epoch = stride // T
if per_epoch < 1:
    raise SystemExit(f"the text is too short for {B} streams of {T} characters")
iteration = np.arange(settings.iterations)
starts = np.arange(B) * stride + (iteration % per_epoch)[:, None] * T
is_first = iteration % per_epoch == 0  # there h and c are set to zero; otherwise they are carried over
warmup, cosine = np.minimum(1, (iteration + 1) / 50), 0.5 + 0.5 * np.cos(np.pi * iteration / len(iteration))
learning_rate = settings.learning_rate * warmup * cosine

# ---------------------------------------------------------------------------------------------------------- training
buffers, piece = workspace(shape, T, B, np.float32), max(1, settings.iterations // 10)
for begin in range(0, settings.iterations, piece):
    part = slice(begin, begin + piece)
    losses = ops.train_steps(
        theta, state, h, c, ids, starts[part], is_first[part], learning_rate[part], shape=shape, seq_length=T,
        step=begin, optimizer="adam", grad_scale=1 / (T * B), grad_clip_norm=1.0, workspace=buffers,
        threads=os.cpu_count() or 1,
    )  # fmt: skip
    if not np.isfinite(losses[-1]):
        raise SystemExit("the loss is not finite: try a lower --learning-rate")
    nats = losses.mean() / (T * B)
    print(f"iteration {begin + len(losses):5}  {nats:.3f} nats  {nats / np.log(2):.3f} bits per character", flush=True)

# --------------------------------------------------------------------------------------------------- held-out score
h, c = np.zeros((1, 1, H), np.float32), np.zeros((1, 1, H), np.float32)  # one stream; score() carries the state on
log_probs = [
    ops.score(theta, h, c, held_out[at : at + 1001, None], shape=shape)  # ln p of 1000, each given all before
    for at in range(0, len(held_out) - 1, 1000)
]
print(f"held out: {-np.concatenate(log_probs).mean() / np.log(2):.3f} bits per character\n")

# ------------------------------------------------------------------------------- a sample that continues the text
uniforms = random.random((settings.length, 1))
drawn = ops.sample(theta, h, c, held_out[-1:], uniforms, shape=shape, temperature=settings.temperature)
print("".join(characters[k] for k in drawn[:, 0]))
