"""Writes the tables of results into docs/benchmarks.md, and four of their rows into README.md, between two marks.

This module needs only our own packages, so a test can repeat its work anywhere. A comment above the tables holds the
digests of the results and of the charts; each chart holds the digest of its results. tests/test_report.py therefore
detects any figure that somebody edited by hand, in a page or in a chart.
"""

import hashlib
import re

from benchmarks import results as read
from benchmarks.pages import filled, table
from benchmarks.process import ROOT
from benchmarks.results import RIVALS
from charlstm.measure.bench import in_words

README, PAGE = ROOT / "README.md", ROOT / "docs" / "benchmarks.md"
CHARTS = (ROOT / "docs" / "speed.svg", ROOT / "docs" / "cost.svg")
BEGIN, END = "<!-- benchmarks:begin -->", "<!-- benchmarks:end -->"
NOT_YET = "Not measured yet: `make bench`, then `python -m benchmarks report`."
WORKS = {
    "seed": "`seed`: H=100, T=16, B=1, Adagrad",
    "h256-b16": "`h256-b16`: H=256, T=32, B=16, Adam",
    "h256-b32": "`h256-b32`: H=256, T=32, B=32, Adam",
    "gru-256": "`gru-256`: GRU, H=256, T=32, B=32, Adam",
    "keras": "`keras`: H=128, windows of 40, B=128, RMSprop",
    "keras-all": "`keras-all`: the same, with a loss at each step",
    "torch-rnn-128": "`torch-rnn-128`: 2 layers, H=128, T=50, B=50, Adam",
    "torch-rnn-512": "`torch-rnn-512`: 2 layers, H=512, T=50, B=50, Adam",
    "torch-rnn-1024": "`torch-rnn-1024`: 2 layers, H=1024, T=50, B=50, Adam",
    "sample": "`sample`: one character, H=100",
}
#: Contestants that no table shows.
HIDDEN = ("pytorch_usual",)
IN_README = ("seed", "h256-b16", "torch-rnn-512", "sample")


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def speed_table(results):
    """Return a row per work, number of threads and dtype of ours: our time, and each rival's best on so many threads.

    8.62x means 8.62 times our time.
    """
    present = [name for name in RIVALS if any(_took_part(results, work, name) for work in WORKS)]
    rows = []
    for work, title in WORKS.items():
        race = read.race_of(results, work)
        for threads in read.thread_counts(race) if race else []:
            for dtype in ("float32", "bfloat16"):
                mine = read.ours(race, threads, dtype=dtype)
                if mine:
                    cells = [_against(read.best(race, name, threads), mine) for name in present]
                    limit = f"{race['floor'][str(threads)] / mine['median']:.0%}" if dtype == "float32" else ""
                    what = title if dtype == "float32" else f"{title}; ours in bfloat16"
                    rows.append([what, str(threads), _ours(mine), *cells, limit])
    rows += list(_others(results, len(present)))
    return table(["one iteration of", "threads", "ours", *(RIVALS[name] for name in present), "floor / ours"], rows)


def as_text(markdown):
    """Format a table for a terminal: in columns, each work by its name alone, without marks and quartiles."""
    head, _, *rows = markdown.splitlines()
    cells = [[_plain(cell) for cell in line[2:-2].split(" | ")] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for first, *rest in cells:
        lines.append("  ".join([first.ljust(widths[0]), *(c.rjust(n) for c, n in zip(rest, widths[1:], strict=True))]))
    return "\n".join(lines)


def _plain(cell):
    name = re.match(r"`([^`]+)`(.*)", cell.strip())
    if name:
        return name[1] + re.sub(r"^:[^;]*(; ours)?", r"\1", name[2]).replace("; ours", ",")
    return re.sub(r"\*\*([^*]*)\*\*.*", r"\1", cell.strip())


def cost_table(results):
    """Return our time per iteration for each H and each B, and the floor as a fraction of it."""
    rows = []
    for kind, letter in (("cost-h", "H"), ("cost-b", "B")):
        for size, race in read.costs(results, kind):
            cells = []
            for threads in read.thread_counts(race):
                median = read.ours(race, threads)["median"]
                cells.append(f"{in_words(median)}, {race['floor'][str(threads)] / median:.0%} of floor")
            rows.append([f"{letter} = {size}", *cells])
    counts = range(max((len(row) for row in rows), default=1) - 1)
    return table(["one iteration at", *("one thread" if k == 0 else "more threads" for k in counts)], rows)


def _took_part(results, work, name):
    race = read.race_of(results, work)
    return race is not None and read.best(race, name, 10**6) is not None


def _ours(mine):
    return f"**{in_words(mine['median'])}** ({in_words(mine['q1'])} to {in_words(mine['q3'])})"


def _against(theirs, mine):
    return f"{in_words(theirs['median'])}, {theirs['median'] / mine['median']:.3g}x" if theirs else ""


def _others(results, blanks):
    """Yield the rows of other backends and dtypes."""
    for work in ("seed", "sample"):
        race = read.race_of(results, work)
        for backend, dtype in (("numba", "float64"), ("numpy", "float32")) if race else ():
            mine = read.ours(race, 1, backend, dtype)
            if mine:
                yield [f"`{work}`, backend {backend}, {dtype}", "1", _ours(mine), *[""] * blanks, ""]


def memory_table(results):
    """Return the peak memory of each training process and its allocations per iteration."""
    rows = []
    for each in results["benchmarks"]:
        if "bytes_per_iteration" not in each:
            continue
        race, threads = read.race_of(results, each["work"]), each["threads"]
        theirs = [read.best(race, name, threads) if race else None for name in ("pytorch", "jax")]
        cells = [_mebibytes(c["peak_rss"]) if c else "" for c in theirs]
        allocated = f"{each['bytes_per_iteration']:g} bytes, {each['arrays_per_iteration']:g} arrays"
        rows.append([f"`{each['work']}`", str(threads), _mebibytes(each["peak_rss"]), *cells, allocated])
    return table(["training", "threads", "ours, peak RSS", "PyTorch", "JAX", "ours allocates per iteration"], rows)


def _mebibytes(size):
    return f"{size / 2**20:,.0f} MiB" if size else "not known"


def about(results):
    """Describe the machine, the date, the versions, and the rivals that were not measured."""
    limits, machine = results["limits"], results["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in read.versions_of(results).items())
    loads = _loads(results)
    changed = " with uncommitted changes" if results["uncommitted_changes"] else ""
    words = [
        f"{machine['processor']}, {machine['cores']} cores; load {min(loads)} to {max(loads)} (the benchmark's own "
        f"included); {results['date']}; commit {(results['commit'] or 'none')[:10]}{changed}; {versions}.",
        f"Limits of one core: sgemm {limits['sgemm_gflops']:.0f} GFLOP/s, L2 cache "
        f"{limits['l2_gbytes_per_s']:.0f} GB/s, memory {limits['memory_gbytes_per_s']:.0f} GB/s, "
        f"{limits['exp_per_ns']:.1f} exponentials per nanosecond.",
    ]
    absent = {name: why for each in results["benchmarks"] for name, why in (each.get("absent") or {}).items()}
    missing = (f"Not measured: {read.title_of(name)} ({why})." for name, why in absent.items() if name not in HIDDEN)
    failed = (f"Failed: {each['name']} ({each['why']})." for each in results.get("failed", []))
    return " ".join([*words, *missing, *failed])


def _loads(results):
    found = [results["machine"]["load"]]
    for each in results["benchmarks"]:
        load = each.get("load")
        found += load if isinstance(load, list) else [load]
    return [load for load in found if load is not None] or [0.0]


def starts(results):
    words = (
        ("test_help", "`charlstm --help` takes {}"),
        ("test_first_step_of_a_warm_cache", "the first training step begins {} after the command"),
        ("test_first_step_of_a_cold_cache", "when the kernels must be compiled first, {}"),
    )
    found = [(read.named(results, name), text) for name, text in words]
    return "; ".join(text.format(in_words(each["median"])) for each, text in found if each)


def section(results):
    """Return all tables and charts, as docs/benchmarks.md shows them below the comment with the digests."""
    parts = [
        "Each time is the median of several rounds, with the quartiles in parentheses. The contestants take turns, "
        "each in a process of its own. A rival's time is its best on at most that many threads; 2x means twice our "
        "time. The floor is the shortest time that the machine's limits, measured in the same run, allow for this work "
        "(`charlstm/measure/limits.py`).",
        speed_table(results),
        "![Iterations per second, ours and the rivals'](speed.svg)",
        "![Time per iteration against H and B, with the floor](cost.svg)",
        memory_table(results),
        f"Start-up: {starts(results)}.",
        about(results),
    ]
    return "\n\n".join(parts)


def summary(results):
    """Return four works' rows of the speed table, for the most threads, and the chart, as README.md shows them."""
    head, rule, *rows = speed_table(results).splitlines()
    last = {row.split(" | ")[0]: row for row in rows}
    wanted = [f"| {WORKS[work]}{ours}" for work in IN_README for ours in ("", "; ours in bfloat16")]
    chosen = [last[what] for what in wanted if what in last]
    return "\n".join([head, rule, *chosen, "", "![Iterations per second, ours and the rivals'](docs/speed.svg)"])


def stamp(path):
    """Return the comment that holds the digests of the results and the charts."""
    digests = [f"{chart.relative_to(ROOT)} {digest(chart)}" for chart in CHARTS]
    return f"<!-- results {path.name} {digest(path)}; {'; '.join(digests)} -->"


def results_named_in(page):
    """Return the file of results that the page names, or None."""
    found = re.search(r"<!-- results (\S+) ", page)
    return read.FOLDER / found.group(1) if found else None


def between_marks(page):
    """Return the part of a page between the marks."""
    return page.partition(BEGIN)[2].partition(END)[0].strip()


def expected(path, make):
    """Return the text that a page must have between its marks; `make` is `section` or `summary`."""
    return f"{stamp(path)}\n\n{make(read.read(path))}" if path else NOT_YET


def write(path):
    """Draw the charts and put the tables into docs/benchmarks.md and README.md."""
    from benchmarks import charts

    charts.draw(read.read(path), digest(path), *CHARTS)
    for page, make in ((PAGE, section), (README, summary)):
        text = filled(page.read_text(encoding="utf-8"), BEGIN, END, expected(path, make))
        page.write_text(text, encoding="utf-8", newline="\n")
