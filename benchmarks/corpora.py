"""``python -m benchmarks.corpora`` times encoding a large folder of text by one process and by two ranks.

It makes the text (``--gigabytes``) in a temporary folder of ``--folder``, loads it twice by each, the second time from
the cache, and removes it all: three times its size must be free. It writes benchmarks/results/corpora.json and the
tables of docs/scaling.md; ``--tables`` only remakes these. Linux only.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import results
from benchmarks.pages import filled, table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = results.FOLDER / "corpora.json", ROOT / "docs" / "scaling.md"
FILE = 64 * 10**6  # bytes
GIGA, TERA = 10**9, 10**12
BASE = "one core free"  # the state of the machine whose rates the terabyte follows from


# ---------------------------------------------------------------------------------------------------------------- text
def make(folder, size):
    """Write files of made-up words, `size` bytes in all or a few more; one letter in about 300 is not ASCII."""
    random, letters = np.random.default_rng(0), np.array(list("etaoinshrdlcumwfgypbvkjxqzé"))
    frequent = np.array([12, 9, 8, 8, 7, 7, 6, 6, 6, 4, 4, 3, 3, 2, 2, 2, 2, 2, 2, 1, 1, 1, 0.2, 0.2, 0.1, 0.1, 0.3])
    words = ["".join(random.choice(letters, n, p=frequent / frequent.sum())) for n in random.integers(2, 10, 5000)]
    lines = [" ".join(words[k] for k in random.zipf(1.3, 12) % len(words)) + ".\n" for _ in range(20_000)]
    lines = [line.encode() for line in lines]
    folder.mkdir()
    for number, at in enumerate(range(0, size, FILE)):
        left = min(FILE, size - at)
        with open(folder / f"{number:04}.txt", "wb") as file:
            while left > 0:
                first = int(random.integers(len(lines)))
                left -= file.write(b"".join(lines[first:] + lines[:first]))


# ----------------------------------------------------------------------------------------------------------- measuring
class Peak:
    """The most anonymous memory of this process and the most room that the cache takes, in bytes; it looks often."""

    def __enter__(self):
        self.bytes, self.room, self._ended = 0, 0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self):
        while True:
            facts = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text("utf-8").splitlines())
            self.bytes = max(self.bytes, int(facts["RssAnon"].split()[0]) * 1024)
            self.room = max(self.room, room())
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
        "room": peak.room,
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


def room():
    """Bytes that the cache's files take on the disk."""
    from charlstm.text import idcache

    taken = 0
    for path in idcache.folder().glob("*"):
        with suppress(OSError):  # it has been removed
            taken += path.stat().st_blocks * 512
    return taken


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
        make(texts := Path(place) / "texts", size)
        size = sum(path.stat().st_size for path in texts.iterdir())
        for ranks in each:
            cache = Path(place) / "cache"
            for start in ("first", "second"):
                words = [sys.executable, "-m", "benchmarks.corpora", "--work", str(texts)]
                started = words if ranks == 1 else ["mpiexec", "-n", str(ranks), *words]
                env = {**os.environ, "CHARLSTM_DATA_DIR": str(cache)}
                done = subprocess.run(started, env=env, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
                print(done.stdout, end="", flush=True)
                found += [{**json.loads(line), "start": start, "bytes": size} for line in done.stdout.splitlines()]
            shutil.rmtree(cache)
    if len({line.pop("digest") for line in found}) != 1:
        raise SystemExit("the digests differ")
    return found


# -------------------------------------------------------------------------------------------------------------- tables
def rates(found):
    """Bytes per second of one rank: reading and encoding, writing ids, and digests of ids, of two on BASE."""
    lines = [line for line in found[BASE]["lines"] if line["ranks"] == 2 and line["start"] == "first"]
    size, stages = lines[0]["bytes"], [line["stages"] for line in lines]
    read, digests = (max(stage[name] for stage in stages) for name in ("read", "digests"))
    write = max(line["seconds"] for line in lines) - read - digests
    return {"read": size / 2 / read, "write": size / 2 / write, "digests": size / digests}


def measured_table(found):
    """What was measured: one row for each number of ranks and each start."""
    rows = []
    for name, one in found.items():
        for ranks, start in dict.fromkeys((line["ranks"], line["start"]) for line in one["lines"]):
            lines = [line for line in one["lines"] if (line["ranks"], line["start"]) == (ranks, start)]
            size, seconds = lines[0]["bytes"], max(line["seconds"] for line in lines)
            stages = [max(line["stages"].get(stage, 0) for line in lines) for stage in ("read", "digests")]
            split = (
                [f"{each:.1f} s" for each in (stages[0], seconds - sum(stages), stages[1])] if stages[0] else ["-"] * 3
            )
            about = f"{size / GIGA:.1f} GB, {name}"
            rows.append([
                about, str(ranks), start, f"{seconds:.1f} s", f"{size / seconds / 1e6:.0f} MB/s", *split,
                f"{max(line['anonymous'] for line in lines) / 2**20:.0f} MiB",
                f"{max(line['room'] for line in lines) / GIGA:.1f} GB",
                ", ".join(f"{line['mapped'] / GIGA:.2f} GB" for line in lines),
            ])  # fmt: skip
    figures = ["ready after", "rate", "encode", "write", "check", "memory", "room", "mapped by each"]
    return table(["text, machine", "ranks", "start", *figures], rows)


FILE_SYSTEM = 20e9  # bytes per second that all ranks together get


def terabyte(found, ranks, whole=TERA):
    """Seconds to a first start and to a second one, for a text of `whole` bytes and ids of one byte."""
    rate, wait = rates(found), 2 * whole / FILE_SYSTEM  # each stage reads and writes, or reads twice
    each = whole / ranks
    first = max(each / rate["read"], wait) + max(each / rate["write"], wait) + max(whole / rate["digests"], wait)
    return first, max(2 * each / rate["digests"], wait)


def terabyte_table(found):
    """The terabyte on paper."""
    rows = []
    for ranks in (4, 16, 64, 256):
        first, second = terabyte(found, ranks)
        rows.append(
            [f"{ranks:,}", f"{TERA / ranks / GIGA:,.1f} GB", f"{first / 60:,.0f} min", f"{second / 60:,.0f} min"]
        )
    return table(["ranks", "text, and ids mapped, a rank", "first start", "later starts"], rows)


TABLES = {"corpora": measured_table, "terabyte": terabyte_table}


def with_tables(page, found):
    """The page with the tables remade; each stands between two comments of its name."""
    for name, made in TABLES.items():
        page = filled(page, f"<!-- {name} -->", "<!-- end -->", made(found))
    return page


def main(words):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpora", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0)
    parser.add_argument("--folder", default=tempfile.gettempdir(), help="where there is room")
    parser.add_argument("--name", default=BASE, help="of the machine's state; the terabyte follows from the default")
    parser.add_argument("--tables", action="store_true", help="only remake the tables")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    if given.work:
        work(given.work)
        return
    found = results.read(RESULTS) if RESULTS.exists() else {}
    if not given.tables:
        from charlstm.host.machine import processor
        from charlstm.measure.bench import load_average

        before, lines = load_average(), measure(round(given.gigabytes * GIGA), given.folder)
        found[given.name] = {"machine": processor(), "load": before, "lines": lines}
        results.write(found, RESULTS)
    if BASE in found:
        PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
