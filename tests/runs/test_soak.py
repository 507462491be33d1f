"""Trains for half an hour with saves and samples: memory, open files and time per iteration must not grow."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import made_up_text

MINUTES = float(os.environ.get("CHARLSTM_SOAK_MINUTES", "30"))
EVERY = 5.0  # seconds between measurements


def look(pid):
    """Anonymous memory in bytes, number of open files, and CPU seconds of a process."""
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    times = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    seconds = (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")
    return int(status["RssAnon"].split()[0]) * 1024, len(os.listdir(f"/proc/{pid}/fd")), seconds


def iterations(folder):
    """The number of iterations recorded in metrics.jsonl."""
    *_, last, _ = [b"", b"", *(folder / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].splitlines()[-1:], b""]
    return json.loads(last)["iteration"] if last else 0


@pytest.mark.long
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_soak(tmp_path, capsys):
    (tmp_path / "book.txt").write_text(made_up_text(200_000))
    command = [
        sys.executable, "-m", "charlstm", "train", "book.txt", "--out", "run", "--iterations", "1000000000", "--hidden-size",
        "64", "--schedule", "constant", "--learning-rate", "0.001", "--validation", "0.1", "--validate-every", "5000", "--save-every",
        "1", "--sample-every", "500", "--quiet",
    ]  # fmt: skip
    child = subprocess.Popen(command, cwd=tmp_path)
    looks = []
    try:
        end = time.monotonic() + 60 * MINUTES
        while time.monotonic() < end:
            time.sleep(EVERY)
            assert child.poll() is None
            if (tmp_path / "run" / "metrics.jsonl").exists():
                looks.append((*look(child.pid), iterations(tmp_path / "run")))
    finally:
        child.terminate()
        assert child.wait(60) == 143
    tenth = max(1, len(looks) // 10)
    looks = looks[tenth:]  # caches and pools fill at first
    memory, files = [one[0] for one in looks], [one[1] for one in looks]
    costs = [(b[2] - a[2]) / (b[3] - a[3]) for a, b in zip(looks, looks[tenth:], strict=False) if b[3] > a[3]]
    early, late = (statistics.median(part) for part in (costs[:tenth], costs[-tenth:]))
    with capsys.disabled():
        print(
            f"\n{looks[-1][3]:,} iterations; anonymous memory {memory[0] / 2**20:.1f} MiB, then {max(memory) / 2**20:.1f} at "
            f"most, {memory[-1] / 2**20:.1f} at the end; {min(files)} to {max(files)} open files; {early * 1e6:.1f} us of CPU "
            f"an iteration, then {late * 1e6:.1f}"
        )
    assert max(memory) < memory[0] + 2**21
    assert max(files) <= min(files) + 2  # a measurement may fall into a save
    assert late < 1.25 * early
