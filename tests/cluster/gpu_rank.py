"""`charlstm` on a machine of two GPUs, emulated where there are none: python gpu_rank.py FOLDER ARGUMENTS.

The ranks write the GPU that each has taken to the folder.
"""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import load

import kernels
from charlstm import cli
from charlstm.training import world
from kernels.gpu import presence


def main(folder, *arguments):
    gpus = Path(folder)
    if kernels.missing("cupy") is not None:
        load("cupy")
        presence.problem = lambda: None
        for name in ("0000:01:00.0", "0000:02:00.0"):
            (gpus / "gpus" / name).mkdir(parents=True, exist_ok=True)
        world._GPUS = gpus / "gpus"
    take = world.Ranks.take_gpu

    def take_and_tell(ranks):
        take(ranks)
        (gpus / f"rank-{ranks.rank}").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    world.Ranks.take_gpu = take_and_tell
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
