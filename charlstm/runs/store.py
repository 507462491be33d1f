"""The checkpoints of a run folder: write, prune and find them.

``checkpoints/step-*.safetensors``, numbered by iteration, are the newest ones. ``last.safetensors`` and
``best.safetensors`` are hard links to the newest and the best checkpoint, so pruning does not delete their contents.
"""

import re
from pathlib import Path

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.runs import disk

LAST, BEST = "last.safetensors", "best.safetensors"
_STEP = re.compile(r"step-(\d+)\.safetensors")


def save(folder: Path, data: bytes, iteration: int, *, is_best: bool, keep: int) -> None:
    """Write a checkpoint, link it, and only then remove checkpoints that are too old to keep.

    Parameters
    ----------
    folder : the run folder
    data : the content of the checkpoint
    iteration : number of updates made
    is_best : whether it becomes the best checkpoint, too
    keep : number of newest checkpoints to keep

    Raises
    ------
    OSError
        If a step fails. Checkpoints that were intact before stay intact.
    """
    steps = folder / "checkpoints"
    disk.make_folder(steps)
    path = steps / f"step-{iteration:012}.safetensors"
    disk.write(path, data)
    disk.sync_folder(folder)  # which may have just got the checkpoints folder
    disk.link(path, folder / LAST)
    if is_best:
        disk.link(path, folder / BEST)
    numbered = numbered_steps(folder)
    newest = sorted(number for number in numbered if number <= iteration)[-keep:]
    for number, old in numbered.items():
        if number not in newest:  # too old, or later than this one, which is now the newest
            disk.remove(old)


def numbered_steps(folder: Path) -> dict[int, Path]:
    """The numbered checkpoints of a run by iteration, oldest first."""
    found = ((_STEP.fullmatch(path.name), path) for path in (folder / "checkpoints").glob("step-*.safetensors"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest intact checkpoint of a run, and a line for each damaged one that was skipped.

    Raises
    ------
    UserError
        If there is none.
    """
    found: Checkpoint | None = None
    faults: list[str] = []
    last, steps = folder / LAST, numbered_steps(folder)
    if last.is_file():
        found, faults = _tried(last, faults)
    for number in reversed(steps):
        if found and number <= found.iteration:
            break
        if not (last.is_file() and last.samefile(steps[number])):
            newer, faults = _tried(steps[number], faults)
            if newer:
                found = newer
                break
    if not found and (folder / BEST).is_file():
        found, faults = _tried(folder / BEST, faults)
    if found:
        return found, [f"{fault}; resuming from iteration {found.iteration:,} instead" for fault in faults]
    if faults:
        raise UserError(f"{faults[0]}; no older checkpoint is intact")
    return Checkpoint.from_file(find(folder, "last")), []  # raises with what is missing


def _tried(path: Path, faults: list[str]) -> tuple[Checkpoint | None, list[str]]:
    try:
        return Checkpoint.from_file(path), faults
    except UserError as error:
        return None, [*faults, str(error)]


def sweep(folder: Path) -> None:
    """Remove temporary files that dead writers left behind; the caller must hold the lock of the folder."""
    for each in (folder, folder / "checkpoints"):
        disk.sweep(each)
