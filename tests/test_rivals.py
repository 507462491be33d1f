"""Every rival computes the reference's losses, and the rivals' processes work."""

import pytest
from conftest import made_up_text
from threadpoolctl import threadpool_limits

from benchmarks import process, rivals, works
from benchmarks.process import Contestant, Process
from benchmarks.rivals import pytorch_bf16
from benchmarks.rivals.numpy_loop import NumpyLoop
from charlstm.measure.bench import WORKS, Ours
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer

#: Text for a few iterations, after which the streams start over with a zero state.
CHARS = {
    "seed": 120, "sample": None, "h256-b16": 16 * 100, "gru-256": 32 * 100, "torch-rnn-128": 50 * 160, "keras": 1500,
    "keras-all": 128 * 90, "cost-v-6000": 16 * 100,
}  # fmt: skip
PEERS = ("pytorch", "pytorch_bf16", "pytorch_usual", "jax")
PAIRS = [
    pytest.param(name, work, marks=[pytest.mark.peers] if name in PEERS else [])
    for name in rivals.NAMES
    for work in CHARS
    if work in rivals.module(name).WORKS and (name, work) != ("pytorch_usual", "sample")  # it draws a different text
]
#: Largest relative error of a loss in float32; Adagrad's first steps, of size 0.1 for any gradient, amplify rounding.
#: In work `seed`, whose first steps are large, float32 rounding errors grow tenfold in three iterations, in plain NumPy
#: too, and exceed the tolerance on some texts within twenty iterations.
ITERATIONS = {"seed": 8}
TOLERANCE = {
    "seed": 2e-4, "sample": 0.0, "h256-b16": 1e-6, "gru-256": 1e-6, "torch-rnn-128": 1e-6, "keras": 1e-4,
    "keras-all": 1e-5, "cost-v-6000": 1e-6,
}  # fmt: skip
#: bfloat16 has eight significant bits, and errors grow: the first losses differ by at most one rounding.
BFLOAT16_ITERATIONS, BFLOAT16_TOLERANCE = 5, 2.0**-8
#: Works whose reference takes long.
FEW = {"gru-256": 6, "keras-all": 6, "h256-b16": 10, "cost-v-6000": 6}


@pytest.fixture(scope="module")
def expected():
    """Compute the reference's float64 losses once, by work."""
    found = {}

    def losses(name):
        if name not in found:
            work = WORKS[name]
            with threadpool_limits(1):
                run = Ours(work, works.ids(work)[: CHARS[name]], "numpy", "float64").run
                found[name] = run(FEW.get(name, 20)).tolist()
        return found[name]

    return losses


@pytest.mark.parametrize(("name", "work"), PAIRS)
def test_the_losses_of_a_rival_are_those_of_the_reference(name, work, expected):
    if rivals.missing(name):
        pytest.skip(rivals.missing(name))
    running = Process(Contestant(name), work, CHARS[work]).warm()
    try:
        following = range(len(expected(work)) - 1)
        losses = [running.ready["first_loss"], *(running.ask(1)["loss"] for _ in following)]
    finally:
        running.close()
    count, tolerance = ITERATIONS.get(work), TOLERANCE[work]
    if name == "pytorch_bf16":
        count, tolerance = BFLOAT16_ITERATIONS, BFLOAT16_TOLERANCE
    assert losses[:count] == pytest.approx(expected(work)[:count], rel=tolerance)
    assert len(set(expected(work))) > 5


def test_the_numpy_loop_follows_the_same_losses_as_the_preset():
    corpus = Corpus.from_text(made_up_text())
    config = from_preset("min-char-lstm", dtype="float64", seed=123, iterations=300, report_every=1, sample_every=0)
    ours = [p.loss for p in Trainer(config, corpus).run() if p.kind == "report"]
    rival = NumpyLoop(corpus.ids, len(corpus.vocabulary))
    assert ours == pytest.approx([rival.run(1) for _ in range(300)], rel=1e-8)


def test_several_iterations_at_once_are_the_same_as_one_by_one():
    ours, theirs = (Process(Contestant(name), "seed").warm() for name in ("ours", "numpy_loop"))
    try:
        assert ours.ask(3)["loss"] == pytest.approx(theirs.ask(3)["loss"], rel=1e-5)
        assert [ours.ask(1)["loss"] for _ in range(2)][-1] == pytest.approx(theirs.ask(2)["loss"], rel=1e-5)
    finally:
        ours.close()
        theirs.close()


def test_a_process_takes_time_and_tells_memory_and_versions():
    running = Process(Contestant("numpy_loop"), "seed").warm()
    try:
        running.calibrate(0.1)
        assert 2 <= running.count < 1000
        running.round()
        running.round()
        told = running.result()
    finally:
        running.close()
    assert told["rounds"] == 2
    assert 1e-5 < told["min"] <= told["q1"] <= told["median"] <= told["q3"] < 0.1
    assert told["threads"] == 1
    assert set(told["versions"]) == {"numpy"}
    assert told["peak_rss"] is None or 2**20 < told["peak_rss"] < 2**31


def test_rounds_become_shorter_on_a_machine_that_became_busy(monkeypatch):
    running = Process.__new__(Process)
    running.count, running.seconds, running.times = 100, 0.4, []
    taken = iter([0.5, 8.0, 0.4])
    monkeypatch.setattr(running, "ask", lambda count: {"seconds": next(taken), "peak_rss": None})
    counts = [running.count]
    for _ in range(3):
        running.round()
        counts.append(running.count)
    assert counts == [100, 100, 5, 5]
    assert running.times == [0.005, 0.08, 0.08]


def test_what_a_rival_says_when_it_dies_is_told():
    with pytest.raises(RuntimeError, match="no-such-work"):
        Process(Contestant("ours"), "no-such-work").warm()


def test_pytorch_in_bfloat16_needs_instructions_for_it(tmp_path, monkeypatch):
    cpuinfo = tmp_path / "cpuinfo"
    for flags, has_them in (
        ("flags\t\t: fpu avx512f avx512_bf16", True), ("Features\t: fp asimd bf16", True), ("flags\t\t: fpu avx2", False), ("", False),
    ):  # fmt: skip
        cpuinfo.write_text(f"processor\t: 0\n{flags}\nbogomips\t: 1\n")
        assert pytorch_bf16.has_bfloat16(cpuinfo) is has_them, flags
    monkeypatch.setattr(pytorch_bf16, "has_bfloat16", lambda: False)
    monkeypatch.setattr(rivals, "find_spec", lambda name: name)
    assert rivals.missing("pytorch_bf16") == "this processor has no instructions for bfloat16"
    assert "pytorch_bf16" in process.field(WORKS["h256-b32"])[1]


def test_a_rival_that_is_not_installed_is_said_to_be_missing(monkeypatch):
    real = rivals.find_spec
    monkeypatch.setattr(rivals, "find_spec", lambda name: None if name in ("torch", "jaxlib") else real(name))
    monkeypatch.setattr(rivals.module("plain_c"), "compiler", lambda: None)
    contestants, absent = process.field(WORKS["seed"])
    assert {c.name for c in contestants} == {"ours", "numpy_loop"}
    assert absent["pytorch"] == "torch not installed"
    assert absent["jax"] == "jaxlib not installed" or "jax" in absent["jax"]
    assert absent["plain_c"] == "no C compiler"


def test_one_thread_is_held_to_one_core_and_several_are_not():
    assert Contestant("jax", 2).core is None
    assert Contestant("jax", 1).core == Contestant("ours", 1).core
