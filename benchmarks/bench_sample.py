"""Time per sampled character, with one stream at temperature 1; ours and PyTorch take turns."""

from benchmarks.process import field, race
from charlstm.measure.bench import WORKS


def test_sampling(benchmark, machine_limits):
    contestants, absent = field(WORKS["sample"])
    benchmark.extra_info["floor"] = {"1": WORKS["sample"].floor(machine_limits)}
    race(benchmark, WORKS["sample"], contestants, absent)
