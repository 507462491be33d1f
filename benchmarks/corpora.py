"""``python -m benchmarks.corpora`` times encoding a large folder of text by one process and by two ranks.

It makes the text (``--gigabytes``) in a temporary folder of ``--folder``, loads it twice by each, the second time from the
cache, and removes it all: three times its size must be free. It writes benchmarks/results/corpora.json and the tables of
docs/scaling.md; ``--tables`` only remakes these. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import results
from benchmarks.pages import filled, table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = results.FOLDER / "corpora.json", ROOT / "docs" / "scaling.md"
FILE = 64 * 10**6  # bytes
GIGA, TERA = 10**9, 10**12


# ---------------------------------------------------------------------------------------------------------------- text
def make(folder, size):
    """Write files of made-up words, `size` bytes in all; one letter in about 300 is not ASCII."""
    random, letters = np.random.default_rng(0), np.array(list("etaoinshrdlcumwfgypbvkjxqzé"))
    frequent = np.array([12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 0.2, 0.2, 0.1, 0.1, 0.3])
    words = ["".join(random.choice(letters, n, p=frequent / frequent.sum())) for n in random.integers(2, 10, 5000)]
    folder.mkdir()
    for number in range(-(-size // FILE)):
        picked = random.zipf(1.3, FILE // 40) % len(words)
        ends = np.where(random.random(len(picked)) < 0.1, ".\n", " ")
        part = "".join(words[k] + end for k, end in zip(picked.tolist(), ends.tolist(), strict=True)).encode()
        content = (part * -(-FILE // len(part)))[: min(FILE, size - number * FILE)]
        (folder / f"{number:04}.txt").write_bytes(content.decode("utf-8", "ignore").encode())  # no half letter


# ----------------------------------------------------------------------------------------------------------- measuring
class Peak:
    """The most anonymous memory of this process, in bytes, looked at 20 times a second; Linux only."""

    def __enter__(self):
        self.bytes, self._ended = 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while True:
            facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
            self.bytes = max(self.bytes, int(facts["RssAnon"].split()[0]) * 1024)
            if self._ended.wait(0.05):
                return

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()


def work(folder):
    """Load a folder as one of its ranks and train an iteration; each rank prints a line."""
    from charlstm.settings.config import from_preset
    from charlstm.text import corpus, shards
    from charlstm.training.trainer import Trainer
    from charlstm.training.world import joined

    world, stages = joined(), {}
    for name in ("_read", "_digests"):
        _timed(shards._Shard, name, stages)
    begun = perf_counter()
    with Peak() as peak:
        found = corpus.load([folder], world=world if world.size > 1 else None)
        loaded = perf_counter() - begun
    config = from_preset(
        "fast", hidden_size=128, batch_size=32, seq_length=32, backend="numpy", iterations=1, seconds=None
    )
    trainer = Trainer(config, found, world=world)
    for _ in trainer.run():
        pass
    line = {
        "ranks": world.size, "rank": world.rank, "seconds": loaded, "stages": stages, "anonymous": peak.bytes,
        "first_iteration": perf_counter() - begun, "mapped": mapped_bytes(), "chars": len(found.ids),
        "digest": found.digest,
    }  # fmt: skip
    lines = world.gather_values(line)
    if world.rank == 0:
        print("\n".join(map(json.dumps, lines)), flush=True)


def _timed(owner, name, stages):
    """Add the seconds that a method takes to `stages`."""
    whole = getattr(owner, name)

    def timed(*arguments):
        begun = perf_counter()
        try:
            return whole(*arguments)
        finally:
            stages[name.strip("_")] = perf_counter() - begun

    setattr(owner, name, timed)


def mapped_bytes():
    """Bytes of ids that this process has mapped."""
    lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
    ends = [map(_hex, line.split()[0].split("-")) for line in lines if line.endswith(".ids")]
    return sum(end - begin for begin, end in ends)


def _hex(word):
    return int(word, 16)


def measure(size, folder, each=(1, 2)):
    """Make a text, let each number of ranks encode it and find it again; return the lines of all ranks."""
    found = []
    with tempfile.TemporaryDirectory(dir=folder) as place:
        make(Path(place) / "texts", size)
        for ranks in each:
            cache = Path(place) / "cache"
            for start in ("first", "second"):
                words = [sys.executable, "-m", "benchmarks.corpora", "--work", str(Path(place) / "texts")]
                started = words if ranks == 1 else ["mpiexec", "-n", str(ranks), *words]
                env = {**os.environ, "CHARLSTM_DATA_DIR": str(cache)}
                done = subprocess.run(started, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
                print(done.stdout, end="", flush=True)
                found += [{**json.loads(line), "start": start, "bytes": size} for line in done.stdout.splitlines()]
            shutil.rmtree(cache)
    if len({line.pop("digest") for line in found}) != 1:
        raise SystemExit("the digests differ")
    return found


def main(words):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpora", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where there is room")
    parser.add_argument("--name", default="shared", help="what the results are kept under: shared or idle machine")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.work:
        work(given.work)
        return
    from charlstm.host.machine import processor
    from charlstm.measure.bench import load_average

    before, lines = load_average(), measure(round(given.gigabytes * GIGA), given.folder)
    kept = results.read(RESULTS) if RESULTS.exists() else {}
    results.write({**kept, given.name: {"machine": processor(), "load": before, "lines": lines}}, RESULTS)


if __name__ == "__main__":
    main(sys.argv[1:])
