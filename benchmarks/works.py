"""Finds the texts of the works, for ours and for every rival."""

from pathlib import Path

from charlstm.measure.bench import text_ids

#: Folder with the texts of the works, if available; otherwise the text that comes with Python is used.
TEXTS = Path(__file__).parents[2] / "shared" / "data"


def ids(work):
    return text_ids(work, TEXTS)
