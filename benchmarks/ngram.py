"""Measures cost and quality of the Markov model: ``python -m benchmarks.ngram size|table TEXT ...``.

`size` writes random words with the word frequencies of TEXT, and prints the time and memory that `charlstm ngram`
takes on them, including reading. `table` prints the bits per character on the held-out end of each TEXT, which is the
table in docs/ngram.md.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks.process import ROOT
from charlstm.ngram import markov as ngram
from charlstm.text import corpus

#: Program that runs the command line and then prints the process's peak memory.
_PROGRAM = (
    "import sys; from benchmarks.memory import peak_rss; from charlstm.cli import _guarded; "
    "code = _guarded(sys.argv[1:]); print(peak_rss()); sys.exit(code)"
)
ORDERS = range(3, 9)


def made_up(text, length, seed=1):
    """Return random words with the text's word frequencies, each followed by a space or sometimes a line break."""
    counts = Counter(re.findall(r"\S+", text))
    words = np.array([word + end for word in counts for end in "      \n"], object)
    weights = np.repeat(list(counts.values()), 7).astype(float)
    mean = float((np.vectorize(len)(words) * weights).sum() / weights.sum())
    random = np.random.RandomState(seed)
    drawn = random.choice(len(words), int(length / mean * 1.01) + 1000, p=weights / weights.sum())
    return "".join(words[drawn])[:length]


def measure(path, order=5):
    """Return the figures of `charlstm ngram` on a file, with its total seconds and its peak memory in bytes."""
    begin = perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, "ngram", str(path), "--order", str(order), "--json", "--seed", "1"],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        check=True,
    )
    seconds = perf_counter() - begin
    figures, memory = done.stdout.decode().splitlines()
    return {**json.loads(figures), "command_seconds": seconds, "peak_rss": int(memory)}


def table(names, lower):
    """Return rows of bits per character, one per text and smoothing, with a column per order."""
    yield "| text | smoothing | " + " | ".join(f"order {order}" for order in ORDERS) + " |"
    yield "| --- | --- |" + " --- |" * len(ORDERS)
    for name in names:
        found = corpus.load([name], lower=lower)
        learned, held_out = found.split(0.1)
        models = [ngram.Model.learn(learned, len(found.vocabulary), order) for order in ORDERS]
        for smoothing in ("kneser-ney", "witten-bell"):
            bits = [model.bits_per_char(held_out, smoothing) for model in models]
            best = min(bits)
            cells = [f"**{each:.4f}**" if each == best else f"{each:.4f}" for each in bits]
            yield f"| {found.name}{', --lower' if lower else ''} | {smoothing} | {' | '.join(cells)} |"


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ngram", description=__doc__)
    parser.add_argument("what", choices=["size", "table"])
    parser.add_argument("text", nargs="+", help="files or built-in texts; `size` takes its words from them")
    parser.add_argument("--megabytes", type=int, default=100)
    parser.add_argument("--lower", action="store_true")
    arguments = parser.parse_args()
    if arguments.what == "table":
        print("\n".join(table(arguments.text, arguments.lower)))
        return
    words = corpus.load(arguments.text)
    text = made_up(words.vocabulary.decode(words.ids), arguments.megabytes * 10**6)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "made-up.txt"
        path.write_text(text, "utf-8")
        print(measure(path))


if __name__ == "__main__":
    main()
