"""What remains of a run whose process, disk or power fails at any moment: at every disk call that a save makes."""

import shutil

import numpy as np
import pytest
from conftest import made_up_text
from faults import FULL, Died, Disk
from small_runs import everything, finish

from charlstm.errors import UserError
from charlstm.runs import store
from charlstm.runs.begin import NotSaved, resume, start
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus

END = 18
OPTIONS = {
    "hidden_size": 3, "seq_length": 4, "batch_size": 2, "report_every": 2, "sample_every": 4, "sample_length": 5,
    "keep": 2, "schedule": "constant", "backend": "numpy", "save_every": 1e-9,
}  # fmt: skip
CORPUS = Corpus.from_text(made_up_text(300), "book")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with three checkpoints, and the final state that it reaches without a failure."""
    folder = tmp_path_factory.mktemp("begun")
    whole = start(CORPUS, from_preset(**OPTIONS, iterations=END), str(folder / "whole"))
    whole.trainer.call_iterations = 1
    finish(whole)
    first = start(CORPUS, from_preset(**{**OPTIONS, "iterations": 12}), str(folder / "run"))
    finish(first)
    return folder / "run", everything(folder / "whole")


def go_on(folder):
    run = resume(folder, CORPUS, {"iterations": END})
    run.trainer.call_iterations = 3
    finish(run)


def calls_of_a_whole_run(begun, tmp_path, monkeypatch):
    """The number of disk calls from iteration 12 to 18: two saves and what surrounds them."""
    shutil.copytree(begun[0], tmp_path / "counted")
    with monkeypatch.context() as patch:
        counter = Disk(patch, tmp_path)
        go_on(tmp_path / "counted")
    return counter.count


def some(calls, fault):
    """A third of the calls of a run, others for each kind of fault."""
    random = np.random.RandomState(sum(str(fault).encode()))
    return sorted(1 + random.choice(calls, calls // 3, replace=False))


def every(calls, fault):
    return range(1, calls + 1)


AT = pytest.mark.parametrize("chosen", [some, pytest.param(every, marks=pytest.mark.long)])


def interrupted(begun, tmp_path, monkeypatch, at, fault, **how):
    """Resume a copy of the run with a fault; return the folder, how it ended, and the newest saved iteration."""
    folder = tmp_path / f"run-{at}-{fault}"
    scratch = tmp_path / f"scratch-{at}-{fault}"
    scratch.mkdir()
    shutil.copytree(begun[0], folder)
    (folder / "last.safetensors").unlink()  # copytree has made it a separate file
    (folder / "last.safetensors").hardlink_to(folder / "checkpoints" / "step-000000000012.safetensors")
    saved, save = [12], store.save

    def counted(*arguments, **options):
        save(*arguments, **options)
        saved.append(arguments[2])

    ended = None
    with monkeypatch.context() as patch:
        patch.setattr(store, "save", counted)
        Disk(patch, scratch, at, fault, **how)
        try:
            go_on(folder)
        except (Died, NotSaved, OSError, UserError) as error:
            ended = error
            error.__traceback__ = None  # the traceback holds the run, and the run holds the lock
    return folder, ended, saved[-1]


def check(begun, folder, saved):
    """Assert that there is a complete checkpoint, not older than the last save, and that the run ends as if uninterrupted."""
    found, _ = store.newest(folder)
    assert found.iteration >= saved
    go_on(folder)
    assert everything(folder)[:4] == begun[1][:4]
    assert not list(folder.rglob(".*.tmp"))
    assert len(store.numbered_steps(folder)) == OPTIONS["keep"]


@AT
@pytest.mark.parametrize("fault", ["die before", "die within", "die after", "power"])
def test_death_at_a_call(begun, tmp_path, monkeypatch, fault, chosen):
    calls = calls_of_a_whole_run(begun, tmp_path, monkeypatch)
    assert calls > 40
    for at in chosen(calls, fault):
        folder, ended, saved = interrupted(begun, tmp_path, monkeypatch, at, fault)
        assert isinstance(ended, Died), at
        check(begun, folder, saved)
        shutil.rmtree(folder)


@AT
@pytest.mark.parametrize("stays", [False, True], ids=["once", "from then on"])
def test_a_disk_that_fails_at_a_call(begun, tmp_path, monkeypatch, stays, chosen):
    calls = calls_of_a_whole_run(begun, tmp_path, monkeypatch)
    for at in chosen(calls, stays):
        folder, ended, saved = interrupted(begun, tmp_path, monkeypatch, at, FULL[at % len(FULL)], stays=stays)
        assert ended is None or isinstance(ended, NotSaved | OSError), at
        if stays and ended is None:  # nothing after the fault needed room on the disk
            assert at > calls - 12
        check(begun, folder, saved)
        shutil.rmtree(folder)


def test_a_disk_that_lies_is_noticed(begun, tmp_path, monkeypatch):
    """Proof that the tests above can fail: on a disk that ignores fsync, a power cut loses promised data."""
    losses = 0
    for at in range(1, calls_of_a_whole_run(begun, tmp_path, monkeypatch) + 1, 5):
        folder, _, saved = interrupted(begun, tmp_path, monkeypatch, at, "power", is_honest=False)
        try:
            check(begun, folder, saved)
        except (AssertionError, UserError):
            losses += 1
    assert losses
