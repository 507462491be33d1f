"""The script behind `make test-portable` tells in one line each what passed, failed and was skipped."""

import platform
import sys

import portable
import pytest


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """Let variants end as told by name, instead of running them."""
    codes = {}
    monkeypatch.setattr(portable, "run", lambda variant: (codes.get(variant.name, 0), "7 passed"))
    monkeypatch.setattr(portable, "vectors", lambda: [portable.Variant("vectors of AVX2")])
    monkeypatch.setattr(portable.shutil, "which", lambda name: None)
    monkeypatch.delenv(portable.COMMANDS, raising=False)
    return codes


def test_each_variant_has_a_line_and_a_failure_an_exit_code(ended, monkeypatch, capsys):
    monkeypatch.setenv(portable.COMMANDS, f"{sys.executable} -I; no-such-command; ")
    assert portable.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("passed   vectors of AVX2: 7 passed, ")
    others = [minor for minor in portable.MINORS if minor != sys.version_info.minor]
    assert lines[1:5] == [f"skipped  Python 3.{minor}: no python3.{minor} on PATH" for minor in others]
    version, machine = platform.python_version(), platform.machine()
    assert lines[5].startswith(f"passed   Python {version} on {machine}: {sys.executable} -I: 7 passed, ")
    assert lines[6] == "skipped  no-such-command: it runs no Python"
    assert any(line.startswith("skipped  ") and portable.COMMANDS in line for line in lines[7:])
    ended["vectors of AVX2"] = 1
    assert portable.main([]) == 1
    assert "FAILED   vectors of AVX2: 7 passed, " in capsys.readouterr().out
    assert portable.main(["python 3.13"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == (sys.version_info.minor != 13)


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="these vectors are x86-64's")
def test_vectors_are_limited_by_what_numba_reads():
    for variant, processor, absent in zip(
        portable.vectors(), ("haswell", "nehalem"), ("+avx512f", "+avx2"), strict=True
    ):
        assert variant.environment["NUMBA_CPU_NAME"] == processor
        features = variant.environment["NUMBA_CPU_FEATURES"].split(",")
        assert absent not in features
        assert absent.replace("+", "-") in features
        assert "+sse4.2" in features
