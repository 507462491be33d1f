"""metrics.csv: it has what metrics.jsonl has, also after a crash."""

import csv
import json
import math

import pytest
from small_runs import finish, small

from charlstm.cli import _guarded
from charlstm.runs.begin import resume, start
from charlstm.training import diagnostics
from charlstm.training.progress import COLUMNS

OPTIONS = {"iterations": 60, "validation": 0.1, "validate_every": 15, "schedule": "constant", "hidden_size": 3}


def assert_same(folder, extra=()):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == [*COLUMNS, *extra]
    told = [{name: float(cell) for name, cell in row.items() if cell} for row in rows]
    assert told == [{name: value for name, value in line.items() if value is not None} for line in lines]
    return lines


def test_it_has_every_value(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr(diagnostics, "_LEAST", 10)
    monkeypatch.setattr(diagnostics, "_READS", 1)
    finish(start(corpus, small(**OPTIONS), str(tmp_path / "run")))
    lines = assert_same(tmp_path / "run", diagnostics.names("lstm"))
    assert {name for line in lines for name in line} == {*COLUMNS, *diagnostics.names("lstm")} - {
        "bits_per_byte", "val_bits_per_byte",
    }  # fmt: skip


def test_a_loss_that_is_not_finite_is_an_empty_cell(corpus, tmp_path):
    run = start(corpus, small(**OPTIONS), str(tmp_path / "run"))
    for progress in run.train():
        if progress.kind == "tick":
            run.trainer.smooth_loss = math.inf
    lines = assert_same(tmp_path / "run", diagnostics.names("lstm"))
    assert lines[-2]["smooth_loss"] is None


@pytest.mark.parametrize("damage", ["longer", "other", "none"])
def test_a_resumed_run_repairs_it(corpus, tmp_path, damage, capsys):
    finish(start(corpus, small(**{**OPTIONS, "iterations": 20}), str(tmp_path / "run")))
    path = tmp_path / "run" / "metrics.csv"
    whole = path.read_text()
    if damage == "longer":
        path.write_text(whole + "17,written after the checkpoint, bef")
    elif damage == "other":
        path.write_text(whole.replace("10,231,", "11,231,"))
    else:
        path.unlink()
    assert _guarded(["verify", str(tmp_path / "run")]) == (1 if damage == "other" else 0)
    assert ("metrics.csv                                DAMAGED" in capsys.readouterr().out) == (damage == "other")
    finish(resume(tmp_path / "run", corpus, {"iterations": 60}))
    assert_same(tmp_path / "run", diagnostics.names("lstm"))
    assert path.read_text().splitlines()[:3] == whole.splitlines()[:3]
