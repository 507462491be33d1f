"""Changes to several arrays at once that a signal such as Ctrl-C cannot interrupt halfway.

Python runs signal handlers, which may raise KeyboardInterrupt, only between two of its own instructions. A call of a
function written in C therefore happens in full or not at all.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from operator import call, setitem
from typing import Any

_without_a_pause = deque[Any](maxlen=0).extend  # runs an iterator to its end and discards the items


def assignments(pairs: Iterable[tuple[Any, Any]]) -> Callable[[], None]:
    """Return a function, to be called once, that copies the second array of each pair into the first, in order.

    When it is called first in a ``finally`` block, it runs for certain: no signal handler can run before the call.
    """
    targets, sources = [], []
    for target, source in pairs:
        targets.append(target)
        sources.append(source)
    return partial(_without_a_pause, map(setitem, targets, repeat(...), sources))


def make(calls: Iterable[Callable[[], Any]]) -> None:
    """Make the calls, in order. All must be calls of functions written in C."""
    _without_a_pause(map(call, calls))
