"""The results as tables in README.md, between two marks. Pure Python, so that a test can redo it anywhere.

A comment beside the tables holds the digests of the results and of the charts; each chart holds that of the results it
was drawn from. So a figure that is edited by hand, in the page or in a chart, is found (tests/test_report.py).
"""

import hashlib
import re

from benchmarks import results as read
from benchmarks.process import ROOT
from benchmarks.results import RIVALS
from charlstm.measure.bench import in_words

README, CHARTS = ROOT / "README.md", (ROOT / "docs" / "speed.svg", ROOT / "docs" / "cost.svg")
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
NOT_YET = "Not measured yet: `make bench`, then `python -m benchmarks report`."
WORKS = {
    "seed": "`seed`: H=100, T=16, B=1, Adagrad",
    "h256-b16": "`h256-b16`: H=256, T=32, B=16, Adam",
    "keras": "`keras`: H=128, windows of 40, B=128, RMSprop",
    "torch-rnn-128": "`torch-rnn-128`: 2 layers, T=50, B=50, Adam",
    "torch-rnn-512": "`torch-rnn-512`: the same, H=512",
    "torch-rnn-1024": "`torch-rnn-1024`: the same, H=1024",
    "sample": "`sample`: a character, H=100",
}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def speed_table(results):
    """A row for each work and number of threads: ours, the rivals at their best and how many times ours is faster."""
    present = [name for name in RIVALS if any(_took_part(results, work, name) for work in WORKS)]
    rows = []
    for work, title in WORKS.items():
        race = read.race_of(results, work)
        for threads in read.thread_counts(race) if race else []:
            mine = read.ours(race, threads)
            cells = [_against(read.best(race, name, threads), mine) for name in present]
            of_floor = race["floor"][str(threads)] / mine["median"]
            rows.append([title, str(threads), _ours(mine), *cells, f"{of_floor:.0%}"])
    rows += list(_others(results, len(present)))
    return table(["an iteration of", "threads", "ours", *(RIVALS[name] for name in present), "of floor"], rows)


def cost_table(results):
    """What an iteration of ours costs against H and against B, and the fraction of the floor that this is."""
    rows = []
    for kind, letter in (("cost-h", "H"), ("cost-b", "B")):
        for size, race in read.costs(results, kind):
            cells = []
            for threads in read.thread_counts(race):
                median = read.ours(race, threads)["median"]
                cells.append(f"{in_words(median)}, {race['floor'][str(threads)] / median:.0%} of floor")
            rows.append([f"{letter} = {size}", *cells])
    counts = range(max((len(row) for row in rows), default=1) - 1)
    return table(["an iteration at", *("one thread" if k == 0 else "more threads" for k in counts)], rows)


def _took_part(results, work, name):
    race = read.race_of(results, work)
    return race is not None and read.best(race, name, 10**6) is not None


def _ours(mine):
    return f"**{in_words(mine['median'])}** ({in_words(mine['q1'])} to {in_words(mine['q3'])})"


def _against(theirs, mine):
    return f"{in_words(theirs['median'])}, {theirs['median'] / mine['median']:.3g}x" if theirs else ""


def _others(results, blanks):
    """Rows for other backends and dtypes."""
    for work in ("seed", "sample"):
        race = read.race_of(results, work)
        for backend, dtype in (("numba", "bfloat16"), ("numba", "float64"), ("numpy", "float32")) if race else ():
            mine = read.ours(race, 1, backend, dtype)
            if mine:
                yield [f"`{work}`, backend {backend}, {dtype}", "1", _ours(mine), *[""] * blanks, ""]


def memory_table(results):
    """The most memory of a process that trains, and what an iteration allocates."""
    rows = []
    for each in results["benchmarks"]:
        if "bytes_per_iteration" not in each:
            continue
        race, threads = read.race_of(results, each["work"]), each["threads"]
        theirs = [read.best(race, name, threads) if race else None for name in ("pytorch", "jax")]
        cells = [_mebibytes(c["peak_rss"]) if c else "" for c in theirs]
        allocated = f"{each['bytes_per_iteration']:g} bytes, {each['arrays_per_iteration']:g} arrays"
        rows.append([f"`{each['work']}`", str(threads), _mebibytes(each["peak_rss"]), *cells, allocated])
    return table(["training", "threads", "ours, peak RSS", "PyTorch", "JAX", "ours allocates an iteration"], rows)


def _mebibytes(size):
    return f"{size / 2**20:,.0f} MiB" if size else "not known"


def about(results):
    """Where, when and with what; and what is missing."""
    limits, machine = results["limits"], results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in read.versions_of(results).items())
    loads = _loads(results)
    changed = " with uncommitted changes" if results["uncommitted_changes"] else ""
    words = [
        f"{machine['processor']}, {machine['cores']} cores; load {min(loads)} to {max(loads)} (the benchmark's own "
        f"included); {results['date']}; commit {(results['commit'] or 'none')[:10]}{changed}; {versions}.",
        f"One core at best: sgemm {limits['sgemm_gflops']:.0f} GFLOP/s, second-level cache "
        f"{limits['l2_gbytes_per_s']:.0f} GB/s, memory {limits['memory_gbytes_per_s']:.0f} GB/s, "
        f"{limits['exp_per_ns']:.1f} exponentials a nanosecond.",
    ]
    absent = {name: why for each in results["benchmarks"] for name, why in (each.get("absent") or {}).items()}
    missing = (f"Not measured: {RIVALS[name]} ({absent[name]})." for name in RIVALS if name in absent)
    return " ".join([*words, *missing])


def _loads(results):
    found = [results["machine"]["load"]]
    for each in results["benchmarks"]:
        load = each.get("load")
        found += load if isinstance(load, list) else [load]
    return [load for load in found if load is not None] or [0.0]


def starts(results):
    words = (
        ("test_help", "`charlstm --help` {}"),
        ("test_first_step_of_a_warm_cache", "first training step {} after the command"),
        ("test_first_step_of_a_cold_cache", "{} when the kernels have to be compiled first"),
    )
    found = [(read.named(results, name), text) for name, text in words]
    return "; ".join(text.format(in_words(each["median"])) for each, text in found if each)


def section(results):
    """What stands between the marks, but for the comment with the digests."""
    parts = [
        "Medians of rounds in turns, each contestant in a process of its own (in brackets the quartiles); rivals at "
        "their best with as many threads, and how many times as long they take. The floor is the least time that the "
        "limits of the machine, measured in the same run, leave for the work (`charlstm/measure/limits.py`).",
        speed_table(results),
        "![Iterations a second, ours and the rivals](docs/speed.svg)",
        "![Cost of an iteration against H and B, with the floor](docs/cost.svg)",
        memory_table(results),
        f"Start: {starts(results)}.",
        about(results),
    ]
    return "\n\n".join(parts)


def stamp(path):
    """The comment that ties page, charts and results together."""
    digests = [f"{chart.relative_to(ROOT)} {digest(chart)}" for chart in CHARTS]
    return f"<!-- results {path.name} {digest(path)}; {'; '.join(digests)} -->"


def results_named_in(page):
    """The file of results that the page was made from; None where it was made from none."""
    found = re.search(r"<!-- results (\S+) ", page)
    return read.FOLDER / found.group(1) if found else None


def between_marks(page):
    """What a page holds between the marks."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def expected(path):
    """What the page must hold between the marks."""
    return f"{stamp(path)}\n\n{section(read.read(path))}" if path else NOT_YET


def write(path):
    """Draw the charts and put the tables into README.md."""
    from benchmarks import charts

    charts.draw(read.read(path), digest(path), *CHARTS)
    page = README.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    README.write_text(f"{before}{BEGIN}\n{expected(path)}\n{END}{after}")
