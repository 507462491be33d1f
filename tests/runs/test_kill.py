"""Kills, at random moments and many times, a process that trains and saves as fast as it can."""

import hashlib
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import everything, finish, small

from charlstm.runs import inspection, store
from charlstm.runs.begin import resume, start
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer

OPTIONS = {
    "hidden_size": 5, "num_layers": 1, "backend": "numpy", "schedule": "constant", "save_every": 1e-9, "sample_every": 9,
    "report_every": 3, "dropout": 0.2,
}  # fmt: skip
CHILD = """
import sys
from charlstm.runs.begin import resume
run = resume(sys.argv[1], chosen={"iterations": 10**6})
for progress in run.train():
    run.trainer.call_iterations = 1
    print("ready", flush=True)
"""


class Uninterrupted:
    """Weights, optimizer state and carried states after each iteration of a run that is never stopped."""

    def __init__(self, corpus, options):
        self._trainer = Trainer(small(**options, iterations=10**6), corpus)
        self._run, self._digests = self._trainer.run(), {}

    def digest(self, iteration):
        while iteration not in self._digests:
            if next(self._run).kind == "tick":
                self._trainer.call_iterations = 1
                self._digests[self._trainer.iteration] = digest(self._trainer.checkpoint())
        return self._digests[iteration]


def digest(checkpoint):
    arrays = (checkpoint.theta, checkpoint.state, checkpoint.h, checkpoint.c, checkpoint.random_state[1])
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def kill_again_and_again(text_file, tmp_path, kills, **more):
    """Return the last iteration, and how many kills hit while a file was being written."""
    folder, corpus, options = tmp_path / "run", Corpus.from_text(made_up_text(), "book"), {**OPTIONS, **more}
    finish(start([text_file], small(**options, iterations=2), str(folder)))
    right, moment = Uninterrupted(corpus, options), np.random.RandomState(kills)
    reached, strays, extra = 2, 0, 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", CHILD, folder], stdout=subprocess.PIPE)
        assert child.stdout.readline() == b"ready\n"
        time.sleep(moment.random_sample() * 0.1)
        child.kill()
        child.communicate()
        strays += bool(list(folder.rglob(".*.tmp")))
        assert not [found for found in inspection.verify(folder) if found.fault]
        found, notes = store.newest(folder)
        assert notes == []
        assert found.iteration >= reached
        assert digest(found) == right.digest(found.iteration)
        extra += found.iteration > reached
        reached = found.iteration
    finish(resume(folder, chosen={"iterations": reached + 5}))
    finish(start(corpus, small(**options, iterations=reached + 5), str(tmp_path / "whole")))
    resumed, whole = everything(folder), everything(tmp_path / "whole")
    assert resumed[:4] == whole[:4]
    assert extra
    return reached, strays


def test_killed_ten_times(text_file, tmp_path):
    kill_again_and_again(text_file, tmp_path, 10)


def test_members_killed_three_times(text_file, tmp_path):
    kill_again_and_again(text_file, tmp_path, 3, members="lstm:5,gru:4")


@pytest.mark.long
def test_killed_two_hundred_times(text_file, tmp_path, capsys):
    reached, strays = kill_again_and_again(text_file, tmp_path, 200)
    with capsys.disabled():
        print(f"\n200 kills, {reached} iterations, {strays} while a file was being written")
    assert strays  # else the kills missed the moments that matter
