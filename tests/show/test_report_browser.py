"""report.html in a browser: it loads silently, it works, and its network computes what Python's does."""

import json

import chromium
import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.model.model import load
from charlstm.runs.begin import start
from charlstm.text.corpus import Corpus
from kernels import spec
from kernels.reference.model import read
from kernels.spec import CELLS

pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(chromium.WHY_NOT), reason=chromium.WHY_NOT)]

KINDS = {cell: {"cell": cell} for cell in CELLS}
KINDS |= {
    "embedding": {"embedding_size": 4, "cell": "lstm"}, "one layer": {"num_layers": 1, "cell": "gru"},
    "bytes": {"bytes": True}, "float64": {"dtype": "float64", "backend": "numpy"}, "lower": {"lower": True},
}  # fmt: skip
PIECE = 'abe gah.\n"Éß😀" <b>&amp;</b>\t'


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    one = chromium.Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


@pytest.fixture(scope="module")
def reports(tmp_path_factory):
    """The report of a run of each kind, and its model."""
    made = {}

    def of(kind):
        if kind not in made:
            folder = tmp_path_factory.mktemp("runs") / kind
            made[kind] = reported(folder, KINDS[kind])
        return made[kind]

    return of


def reported(folder, options):
    text = made_up_text(2500) + 4 * PIECE
    text = text.lower() if options.get("lower") else text
    corpus = Corpus.from_bytes(text.encode(), "book") if options.get("bytes") else Corpus.from_text(text, "book")
    chosen = {"iterations": 60, "validation": 0.1, "report_every": 5, "sample_every": 20, "learning_rate": 0.05}
    run = start(corpus, small(**{**chosen, **options}), str(folder))
    finish(run)
    return run.report(), load(folder)


def opened(browser, page, **how):
    browser.open(page.as_uri(), **how)
    return browser


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_python(browser, reports, kind):
    page, model = reports(kind)
    opened(browser, page)
    ids = np.random.RandomState(3).randint(0, len(model.vocabulary), 80)
    script = "(() => {{ const n = new Network(model); return {}.map((id) => {{ n.read(id); return Array.from(n.logits()); }}); }})()"
    found = np.array(browser.run(script.format(json.dumps(ids.tolist()))))
    state = np.zeros((model.shape.num_layers, 1, model.shape.hidden_size), model.theta.dtype)
    expected = read(model.theta, model.shape, state, state.copy(), ids[:, None].astype(np.int32))[:, 0]
    assert np.ptp(expected) > 2
    assert np.abs(found - expected).max() < 1e-4
    assert browser.problems() == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("prime", "options"),
    [
        ("", {"temperature": 0.8, "top_p": 1.0, "seed": 0}),
        ("ab\n", {"temperature": 1.3, "top_p": 0.8, "seed": 2**32 - 1}),
        ("a", {"temperature": 0.0, "top_p": 1.0, "seed": 5}),
    ],
)
def test_the_sampler_writes_what_charlstm_sample_writes(browser, reports, kind, prime, options):
    page, model = reports(kind)
    opened(browser, page)
    for name, value in {
        "prime": prime,
        "temperature": options["temperature"],
        "top-p": options["top_p"],
        "seed": options["seed"],
        "length": 120,
    }.items():
        browser.run(f"document.getElementById('{name}').value = {json.dumps(value)}")
    browser.run("document.getElementById('write').click()")
    browser.wait("document.getElementById('written-note').textContent.includes('per second')")
    assert browser.run("document.getElementById('written').textContent") == shown(
        model.sample(prime, length=120, **options)
    )
    assert browser.problems() == []


def shown(text):
    """A text as the page shows it."""
    pictures = {code: chr(0x2400 + code) for code in range(32) if chr(code) not in "\n\t"}
    return text.translate({**pictures, 127: "\u2421", **dict.fromkeys((*range(0x80, 0xA0), 0xD800), "\ufffd")})


def test_seeds_give_the_numbers_of_numpy(browser, reports):
    opened(browser, reports("lstm")[0])
    for seed in (0, 1, 2**31, 2**32 - 1):
        script = (
            f"(() => {{ const t = new Twister({seed}); return Array.from({{ length: 2000 }}, () => t.uniform()); }})()"
        )
        assert browser.run(script) == np.random.RandomState(seed).random_sample(2000).tolist()


def test_bytes_of_an_unfinished_character_are_shown_at_the_end(browser, reports):
    opened(browser, reports("bytes")[0])
    script = "(() => { const decode = new Bytes().decoder(); return [97, 0xf0, 0x9f, undefined].map((id) => decode(id)); })()"
    assert browser.run(script) == ["a", "", "", "\ufffd"]


def test_it_loads_without_a_message_or_a_request(browser, reports):
    page, _ = reports("lstm")
    for width in (1280, 400):
        for dark in (False, True):
            opened(browser, page, width=width, dark=dark)
            assert browser.requests() == [page.as_uri()]
            assert browser.problems() == []
            assert browser.run("document.documentElement.scrollWidth") <= width
            assert browser.run("document.querySelectorAll('#loss svg polyline').length") == 3
            back = browser.run("getComputedStyle(document.body).backgroundColor")
            assert (sum(map(int, back.strip("rgb()").split(","))) < 150) == dark


def test_the_policy_keeps_out_what_is_not_its_own(browser, reports, tmp_path):
    page, _ = reports("lstm")
    strange = page.read_text("utf-8").replace(
        "</body>", '<script>document.title = "mine"</script><img src="a.png"></body>'
    )
    (tmp_path / "page.html").write_text(strange, "utf-8")
    opened(browser, tmp_path / "page.html")
    assert browser.run("document.title") == "lstm: charlstm report"
    assert len(browser.problems()) == 2


def test_the_slider_shows_each_sample(browser, reports):
    page, _ = reports("lstm")
    opened(browser, page)
    found = []
    for k in range(browser.run("Number(document.getElementById('sample-slider').max)") + 1):
        browser.run(
            f"(() => {{ const s = document.getElementById('sample-slider'); s.value = {k}; s.dispatchEvent(new Event('input')); }})()"
        )
        found.append(browser.run("document.getElementById('sample-title').textContent"))
        text = browser.run("document.getElementById('sample-text').textContent")
        assert text == shown(browser.run(f"data.samples[{k}].text"))
    assert found == ["iteration 0", "iteration 20", "iteration 40"]


def test_the_picker_colours_the_text_by_any_unit(browser, reports):
    page, model = reports("lstm")
    opened(browser, page)
    colours = "Array.from(document.querySelectorAll('#activations span'), (each) => each.style.backgroundColor)"
    first = browser.run(colours)
    assert len(first) == browser.run("data.passage.ids.length")
    browser.run("document.getElementById('unit-after').click()")
    assert browser.run(colours) != first
    browser.run(
        "(() => { const u = document.getElementById('unit'); u.value = 3; u.dispatchEvent(new Event('change')); })()"
    )
    units = browser.run("Array.from(storedPassage(data).units)")
    width = model.shape.num_layers * model.shape.hidden_size
    layer = browser.run("Number(document.getElementById('layer').value)")
    value = units[(layer - 1) * model.shape.hidden_size + 2] / 127
    assert browser.run(colours)[0] == f"rgba(var({'--low' if value < 0 else '--high'}), {abs(value):.3f})"
    buttons = browser.run("document.querySelectorAll('#telling button').length")
    browser.run("document.querySelectorAll('#telling button')[0].click()")
    assert buttons > 1
    assert browser.run("document.querySelectorAll('#telling button[aria-pressed=true]').length") >= 1
    assert len(units) == width * len(first)


@pytest.mark.parametrize("kind", ["gru", "lnlstm", "bytes", "lower"])
def test_a_pasted_passage_is_scored_as_charlstm_score_does(browser, reports, kind):
    page, model = reports(kind)
    opened(browser, page)
    text = ("Abé " if kind == "lower" else "abe ") + "gah.\n😀 <b>\x01"
    browser.run(
        f"document.getElementById('pasted').value = {json.dumps(text)}; document.getElementById('read').click()"
    )
    browser.wait("document.getElementById('surprise-note').textContent.startsWith('Your passage')")
    found = browser.run("reader.passage.characters.map(({ bits }) => bits)")
    assert found[-1] is None or kind == "bytes"
    score = model.score(text, unknown="skip")
    bits = -score.log_probs / np.log(2)
    if kind != "bytes":
        assert [each for each in found if each is not None] == pytest.approx(bits.tolist(), abs=1e-3)
    assert sum(each or 0 for each in found) == pytest.approx(bits.sum(), abs=1e-3)
    again = browser.run(
        "readPassage(model, new TextDecoder().decode(new TextEncoder().encode(storedPassage(data).characters.map(({ text }) => text).join(''))), () => false).then(({ units }) => Array.from(units))"
    )
    stored = browser.run("Array.from(storedPassage(data).units)")
    assert len(again) == len(stored)
    assert np.abs(np.subtract(again, stored)).max() <= 1
    browser.run("document.getElementById('restore').click()")
    assert browser.run("document.getElementById('surprise-note').textContent").startswith("A passage of")
    assert browser.problems() == []


def test_curves_tell_their_values_under_the_pointer(browser, reports):
    page, _ = reports("lstm")
    opened(browser, page)
    left, top, width = browser.run(
        "(() => { const r = document.querySelector('#loss svg').getBoundingClientRect(); return [r.left, r.top, r.width]; })()"
    )
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 2, y=top + 50)
    browser.wait("!document.querySelector('#loss .tip').hidden")
    said = browser.run("document.querySelector('#loss .tip').innerText").split("\n")
    assert [line.rpartition(" ")[0] for line in said[:5]] == [
        "iteration",
        "single iteration",
        "training",
        "held-out",
        "baseline",
    ]
    browser.ask("Input.dispatchMouseEvent", type="mouseMoved", x=left + width / 2, y=top + 2000)


def test_a_report_without_weights_says_so(browser, reports, tmp_path):
    from charlstm.runs.report import write

    page, _ = reports("lstm")
    opened(browser, write(page.parent, tmp_path / "page.html", sampler=False))
    assert browser.run("document.getElementById('sampler').hidden && document.getElementById('paste').hidden")
    assert "--sampler" in browser.run("document.getElementById('writing-note').textContent")
    assert len(browser.run("Array.from(document.querySelectorAll('#surprises span'), (e) => e.textContent)")) > 50
    assert browser.problems() == []


def test_hostile_names_and_texts_are_only_shown(browser, tmp_path):
    text = "</script><img src=x onerror=alert(1)>\x00\x07\u202e😀\ud800\"'\n" * 40
    run = start(Corpus.from_text(text, "<img src=x>"), small(iterations=6, sample_every=2), str(tmp_path / "<i>"))
    finish(run)
    opened(browser, run.report())
    assert browser.problems() == []
    assert len(browser.requests()) == 1
    assert browser.run("document.querySelectorAll('img, i').length") == 0
    assert browser.run("document.getElementById('name').textContent") == "<i>"
    assert spec.num_parameters(run.model.shape) == browser.run("model.theta?.length ?? floatsOf(model.weights).length")
