"""`charlstm`, with a fault on one rank: python faulty_rank.py FAULT RANK ITERATION ARGUMENTS."""

import os
import signal
import sys

from charlstm import cli
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
            if fault == "differ":
                memory.theta[0] += 1
        loss, *rest = whole(steps, memory, at)
        if fault == "nan" and steps._world.rank == int(rank) and at == int(iteration):
            loss = float("nan")
        return loss, *rest

    apart = ParallelSteps._apart

    def apart_with_fault(steps, memory, begin, end, rates):
        if fault == "SIGTERM" and steps._world.rank == int(rank) and begin <= int(iteration) < end:
            os.kill(os.getpid(), signal.SIGTERM)
        return apart(steps, memory, begin, end, rates)

    ParallelSteps._pass, ParallelSteps._apart = with_fault, apart_with_fault
    cli.main(list(arguments))


if __name__ == "__main__":
    main(*sys.argv[1:])
