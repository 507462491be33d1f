"""The processes of one training run: a single one, or ranks that mpiexec or srun has started; see docs/scaling.md.

This is the only file that names mpi4py, and it is imported only if the launcher's environment variables tell of several
processes. All of them call the same functions in the same order. Values travel as bytes, arrays and JSON, never as
pickles.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any, NoReturn

import numpy as np

from charlstm.errors import OtherRankFailed, RunFailed, UserError
from charlstm.host.machine import cpu_quota, usable_cores

#: Environment variables in which launchers tell each process how many there are.
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS", "WORLD_SIZE")
#: Where NVIDIA's driver on Linux lists the GPUs of this machine.
_GPUS = Path("/proc/driver/nvidia/gpus")
_INSTALL = 'pip install "charlstm[mpi]", and mpich where the machine has no MPI'


class World:
    """The processes of a run; this class is a run of one process, and :class:`Ranks` one of several."""

    rank, size = 0, 1
    has_agreed = False  #: whether all ranks know that one of them has failed

    def all_reduce(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks, the same bits on each of them."""

    def broadcast(self, value: Any) -> Any:
        """The first rank's value, of a kind that JSON can hold."""
        return value

    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first rank's bytes."""
        return data

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of all ranks, which have the same shape, in their order."""
        return [array]

    def gather_values(self, value: Any) -> list[Any]:
        """The values of all ranks, of a kind that JSON can hold, in their order."""
        return [value]

    def exchange(self, array: np.ndarray) -> np.ndarray:
        """Send row k of an array (ranks, n) to rank k; return the rows that this rank gets, in the ranks' order."""
        return array

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank."""
        return flags

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def clock(self) -> float:
        """The first rank's clock, in seconds: what follows from it is the same on all ranks."""
        return perf_counter()

    def threads(self) -> int:
        """The number of threads that each rank should use."""
        return usable_cores()

    def bound(self) -> str:
        """A line of warning if the launcher has bound each rank to one of several cores, else an empty one."""
        return ""

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once: a rank that leaves alone would let the others wait for it for ever."""
        raise SystemExit(code)

    @contextmanager
    def first_rank_first(self) -> Iterator[None]:
        """Let the first rank run a block before the others do: they find what it has downloaded, cached or compiled."""
        if self.rank:
            self.barrier()
        try:
            yield
        finally:
            if not self.rank:
                self.barrier()

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a block on all ranks if it ends with a message on any of them: only the first such rank gives it.

        Raises
        ------
        OtherRankFailed
            On the other ranks.
        """
        yield


ALONE = World()


class Ranks(World):
    """The ranks of an MPI job.

    Parameters
    ----------
    comm : the communicator of all ranks
    """

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self.rank, self.size = comm.Get_rank(), comm.Get_size()

    def all_reduce(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks, by one Allreduce."""
        from mpi4py import MPI

        self._comm.Allreduce(MPI.IN_PLACE, array, op=MPI.SUM)

    def broadcast(self, value: Any) -> Any:
        """The first rank's value."""
        return json.loads(self.broadcast_bytes(json.dumps(value).encode()))

    def broadcast_bytes(self, data: bytes) -> bytes:
        """The first rank's bytes."""
        length = np.array([len(data)], np.int64)
        self._comm.Bcast(length)
        content = np.frombuffer(data, np.uint8).copy() if self.rank == 0 else np.empty(length[0], np.uint8)
        self._comm.Bcast(content)
        return content.tobytes()

    def gather(self, array: np.ndarray) -> list[np.ndarray]:
        """The arrays of all ranks, by one Allgather."""
        found = np.empty((self.size, *array.shape), array.dtype)
        self._comm.Allgather(np.ascontiguousarray(array), found)
        return list(found)

    def gather_values(self, value: Any) -> list[Any]:
        """The values of all ranks, by two Allgathers."""
        data = np.frombuffer(json.dumps(value).encode(), np.uint8)
        lengths = [int(each[0]) for each in self.gather(np.array([len(data)]))]
        padded = np.zeros(max(lengths), np.uint8)
        padded[: len(data)] = data
        found = zip(self.gather(padded), lengths, strict=True)
        return [json.loads(each[:length].tobytes()) for each, length in found]

    def exchange(self, array: np.ndarray) -> np.ndarray:
        """Send row k of an array (ranks, n) to rank k, by one Alltoall."""
        found = np.empty_like(array)
        self._comm.Alltoall(np.ascontiguousarray(array), found)
        return found

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank."""
        found = np.array(flags, np.int64)
        self.all_reduce(found)
        return tuple((found > 0).tolist())

    def barrier(self) -> None:
        """Wait until all ranks are here."""
        self._comm.Barrier()

    def clock(self) -> float:
        """The first rank's clock, in seconds."""
        now = np.array([perf_counter()])
        self._comm.Bcast(now)
        return float(now[0])

    def threads(self) -> int:
        """SLURM_CPUS_PER_TASK, or the cores of this rank divided by the ranks of this machine that share them."""
        asked = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if asked.isascii() and asked.isdigit() and int(asked):
            return min(int(asked), usable_cores())
        masks, quota = self._neighbours(), cpu_quota()
        cores = int(min(masks[0].sum(), np.inf if quota is None else quota))
        return max(1, min(usable_cores(), cores // sum(bool((mask & masks[0]).any()) for mask in masks)))

    def bound(self) -> str:
        """A line of warning if the launcher has bound each rank to one of several cores."""
        masks, cores = self._neighbours(), os.cpu_count() or 1
        if masks[0].sum() > 1 or cores < 2 * len(masks) or "SLURM_CPUS_PER_TASK" in os.environ:
            return ""
        return (
            f"warning: the launcher has bound each of {len(masks)} ranks to one of {cores} cores; Open MPI's mpiexec "
            "leaves them free with --bind-to none"
        )

    def _neighbours(self) -> list[np.ndarray]:
        """Which cores the ranks on this machine may use, this one first, as bits."""
        from mpi4py import MPI

        near = Ranks(self._comm.Split_type(MPI.COMM_TYPE_SHARED))
        cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
        mask = np.zeros(8192, np.uint8)
        mask[[core for core in cores if core < len(mask)]] = 1
        masks = near.gather(mask)
        near._comm.Free()
        return [masks.pop(near.rank), *masks]

    def take_gpu(self) -> None:
        """Let CUDA see one of this machine's GPUs, in turn, unless the launcher has dealt them; before CUDA starts."""
        count = len(list(_GPUS.glob("*")))
        if count > 1 and "CUDA_VISIBLE_DEVICES" not in os.environ:
            from mpi4py import MPI

            near = self._comm.Split_type(MPI.COMM_TYPE_SHARED)
            os.environ["CUDA_VISIBLE_DEVICES"] = str(near.Get_rank() % count)
            near.Free()

    def abort(self, code: int) -> NoReturn:
        """End all ranks at once."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(code)
        raise SystemExit(code)

    @contextmanager
    def together(self) -> Iterator[None]:
        """End a block on all ranks if it ends with a UserError or RunFailed on any of them."""
        failure: Exception | None = None
        try:
            yield
        except (UserError, RunFailed) as error:
            if self.has_agreed:  # it ended a block inside this one, on all ranks
                raise
            failure = error
        code = 0 if failure is None else 2 if isinstance(failure, UserError) else 1
        codes = [int(each[0]) for each in self.gather(np.array([code]))]
        first = next((rank for rank, each in enumerate(codes) if each), None)
        if first is None:
            return
        self.has_agreed = True
        if failure is None or first != self.rank:
            raise OtherRankFailed(codes[first]) from None
        raise failure


def joined() -> World:
    """The processes that this one was launched with.

    Raises
    ------
    UserError
        If the launcher tells of several processes and MPI does not connect them: each would train a model of its own.
    """
    told = {name: int(words) for name in _SIZES if (words := os.environ.get(name, "")).isascii() and words.isdigit()}
    several = {name: count for name, count in told.items() if count > 1}
    if not several:
        return ALONE
    name, count = next(iter(several.items()))
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        why = str(error).splitlines()[0]
        raise UserError(
            f"launched as one of {count} processes ({name}), which needs MPI: {why}; {_INSTALL}, or unset {name}"
        ) from None
    found = MPI.COMM_WORLD
    if found.Get_size() == 1:
        raise UserError(
            f"{name} tells of {count} processes, but MPI connects only one, so each would train alone: start them with "
            "mpiexec or srun of the MPI that mpi4py finds, or unset " + name
        )
    ranks = Ranks(found)
    ranks.take_gpu()
    return ranks
