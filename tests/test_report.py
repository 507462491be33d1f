"""Tables and charts agree with the results, and the checks detect edits by hand."""

import copy
import json
import re

import pytest
from conftest import ROOT

from benchmarks import bars, report, results
from charlstm.measure.bench import in_words

VERSIONS = {
    "ours": {"numpy": "2.0"},
    "pytorch": {"torch": "2.1"},
    "pytorch_bf16": {"torch": "2.1"},
    "plain_c": {},
    "jax": {"jax": "0.5"},
}


def contestant(name, threads, median, **more):
    about = {"backend": "numba", "dtype": "float32"} if name == "ours" else {}
    spread = {"median": median, "q1": median * 0.99, "q3": median * 1.01, "min": median * 0.98, "rounds": 7}
    return {
        "name": name,
        "threads": threads,
        **about,
        **spread,
        "peak_rss": 100 * 2**20,
        "versions": VERSIONS[name],
        **more,
    }


def made_up():
    """Return results with made-up figures."""
    seed = [
        contestant("ours", 1, 100e-6),
        contestant("ours", 2, 50e-6),
        contestant("ours", 1, 250e-6, dtype="float64"),
        contestant("pytorch", 1, 1e-3, peak_rss=300 * 2**20),
        contestant("pytorch", 2, 0.8e-3),
        contestant("jax", 1, 150e-6),
        contestant("jax", 2, 140e-6),
        contestant("plain_c", 1, 110e-6),
    ]
    costs = [
        {
            "name": f"test_cost[{kind}-{size}]", "work": f"{kind}-{size}", "floor": {"1": size * 1e-6, "2": size * 5e-7},
            "contestants": [contestant("ours", 1, size * 1.5e-6), contestant("ours", 2, size * 1e-6)],
        }
        for kind, sizes in (("cost-h", (32, 100, 1024)), ("cost-b", (16, 1, 256)))
        for size in sizes
    ]  # fmt: skip
    return {
        "date": "2020-02-02",
        "commit": "0123456789abcdef",
        "uncommitted_changes": False,
        "machine": {"processor": "Abacus", "cores": 2, "system": "Linux", "load": 0.5},
        "versions": {"python": "3.13"},
        "limits": {"sgemm_gflops": 99.6, "l2_gbytes_per_s": 110, "memory_gbytes_per_s": 30, "exp_per_ns": 1.94, "l2_bytes": 1},
        "benchmarks": [
            {
                "name": "test_training[seed]", "work": "seed", "floor": {"1": 80e-6, "2": 40e-6}, "load": [0.1, 2.5],
                "contestants": seed, "absent": {"numpy_loop": "mislaid", "pytorch_usual": "unusual"},
            },
            {
                "name": "test_sampling", "work": "sample", "floor": {"1": 2e-6}, "load": [0.2, 0.3],
                "contestants": [contestant("ours", 1, 5e-6), contestant("pytorch", 1, 60e-6)],
            },
            *costs,
            {"name": "test_help", "median": 0.125},
            {"name": "test_first_step_of_a_cold_cache", "median": 30.0},
            {
                "name": "test_memory[seed-1]", "work": "seed", "threads": 1, "peak_rss": 150 * 2**20,
                "bytes_per_iteration": 0.0, "arrays_per_iteration": 2.0,
            },
            {"name": "test_busy_neighbour[h256-b16]", "work": "h256-b16", "threads": 2, "busy": {}, "ratio": 1.75},
        ],
    }  # fmt: skip


def test_the_speed_table_holds_ours_the_rivals_and_the_floor():
    head, _, *rows = report.speed_table(made_up()).splitlines()
    assert head == "| one iteration of | threads | ours | PyTorch | JAX | plain C | floor / ours |"
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    assert cells[0][1:] == [
        "1",
        "**100 us** (99.0 us to 101 us)",
        "1.00 ms, 10x",
        "140 us, 1.4x",
        "110 us, 1.1x",
        "80%",
    ]
    assert cells[1][1:] == [
        "2",
        "**50.0 us** (49.5 us to 50.5 us)",
        "800 us, 16x",
        "140 us, 2.8x",
        "110 us, 2.2x",
        "80%",
    ]
    assert cells[2][1:] == ["1", "**5.00 us** (4.95 us to 5.05 us)", "60.0 us, 12x", "", "", "40%"]
    assert cells[3] == ["`seed`, backend numba, float64", "1", "**250 us** (248 us to 253 us)", "", "", "", ""]


def batch():
    """Return a race of a batched work, in both dtypes."""
    bf16 = {"dtype": "bfloat16"}
    return {
        "name": "test_training[torch-rnn-512]", "work": "torch-rnn-512", "floor": {"1": 0.36, "2": 0.18},
        "contestants": [
            contestant("ours", 1, 0.4), contestant("ours", 2, 0.2),
            contestant("ours", 1, 0.2, **bf16), contestant("ours", 2, 0.125, **bf16),
            contestant("pytorch", 1, 0.5), contestant("pytorch", 2, 0.3),
            contestant("pytorch_bf16", 1, 0.24), contestant("pytorch_bf16", 2, 0.15), contestant("jax", 2, 0.1),
        ],
    }  # fmt: skip


def test_ours_in_bfloat16_has_rows_of_its_own_and_no_floor():
    found = made_up() | {"benchmarks": [batch()]}
    rows = report.speed_table(found).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["1", "1", "2", "2"]
    assert rows[1].endswith("| 1 | **200 ms** (198 ms to 202 ms) | 500 ms, 2.5x | 240 ms, 1.2x |  |  |")
    assert rows[3].startswith("| `torch-rnn-512`: 2 layers, H=512, T=50, B=50, Adam; ours in bfloat16 | 2 | **125 ms**")
    assert report.summary(found).splitlines()[2:4] == rows[2:]
    text = report.as_text(report.speed_table(found)).splitlines()
    assert re.fullmatch(r"torch-rnn-512 +1 +400 ms +500 ms, 1\.25x +240 ms, 0\.6x +90%", text[1])
    assert re.fullmatch(r"torch-rnn-512, in bfloat16 +1 +200 ms +500 ms, 2\.5x +240 ms, 1\.2x +", text[2])
    assert len({len(line) for line in text}) == 1


def test_bfloat16_is_held_to_pytorchs_better_dtype_and_to_our_float32():
    told = {bar.what: bar for bar in bars.bars(made_up() | {"benchmarks": [batch()]})}
    assert told["torch-rnn-512, 1 thread, bfloat16, against PyTorch's better dtype"][1:] == (
        "at least 1.25x",
        "1.20x",
        False,
    )
    assert told["torch-rnn-512, 2 threads, bfloat16, against PyTorch's better dtype"].measured == "1.20x"
    assert told["torch-rnn-512, 1 thread, bfloat16, against ours in float32"][1:] == ("at least 1.7x", "2.00x", True)
    assert told["torch-rnn-512, 2 threads, bfloat16, against ours in float32"].measured == "1.60x"
    assert told["gru-256, 1 thread, bfloat16, against PyTorch's better dtype"].passed is None


def test_the_cost_table():
    assert report.cost_table(made_up()).splitlines()[2:4] == [
        "| H = 32 | 48.0 us, 67% of floor | 32.0 us, 50% of floor |",
        "| H = 100 | 150 us, 67% of floor | 100 us, 50% of floor |",
    ]
    assert report.cost_table(made_up()).splitlines()[5].startswith("| B = 1 |")


def test_the_memory_table():
    assert report.memory_table(made_up()).splitlines()[2:] == [
        "| `seed` | 1 | 150 MiB | 300 MiB | 100 MiB | 0 bytes, 2 arrays |"
    ]


def test_the_page_says_where_when_and_with_what():
    page = report.section(made_up())
    for words in (
        "Abacus, 2 cores; load 0.1 to 2.5", "2020-02-02", "commit 0123456789;", "python 3.13, numpy 2.0, torch 2.1, jax 0.5",
        "Not measured: NumPy loop (mislaid).", "sgemm 100 GFLOP/s", "1.9 exponentials per nanosecond",
        "Start-up: `charlstm --help` takes 125 ms; when the kernels must be compiled first, 30.0 s.",
    ):  # fmt: skip
        assert words in page, words
    changed = {**made_up(), "uncommitted_changes": True}
    assert "commit 0123456789 with uncommitted changes" in report.section(changed)
    broken = {**made_up(), "failed": [{"name": "test_help", "why": "it hung"}]}
    assert "Failed: test_help (it hung)." in report.section(broken)
    assert "unusual" not in page


def test_a_bar_for_two_threads_needs_ours_on_two_threads():
    found = made_up()
    alone = [contestant("ours", 1, 0.04), contestant("pytorch", 1, 0.06), contestant("pytorch", 2, 0.05)]
    found["benchmarks"].append({"name": "x", "work": "torch-rnn-128", "contestants": alone})
    told = {bar.what: bar.measured for bar in bars.bars(found)}
    assert told["torch-rnn-128, 1 thread, against pytorch"] == "1.50x"
    assert told["torch-rnn-128, 2 threads, against pytorch"] == ""


def test_the_bars():
    found = {bar.what: bar for bar in bars.bars(made_up())}
    assert found["seed, 1 thread, against jax"][1:] == ("at least 1.4x", "1.40x", True)
    assert found["seed, 1 thread, against plain_c"][1:] == ("at least 1.15x", "1.10x", False)
    assert found["seed, 2 threads, against pytorch"][1:] == ("at least 12x", "16.00x", True)
    assert found["seed, 1 thread, against numpy_loop"][1:] == ("at least 20x", "", None)
    assert found["sample, 1 thread, against pytorch"][1:] == ("at least 15x", "12.00x", False)
    assert found["sample, characters per second on one thread"][2:] == ("200,000", False)
    assert found["keras, 2 threads, against pytorch"].passed is None
    assert found["charlstm --help"].passed is True
    assert found["first training step, compiling the kernels"][2:] == ("30.00 s", False)
    assert found["allocations per iteration, seed, 1 threads"].passed is False
    assert [bar.measured for bar in found.values() if "busy" in bar.what] == ["1.75x"]
    text = bars.as_text(found.values())
    assert re.search(r"^MISSED +1.10x +at least 1.15x +seed, 1 thread, against plain_c$", text, re.M)
    assert re.search(r"^ +not measured +at least 1.8x", text, re.M)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1e-7, "0.10 us"), (9.99e-6, "9.99 us"), (94.9e-6, "94.9 us"), (849e-6, "849 us"), (1e-3, "1.00 ms"),
     (0.0474, "47.4 ms"), (2.3, "2.30 s"), (127.0, "127 s")],
)  # fmt: skip
def test_times_have_three_digits(seconds, words):
    assert in_words(seconds) == words


def test_the_readme_has_a_row_for_each_of_four_works_on_the_most_threads():
    rows = report.speed_table(made_up()).splitlines()
    table, _, chart = report.summary(made_up()).partition("\n\n")
    assert table.splitlines() == [*rows[:2], rows[3], rows[4]]  # these results contain two of the four works
    assert "torch-rnn-512" in report.IN_README
    assert chart.endswith("(docs/speed.svg)")


# -------------------------------------------------------------------------------------------------- edits by hand
def test_pages_and_charts_are_what_the_results_give():
    """If this fails, run `python -m benchmarks report`; never type figures by hand."""
    path = report.results_named_in(report.PAGE.read_text())
    for page, make in ((report.PAGE, report.section), (report.README, report.summary)):
        assert report.between_marks(page.read_text()) == report.expected(path, make), page.name
    if path:
        for chart in report.CHARTS:
            assert chart.read_text().splitlines()[-1] == f"<!-- results {report.digest(path)} -->"


@pytest.fixture
def reported(tmp_path, monkeypatch):
    """Provide copies of pages, charts and results, with a freshly made report."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: make bench")
    (tmp_path / "docs").mkdir()
    for name in ("README.md", "docs/benchmarks.md"):
        (tmp_path / name).write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    (tmp_path / "made-up.json").write_text(json.dumps(made_up()))
    monkeypatch.setattr(report, "ROOT", tmp_path)
    monkeypatch.setattr(report, "README", tmp_path / "README.md")
    monkeypatch.setattr(report, "PAGE", tmp_path / "docs" / "benchmarks.md")
    monkeypatch.setattr(report, "CHARTS", (tmp_path / "docs" / "speed.svg", tmp_path / "docs" / "cost.svg"))
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    report.write(tmp_path / "made-up.json")
    return tmp_path


def test_the_report_replaces_what_is_between_the_marks(reported):
    for path in (report.README, report.PAGE):
        page = path.read_text()
        assert page.startswith(f"before\n{report.BEGIN}\n<!-- results made-up.json ")
        assert page.endswith(f"{report.END}\nafter\n")
        assert "old" not in page
    test_pages_and_charts_are_what_the_results_give()


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [("README.md", "80%", "81%"), ("docs/benchmarks.md", "80%", "81%"), ("docs/speed.svg", "<path d=", "<path  d="),
     ("docs/cost.svg", "</svg>", "</svg> "), ("made-up.json", "0.0008", "0.0009")],
)  # fmt: skip
def test_an_edit_by_hand_is_found(reported, name, right, wrong):
    path = reported / name
    before = path.read_text()
    path.write_text(before.replace(right, wrong, 1))
    assert path.read_text() != before
    with pytest.raises(AssertionError):
        test_pages_and_charts_are_what_the_results_give()


def test_charts_are_the_same_to_the_byte_and_show_the_figures(reported):
    from benchmarks import charts

    again = [reported / "again-speed.svg", reported / "again-cost.svg"]
    charts.draw(made_up(), results_digest := report.digest(reported / "made-up.json"), *again)
    for first, second in zip(report.CHARTS, again, strict=True):
        assert first.read_bytes() == second.read_bytes()
        assert results_digest in first.read_text()
        assert "dc:date" not in first.read_text()
    other = copy.deepcopy(made_up())
    other["benchmarks"][0]["contestants"][0]["median"] *= 2
    charts.draw(other, results_digest, *again)
    assert again[0].read_bytes() != report.CHARTS[0].read_bytes()
    assert charts.bars_of(made_up()["benchmarks"][0])[0] == ("ours, 1 thread", pytest.approx(1e4), True)


def test_results_in_the_tree_are_small():
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert path.stat().st_size < 100_000, path
