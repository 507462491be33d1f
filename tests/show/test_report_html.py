"""report.html: one self-contained file, whatever the text holds; the numbers in it; and what is refused."""

import base64
import hashlib
import html
import json
import os
import re
import shlex

import click
import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

import kernels
from charlstm.cli import _guarded, cli
from charlstm.model import inside
from charlstm.model.model import load
from charlstm.runs import report
from charlstm.runs.begin import start
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus
from kernels import spec
from kernels.spec import CELLS

HOSTILE = "</script><!--<script>\"'&amp;\x00\x07\u2028\u202e😀é\ud800\n"


def trained(folder, text, name="book", **options):
    config = small(
        **{"iterations": 12, "hidden_size": 5, "validation": 0.2, "report_every": 3, "sample_every": 4, **options}
    )
    run = start(Corpus.from_text(text, name), config, str(folder))
    finish(run)
    return run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("runs") / "book", made_up_text())


def parts(page):
    """The policy, style, data and script of a page."""
    found = re.fullmatch(
        r'.*http-equiv="Content-Security-Policy" content="([^"]*)".*<style>(.*)</style>.*'
        r'<script type="application/json" id="data">(.*?)</script>\n<script>(.*)</script>\n</body>\n</html>\n',
        page, re.S,
    )  # fmt: skip
    return found.groups()


def digest(content):
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def test_the_page_is_one_file_that_allows_only_its_own_script_and_style(run):
    path = run.report()
    assert path == run.folder / "report.html"
    page = path.read_text("utf-8")
    policy, style, _, script = parts(page)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules == {
        "default-src": "'none'", "script-src": digest(script), "style-src": digest(style), "img-src": "data:",
        "base-uri": "'none'", "form-action": "'none'",
    }  # fmt: skip
    assert set(re.findall(r"\w+://[^\s\"')]*", page)) == {"http://www.w3.org/2000/svg"}  # a name, not an address
    assert not re.search(r"\b(?:src|style|on\w+)=", page.replace(script, ""))
    assert re.findall(r'href="([^#][^"]*)"', page) == ["data:,"]
    assert "\r" not in page
    assert run.report().read_text("utf-8") == page


def test_every_part_that_the_script_asks_for_is_in_the_page(run):
    page = run.report().read_text("utf-8")
    *_, script = parts(page)
    there = re.findall(r' id="([\w-]+)"', page)
    assert len(there) == len(set(there))
    assert set(re.findall(r'\b(?:at|say|showKey)\("([\w-]+)"', script)) | {"data"} <= set(there)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names of folders")
def test_no_text_can_leave_its_place(tmp_path):
    folder = tmp_path / "<b>&\"'\n"
    run = trained(folder, HOSTILE * 60, name=HOSTILE, sample_length=80)
    page = run.report().read_text("utf-8")
    *_, data, script = parts(page)
    assert page.count("</script") == page.count("<script") == 2
    assert data.isascii()
    assert not set("<>&") & set(data)
    assert "</script" not in script
    title = re.search("<title>(.*)</title>", page)[1]
    assert "<" not in title
    assert html.unescape(title) == "<b>&\"'\ufffd: charlstm report"
    assert title.isascii() or title.isprintable()
    found = json.loads(data)
    assert found["name"] == folder.name
    assert found["facts"]["text"] == HOSTILE
    assert {chr(code) for code in found["model"]["vocabulary"]} == set(HOSTILE)
    text = "".join(chr(found["model"]["vocabulary"][each]) for each in found["passage"]["ids"])
    assert text in HOSTILE * 60


def test_what_is_shown_is_what_the_run_recorded(run):
    found = report.contents(run.folder)
    history, curve = run.history, found["curves"]
    assert [y for _, y in curve["smooth"]] == pytest.approx(history["bits_per_char"].tolist(), rel=1e-4)
    assert [y for _, y in curve["raw"]] == pytest.approx((history["loss"] / np.log(2)).tolist(), rel=1e-4)
    held_out = np.isfinite(history["val_bits_per_char"])
    assert [x for x, _ in curve["heldOut"]] == history["iteration"][held_out].tolist()
    assert 0 < curve["baseline"] < curve["guess"]
    assert [each["iteration"] for each in found["samples"]] == [0, 4, 8]
    assert (run.folder / "samples.txt").read_text().count(found["samples"][1]["text"]) == 1
    model = load(run.folder)
    theta = np.frombuffer(base64.b64decode(found["model"]["weights"]), "<f4")
    assert theta.tolist() == model.theta.tolist()
    text = "".join(chr(found["model"]["vocabulary"][each]) for each in found["passage"]["ids"])
    assert model.score(text).bits_per_char == pytest.approx(np.mean(found["passage"]["bits"]), abs=1e-3)
    assert [row["iteration"] for row in found["novelty"]["rows"]] == [4, 8, None]


def test_curves_and_samples_are_thinned():
    x = np.arange(100_000)
    thin = report._thinned(x, np.where(x % 2, np.nan, x % 4), means=True)
    assert len(thin) == 600
    assert thin[-1] == [99_998, pytest.approx(1, abs=0.05)]
    assert report._thinned(x[:0], np.empty(0), means=True) == []


@pytest.mark.parametrize("sampler", [None, True, False])
def test_larger_nets_leave_their_weights_out_and_say_so(run, monkeypatch, sampler):
    monkeypatch.setattr(report, "LARGEST", len(load(run.folder).theta) - 1)
    found = report.contents(run.folder, sampler=sampler)["model"]
    assert bool(found["weights"]) == bool(sampler)
    assert ("--sampler" in found.get("missing", "")) != bool(sampler)


def test_a_net_of_400_000_parameters_fits_3_mb(tmp_path):
    text = made_up_text(4000) + "".join(map(chr, range(33, 94)))
    run = trained(tmp_path / "run", text, hidden_size=270, num_layers=1, iterations=1, seq_length=60, sample_every=0)
    assert 370_000 < len(run.trainer.theta) <= report.LARGEST
    assert run.report().stat().st_size < 2_750_000  # curves and samples, of up to 600 points and 60 texts, add 0.2 MB


def test_a_run_whose_text_is_gone_has_a_report_that_says_so(run, monkeypatch):
    def gone(*given, **more):
        raise report.UserError("the text is gone")

    monkeypatch.setattr(report, "training_text", gone)
    monkeypatch.setattr("charlstm.runs.novelty.training_text", gone)
    found = report.contents(run.folder)
    assert found["fault"] == found["novelty"]["fault"] == "the text is gone"
    assert found["curves"]["baseline"] is None
    assert len(found["passage"]["ids"]) > 10
    assert "the model wrote" in found["passage"]["what"]


def test_weights_that_are_not_finite_make_a_report_without_a_sampler(run, monkeypatch):
    model = load(run.folder)
    model.theta[:] = np.inf
    monkeypatch.setattr(report, "load", lambda *given: model)
    found = report.contents(run.folder)
    assert "too large" in found["model"]["missing"]
    report.page(found)  # raises if a number has no place in JSON


def test_the_command_line_writes_a_page_and_names_it(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.folder.parent)
    assert _guarded(["report", "book", "-o", str(tmp_path / "page.html"), "--no-sampler", "--checkpoint", "last"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'page.html'}\n"
    data = json.loads(parts((tmp_path / "page.html").read_text("utf-8"))[2])
    assert data["sampling"] == "charlstm sample book --checkpoint last"
    assert data["model"]["weights"] == ""


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none"], 2, "none: expected the folder of a run: config.toml: No such file or directory"),
        (["book", "--checkpoint", "worst"], 2, "worst: cannot be read: No such file or directory"),
        (["book", "-o", "none/page.html"], 1, "none/page.html: cannot be written: No such file or directory"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(run, monkeypatch, capsys, arguments, code, message):
    monkeypatch.chdir(run.folder.parent)
    (run.folder / "report.html").unlink(missing_ok=True)
    assert _guarded(["report", *arguments]) == code
    assert capsys.readouterr().err == f"charlstm: {message}\n"
    assert not list(run.folder.rglob("*.html"))


def test_the_command_to_repeat_a_run_gives_its_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b.txt").write_text(made_up_text(), "utf-8")
    config = small(iterations=3, beta2=None, lower=True, separator="\\n'", weight=("a b.txt=2",), grad_clip_norm=None)
    run = start(["a b.txt"], config, "runs/x")
    finish(run)
    words = shlex.split(report.command(run.model))
    assert words[:3] == ["charlstm", "train", str(tmp_path / "a b.txt")]
    context = cli.commands["train"].make_context("train", words[2:])
    given = {
        name: value for name, value in context.params.items()
        if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE and name != "text"
    }  # fmt: skip
    assert from_preset(**given) == run.config


# ------------------------------------------------------------------------------------------------------ inside a model
def model_of(tmp_path, cell, **options):
    options = {"hidden_size": 3, "embedding_size": 2, "iterations": 8, "backend": "numpy", **options}
    run = trained(tmp_path / cell, made_up_text(), cell=cell, dtype="float64", sample_every=0, **options)
    return run.model, np.asarray(run.trainer.held_out, np.int32)


def test_features_of_a_text():
    found = inside.features_of('(a [B]\n\n  Cd "e) "f\n“g”')
    assert found["line position"].tolist() == [1, 2, 3, 4, 5, 6, 0, 0, *range(1, 12), 0, 1, 2, 3]
    assert found["brackets"].tolist() == [1, 1, 1, 2, 2, 1, 1, *[0] * 16]
    assert np.flatnonzero(found["inside quotes"]).tolist() == [13, 14, 15, 16, 20, 21]
    assert found["indentation"].tolist() == [0] * 8 + [1] + [2] * 10 + [0] * 4
    assert np.flatnonzero(found["capitals"]).tolist() == [4, 10]
    assert np.flatnonzero(found["word starts"]).tolist() == [1, 4, 10, 14, 18, 21]


def last_loss(model, x, change):
    """The loss of the last of the ids x, (T+1,); change(step, layer, states) alters what each layer has computed."""
    ops, params = kernels.load("numpy"), spec.params(model.theta, model.shape)
    states = [
        [np.zeros((1, model.shape.hidden_size)) for _ in range(1 + CELLS[model.shape.cell].has_c)]
        for _ in params.layers
    ]
    for step, each in enumerate([*model.edges.begin, *x[:-1]], -len(model.edges.begin)):
        below = params.embedding[np.array([[each]])]
        for k, layer in enumerate(params.layers):
            *found, _ = getattr(ops, f"{model.shape.cell}_forward")(below, *states[k], *layer)
            states[k] = change(step, k, [array[-1] for array in found])
            below = states[k][0][None]
    logits = (below[0] @ params.W_y + params.b_y)[0]
    return np.log(np.exp(logits).sum()) - logits[x[-1]]


@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_reaches_back_as_finite_differences_say(tmp_path, cell):
    model, ids = model_of(tmp_path, cell)
    x = ids[:16]
    found = inside.gradient_reach(model, x)
    warm_up = inside._streams(x, len(model.theta))[1]
    assert len(found.h) == len(x) - 1 - warm_up > 8

    def norm(k, kind):
        """The norm of the gradient of h (kind 0) or c (1) of all layers, k steps before the last."""

        def loss(layer, unit, by):
            def change(step, at, states):
                if (step, at) == (len(x) - 2 - k, layer):
                    states[kind] = states[kind] + by * (np.arange(3) == unit)
                return states

            return last_loss(model, x, change)

        return np.linalg.norm(
            [(loss(layer, unit, 1e-5) - loss(layer, unit, -1e-5)) / 2e-5 for layer in range(2) for unit in range(3)]
        )

    for k in (0, 1, 8):
        assert found.h[k] == pytest.approx(norm(k, 0), rel=1e-5)
    assert (found.c is not None) == (found.cut is not None) == CELLS[cell].has_c
    if CELLS[cell].has_c:
        assert found.c[8] == pytest.approx(norm(8, 1), rel=1e-5)
        assert found.cut[:2] == pytest.approx(found.h[:2], rel=0.5)
        assert found.cut[8] != pytest.approx(found.h[8], rel=1e-3)


@pytest.mark.parametrize("cell", CELLS)
def test_units_and_gates_are_measured_as_the_equations_say(tmp_path, cell):
    """The same numbers from a plain reading of the text, id by id."""
    model, ids = model_of(tmp_path, cell, forget_bias=3.0, hidden_size=4)
    ids = ids[:120]
    found = inside.look_inside(model, ids, best=8)
    warm_up = inside._streams(ids, len(model.theta))[1]
    assert found.chars == len(ids) - warm_up
    units, bits = inside.passage(model, ids)
    assert -np.log(2) * bits == pytest.approx(
        model.score(model.vocabulary.decode(ids), backend="numpy").log_probs, abs=1e-4
    )
    features = inside.features_of(model.vocabulary.decode(ids))
    told = {each.feature: each.units for each in found.telling}
    assert list(told) == ["line position", "word starts"]  # nothing else varies in the text
    for feature, named in told.items():
        r = np.corrcoef(features[feature][warm_up:], units[warm_up:].T)[0, 1:]
        assert [(4 * layer + unit) for layer, unit, _ in named] == [k for k in np.argsort(-abs(r)) if abs(r[k]) >= 0.1]
        assert [each for _, _, each in named] == pytest.approx(
            [r[4 * layer + unit] for layer, unit, _ in named], abs=1e-3
        )
    gates = read_gates(model, ids)[:, warm_up:]
    for each in found.gates:
        values = gates[each.layer, :, inside.GATES[cell].index(each.gate)]
        low = -0.9 if each.gate in "gnh" else 0.1
        assert each.low.tolist() == pytest.approx((values < low).mean(axis=0).tolist())
        assert each.high.tolist() == pytest.approx((values > 0.9).mean(axis=0).tolist())
    assert len(found.gates) == 2 * len(inside.GATES[cell])
    if cell == "rnn":
        assert found.constants == []
    else:
        kept = gates[:, :, 1]  # f of i, f, g, o; z of r, z, n
        assert np.array(found.constants) == pytest.approx(-1 / np.log(kept).mean(axis=1), rel=1e-4)


def read_gates(model, ids):
    """The gates of each layer at each step, (L, T, gates, H), from the layers' own ops, over the whole text at once."""
    ops, params = kernels.load("numpy"), spec.params(model.theta, model.shape)
    begin = model.edges.begin
    below = params.embedding[np.array([*begin, *ids])[:, None]]
    zero = [np.zeros((1, 4))] * (1 + CELLS[model.shape.cell].has_c)
    found = []
    for layer in params.layers:
        h, *_, cache = getattr(ops, f"{model.shape.cell}_forward")(below, *zero, *layer)
        gates = h[1:] if model.shape.cell == "rnn" else cache.gates
        gates = gates[0] if gates.ndim == 4 else gates
        found.append(gates[len(begin) :, 0].reshape(len(ids), -1, 4))
        below = h[1:]
    return np.array(found)
