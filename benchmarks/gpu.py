"""``python -m benchmarks.gpu`` times our works on this machine's GPU and writes benchmarks/results/DEVICE.json.

It needs only the packages of the GPU backend. Each work runs in rounds of about half a second; we keep the medians.
"""

import sys
from datetime import UTC, datetime
from statistics import median
from time import perf_counter

import kernels
from benchmarks import results, works
from charlstm.host import machine
from charlstm.measure.bench import SHORT, WORKS, Ours, in_words, iterations_for

ROUNDS = 7


def main():
    reason = kernels.missing("cupy")
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    device = kernels.load_for_host("cupy").device_name()
    rows = [measured(WORKS[name]) for name in SHORT]
    for row in rows:
        print(f"{row['work']:16} {in_words(row['median'])} per iteration, {row['chars_per_second']:,.0f} characters/s")
    name = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    path = results.FOLDER / f"{name}.json"
    about = {"device": device, "processor": machine.processor(), "versions": machine.versions()}
    results.write({"date": datetime.now(UTC).date().isoformat(), "machine": about, "gpu": rows}, path)
    print(f"results in {path}")
    return 0


def measured(work):
    """Measure one work, in seconds per iteration."""
    run = Ours(work, works.ids(work), "cupy").run
    count = iterations_for(run, 0.5)
    rounds = []
    for _ in range(ROUNDS):
        begin = perf_counter()
        run(count)  # the GPU has finished, because the losses are on the host
        rounds.append((perf_counter() - begin) / count)
    each = median(rounds)
    return {
        "work": work.name, "median": each, "least": min(rounds), "most": max(rounds), "iterations": count,
        "chars_per_second": work.chars / each,
    }  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
