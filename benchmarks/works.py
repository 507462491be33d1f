"""Finds the texts of the works, for ours and for every rival."""

from pathlib import Path

from charlstm.measure.bench import text_ids

#: Folder with the texts of the works; where it is missing, the works use the text that comes with Python.
TEXTS = Path(__file__).parents[2] / "shared" / "data"


def ids(work):
    return text_ids(work, TEXTS)
