"""Sweeps: the search space, the study that workers share, and what a killed worker leaves."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from click.testing import CliRunner

from charlstm.cli import cli
from charlstm.cluster import space
from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.settings.config import from_preset

TEXT = "".join(f"{n} men went to mow, went to mow {n * n} meadows; " for n in range(120))
SPACE = """
[hidden_size]
choices = [3, 5]

[learning_rate]
low = 0.002
high = 0.05
log = true

[grad_clip_norm]
choices = ["none", 0.5]
"""
OPTIONS = [
    "--backend", "numpy", "--dtype", "float32", "--batch-size", "2", "--seq-length", "6", "--sample-every", "0",
    "--mix", "0", "--no-diagnostics",
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no table"),
        ("[hidden]\nchoices = [1]", "unknown option 'hidden'"),
        ("[validation]\nchoices = [0.1]", "all trials must share this option"),
        ("[hidden_size]\nchoices = []", "expected choices = \\[...\\] and nothing else"),
        ("[hidden_size]\nchoices = [1]\nlow = 2", "expected choices = \\[...\\] and nothing else"),
        ("[hidden_size]\nlow = 2", "expected choices, or low and high"),
        ("[hidden_size]\nlow = 8\nhigh = 2", "expected low < high, got 8 and 2"),
        ("[hidden_size]\nlow = 2.5\nhigh = 8", "expected whole numbers"),
        ("[hidden_size]\nlow = 0\nhigh = 8", "--hidden-size: expected at least 1, got 0"),
        ("[hidden_size]\nlow = 1\nhigh = 8\nlog = true\nstep = 2", "log = true needs low > 0 and no step"),
        ("[hidden_size]\nlow = 1\nhigh = 8\nstep = 0", "expected a positive step"),
        ("[hidden_size]\nlow = 1\nhigh = 8\nsize = 2", "unknown key 'size'"),
        ("[cell]\nlow = 1\nhigh = 8", "is no number, so it needs choices"),
        ("[cell]\nchoices = ['lstm', 'gate']", "--cell: expected one of"),
        ("hidden_size = 3", "not a table"),
        ("[hidden_size", "not a TOML file"),
    ],
)
def test_a_space_that_is_wrong_is_told_with_its_table(tmp_path, text, message):
    path = tmp_path / "space.toml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        space.read(path)


optuna = pytest.importorskip("optuna", reason='needs Optuna: pip install "charlstm[sweep]"')
from charlstm.cluster import sweep as sweeps  # noqa: E402


@pytest.fixture
def begin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "space.toml").write_text(SPACE)

    def begin(*options):
        arguments = ["sweep", "text.txt", "--space", "space.toml", "-o", "sweep", *OPTIONS, *options]
        return CliRunner().invoke(cli, arguments, catch_exceptions=False, standalone_mode=False)

    return begin


def test_trials_are_runs_and_the_best_comes_first(begin, tmp_path):
    done = begin("--trials", "6", "--iterations", "30", "--json", "--no-prune")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert sorted(row["number"] for row in rows) == list(range(6))
    assert {row["state"] for row in rows} == {"complete"}
    assert [row["bits"] for row in rows] == sorted(row["bits"] for row in rows)
    for row in rows:
        run = sweeps.begin.find(tmp_path / "sweep" / row["folder"], "last")
        model = sweeps.begin.Checkpoint.from_file(run)
        assert model.iteration == 30
        assert model.marks["best_validation"] == row["bits"]
        assert model.config.hidden_size == row["options"]["hidden_size"]
        assert model.config.grad_clip_norm == space.plain("grad_clip_norm", row["options"]["grad_clip_norm"])
    assert (tmp_path / "sweep" / "sweep.csv").read_text().startswith("trial,state,bits,hidden_size,learning_rate,")
    assert (tmp_path / "sweep" / "sweep.png").is_file()
    assert len({row["options"]["learning_rate"] for row in rows}) == 6


def test_trials_below_the_median_are_pruned(begin, tmp_path, monkeypatch):
    rates = iter([0.05, 0.05, 0.05, 0.05, 1e-9, 0.05])
    monkeypatch.setattr(
        sweeps,
        "suggested",
        lambda trial, of: {"learning_rate": trial.suggest_float("learning_rate", *2 * [next(rates)])},
    )
    begin("--trials", "6", "--iterations", "60", "--json")
    rows = sorted(sweeps.rows(tmp_path / "sweep"))
    assert [row.state for row in rows] == ["complete"] * 4 + ["pruned", "complete"]
    assert rows[4].chars < rows[3].chars
    assert sweeps.rows(tmp_path / "sweep")[-1].number == 4


def test_options_that_do_not_go_together_fail_a_trial_and_no_more(begin, tmp_path):
    (tmp_path / "space.toml").write_text("[windows]\nchoices = ['999999:1', '6:2']\n")
    begin("--trials", "4", "--iterations", "4", "--json")
    states = {row.options["windows"]: row.state for row in sweeps.rows(tmp_path / "sweep")}
    assert states == {"999999:1": "fail", "6:2": "complete"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--hidden-size", "3"], "--hidden-size: is searched"),
        (["--validation", "0"], "--validation: trials are compared by held-out text"),
        (["--join", "sweep"], "--join: the sweep has its text and options"),
    ],
)
def test_mistakes_write_no_sweep(begin, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        begin(*options)
    assert not (tmp_path / "sweep" / "sweep.toml").exists()


def _killed_at_random(tmp_path, kills, trials, iterations):
    """Let two workers work on a sweep, and kill one of them, with a new one after it, so many times."""
    folder = tmp_path / "sweep"
    folder.mkdir()
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "space.toml").write_text(SPACE)
    given = dict(zip([name[2:].replace("-", "_") for name in OPTIONS[:-1:2]], OPTIONS[1::2], strict=True))
    numbers = {name: int(value) if value.isdigit() else value for name, value in given.items()}
    options = {**numbers, "iterations": iterations, "validation": 0.1, "save_every": 0.05, "diagnostics": False}
    found = space.read(tmp_path / "space.toml")
    sweeps.create(folder, sweeps.Plan([str(tmp_path / "text.txt")], options, found, trials, prune=False))
    command = [sys.executable, "-m", "charlstm", "sweep", "--join", str(folder), "--worker", "--threads", "1"]

    def start():
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    steady, victim, told, chance = start(), start(), [], np.random.default_rng()
    for _ in range(kills):
        time.sleep(chance.uniform(0, 4))
        victim.send_signal(signal.SIGKILL)
        told.append(victim.communicate()[1])
        victim = start()
    told += [worker.communicate(timeout=300)[1] for worker in (steady, victim)]
    assert (steady.returncode, victim.returncode) == (0, 0), told
    return folder, "".join(told)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
@pytest.mark.parametrize(
    ("kills", "trials", "iterations"), [(1, 3, 200), pytest.param(10, 24, 1500, marks=pytest.mark.long)]
)
def test_killed_workers_lose_no_trial_and_none_counts_twice(tmp_path, kills, trials, iterations):
    folder, told = _killed_at_random(tmp_path, kills, trials, iterations)
    rows = sorted(sweeps.rows(folder))
    assert [row.number for row in rows] == list(range(trials))
    assert {row.state for row in rows} == {"complete"}
    assert all(row.chars == iterations * 2 * 6 for row in rows)
    for row in rows:
        assert told.count(f"trial {row.number}  {row.bits:.4f} bits\n") <= 1  # a kill may come before the line


def test_a_trial_of_a_killed_worker_is_resumed_not_begun_again(begin, tmp_path):
    begin("--trials", "1", "--iterations", "30", "--no-prune")
    folder = tmp_path / "sweep"
    journal = (folder / "journal.log").read_bytes().splitlines(keepends=True)
    told = next(n for n, line in enumerate(journal) if json.loads(line).get("state") == 1)  # COMPLETE
    (folder / "journal.log").write_bytes(b"".join(journal[:told]))  # killed before it told its result
    assert sweeps.rows(folder)[0].state == "running"
    before = (folder / "trial-0000" / "metrics.jsonl").read_bytes()
    worker = sweeps.Worker(folder, 1, None, lambda line: None)
    worker.work()
    assert sweeps.rows(folder)[0].state == "complete"
    assert (folder / "trial-0000" / "metrics.jsonl").read_bytes() == before
    assert not (folder / "trial-0000-2").exists()


def test_a_trial_that_another_worker_holds_is_left_to_it(begin, tmp_path):
    begin("--trials", "1", "--iterations", "5")
    folder = tmp_path / "sweep"
    first, second = (sweeps.Worker(folder, 1, None, lambda line: None) for _ in range(2))
    first.plan = second.plan = sweeps.Plan(**{**vars(first.plan), "trials": 3})
    taken = [worker._take() for worker in (first, second, first)]
    assert [trial and trial[0].number for trial in taken] == [1, 2, None]
    taken[1][1].release()  # as the end of its process would
    again = first._take()
    assert again[0].number == 2


def test_the_plan_of_a_sweep_is_read_as_written(tmp_path):
    plan = sweeps.Plan(["a.txt"], {"validation": 0.2, "grad_clip_norm": None}, {"hidden_size": {"choices": [1]}}, 3)
    sweeps.create(tmp_path, plan)
    assert sweeps.read(tmp_path) == plan
    assert plan.config({"hidden_size": 1}) == from_preset(
        plot=False, validation=0.2, grad_clip_norm=None, hidden_size=1
    )
    (tmp_path / "sweep.toml").write_text("trials = 3")
    with pytest.raises(UserError, match="damaged"):
        sweeps.read(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="needs process groups")
def test_ctrl_c_saves_the_trials_of_all_workers(tmp_path):
    """In a terminal, the signal reaches the whole foreground group."""
    (tmp_path / "text.txt").write_text(TEXT)
    (tmp_path / "space.toml").write_text(SPACE)
    long = (
        "--seq-length",
        "1200",
        "--num-layers",
        "8",
        "--iterations",
        "1000000",
        "--no-prune",
        "--jobs",
        "2",
        "--out",
        "sweep",
    )
    sweep = subprocess.Popen(
        [sys.executable, "-m", "charlstm", "sweep", "text.txt", "--space", "space.toml", *OPTIONS, *long],
        cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, start_new_session=True,
    )  # fmt: skip
    metrics = [tmp_path / "sweep" / f"trial-000{n}" / "metrics.jsonl" for n in range(2)]
    until = time.monotonic() + 120
    while not all(path.exists() and path.stat().st_size for path in metrics) and time.monotonic() < until:
        time.sleep(0.1)
    os.killpg(sweep.pid, signal.SIGINT)
    told = sweep.communicate(timeout=60)[1]
    assert sweep.returncode == 130, told
    for path in metrics:
        assert Checkpoint.from_file(path.parent / "last.safetensors").iteration > 0


def test_the_word_none_unsets_only_options_that_can_be_unset():
    assert space.plain("grad_clip_norm", "none") is None
    assert space.plain("epoch_samples", "none") == "none"
