"""Changes of several arrays that belong together, made so that a signal cannot leave half of them.

Python runs signal handlers, and with them raises KeyboardInterrupt, between two instructions of its own. What happens
within one call of a function written in C is therefore done in full or not at all.
"""

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import repeat
from operator import call, setitem
from typing import Any

_without_a_pause = deque[Any](maxlen=0).extend  # takes what an iterator gives, and keeps nothing


def assignments(pairs: Iterable[tuple[Any, Any]]) -> Callable[[], None]:
    """A function, to be called once, that copies into the first array of each pair the second, in their order.

    As the first thing in a ``finally`` it is reached without fail: no handler runs between that and its call.
    """
    targets, sources = [], []
    for target, source in pairs:
        targets.append(target)
        sources.append(source)
    return partial(_without_a_pause, map(setitem, targets, repeat(...), sources))


def make(calls: Iterable[Callable[[], Any]]) -> None:
    """Make the calls, in their order. They are to be of functions written in C."""
    _without_a_pause(map(call, calls))
