"""Draws the two charts as SVG, byte for byte the same for the same results and version of matplotlib.

Ours is blue and the rivals are grey, so readers need not tell two colours apart; the background is always white.
"""

import matplotlib as mpl

mpl.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks import results as read
from benchmarks.results import RIVALS
from charlstm.measure.bench import in_words

OURS, OTHERS, INK, FAINT = "#0072b2", "#a3a3a3", "#222222", "#8a8a8a"
STYLE = {
    "svg.hashsalt": "charlstm",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
}
PANELS = (
    "seed", "sample", "h256-b16", "h256-b32", "gru-256", "keras", "keras-all",
    "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024",
)  # fmt: skip


def draw(results, results_digest, speed, cost):
    """Write both charts; the comment at the end of each holds the digest of its results."""
    with mpl.rc_context(STYLE):
        for path, figure in ((speed, speed_chart(results)), (cost, cost_chart(results))):
            figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
            plt.close(figure)
            text = "\n".join(line.rstrip() for line in path.read_text(encoding="utf-8").splitlines())
            path.write_text(f"{text}\n<!-- results {results_digest} -->\n", encoding="utf-8", newline="\n")


# ------------------------------------------------------------------------------------------- iterations per second
def speed_chart(results):
    """Draw iterations per second by contestant, one panel per work."""
    panels = [(work, bars_of(race)) for work in PANELS if (race := read.race_of(results, work))]
    heights = [len(bars) + 1.6 for _, bars in panels]
    half = sum(heights) / 2
    left = next(k for k in range(1, len(heights) + 1) if sum(heights[:k]) >= half or k == len(heights))
    columns = [panels[:left], panels[left:]]
    tallest = max(sum(len(bars) + 1.6 for _, bars in column) for column in columns)
    figure = plt.figure(figsize=(9.5, 0.24 * tallest + 0.7))
    figure.suptitle("Iterations a second (characters, for sample)", x=0.012, ha="left", fontsize=11, weight="bold")
    for k, column in enumerate(columns):
        top = 1 - 0.5 / figure.get_figheight()
        for work, bars in column:
            height = (len(bars) + 0.2) * 0.24 / figure.get_figheight()
            top -= 1.3 * 0.24 / figure.get_figheight()
            axes = figure.add_axes((0.145 + 0.5 * k, top - height, 0.28, height))
            _bars(axes, work, bars)
            top -= height + 0.1 * 0.24 / figure.get_figheight()
    return figure


def bars_of(race):
    """Return (label, iterations per second, whether it is ours) for each contestant, ours first."""
    bars = []
    for dtype in ("float32", "bfloat16"):
        found = [(threads, read.ours(race, threads, dtype=dtype)) for threads in read.thread_counts(race)]
        title = read.title_of("ours", dtype)
        bars += [(f"{title}, {_threads(threads)}", 1 / mine["median"], True) for threads, mine in found if mine]
    for name, title in RIVALS.items():
        theirs = [c for c in race["contestants"] if c["name"] == name]
        for c in theirs:
            where = _threads(c["threads"]) if len(theirs) > 1 else ""
            where = {"jax 1": "one core", "jax 2": "free"}.get(f"{name} {min(c['threads'], 2)}", where)
            bars.append((f"{title}{', ' if where else ''}{where}", 1 / c["median"], False))
    return bars


def _threads(count):
    return "1 thread" if count == 1 else f"{count} threads"


def _bars(axes, work, bars):
    names, rates, ours = zip(*bars, strict=True)
    places = range(len(bars))[::-1]
    axes.barh(places, rates, height=0.72, color=[OURS if mine else OTHERS for mine in ours])
    axes.set_yticks(list(places), names)
    for label, mine in zip(axes.get_yticklabels(), ours, strict=True):
        label.set_weight("bold" if mine else "normal")
    for place, rate in zip(places, rates, strict=True):
        digits = max(0, 2 - len(str(int(rate))) + 1) if rate < 100 else 0
        axes.annotate(f"{rate:,.{digits}f}", (rate, place), (4, 0), textcoords="offset points", va="center")
    axes.set_title(work, loc="left", fontsize=9, weight="bold", pad=3)
    axes.set(xlim=(0, max(rates) * 1.02), ylim=(-0.6, len(bars) - 0.4), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(length=0)


# ------------------------------------------------------------------------------------------------------------- cost
def cost_chart(results):
    """Draw the time per iteration and its floor as functions of H and of B, on log-log axes."""
    figure, panels = plt.subplots(1, 2, figsize=(9.5, 4.1), layout="constrained")
    _cost(panels[0], read.costs(results, "cost-h"), "hidden units H", "B = 1, T = 16, Adagrad")
    _cost(panels[1], read.costs(results, "cost-b"), "streams B", "H = 256, T = 32, Adam, norm clipped")
    panels[0].set_ylabel("time of an iteration")
    return figure


def _cost(axes, costs, label, title):
    axes.set_title(title, loc="left", fontsize=10, weight="bold")
    axes.set(xscale="log", yscale="log", xlabel=label)
    if not costs:
        return
    sizes = [size for size, _ in costs]
    counts = read.thread_counts(costs[0][1])
    few, most = counts[0], counts[-1]
    styles = {few: ("-", "o", OURS), most: ("-", "s", "#56b4e9")} if most != few else {few: ("-", "o", OURS)}
    ends = []
    for threads, (line, marker, colour) in styles.items():
        times = [read.ours(race, threads)["median"] for _, race in costs]
        floors = [race["floor"][str(threads)] for _, race in costs]
        axes.plot(sizes, times, line, marker=marker, markersize=4, color=colour)
        axes.plot(sizes, floors, "--", linewidth=1, color=INK if threads == few else FAINT)
        ends += [(times[-1], f"ours, {_threads(threads)}", colour)]
        ends += [(floors[-1], f"floor, {_threads(threads)}", INK if threads == few else FAINT)]
    axes.set_xticks(sizes, [str(size) if size & (size - 1) == 0 else "" for size in sizes])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(
        FuncFormatter(lambda seconds, _: in_words(seconds).replace(".00", "").replace(".0", ""))
    )
    axes.tick_params(which="minor", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(sizes[0] / 1.15, sizes[-1] * 3.2)
    axes.grid(which="major", axis="y", color="#e5e5e5", linewidth=0.7)
    axes.set_axisbelow(True)
    _label_ends(axes, sizes[-1], ends)


def _label_ends(axes, x, ends):
    """Label each line at its right end, from the top down, with labels at least one text line apart."""
    axes.figure.canvas.draw()  # drawing fixes the positions of the lines, which the labels need
    points = 72 / axes.figure.dpi
    lowest = float("inf")
    for y, text, colour in sorted(ends, reverse=True):
        place = axes.transData.transform((x, y))[1] * points
        lowest = min(place, lowest - 11)
        moved = (7, lowest - place)
        axes.annotate(text, (x, y), moved, textcoords="offset points", color=colour, va="center", fontsize=8)
