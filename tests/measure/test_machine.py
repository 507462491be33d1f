"""The number of usable cores: affinity, control-group quotas of both versions, and environment variables."""

import os
import sys

import pytest

import kernels
from charlstm.host import machine

V2 = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "31 24 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "32 24 0:28 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)
GROUPS_V1 = "5:memory:/other\n4:cpu,cpuacct:/docker/abc\n0::/\n"


def system(root, groups, mounts, files):
    """A root folder whose proc and sys hold what the system would report."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "mounts", "files", "quota"),
    [
        ("0::/\n", V2, {"cpu.max": "200000 100000\n"}, 2),  # a container, which sees its own group as the root
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "300000 100000\n"}, 3),  # the quota of its slice
        ("0::/a/b\n", V2, {"a/b/cpu.max": "150000 100000\n", "a/cpu.max": "800000 100000\n"}, 1.5),
        ("0::/a/b\n", V2, {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "max 100000\n"}, None),
        ("0::/a\n", V2, {"ab/cpu.max": "100000 100000\n", "a/cpu.max": "nonsense\n"}, None),
        ("0::/pod/me\n", V2.replace(" / /", " /pod /"), {"me/cpu.max": "50000 100000\n"}, 0.5),
        ("0::/pod/me\n", V2.replace(" / /", " /po /"), {"cpu.max": "400000 100000\n"}, 4),
        ("0::/../else\n", V2, {"cpu.max": "400000 200000\n"}, 2),
        ("0::/x\n", V2.replace("cgroup rw", r"c\040g rw"), {"../c g/x/cpu.max": "700000 100000\n"}, 7),
        (GROUPS_V1, V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "250000\n",
                         "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n"}, 2.5),
        (GROUPS_V1, V1, {"cpu,cpuacct/docker/abc/cpu.cfs_quota_us": "-1\n",
                         "cpu,cpuacct/docker/abc/cpu.cfs_period_us": "100000\n",
                         "cpu,cpuacct/docker/cpu.cfs_quota_us": "400000\n",
                         "cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n"}, 4),
        (GROUPS_V1, V2 + V1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "cpu.max": "600000 100000\n"}, 6),
        (GROUPS_V1, V1, {"memory/other/cpu.max": "100000 100000\n"}, None),
        ("", "nonsense\n", {}, None),
    ],
)  # fmt: skip
def test_the_quota_is_the_least_of_all_groups_that_the_process_is_in(tmp_path, groups, mounts, files, quota):
    files = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    assert machine.cpu_quota(system(tmp_path, groups, mounts, files)) == quota


def test_a_system_that_tells_nothing_sets_no_quota(tmp_path):
    assert machine.cpu_quota(tmp_path) is None


@pytest.mark.parametrize(
    ("cores", "quota", "environment", "expected"),
    [
        (16, None, {}, 16),
        (16, 2.0, {}, 2),
        (16, 2.9, {}, 2),
        (16, 0.5, {}, 1),
        (2, 8.0, {}, 2),
        (16, 8.0, {"OMP_NUM_THREADS": "4"}, 4),
        (16, 8.0, {"OMP_NUM_THREADS": "6,2", "NUMBA_NUM_THREADS": "3"}, 3),
        (4, None, {"OMP_NUM_THREADS": "64", "NUMBA_NUM_THREADS": ""}, 4),
        (4, None, {"OMP_NUM_THREADS": "0", "NUMBA_NUM_THREADS": "-2"}, 4),
        (4, None, {"OMP_NUM_THREADS": "many", "NUMBA_NUM_THREADS": "2.5"}, 4),
    ],
)
def test_cores_are_the_least_of_affinity_quota_and_environment(monkeypatch, cores, quota, environment, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    monkeypatch.setattr(machine, "cpu_quota", lambda: quota)
    for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert machine.usable_cores() == expected


@pytest.mark.parametrize(("value", "is_off"), [("1", True), ("2", True), ("0", False), ("", False), ("yes", False)])
def test_numba_without_its_compiler_counts_as_missing(monkeypatch, value, is_off):
    pytest.importorskip("numba")
    monkeypatch.delitem(sys.modules, "numba")
    monkeypatch.setenv("NUMBA_DISABLE_JIT", value)
    assert ("numba" in kernels.available()) is not is_off
    if is_off:
        assert "NUMBA_DISABLE_JIT turns it off" in kernels.missing("numba")
        with pytest.raises(kernels.BackendUnavailable, match="NUMBA_DISABLE_JIT"):
            kernels.load("numba")
        assert "numba" not in sys.modules


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("info", 0),
        ("info --clear-cache", 2),
        ("bench", 2),
        ("gradcheck --backend numba", 2),
        ("train book.txt --hidden-size 3 --batch-size 2 --seq-length 5 --iterations 2 --sample-every 0", 0),
    ],
)
def test_commands_say_in_a_line_that_the_compiler_is_off(charlstm_command, text_file, command, code):
    pytest.importorskip("numba")
    done = charlstm_command(*command.split(), env={"NUMBA_DISABLE_JIT": "1"})
    assert done.returncode == code, done.stderr
    said = [line for line in (done.stdout + done.stderr).decode().splitlines() if "NUMBA_DISABLE_JIT" in line]
    assert len(said) == 1
    assert b"Traceback" not in done.stderr
