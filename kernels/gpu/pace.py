"""How many iterations a launch runs before the host looks again: about a tenth of a second of them."""

from collections.abc import Iterator
from time import perf_counter

_SECONDS = 0.1


class Pace:
    """Chooses counts of iterations, so that progress is shown and Ctrl-C works in between; no result depends on it."""

    def __init__(self, first: int) -> None:
        self._count = first

    def launches(self, total: int) -> Iterator[tuple[int, int]]:
        """Yield begin and count of each launch; the caller finishes one before it asks for the next."""
        begin = 0
        while begin < total:
            count = min(self._count, total - begin)
            started = perf_counter()
            yield begin, count
            taken = max(perf_counter() - started, 1e-6)
            self._count = max(1, min(4 * self._count, int(count * _SECONDS / taken)))
            begin += count
