"""Chooses the held-out part of a text: its end, or lines from everywhere.

The end of a sorted list, of names for example, differs from its beginning. ``--validation-from shuffle-lines`` shuffles
the lines by the seed; training reads them in that order, and the last of them are held out.
"""

from itertools import pairwise

import numpy as np

from charlstm.errors import UserError
from charlstm.text import idcache
from charlstm.text.corpus import Corpus

_OPTION = "--validation-from shuffle-lines"
_STREAM = 1_735_289  # separates these draws from others with the same seed
_PIECE = 2**20  # ids reordered at a time
_WINDOWS, _WINDOW = 64, 4096  # places examined to see if a text is sorted, and ids at each
_LIST_LINES, _LIST_LINE = 100, 40  # least lines of a list, and characters of most of them
_PAIRS, _SHARE = 20, 0.8  # neighbouring lines needed, and the fraction of them that must be in order


def split(corpus: Corpus, fraction: float, source: str = "end", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The training ids and the held-out ids: a fraction `fraction` of all, up to a line end with "shuffle-lines".

    Parameters
    ----------
    corpus : Corpus
    fraction : 0 holds nothing out
    source : "end" of the text as it is, or "shuffle-lines"
    seed : of the order of the lines

    Raises
    ------
    UserError
        If fewer than two ids are held out although `fraction` is above 0, or if lines cannot be shuffled: a text of one
        line, weighted texts, or texts joined by more than a line break.
    """
    if source == "end":
        return corpus.split(fraction)
    if len({count for _, count in corpus.spans}) > 1:
        raise UserError(f"{_OPTION}: cannot be used with --weight: weighted texts keep their lines together")
    if corpus.edges.begin and (between := corpus.vocabulary.decode(np.array(corpus.edges.begin))) != "\n":
        raise UserError(f"{_OPTION}: the texts are joined by {between!r}, so their lines cannot be shuffled")
    ends, line_break = _line_ends(corpus)
    order = np.random.RandomState([seed, _STREAM]).permutation(len(ends))
    below = np.cumsum(np.diff(ends, prepend=0)[order])
    ids = _in_order(corpus, ends, order, line_break)
    if not fraction:
        return ids, ids[:0]
    wanted = len(corpus.ids) - round(fraction * len(corpus.ids))
    kept = int(np.clip(np.searchsorted(below, wanted, "right"), 1, len(ends) - 1))
    cut = int(below[kept - 1])
    if len(ids) - cut < 2:
        raise UserError(f"--validation {fraction:g}: fewer than two characters of {corpus.name} are held out")
    return ids[:cut], ids[cut:]


def remark(corpus: Corpus, fraction: float, source: str) -> str:
    """A line of warning if the end of a sorted list is held out; else empty."""
    if source != "end" or not fraction or not _is_sorted(corpus):
        return ""
    return (
        f"{corpus.name} is a sorted list: its held-out end differs from the training text, which worsens the held-out "
        f"score; {_OPTION} holds out lines from everywhere"
    )


def is_list(corpus: Corpus) -> bool:
    """Whether a text is a list, by its first million characters, and its lines can be shuffled.

    A list has at least 100 lines, none of them empty, and at most one in 100 of more than 40 characters.
    """
    line = corpus.vocabulary.characters.find("\n")
    if line < 0 or len({count for _, count in corpus.spans}) > 1 or corpus.edges.begin not in ((), (line,)):
        return False
    lengths = np.diff(np.flatnonzero(corpus.ids[:_PIECE] == line), prepend=-1) - 1
    return len(lengths) >= _LIST_LINES and bool(lengths.min()) and float(np.mean(lengths > _LIST_LINE)) <= 0.01


def _is_sorted(corpus: Corpus) -> bool:
    """Whether the text is a sorted list, judged by the lines at some places."""
    up = down = 0
    for at in np.unique(np.linspace(0, max(0, len(corpus.ids) - _WINDOW), _WINDOWS).astype(np.int64)).tolist():
        lines = corpus.vocabulary.decode(corpus.ids[at : at + _WINDOW]).casefold().split("\n")[1:-1]
        for line, following in pairwise(lines):
            if line and following:
                up += line < following
                down += line > following
    return max(up, down) >= max(_PAIRS, _SHARE * (up + down))


def _line_ends(corpus: Corpus) -> tuple[np.ndarray, int]:
    """Where each line ends, after its line break, (n,) int64, and the id of the line break."""
    known = corpus.vocabulary.characters.find("\n")
    pieces = (np.flatnonzero(corpus.ids[at : at + _PIECE] == known) + at for at in range(0, len(corpus.ids), _PIECE))
    breaks = np.concatenate(list(pieces))
    ends = breaks + 1
    if len(breaks) and ends[-1] < len(corpus.ids):
        ends = np.append(ends, len(corpus.ids) + 1)  # a last line without a line break gets one when it is moved
    if len(ends) < 2:
        raise UserError(f"{_OPTION}: {corpus.name} is a single line; --validation-from end holds out its end")
    return ends, int(breaks[0])


def _in_order(corpus: Corpus, ends: np.ndarray, order: np.ndarray, line_break: int) -> np.ndarray:
    """All ids, line by line in this order; in memory, or if large mapped from a file in the cache."""
    spool, digest = idcache.Spool(corpus.ids.dtype), idcache.begun_digest(corpus.vocabulary)
    sizes = np.diff(ends, prepend=0)
    below, total = np.cumsum(sizes[order]), len(corpus.ids)
    begin = written = 0
    while begin < len(order):
        end = max(begin + 1, int(np.searchsorted(below, written + _PIECE, "right")))
        lines = order[begin:end]
        starts = ends[lines] - sizes[lines]
        offsets = np.cumsum(sizes[lines]) - sizes[lines]
        places = np.repeat(starts - offsets, sizes[lines]) + np.arange(int(sizes[lines].sum()))
        places[places == total] = line_break
        written, begin = int(below[end - 1]), end
        piece = corpus.ids[places[: len(places) - max(0, written - total)]]
        spool.append(piece)
        digest.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return spool.done(digest.hexdigest())
