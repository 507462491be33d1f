"""``python -m benchmarks.gpu`` times our works on this machine's GPU and writes benchmarks/results/DEVICE.json.

It needs only the packages of the GPU backend. If PyTorch finds the GPU, its cuDNN runs the same works beside ours. Each
contestant takes its turn in rounds of about a third of a second; we keep the medians.
"""

import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from statistics import median
from time import perf_counter

import kernels
from benchmarks import results, works
from benchmarks.rivals import pytorch
from charlstm.host import machine
from charlstm.measure.bench import SHORT, WORKS, Ours, in_words, iterations_for

ROUNDS, ROUND_SECONDS = 7, 0.3


def main():
    reason = kernels.missing("cupy")
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    device = kernels.load_for_host("cupy").device_name()
    rows = [measured(WORKS[name]) for name in SHORT]
    name = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    path = results.FOLDER / f"{name}.json"
    about = {"device": device, "processor": machine.processor(), "versions": machine.versions()}
    results.write({"date": datetime.now(UTC).date().isoformat(), "machine": about, "gpu": rows}, path)
    print(f"results in {path}")
    return 0


def measured(work):
    """Measure one work, in seconds per iteration, and print its line."""
    ids = works.ids(work)
    runs = {"ours": Ours(work, ids, "cupy").run}
    if work.optimizer and pytorch_has_gpu():
        runs["pytorch"] = pytorch.make(work, ids, 1, device="cuda").run
    counts = {name: iterations_for(run, ROUND_SECONDS) for name, run in runs.items()}
    rounds = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begin = perf_counter()
            run(counts[name])  # the GPU has finished, because the losses are on the host
            rounds[name].append((perf_counter() - begin) / counts[name])
    row = {"work": work.name, **summary(rounds["ours"]), "iterations": counts["ours"]}
    row["chars_per_second"] = work.chars / row["median"]
    line = f"{work.name:16} {in_words(row['median'])} per iteration, {row['chars_per_second']:,.0f} characters/s"
    if "pytorch" in rounds:
        row["pytorch"] = summary(rounds["pytorch"])
        ratio = row["pytorch"]["median"] / row["median"]
        line += f"; PyTorch {in_words(row['pytorch']['median'])}, {ratio:.2f} times ours"
    print(line, flush=True)
    return row


def summary(rounds):
    return {"median": median(rounds), "least": min(rounds), "most": max(rounds)}


def table(found):
    """Format the results of a device as a Markdown table."""
    lines = ["| work | ours | characters/s | PyTorch (cuDNN) | ours is faster by |", "|" + " --- |" * 5]
    for row in found["gpu"]:
        cells = [f"`{row['work']}`", in_words(row["median"]), f"{row['chars_per_second']:,.0f}"]
        other = row.get("pytorch", {}).get("median")
        cells += [in_words(other), f"{other / row['median']:.2f}"] if other else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def pytorch_has_gpu():
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main())
