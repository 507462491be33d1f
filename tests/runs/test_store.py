"""A run's folder: which checkpoints stay, which one is loaded, who may write, and a disk that is full for a while."""

import errno
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import made_up_text
from faults import Disk
from small_runs import everything, finish, small

from charlstm.errors import UserError
from charlstm.runs import disk, lock, store
from charlstm.runs.begin import NotSaved, resume, start
from charlstm.runs.lock import Lock

try:
    import resource
except ImportError:  # Windows
    resource = None

MOUNT, UNMOUNT = shutil.which("mount"), shutil.which("umount")


def steps(folder):
    return list(store.numbered_steps(folder))


# --------------------------------------------------------------------------------------------- what is kept and found
def test_the_newest_and_the_best_are_kept(corpus, tmp_path):
    options = {"schedule": "constant", "save_every": 1e-9, "keep": 2, "report_every": 5}
    run = start(corpus, small(iterations=200, **options), str(tmp_path / "run"))
    run.trainer.call_iterations = 5
    finish(run)
    first = steps(tmp_path / "run")
    assert len(first) == 2
    assert first[-1] == 200
    worse = resume(tmp_path / "run", corpus, {"iterations": 400, "learning_rate": 10.0, "keep": 4})
    finish(worse)
    assert "the run diverged" in worse.notes.pop()
    assert worse.notes == [
        "changed --iterations 200 -> 400",
        "changed --learning-rate 0.008 -> 10",
        "changed --keep 2 -> 4",
    ]
    assert len(steps(tmp_path / "run")) == 4
    assert worse.load("best").iteration < worse.load("last").iteration == 400
    assert worse.load("best").iteration not in steps(tmp_path / "run")  # the name `best` keeps the file


def damage(path):
    data = path.read_bytes()
    path.unlink()  # removes this name only; other names keep the file
    path.write_bytes(data + b"!")


@pytest.fixture
def long_run(corpus, tmp_path):
    """A run with checkpoints at 20, 40 and 60 iterations, and the final state of the same run uninterrupted."""
    finish(start(corpus, small(iterations=60, schedule="constant"), str(tmp_path / "whole")))
    run = start(corpus, small(iterations=20, schedule="constant"), str(tmp_path / "run"))
    finish(run)
    for total in (40, 60):
        finish(resume(tmp_path / "run", corpus, {"iterations": total}))
    assert steps(tmp_path / "run")[-3:] == [41, 60] or steps(tmp_path / "run")[-2:] == [41, 60]
    return tmp_path / "run", everything(tmp_path / "whole")


def test_an_older_checkpoint_is_taken_where_newer_ones_are_damaged(long_run, corpus):
    folder, whole = long_run
    number = steps(folder)
    for name in ("last.safetensors", f"checkpoints/step-{number[-1]:012}.safetensors"):
        damage(folder / name)
    again = resume(folder, corpus)
    assert again.trainer.iteration == number[-2]
    instead = f"damaged: its content does not match its SHA-256; resuming from iteration {number[-2]} instead"
    assert again.notes == [
        f"{folder}/last.safetensors: {instead}", f"{folder}/checkpoints/step-{number[-1]:012}.safetensors: {instead}",
    ]  # fmt: skip
    finish(again)
    assert everything(folder)[:4] == whole[:4]


def test_best_is_the_last_resort_and_then_one_line_says_that_there_is_none(long_run, corpus):
    folder, whole = long_run
    for path in (folder / "last.safetensors", *store.numbered_steps(folder).values()):
        damage(path)
    again = resume(folder, corpus)
    assert again.trainer.iteration == again.load("best").iteration
    finish(again)
    assert everything(folder)[:4] == whole[:4]
    for path in (folder / "last.safetensors", folder / "best.safetensors", *store.numbered_steps(folder).values()):
        damage(path)
    with pytest.raises(UserError, match="last.safetensors: damaged: .*; no older checkpoint is intact"):
        resume(folder, corpus)


def test_a_checkpoint_that_has_no_other_name_yet_is_found(long_run, corpus):
    """As if the process had died between writing the file and naming it `last`."""
    folder, _ = long_run
    newest, older = sorted(store.numbered_steps(folder).items())[-1], sorted(store.numbered_steps(folder).items())[-2]
    (folder / "last.safetensors").unlink()
    os.link(older[1], folder / "last.safetensors")
    assert store.newest(folder)[0].iteration == newest[0]
    (folder / "last.safetensors").unlink()
    (folder / "best.safetensors").unlink()
    assert store.newest(folder)[0].iteration == newest[0]
    assert resume(folder, corpus).load("best").iteration == newest[0]


def test_one_checkpoint_is_no_run_to_go_on_with(long_run, corpus):
    folder, _ = long_run
    path = store.numbered_steps(folder)[60]
    with pytest.raises(UserError, match="resumes from the newest checkpoint of a run, so give the run folder; --from="):
        resume(path, corpus)


def test_strays_are_swept_and_others_files_are_not(saved, corpus):
    strays = [saved.folder / ".last.safetensors.123.tmp", saved.folder / "checkpoints" / ".step-1.safetensors.9.tmp"]
    others = [saved.folder / ".mine.tmp", saved.folder / "note.123.tmp"]
    for path in (*strays, *others):
        path.write_text("x")
    finish(resume(saved.folder, corpus, {"iterations": 14}))
    assert not any(path.exists() for path in strays)
    assert all(path.exists() for path in others)


def test_what_differs_is_told(saved, corpus, monkeypatch):
    assert resume(saved.folder, corpus).notes == []
    monkeypatch.setattr("charlstm.runs.records.processor", lambda: "Another CPU")
    monkeypatch.setattr("charlstm.runs.records.versions", lambda: {**saved._machine["versions"], "numpy": "0.1"})
    [note] = resume(saved.folder, corpus, {"backend": "numpy"}).notes[1:]
    was = saved._machine
    assert note == (
        "warning: backend, processor, numpy changed "
        f"(numba -> numpy, {was['processor']} -> Another CPU, {was['versions']['numpy']} -> 0.1): "
        "results may differ in the last bits from an uninterrupted run"
    )


def test_another_text_only_by_force(saved, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(made_up_text(seed=11) + "Z")
    with pytest.raises(UserError, match="the character 'Z' at position 3000"):
        resume(saved.folder, [other], force_corpus=True)
    run = resume(saved.folder, [other], {"iterations": 20, "unknown": "skip"}, force_corpus=True)
    assert run.notes[-1] == "other: trains on a different text from now on; before: book"
    finish(run)
    assert finish(resume(saved.folder, chosen={"iterations": 22}))[-1].iteration == 22  # now the run's text


# ---------------------------------------------------------------------------------------------- file systems that lack
def test_without_names_that_can_be_changed_or_doubled(corpus, tmp_path, monkeypatch):
    def refused(*_):
        raise OSError(errno.ENOTSUP, "not supported")

    finish(start(corpus, small(iterations=40, schedule="constant"), str(tmp_path / "whole")))
    monkeypatch.setattr(disk, "replace", refused)
    monkeypatch.setattr(disk, "hard_link", refused)
    finish(start(corpus, small(iterations=20, schedule="constant"), str(tmp_path / "run")))
    finish(resume(tmp_path / "run", corpus, {"iterations": 40}))
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    assert not list((tmp_path / "run").rglob(".*.tmp"))


def test_a_folder_that_cannot_be_synchronised(tmp_path, monkeypatch):
    def refused(number):
        def fsync(descriptor):
            raise OSError(number, "no")

        return fsync

    monkeypatch.setattr(os, "fsync", refused(errno.EINVAL))
    disk.sync_folder(tmp_path)
    monkeypatch.setattr(os, "fsync", refused(errno.EIO))
    with pytest.raises(OSError, match="no"):
        disk.sync_folder(tmp_path)


def test_what_is_read_back_must_be_what_was_written(tmp_path, monkeypatch):
    write_some = disk.write_some
    monkeypatch.setattr(disk, "write_some", lambda fd, data: write_some(fd, bytes(data).replace(b"a", b"b")))
    with pytest.raises(OSError, match="the data read back differ from the data written"):
        disk.write(tmp_path / "x", b"banana")


# -------------------------------------------------------------------------------------------------------------- lock
def wait_until(child, is_true):
    end = time.monotonic() + 100
    while not is_true():
        assert child.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(text_file, tmp_path, charlstm_command):
    command = [
        sys.executable, "-m", "charlstm", "train", text_file, "--out", "run", "--backend", "numpy", "--hidden-size", "4",
        "--iterations", "1000000", "--save-every", "1000", "--quiet",
    ]  # fmt: skip
    child = subprocess.Popen(command, cwd=tmp_path)
    try:
        wait_until(child, (tmp_path / "run" / "last.safetensors").exists)
        refused = charlstm_command("train", "--resume=run")
        assert refused.returncode == 2
        assert refused.stderr.decode() == (
            f"charlstm: run: in use by process {child.pid} on {platform.node()}: wait for it or stop it; if it has ended, "
            "remove run/.lock\n"
        )
        refused = charlstm_command("train", text_file, "--out", "run")
        assert refused.returncode == 2
        assert (
            b"--out run: already contains a run; resume it with --resume=run, or choose another folder"
            in refused.stderr
        )
        if hasattr(signal, "SIGUSR1"):
            before = steps(tmp_path / "run")
            child.send_signal(signal.SIGUSR1)
            wait_until(child, lambda: steps(tmp_path / "run") != before)
        assert child.poll() is None
    finally:
        child.kill()
        child.wait()
    assert json.loads((tmp_path / "run" / ".lock").read_text())["pid"] == child.pid
    assert charlstm_command("train", "--resume=run", "--iterations", "1").returncode == 0


def test_where_a_file_system_has_no_locks(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    pytest.importorskip("fcntl", reason="Windows has locks on every file system")
    monkeypatch.setattr("fcntl.flock", unsupported)
    held = Lock(tmp_path)
    with pytest.raises(UserError, match="in use by this process"):
        Lock(tmp_path)
    held.release()
    held.release()
    Lock(tmp_path).release()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    (tmp_path / lock.LOCK).write_text(json.dumps({"pid": ended.pid, "host": platform.node()}))
    Lock(tmp_path).release()
    (tmp_path / lock.LOCK).write_text(json.dumps({"pid": ended.pid, "host": "elsewhere"}))
    with pytest.raises(
        UserError, match=f"in use by process {ended.pid} on elsewhere: wait .*; if it has ended, remove"
    ):
        Lock(tmp_path)
    (tmp_path / lock.LOCK).write_bytes(b"\xff not ours")
    Lock(tmp_path).release()


def test_who_has_the_lock_is_told_where_the_locked_byte_cannot_be_read(tmp_path, monkeypatch):
    """On Windows the first byte cannot be read while it is locked."""
    content = lock._content

    def refused(descriptor, begin):
        if begin == 0:
            raise PermissionError(errno.EACCES, "another process has locked a portion of the file")
        return content(descriptor, begin)

    held = Lock(tmp_path)
    monkeypatch.setattr(lock, "_content", refused)
    with pytest.raises(UserError, match="in use by this process"):
        Lock(tmp_path)
    held.release()


def test_a_child_that_ends_leaves_its_parents_lock(tmp_path):
    held = Lock(tmp_path)
    fork = pytest.importorskip("multiprocessing").get_context("fork")
    child = fork.Process(target=held.__del__)
    child.start()
    child.join()
    with pytest.raises(UserError, match="in use by this process"):
        Lock(tmp_path)
    held.release()
    Lock(tmp_path).release()


# ----------------------------------------------------------------------------------------------------- a disk that fills
def test_a_disk_that_is_full_for_a_while(corpus, tmp_path, monkeypatch):
    options = {"iterations": 60, "schedule": "constant", "save_every": 1e-9}
    finish(start(corpus, small(**options), str(tmp_path / "whole")))
    run = start(corpus, small(**options), str(tmp_path / "run"))
    run.trainer.call_iterations = 5
    said = []
    with monkeypatch.context() as patch:
        shim = Disk(patch, tmp_path, fault=errno.ENOSPC, stays=True)
        for progress in run.train():
            if progress.kind == "tick" and progress.iteration >= 15 and not shim.at:
                shim.at = shim.count + 1
            if progress.iteration >= 40:
                shim.stays, shim.at = False, 0
            said += run.notes
            run.notes.clear()
    assert len(said) == 2
    assert said[0] == (
        f"{tmp_path / 'run'}: cannot be written: No space left on device; training continues, and writing is retried "
        "every 1e-09 s"
    )
    assert said[1] in (f"saved   iteration {n}: the disk is writable again" for n in range(41, 60))
    assert everything(tmp_path / "run")[:4] == everything(tmp_path / "whole")[:4]


def test_a_disk_that_is_still_full_at_the_end(corpus, tmp_path, monkeypatch):
    run = start(corpus, small(iterations=30, schedule="constant"), str(tmp_path / "run"))
    finish(run)
    more = resume(tmp_path / "run", corpus, {"iterations": 60})
    with monkeypatch.context() as patch:
        shim = Disk(patch, tmp_path, fault=errno.ENOSPC, stays=True)
        training = more.train()
        next(training)
        shim.at = shim.count + 1
        with pytest.raises(
            NotSaved,
            match="iteration 60 could not be saved: No space left on device; the newest checkpoint is iteration 3",
        ):
            list(training)
    assert store.newest(tmp_path / "run")[0].iteration in (30, 31)


LIMITED = """
import resource, signal, sys
limit = int(sys.argv.pop(1))
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
from charlstm.cli import main
main()
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs limits of the size of files")
def test_the_exit_code_tells_that_nothing_could_be_saved(text_file, tmp_path):
    command = [sys.executable, "-c", LIMITED, "3000", "train", text_file, "--out", "run", "--backend", "numpy"]
    command += ["--hidden-size", "16", "--iterations", "20", "--sample-every", "0"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 1
    lines = done.stderr.decode().splitlines()
    assert "run: cannot be written: File too large; training continues, and writing is retried every 30 s" in lines
    assert lines[-1] == "charlstm: run: iteration 20 could not be saved: File too large; nothing has been saved yet"
    assert not list((tmp_path / "run").rglob(".*.tmp"))


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of 400 kB, if the system allows making one."""
    if not (MOUNT and UNMOUNT):
        pytest.skip("has no mount")
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run([MOUNT, "-t", "tmpfs", "-o", "size=400k", "tmpfs", place], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("may not mount a small file system here")
    yield place
    subprocess.run([UNMOUNT, place], check=True)


def test_a_file_system_that_fills(corpus, tmp_path, tiny_disk):
    run = start(corpus, small(iterations=40, schedule="constant", save_every=1e-9), str(tiny_disk / "run"))
    filler, said = tiny_disk / "filler", []
    for progress in run.train():
        run.trainer.call_iterations = 2
        if progress.kind == "tick" and progress.iteration >= 8 and not filler.exists() and progress.iteration < 20:
            with open(filler, "wb", buffering=0) as file, pytest.raises(OSError, match="No space"):
                while True:
                    file.write(bytes(4096))
        if progress.iteration >= 24:
            filler.unlink(missing_ok=True)
        said += run.notes
        run.notes.clear()
    assert "No space left on device; training continues" in said[0]
    assert said[1] in (f"saved   iteration {n}: the disk is writable again" for n in range(25, 40))
    assert run.load("last").iteration == 40
    finish(start(corpus, small(iterations=40, schedule="constant"), str(tmp_path / "whole")))
    assert everything(tiny_disk / "run")[:4] == everything(tmp_path / "whole")[:4]
