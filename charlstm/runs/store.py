"""The checkpoints of a run's folder: written, kept, found again.

``checkpoints/step-*.safetensors``, numbered by iteration, are the newest few. ``last.safetensors`` and
``best.safetensors`` are second names of the newest and of the best, which keep their files alive.
"""

import re
from pathlib import Path

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.runs import disk

LAST, BEST = "last.safetensors", "best.safetensors"
_STEP = re.compile(r"step-(\d+)\.safetensors")


def save(folder: Path, data: bytes, iteration: int, *, is_best: bool, keep: int) -> None:
    """Write a checkpoint, name it, and only then remove what is too old to be kept.

    Parameters
    ----------
    folder : the run's
    data : the checkpoint's content
    iteration : the number of updates made
    is_best : whether it is to be the best, too
    keep : how many of the newest stay

    Raises
    ------
    OSError
        Of what failed. A checkpoint that was whole before is whole still.
    """
    steps = folder / "checkpoints"
    disk.make_folder(steps)
    path = steps / f"step-{iteration:012}.safetensors"
    disk.write(path, data)
    disk.sync_folder(folder)  # which may have the folder of steps since now
    disk.link(path, folder / LAST)
    if is_best:
        disk.link(path, folder / BEST)
    numbered = numbered_steps(folder)
    newest = sorted(number for number in numbered if number <= iteration)[-keep:]
    for number, old in numbered.items():
        if number not in newest:  # too old, or of a future that has been given up: this is the newest
            disk.remove(old)


def numbered_steps(folder: Path) -> dict[int, Path]:
    """The run's numbered checkpoints, by iteration, oldest first."""
    found = ((_STEP.fullmatch(path.name), path) for path in (folder / "checkpoints").glob("step-*.safetensors"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def newest(folder: Path) -> tuple[Checkpoint, list[str]]:
    """The newest undamaged checkpoint of a run, and a line for each one that had to be passed over.

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
        return found, [f"{fault}; going on from iteration {found.iteration:,} instead" for fault in faults]
    if faults:
        raise UserError(f"{faults[0]}; there is no older one that is whole")
    return Checkpoint.from_file(find(folder, "last")), []  # which says what is missing


def _tried(path: Path, faults: list[str]) -> tuple[Checkpoint | None, list[str]]:
    try:
        return Checkpoint.from_file(path), faults
    except UserError as error:
        return None, [*faults, str(error)]


def sweep(folder: Path) -> None:
    """Remove what writers that have died left behind; only who holds the folder's lock may call this."""
    for each in (folder, folder / "checkpoints"):
        disk.sweep(each)
