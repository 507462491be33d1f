"""Time per sampled character, with one stream at temperature 1; ours and PyTorch take turns."""

import pytest

from benchmarks.process import entrants
from charlstm.measure.bench import WORKS


@pytest.mark.parametrize(("work", "contestant"), entrants("sample"))
def test_sampling(races, work, contestant):
    races(WORKS[work]).show(contestant)
