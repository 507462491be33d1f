"""The cost model of docs/scaling.md: its tables are those of the measurements, and the fit finds what costs were."""

from dataclasses import replace

import pytest

from benchmarks import corpora, results, scaling
from benchmarks.scaling import Point


@pytest.fixture(scope="module")
def found():
    return results.read(scaling.RESULTS)


def test_the_page_has_the_tables_of_what_was_measured(found):
    page = scaling.PAGE.read_text(encoding="utf-8")
    assert scaling.with_tables(page, found) == page


def test_the_model_was_not_fitted_to_what_it_is_checked_on(found):
    fitted, checked = scaling.halves(found["points"])
    assert found["model"] == pytest.approx(scaling.fitted(fitted))
    assert not [line for line in checked if line in fitted]
    errors = [abs(scaling.predicted(found["model"], scaling.point_of(line)) / line["seconds"] - 1) for line in checked]
    assert max(errors) < 0.15


def test_the_fit_finds_planted_costs(found):
    planted = {"multiply-add": 1e-11, "step of a layer": 1e-6, "message": 2e-5, "second of the link": 1.0}
    lines = [{**line, "seconds": scaling.predicted(planted, scaling.point_of(line))} for line in found["points"]]
    recovered = {name: cost for name, cost in scaling.fitted(lines).items() if cost > 1e-14}
    assert recovered == pytest.approx(planted, rel=1e-3)


def test_what_travels():
    alone, two = Point(128, 1, 32, 1), Point(128, 1, 32, 2, delay=1e-3, rate=1e6)
    assert alone.costs["byte moved"] == alone.costs["message"] == alone.costs["second of the link"] == 0
    assert two.costs["byte moved"] == 4 * two.parameters
    assert two.costs["second of the link"] == pytest.approx(2e-3 + 4 * two.parameters / 1e6)
    assert replace(two, sync_dtype="bfloat16").costs["byte moved"] == 2 * two.parameters
    assert replace(two, sync_every=16).costs["byte moved"] == 12 * two.parameters / 16  # Adam's memory travels, too
    assert two.costs["multiply-add"] == alone.costs["multiply-add"] / 2


def test_more_ranks_pay_on_faster_networks_and_with_larger_batches(found):
    def reach(network, sizes, way=(1, "float32")):
        return scaling.reach(found["model"], found["spread"], network, sizes, way)[0]

    slow, _, fast = scaling.NETWORKS
    assert reach(slow, (512, 2, 256)) < reach(fast, (512, 2, 256)) < reach(fast, (512, 2, 4096))
    assert reach(slow, (512, 2, 256)) < reach(slow, (512, 2, 256), (16, "float32"))


@pytest.fixture(scope="module")
def loaded():
    return results.read(corpora.RESULTS)


def test_the_page_has_the_tables_of_loaded_texts(loaded):
    page = corpora.PAGE.read_text(encoding="utf-8")
    assert corpora.with_tables(page, loaded) == page


def test_a_terabyte_takes_what_its_rates_say(loaded, monkeypatch):
    found = corpora.rates(loaded)
    assert all(1e7 < rate < 1e10 for rate in found.values())
    monkeypatch.setattr(corpora, "FILE_SYSTEM", 1e18)
    first, second = corpora.terabyte(loaded, 4)
    assert second == pytest.approx(2 * 1e12 / 4 / found["digests"])
    assert corpora.terabyte(loaded, 1e9)[0] == pytest.approx(1e12 / found["digests"])  # the work of one rank
    parts = 1e12 / 4 / found["read"] + 1e12 / 4 / found["write"]
    assert first == pytest.approx(parts + 1e12 / found["digests"])
    monkeypatch.setattr(corpora, "FILE_SYSTEM", 1e9)
    assert corpora.terabyte(loaded, 1e9) == (6000, 2000)
