"""Where the texts of the works are found, for ourselves and for every rival."""

from pathlib import Path

from charlstm.measure.bench import text_ids

#: Texts of the works, where this folder is at hand; else the text inside Python stands in.
TEXTS = Path(__file__).parents[2] / "shared" / "data"


def ids(work):
    return text_ids(work, TEXTS)
