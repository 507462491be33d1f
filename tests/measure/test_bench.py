"""The short benchmark: works match their descriptions, floors follow from the limits, wrong kernels get no figures."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import made_up_text
from threadpoolctl import threadpool_limits

import kernels
from charlstm.cli import _guarded
from charlstm.errors import RunFailed
from charlstm.measure import bench, limits
from charlstm.measure.limits import Limits
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer
from kernels.spec import Shape
from kernels.testing import GradientError

#: Limits of one flop, one byte and one exponential per second, so that a floor in seconds is a count.
ONE = Limits(1.0, (1.0,) * len(limits.SIZES), 1.0, 2**20)
NEVER = float("inf")


def only(flops=NEVER, bandwidth=NEVER, exps=NEVER):
    return Limits(flops, (bandwidth,) * len(limits.SIZES), exps, 2**20)


def test_the_work_seed_is_the_preset():
    corpus = Corpus.from_text(made_up_text() + "".join(map(chr, range(200, 300))))
    V = len(corpus.vocabulary)
    work = bench.Work(**{**vars(bench.WORKS["seed"]), "shape": Shape(V, 100)})
    config = from_preset("min-char-lstm", dtype="float64", seed=bench.SEED, iterations=30, report_every=1)
    expected = [p.loss for p in Trainer(config, corpus).run() if p.kind == "report"]
    ours = bench.Ours(work, corpus.ids, "numpy", "float64")
    with threadpool_limits(1):
        assert [*ours.run(10), *ours.run(20)] == pytest.approx(expected, rel=1e-9)


def test_a_sampled_text_goes_on_where_it_was():
    work = bench.WORKS["sample"]
    ids = bench.text_ids(work)
    whole, pieces = bench.Ours(work, ids, "numpy", "float64"), bench.Ours(work, ids, "numpy", "float64")
    whole.theta *= 30  # so that the previous character matters
    pieces.theta *= 30
    text = whole.run(30)
    np.testing.assert_array_equal(text, np.concatenate([pieces.run(11), pieces.run(19)]))
    assert len(set(text)) > 5


@pytest.mark.parametrize("name", ["seed", "keras", "torch-rnn-128"])
def test_the_text_that_stands_in_has_no_more_characters_than_the_works_own(name):
    work = bench.WORKS[name]
    ids = bench.text_ids(work)
    num_chars, V = bench.TEXTS[work.text]
    assert min(num_chars, 400_000) <= len(ids) <= num_chars
    assert ids.dtype == np.uint8
    assert len(np.unique(ids)) == V == ids.max() + 1
    assert not ids.flags.writeable


def test_a_text_of_the_works_name_is_read(tmp_path):
    (tmp_path / "tinyshakespeare.txt").write_text("".join(map(chr, range(200, 265))) * 3)
    assert len(bench.text_ids(bench.WORKS["h256-b16"], tmp_path)) == 65 * 3
    (tmp_path / "nietzsche.txt").write_text("abcABC")
    with pytest.raises(RunFailed, match="57 distinct characters, got 3"):  # made lower-case first
        bench.text_ids(bench.WORKS["keras"], tmp_path)


def test_the_floor_counts_flops():
    T, B, V, H, L = 5, 3, 7, 16, 2
    forward = 8 * T * B * H * H * L + 8 * T * B * H * H * (L - 1) + 2 * T * B * H * V
    assert limits.training_floor(only(flops=1), Shape(V, H, L), T, B, "adam") == 3 * forward
    last = forward - 2 * (T - 1) * B * H * V
    assert limits.training_floor(only(flops=1), Shape(V, H, L), T, B, "adam", last_only=True) == 3 * last
    assert limits.training_floor(only(flops=1), Shape(V, H, L), T, B, "adam", cores=3) == forward


def test_the_floor_of_a_gru_has_three_gates_and_three_activations():
    T, B, V, H, L = 5, 3, 7, 16, 2
    gru = Shape(V, H, L, "gru")
    forward = 6 * T * B * H * H * L + 6 * T * B * H * H * (L - 1) + 2 * T * B * H * V
    assert limits.training_floor(only(flops=1), gru, T, B, "adam") == 3 * forward
    assert limits.training_floor(only(exps=1), gru, T, B, "adam") == 3 * T * B * H * L + T * B * V
    streamed, N = 2 * T * 12 * H * H, (V + H + 2) * 3 * H + H * V + V
    floor = limits.training_floor(only(bandwidth=1), Shape(V, H, 1, "gru"), T, 1, "adagrad")
    assert floor == streamed + 2 * 4 * 2 * (N - (V - T) * 3 * H)


def test_the_floor_counts_what_is_read_and_written():
    T, B, V, H = 5, 1, 7, 16
    streamed, N = 2 * T * 16 * H * H, (V + H + 1) * 4 * H + H * V + V
    floor = limits.training_floor(only(bandwidth=1), Shape(V, H), T, B, "adam")
    assert floor == streamed + 2 * 4 * 3 * N
    floor = limits.training_floor(only(bandwidth=1), Shape(V, H), T, B, "adagrad")
    assert floor == streamed + 2 * 4 * 2 * (N - (V - T) * 4 * H)
    assert limits.sampling_floor(only(bandwidth=1), Shape(V, H, 2)) == 4 * (3 * 4 * H * H) + 4 * H * V


def test_the_floor_counts_exponentials_and_adds_up():
    T, B, V, H, L = 5, 3, 7, 16, 2
    assert limits.training_floor(only(exps=1), Shape(V, H, L), T, B, "sgd") == 5 * T * B * H * L + T * B * V
    last = limits.training_floor(only(exps=1), Shape(V, H, L), T, B, "sgd", last_only=True)
    assert last == 5 * T * B * H * L + B * V
    assert limits.sampling_floor(only(exps=1), Shape(V, H, L)) == 5 * H * L + V
    parts = [limits.training_floor(only(**{k: 1}), Shape(V, H, L), T, 1, "adam") for k in ("bandwidth", "exps")]
    products = 3 * (8 * T * H * H * L + 8 * T * H * H * (L - 1) + 2 * T * H * V) - 16 * T * H * H * L
    assert (
        limits.training_floor(ONE, Shape(V, H, L), T, 1, "adam") == sum(parts) + products
    )  # a step is bound by reading memory


def test_a_bandwidth_between_two_sizes_lies_between_theirs():
    falling = Limits(1.0, tuple(float(k) for k in range(len(limits.SIZES), 0, -1)), 1.0, 2**20)
    assert falling.bandwidth(limits.SIZES[0] / 8) == len(limits.SIZES)
    assert falling.bandwidth(limits.SIZES[3]) == len(limits.SIZES) - 3
    assert len(limits.SIZES) - 3 > falling.bandwidth(1.5 * limits.SIZES[3]) > len(limits.SIZES) - 4
    assert falling.bandwidth(1e12) == 1


def test_the_limits_of_this_machine_are_of_a_likely_size():
    found = limits.measure(tries=2)
    assert 1e9 < found.flops < 1e12
    assert list(found.bandwidths) == sorted(found.bandwidths, reverse=True)
    assert 1e8 < found.bandwidths[-1] < 1e12
    assert 1e7 < found.exps < 1e11
    assert 2**14 <= found.cache <= 2**28


def test_bench_tells_time_and_floor_of_each_work(monkeypatch, capsys):
    monkeypatch.setattr(bench, "SHORT", ("seed", "sample"))
    monkeypatch.setattr(limits, "measure", lambda: Limits(1e11, (1e11,) * len(limits.SIZES), 1e9, 2**20))
    assert _guarded(["bench", "--threads", "1", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [row["work"] for row in told["works"]] == ["seed", "sample"]
    for row in told["works"]:
        chars = 16 if row["work"] == "seed" else 1
        assert row["chars_per_second"] == pytest.approx(chars / row["seconds"])
        assert row["of_floor"] == pytest.approx(row["floor"] / row["seconds"])
        assert row["seconds"] > 0
    assert told["limits"]["sgemm_gflops"] == 100
    assert _guarded(["bench", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"; {kernels.vectors()}")
    assert told["machine"]["vectors"] == kernels.vectors()
    assert lines[1] == (
        "limits of one core: "
        "sgemm 100 GFLOP/s, second-level cache 100 GB/s, memory 100 GB/s, 1.0 exponentials per nanosecond"
    )
    assert [line.split()[:2] for line in lines[4:]] == [["seed", "1"], ["sample", "1"]]
    assert all(line.endswith("%") for line in lines[4:])


@pytest.mark.parametrize("error", [1e-3, float("nan")])
def test_bench_tells_no_speed_of_wrong_kernels(monkeypatch, capsys, error):
    wrong = [GradientError("lstm", "db", error), GradientError("lstm", "dW_h", 1e-9)]
    monkeypatch.setattr(bench, "gradient_errors", lambda ops, cells: iter(wrong))
    assert _guarded(["bench"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "no speed is reported" in err.splitlines()[-1]


def test_bench_ends_in_time(monkeypatch):
    """With a clock that advances 0.1 s per round: five rounds per work, fewer near the end, and no work after it."""
    now, rounds = [0.0], []

    class Work:
        def __init__(self, *_, threads):
            rounds.append(0)

        def run(self, count):
            now[0] += 0.1
            rounds[-1] += 1

    monkeypatch.setattr(bench, "SHORT", ("seed",) * 50)
    monkeypatch.setattr(bench, "Ours", Work)
    monkeypatch.setattr(bench, "iterations_for", lambda run, seconds: 10)
    monkeypatch.setattr(bench, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    rows = list(bench.short(ONE, 1, "numba", seconds=1.25))
    assert rounds == [5, 5, 3]
    assert [row.seconds for row in rows] == pytest.approx([0.01] * 3)
