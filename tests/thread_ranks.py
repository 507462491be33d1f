"""Ranks that are threads of one process: what they agree on goes the same way as with MPI."""

import threading

from charlstm.training.world import Ranks


class ThreadRank(Ranks):
    def __init__(self, rank, size, slots, barrier):
        self.rank, self.size, self._slots, self._barrier = rank, size, slots, barrier

    def barrier(self):
        self._barrier.wait(60)

    def gather(self, array):
        self._slots[self.rank] = array.copy()
        self.barrier()
        found = list(self._slots)
        self.barrier()
        assert len({(each.shape, each.dtype) for each in found}) == 1
        return found

    def all_reduce(self, array):
        array[...] = sum(self.gather(array))

    def broadcast_bytes(self, data):
        if self.rank == 0:
            self._slots[0] = data
        self.barrier()
        found = self._slots[0]
        self.barrier()
        return found


def on_ranks(size, work):
    """Return what work(rank) returns, or the exception that it raises, for each of `size` ranks."""
    slots, barrier, found = [None] * size, threading.Barrier(size), [None] * size

    def run(rank):
        try:
            found[rank] = work(ThreadRank(rank, size, slots, barrier))
        except Exception as error:
            found[rank] = error
            if not isinstance(error, ValueError | RuntimeError):
                barrier.abort()

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found
