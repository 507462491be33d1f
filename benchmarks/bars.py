"""The bars: each pairs a target with the measured figure."""

from typing import NamedTuple

from benchmarks import results as read


class Bar(NamedTuple):
    what: str
    wanted: str  # the target in words; empty if the figure is only reported
    measured: str  # the figure in words; empty if it was not measured
    passed: bool | None  # None if the target or the figure is missing


#: Work, number of our threads, rival, and target: our speed as a multiple of the rival's.
RATIOS = (
    ("seed", 1, "jax", 1.4), ("seed", 1, "plain_c", 1.15), ("seed", 1, "pytorch", 9), ("seed", 1, "numpy_loop", 20),
    ("seed", 2, "jax", 2), ("seed", 2, "pytorch", 12), ("seed", 2, "numpy_loop", 28),
    ("keras", 1, "pytorch", 1.8), ("keras", 2, "pytorch", 1.3),
    ("torch-rnn-128", 1, "pytorch", 1.3), ("torch-rnn-128", 2, "pytorch", 1.3),
    ("torch-rnn-512", 1, "pytorch", 1.1), ("torch-rnn-512", 2, "pytorch", 1.1),
    ("torch-rnn-1024", 1, "pytorch", 1.1), ("torch-rnn-1024", 2, "pytorch", 1.1),
    ("h256-b16", 2, "pytorch", 1.8),
    ("sample", 1, "pytorch", 15),
    ("seed", 1, "pytorch_usual", 9), ("seed", 2, "pytorch_usual", 12), ("sample", 1, "pytorch_usual", 15),
)  # fmt: skip
#: Work, number of our threads, and target: our speed in bfloat16 as a multiple of PyTorch's in its better dtype.
BETTER_DTYPE = tuple(
    (work, threads, 1.2 if work == "torch-rnn-128" else 1.25)
    for work in ("torch-rnn-128", "torch-rnn-512", "torch-rnn-1024", "keras-all", "h256-b32", "gru-256")
    for threads in (1, 2)
)
#: Work, number of threads, and target: our speed in bfloat16 as a multiple of ours in float32.
OWN_DTYPES = tuple((f"torch-rnn-{H}", threads, 1.7) for H in (512, 1024) for threads in (1, 2))
#: Benchmark, description, and target: the most seconds allowed.
STARTS = (
    ("test_help", "charlstm --help", 0.25),
    ("test_first_step_of_a_warm_cache", "first training step, with cached kernels", 1.5),
    ("test_first_step_of_a_cold_cache", "first training step, compiling the kernels", 20),
)
NOT_HERE = (
    ("1 GB of text", "less than 400 MB of anonymous memory"),
    ("quality", "tinyshakespeare validation at most 1.57 nats in 127 s"),
    ("constitution", "mean training loss at most 0.1554 nats a character in 30 s"),
)


def bars(results):
    """Return every bar, in the order of the tables above."""
    return [
        *(_ratio(results, *row) for row in RATIOS),
        *(_better_dtype(results, *row) for row in BETTER_DTYPE),
        *(_own_dtypes(results, *row) for row in OWN_DTYPES),
        _sampling(results),
        *(_start(results, *row) for row in STARTS),
        *_allocations(results),
        *_busy(results),
        *(Bar(what, wanted, "", None) for what, wanted in NOT_HERE),
    ]


def _ratio(results, work, threads, rival, wanted):
    what = f"{_on(work, threads)}, against {rival}"
    race = read.race_of(results, work)
    ours, theirs = (read.best(race, name, threads) for name in ("ours", rival)) if race else (None, None)
    return _times_as_fast(what, wanted, race, threads, ours, theirs)


def _better_dtype(results, work, threads, wanted):
    what, race = f"{_on(work, threads)}, bfloat16, against PyTorch's better dtype", read.race_of(results, work)
    if not race:
        return _times_as_fast(what, wanted, None, threads, None, None)
    found = [read.best(race, name, threads) for name in ("pytorch", "pytorch_bf16")]
    theirs = min(filter(None, found), key=lambda c: c["median"], default=None)
    return _times_as_fast(what, wanted, race, threads, read.best(race, "ours", threads, "bfloat16"), theirs)


def _own_dtypes(results, work, threads, wanted):
    what, race = f"{_on(work, threads)}, bfloat16, against ours in float32", read.race_of(results, work)
    ours = [read.best(race, "ours", threads, dtype) if race else None for dtype in ("bfloat16", "float32")]
    return _times_as_fast(what, wanted, race, threads, *ours)


def _on(work, threads):
    return f"{work}, {threads} thread{'s' if threads > 1 else ''}"


def _times_as_fast(what, wanted, race, threads, ours, theirs):
    words = f"at least {wanted:g}x"
    if not ours or not theirs or threads not in read.thread_counts(race):
        return Bar(what, words, "", None)
    ratio = theirs["median"] / ours["median"]
    return Bar(what, words, f"{ratio:.2f}x", ratio >= wanted)


def _sampling(results):
    race = read.race_of(results, "sample")
    what, wanted = "sample, characters per second on one thread", "at least 250,000"
    if not race:
        return Bar(what, wanted, "", None)
    rate = 1 / read.best(race, "ours", 1)["median"]
    return Bar(what, wanted, f"{rate:,.0f}", rate >= 250_000)


def _start(results, name, what, wanted):
    found = read.named(results, name)
    words = f"under {wanted:g} s"
    return (
        Bar(what, words, f"{found['median']:.2f} s", found["median"] < wanted) if found else Bar(what, words, "", None)
    )


def _allocations(results):
    for each in results["benchmarks"]:
        if "bytes_per_iteration" in each:
            count = each["arrays_per_iteration"] + each["bytes_per_iteration"]
            what = f"allocations per iteration, {each['work']}, {each['threads']} threads"
            yield Bar(what, "none", f"{count:g}", count == 0)


def _busy(results):
    for each in results["benchmarks"]:
        if "busy" in each:
            what = f"{each['work']}, {each['threads']} threads, time with one core busy, relative to an idle machine"
            yield Bar(what, "at most 2.2x", f"{each['ratio']:.2f}x", each["ratio"] <= 2.2)


def as_text(rows):
    """Format the bars as a table for a terminal."""
    lines = [f"{'':7} {'measured':>12}  {'target':44} figure"]
    for bar in rows:
        verdict = {True: "passed", False: "MISSED", None: ""}[bar.passed]
        lines.append(f"{verdict:7} {bar.measured or 'not measured':>12}  {bar.wanted or 'none':44} {bar.what}")
    return "\n".join(lines)
