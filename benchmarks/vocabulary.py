"""Prints the time of an iteration against V beside PyTorch's: ``python -m benchmarks.vocabulary``.

The model is that of `fast`: without an embedding up to 1,000 kinds of characters, and with one of 64 above. All run on
all cores and take turns. This is the table in docs/benchmarks.md.
"""

from benchmarks.pages import table
from benchmarks.process import Contestant, Race
from benchmarks.results import title_of
from benchmarks.rivals import pytorch_bf16
from charlstm.host.machine import usable_cores
from charlstm.measure.bench import COST_V, WORKS, in_words


def main():
    cores = usable_cores()
    contestants = [Contestant("ours", cores), Contestant("ours", cores, dtype="bfloat16"), Contestant("pytorch", cores)]
    if pytorch_bf16.has_bfloat16():
        contestants.append(Contestant("pytorch_bf16", cores))
    rows, loads = [], []
    for V in COST_V:
        race = Race(WORKS[f"cost-v-{V}"], contestants)
        try:
            race.run()
            agree(race)
        finally:
            race.close()
        found = race.result()
        loads += found["load"]
        times = [each["median"] for each in found["contestants"]]
        ratio = min(times[2:]) / min(times[:2])
        rows.append([f"{V:,}", str(race.work.shape.embedding_size or "none"), *map(in_words, times), f"{ratio:.2f}x"])
    titles = [title_of(each.name, each.dtype) for each in contestants]
    print(table(["kinds of characters", "embedding", *titles, "PyTorch's better / ours better"], rows))
    print(f"\n{cores} threads; load {min(loads)} to {max(loads)} (these programs included)")


def agree(race):
    """Raise RuntimeError unless the first losses agree: the contestants then do the same work."""
    losses = [process.ready["first_loss"] for process in race.processes]
    if max(losses) - min(losses) > 1e-3 * losses[0]:
        raise RuntimeError(f"{race.work.name}: the first losses differ: {losses}")


if __name__ == "__main__":
    main()
