"""The cache of compiled kernels is content-addressed, verified before loading, bounded in size, and never fatal."""

import ast
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from shutil import copytree
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import mutations
import numpy as np
import pytest

import kernels

pytest.importorskip("numba")

from kernels.cpu import compiler

#: Program that prints a result computed through several source files, and the kernels that it compiled.
PROGRAM = """
import numpy as np, kernels
compiled = []
kernels.compile_listeners.append(compiled.append)
loss, _ = kernels.load("numba").softmax_cross_entropy(np.zeros((1, 1, 4)), np.zeros((1, 1), np.int32))
print(f"{loss:.6f}", ",".join(compiled) or "-")
"""


@pytest.fixture
def package(tmp_path):
    """Copy the kernels for editing; calling the fixture runs PROGRAM against the copy in its own process."""
    mutations.copied(tmp_path)

    def run(**environment):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
            env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache"), **environment},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.split()

    run.folder = tmp_path
    run.files = lambda: sorted((tmp_path / "cache").rglob(f"*{compiler.SUFFIX}"))
    return run


LN4 = "1.386294"


def test_the_second_run_loads_what_the_first_compiled(package):
    assert package() == [LN4, "loss_of_all"]
    assert package() == [LN4, "-"]
    assert len(package.files()) == 1


def test_an_edit_in_a_helper_of_another_file_recompiles(package):
    package()
    helper = package.folder / "kernels" / "cpu" / "emit" / "activations.py"
    source = helper.read_text()
    right = "    s, p = _reduce(x.at_least(_format(x).lowest))\n    return s + s * p"
    assert source.count(right) == 1
    helper.write_text(source.replace(right, right.replace("s + s * p", "2.0 * (s + s * p)")))
    assert package() == ["2.079442", "loss_of_all"]  # the edit doubles exp, which gives ln(8)
    helper.write_text(source)
    assert package() == [LN4, "-"]  # the original source gives the original result again


def test_compiled_code_is_made_of_the_files_of_the_digest():
    """Jitted functions use no names from files outside kernels/cpu and kernels/spec."""
    jitted = 0
    for path in (Path(kernels.__file__).parent / "cpu").rglob("*.py"):
        tree, others = ast.parse(path.read_text()), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module.partition(".")[0] == "kernels":
                inside = node.module.startswith("kernels.cpu") or node.module.startswith("kernels.spec")
                others |= {a.asname or a.name for a in node.names if not inside and a.name not in ("cpu", "spec")}
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef) and node.decorator_list:
                decorators = {each.id for each in node.decorator_list if isinstance(each, ast.Name)}
                if decorators & {"inner", "exact", "thin", "entry", "intrinsic"}:
                    jitted += 1
                    assert not others & {name.id for name in ast.walk(node) if isinstance(name, ast.Name)}, path
    assert jitted > 80


def test_a_damaged_or_foreign_file_is_thrown_away_and_made_anew(package):
    package()
    (file,) = package.files()
    data = file.read_bytes()
    middle, other = len(data) // 2, b"k" * 32 + data[-99:]
    for damaged in (
        data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
        data[:-1],
        b"",
        b"#!/bin/sh\necho hello\n",
        data[: len(compiler.MAGIC)] + compiler.hashlib.sha256(other).digest() + other,  # whole, but of another kernel
    ):
        file.write_bytes(damaged)
        assert package() == [LN4, "loss_of_all"], damaged[:40]
        assert package.files() == [file]
        assert file.read_bytes()[: len(compiler.MAGIC)] == compiler.MAGIC
    assert package() == [LN4, "-"]


def test_without_a_writable_folder_it_falls_back_to_a_private_one_then_to_none(package):
    blocked = package.folder / "a file"
    blocked.write_text("")
    temporary = package.folder / "tmp"
    temporary.mkdir()
    environment = {
        "NUMBA_CACHE_DIR": str(blocked / "cache"), "XDG_CACHE_HOME": str(blocked), "TMPDIR": str(temporary)
    }  # fmt: skip
    assert package(**environment) == [LN4, "loss_of_all"]
    (private,) = temporary.glob("charlstm-kernels-*")
    assert private.stat().st_mode & 0o777 == 0o700
    assert package(**environment) == [LN4, "-"]
    private.chmod(0o777)  # other users can write here now, so no file of it may be loaded
    assert package(**environment) == [LN4, "loss_of_all"]
    assert package(**environment, TMP=str(blocked), TEMP=str(blocked)) == [LN4, "loss_of_all"]


@pytest.mark.parametrize(
    ("owner", "mode", "expected"),
    [
        ("mine", 0o644, True), ("root", 0o755, True), ("root", 0o600, True), ("else", 0o755, False),
        ("else", 0o600, False), ("mine", 0o664, False), ("root", 0o775, False), ("root", 0o757, False),
        ("mine", 0o777, False),
    ],
)  # fmt: skip
def test_what_others_can_write_is_not_run(monkeypatch, owner, mode, expected):
    monkeypatch.setattr(os, "getuid", lambda: 1234, raising=False)
    uid = {"mine": 1234, "root": 0, "else": 1235}[owner]
    assert compiler.is_safe(SimpleNamespace(st_uid=uid, st_mode=mode)) is expected


@pytest.fixture
def image(tmp_path, monkeypatch):
    """Make a cache of two folders; the first is read-only and has a kernel's file under the key "k..."."""
    first, second = tmp_path / "first" / "charlstm", tmp_path / "home" / "charlstm" / "kernels"
    first.mkdir(parents=True)
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(first.parent))
    monkeypatch.setattr(compiler.platformdirs, "user_cache_dir", lambda *_: str(second.parent))
    made = compiler.tempfile.TemporaryFile

    def temporary_file(dir):
        if dir == first:
            raise PermissionError(13, "Permission denied")
        return made(dir=dir)

    monkeypatch.setattr(compiler.tempfile, "TemporaryFile", temporary_file)
    cache, key = compiler.KernelCache(compiler.clear_cache), b"k" * 32
    path = cache._path(first, key)
    path.write_bytes(compiler.MAGIC + compiler.hashlib.sha256(key + b"payload").digest() + key + b"payload")
    path.chmod(0o644)
    return SimpleNamespace(cache=cache, key=key, path=path, first=first, second=second)


def test_a_folder_that_cannot_be_written_is_read_and_new_kernels_go_to_the_next_one(image, monkeypatch):
    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", refuse)
    assert image.cache._read(image.key) == b"payload"
    assert image.cache.cache_path == str(image.second)
    assert compiler.cache_dir() == image.second
    assert image.second.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="the system has no owners and modes of this kind")
@pytest.mark.parametrize("what", ["linked folder", "linked file", "shared folder", "shared file", "foreign file"])
def test_links_and_what_a_group_can_write_are_refused(image, what):
    if what == "linked folder":
        image.first.rename(image.first.with_name("moved"))
        image.first.symlink_to("moved")
    elif what == "linked file":
        image.path.rename(image.first / "moved")
        image.path.symlink_to("moved")
    elif what == "shared folder":
        image.first.chmod(0o775)
    elif what == "shared file":
        image.path.chmod(0o664)
    elif os.getuid() == 0:
        os.chown(image.path, 65534, 65534)
    else:
        pytest.skip("root alone can give a file away")
    assert image.cache._read(image.key) is None


#: Program that calls an entry as another user, with each given folder in turn as the cache, as if in a new process.
AS_SOMEBODY_ELSE = """
import os, sys, numpy as np, kernels
from kernels.cpu import loss
from kernels.cpu import compiler
AIM = loss.aim_of(kernels.spec.Goal("cross_entropy", 1.0, None))
compiled = []
kernels.compile_listeners.append(compiled.append)
def call(is_cached):
    entry = compiler.entry(loss.loss_of_all.py_func)
    entry._cache._enabled = is_cached
    compiled.clear()
    logits = np.zeros((1, 1, 4))
    print(f"{entry(logits, np.zeros((1, 1), np.int32), AIM, logits):.6f}", ",".join(compiled) or "-")
call(False)  # imports all that compiling needs: the other user may not be allowed to
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
for os.environ["NUMBA_CACHE_DIR"] in sys.argv[1:]:
    call(True)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs to be root, and to be somebody else")
def test_what_root_has_compiled_another_user_loads(package):
    """This is the case of a container image; a group-writeable folder is ignored and the user's own is used."""
    with TemporaryDirectory() as folder:  # only root may enter pytest's own folders
        Path(folder).chmod(0o711)
        home, image, shared = (Path(folder, name) for name in ("home", "image", "shared"))
        home.mkdir()
        os.chown(home, 65534, 65534)
        before = os.umask(0o002)
        assert package(NUMBA_CACHE_DIR=str(image)) == [LN4, "loss_of_all"]
        os.umask(before)
        copytree(image, shared)
        (shared / "charlstm").chmod(0o775)
        done = subprocess.run(
            [sys.executable, "-c", AS_SOMEBODY_ELSE, image, shared, shared], cwd=package.folder, capture_output=True,
            text=True, timeout=120, check=False, env={**os.environ, "XDG_CACHE_HOME": str(home)},
        )  # fmt: skip
        assert done.stderr == ""
        assert done.stdout.split() == [LN4, "loss_of_all", LN4, "-", LN4, "loss_of_all", LN4, "-"]
        (kept,) = home.rglob(f"*{compiler.SUFFIX}")
        assert kept.stat().st_uid == 65534


def test_an_entry_is_optimized_though_a_thin_function_has_its_name(monkeypatch):
    from numba.core.codegen import CPUCodeLibrary

    from kernels.cpu import gradients, optimizers, steps

    assert steps.update.py_func.__name__ == gradients.update_of("lstm").py_func.__name__
    optimized, plain = [], CPUCodeLibrary._optimize_final_module

    def optimize(library):
        optimized.append(library.name)
        plain(library)

    monkeypatch.setattr(CPUCodeLibrary, "_optimize_final_module", optimize)
    update = compiler.entry(steps.update.py_func)
    update._cache.disable()
    theta = np.ones(3)
    update(theta, np.ones(3), np.zeros((0, 3)), optimizers.chosen("sgd", {}), 0, 0.5, np.inf)
    assert theta.tolist() == [0.5, 0.5, 0.5]
    assert "update" in optimized
    assert not compiler._thin & set(optimized)


def test_an_entry_calls_the_functions_of_its_own_object_code():
    """Otherwise it would call functions compiled earlier, and its last bits would differ from a loaded entry's."""
    from kernels.cpu import loss
    from kernels.spec.losses import Goal

    entry = compiler.entry(loss.loss_of_all.py_func)
    entry._cache.disable()
    aim = loss.aim_of(Goal("cross_entropy", 1.0, None))
    entry(np.zeros((1, 1, 4)), np.zeros((1, 1), np.int32), aim, np.zeros((1, 1, 4)))
    (compiled,) = entry.overloads.values()
    found = [each for each in compiled.library._final_module.functions if not each.is_declaration]
    assert {each.linkage.name for each in found} == {"external", "internal"}


def test_an_entry_may_call_another():
    """Both become machine code, also if compiling the one begins while the other is being compiled."""

    def doubled(x):
        return 2 * x

    called = compiler.entry(doubled)

    def raised(x):
        return called(x) + 1

    calls = compiler.entry(raised)
    for entry in (called, calls):
        entry._cache.disable()
    assert calls(3) == 7
    assert called(3) == 6


def test_threads_that_compile_entries_at_once_leave_numba_as_it_was():
    """Otherwise, functions that a user compiles later would have no machine code, and calling them would crash."""
    from numba.core.codegen import JITCPUCodegen
    from numba.core.cpu import CPUContext

    def plain():
        return JITCPUCodegen._library_class, CPUContext.get_executable

    def compile_another():
        begun.set()
        with compiler._compiling():
            pass

    before, begun = plain(), threading.Event()
    other = threading.Thread(target=compile_another)
    with compiler._compiling():
        other.start()
        begun.wait()
        time.sleep(0.1)  # until it waits for the lock
        assert other.is_alive()
    other.join()
    assert plain() == before


def test_several_processes_may_start_at_once(package):
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM], cwd=package.folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "NUMBA_CACHE_DIR": str(package.folder / "cache")},
        )
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, b"")
        assert out.decode().startswith(LN4)
    assert package() == [LN4, "-"]
    assert [path for path in (package.folder / "cache").rglob("*") if path.suffix == ".tmp"] == []


def test_the_folder_is_bounded_and_the_longest_unused_go_first(tmp_path, monkeypatch):
    monkeypatch.setattr(compiler, "MAX_BYTES", 2500)
    for k in range(4):
        path = tmp_path / f"k{k}{compiler.SUFFIX}"
        path.write_bytes(b"x" * 1000)
        os.utime(path, (1000 + k, 1000 + k))
    stale = tmp_path / f"k9{compiler.SUFFIX}.1.2.tmp"
    stale.write_bytes(b"x")
    os.utime(stale, (1, 1))
    other = tmp_path / "someone else's"
    other.write_bytes(b"x" * 5000)
    compiler._prune(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"k2{compiler.SUFFIX}",
        f"k3{compiler.SUFFIX}",
        "someone else's",
    ]


def test_clearing(package, charlstm_command):
    package()
    environment = {"NUMBA_CACHE_DIR": str(package.folder / "cache"), "PYTHONPATH": str(package.folder)}
    done = charlstm_command("info", "--clear-cache", env=environment)
    assert done.stdout.decode().startswith("removed 1 compiled kernels, ")
    assert package.files() == []
    assert package() == [LN4, "loss_of_all"]
