"""Which part of a text is kept back to measure: its end, or lines from everywhere.

A list that is sorted, of names, say, ends in another language than it begins. ``--validation-from shuffle-lines`` puts
its lines into an order that follows from the seed; training reads them so, and the last of them are kept back.
"""

from itertools import pairwise

import numpy as np

from charlstm.errors import UserError
from charlstm.text import idcache
from charlstm.text.corpus import Corpus

_OPTION = "--validation-from shuffle-lines"
_STREAM = 1_735_289  # tells the draws of this from others with the same seed
_PIECE = 2**20  # ids that are put in order at a time
_WINDOWS, _WINDOW = 64, 4096  # places of a text, and ids at each, that tell whether it is sorted
_PAIRS, _SHARE = 20, 0.8  # of neighbouring lines: how many there must be, and which part in one direction


def split(corpus: Corpus, fraction: float, source: str = "end", seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The ids to learn from, and those that are kept back: `fraction` of all, up to a line of "shuffle-lines".

    Parameters
    ----------
    corpus : Corpus
    fraction : 0 keeps nothing back
    source : "end" of the text as it is, or "shuffle-lines"
    seed : of the order of the lines

    Raises
    ------
    UserError
        If less than two are kept back, where some should be; for lines that cannot be put in another order: a single
        one, those of texts that have weights, or of texts that are joined by more than a line break.
    """
    if source == "end" or not fraction:
        return corpus.split(fraction)
    if len({count for _, count in corpus.spans}) > 1:
        raise UserError(f"{_OPTION}: lines of texts that have a --weight each stay in their texts")
    if corpus.edges.begin and (between := corpus.vocabulary.decode(np.array(corpus.edges.begin))) != "\n":
        raise UserError(f"{_OPTION}: the texts are joined by {between!r}, and would lose their lines")
    ends, line_break = _line_ends(corpus)
    order = np.random.RandomState([seed, _STREAM]).permutation(len(ends))
    below = np.cumsum(np.diff(ends, prepend=0)[order])
    wanted = len(corpus.ids) - round(fraction * len(corpus.ids))
    kept = int(np.clip(np.searchsorted(below, wanted, "right"), 1, len(ends) - 1))
    ids, cut = _in_order(corpus, ends, order, line_break), int(below[kept - 1])
    if len(ids) - cut < 2:
        raise UserError(f"--validation {fraction:g}: less than two characters of {corpus.name} are kept back")
    return ids[:cut], ids[cut:]


def remark(corpus: Corpus, fraction: float, source: str) -> str:
    """What the end of a sorted list measures, in a line; nothing of any other text, or where nothing is kept back."""
    if source != "end" or not fraction or not _is_sorted(corpus):
        return ""
    return (
        f"{corpus.name} is a sorted list: its end, which is kept back, is unlike what is learned, and measures that; "
        f"{_OPTION} keeps back lines from everywhere"
    )


def _is_sorted(corpus: Corpus) -> bool:
    """Whether the text is a list in order, as far as lines at some places of it tell."""
    up = down = 0
    for at in np.unique(np.linspace(0, max(0, len(corpus.ids) - _WINDOW), _WINDOWS).astype(np.int64)).tolist():
        lines = corpus.vocabulary.decode(corpus.ids[at : at + _WINDOW]).casefold().split("\n")[1:-1]
        for line, following in pairwise(lines):
            if line and following:
                up += line < following
                down += line > following
    return max(up, down) >= max(_PAIRS, _SHARE * (up + down))


def _line_ends(corpus: Corpus) -> tuple[np.ndarray, int]:
    """Where each line ends, after its line break, (n,) int64; and the place of a line break."""
    known = corpus.vocabulary.characters.find("\n")
    pieces = (np.flatnonzero(corpus.ids[at : at + _PIECE] == known) + at for at in range(0, len(corpus.ids), _PIECE))
    breaks = np.concatenate(list(pieces))
    ends = breaks + 1
    if len(breaks) and ends[-1] < len(corpus.ids):
        ends = np.append(ends, len(corpus.ids) + 1)  # a last line without a break: one is put there while it moves
    if len(ends) < 2:
        raise UserError(f"{_OPTION}: {corpus.name} is a single line; --validation-from end keeps its end back")
    return ends, int(breaks[0])


def _in_order(corpus: Corpus, ends: np.ndarray, order: np.ndarray, line_break: int) -> np.ndarray:
    """All ids, line by line in this order; in memory, or mapped from a file in the cache, as texts are."""
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
