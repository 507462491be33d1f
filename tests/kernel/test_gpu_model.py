"""docs/gpu.md shows the GPU model's predictions, and the GPU benchmarks run."""

import json

from conftest import ROOT, load

import kernels
from benchmarks import gpu, gpu_model, results
from charlstm.measure.bench import WORKS
from kernels.gpu import presence


def test_the_page_holds_the_table_of_predictions():
    page = (ROOT / "docs" / "gpu.md").read_text()
    assert f"<!-- predicted -->\n{gpu_model.table()}\n<!-- end -->" in page
    exact, padded, moved = gpu_model.block_figures(WORKS["seed"])
    assert (
        f"{exact:.1f} million multiply-adds per iteration, {padded:.1f} million with padding, and moves {moved:.1f} MB"
        in page
    )


def test_the_page_holds_the_table_of_each_device_that_was_measured():
    page = (ROOT / "docs" / "gpu.md").read_text()
    paths = [path for path in results.FOLDER.glob("*.json") if "gpu" in results.read(path)]
    for path in paths:
        found = results.read(path)
        assert f"<!-- {path.name} -->\n{gpu.table(found)}\n<!-- end -->" in page
        if "many" in found:
            assert f"<!-- many: {path.name} -->\n{gpu.table_of_many(found)}\n<!-- end -->" in page
    assert paths


def test_more_of_everything_is_no_slower():
    for device in gpu_model.DEVICES:
        better = device._replace(clock=2 * device.clock, lanes=2 * device.lanes, bandwidth=2 * device.bandwidth)
        for name in gpu_model.SHOWN:
            assert gpu_model.seconds(WORKS[name], better) <= gpu_model.seconds(WORKS[name], device)


def test_counted_instructions_are_those_of_the_block():
    """Multiply-adds and memory traffic, as they follow from the sizes, are most of what the ports were counted to do."""
    _, padded, moved = gpu_model.block_figures(WORKS["seed"])
    for device in gpu_model.DEVICES:
        rows = gpu_model.COUNTS["seed"][device.name]["iteration"]
        total = {kind: sum(row[0] * row[1 + k] for row in rows) for k, kind in enumerate(gpu_model.COUNTS["kinds"])}
        assert padded < 32e-6 * total["fma"] < 1.6 * padded, device.name
        most = 1.2 if device.shared > 160_000 else 1.6  # with less, W_y and more are in global memory
        assert moved < 128e-6 * total["lines"] < most * moved, device.name
        T = WORKS["seed"].seq_length
        assert sum(row[0] for row in rows) == 4 * T - 1 + 5  # barriers


def test_benchmarks_of_the_gpu_run(monkeypatch, tmp_path, capsys):
    if kernels.missing("cupy") is not None:
        import pytest
        from device import emulator

        if emulator.COMPILER is None:
            pytest.skip(emulator.REASON)
        load("cupy")
        monkeypatch.setattr(presence, "problem", lambda: None)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu, "SHORT", ("seed", "sample"))
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "MODELS", (1, 2))
    monkeypatch.setattr(gpu, "iterations_for", lambda run, seconds: 2)
    assert gpu.main() == 0
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text())
    assert [row["work"] for row in found["gpu"]] == ["seed", "sample"]
    assert [row["models"] for row in found["many"]] == [1, 2]
    assert gpu.table_of_many(found).count("\n") == 3
    assert "seed" in capsys.readouterr().out


def test_without_a_gpu_the_benchmarks_say_why(monkeypatch, capsys):
    monkeypatch.setattr(presence, "problem", lambda: "needs the NVIDIA driver")
    assert gpu.main() == 1
    assert capsys.readouterr().err.strip() == "the cupy backend needs the NVIDIA driver"
