"""`charlstm`, with a fault on one rank: python faulty_rank.py FAULT RANK ITERATION ARGUMENTS."""

import os
import signal
import sys
from pathlib import Path

from benchmarks.corpora import mapped_bytes
from charlstm import cli
from charlstm.text.shards import _Shard
from charlstm.training.parallel import ParallelSteps


def main(fault, rank, iteration, *arguments):
    whole = ParallelSteps._pass

    def with_fault(steps, memory, at):
        if steps._world.rank == int(rank) and at == int(iteration):
            if fault == "raise":
                raise RuntimeError("the cat sat on it")
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault in ("SIGTERM", "SIGUSR1"):
                os.kill(os.getpid(), getattr(signal, fault))
            if fault == "Ctrl-C":  # mpiexec is the parent of the proxy that started this rank
                state = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2]
                os.kill(int(state.split()[1]), signal.SIGINT)
            if fault == "maps":
                print(f"rank {rank} maps {mapped_bytes()} bytes", file=sys.stderr)
            if fault == "differ":
                memory.theta[0] += 1
        loss, *rest = whole(steps, memory, at)
        if fault == "nan" and steps._world.rank == int(rank) and at == int(iteration):
            loss = float("nan")
        return loss, *rest

    read = _Shard._read

    def read_with_fault(shard, encoder):
        closes = read(shard, encoder)
        if fault == "kill reading" and shard._world.rank == int(rank):
            os.kill(os.getpid(), signal.SIGKILL)
        return closes

    apart = ParallelSteps._apart

    def apart_with_fault(steps, memory, begin, end, rates):
        if fault == "SIGTERM" and steps._world.rank == int(rank) and begin <= int(iteration) < end:
            os.kill(os.getpid(), signal.SIGTERM)
        return apart(steps, memory, begin, end, rates)

    ParallelSteps._pass, ParallelSteps._apart, _Shard._read = with_fault, apart_with_fault, read_with_fault
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
