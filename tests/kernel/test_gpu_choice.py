"""The prediction by which `--backend auto` chooses between GPU and processor, and the file of its figures."""

import json

import pytest

import kernels
from benchmarks import choice as generator
from benchmarks import gpu, results
from charlstm.measure.bench import WORKS
from kernels.gpu import choice, measured, presence
from kernels.spec import Shape

H200 = "NVIDIA H200"
LARGE = choice.Work(Shape(65, 512, 2), 50, 50)


@pytest.fixture(autouse=True)
def h200(monkeypatch):
    """Let one kind of GPU have passed the tests, with the speed that was measured."""
    rows = results.read(results.FOLDER / "nvidia-h200.json")["gpu"]
    monkeypatch.setattr(choice, "DEVICES", {H200: generator.fitted(rows)})


@pytest.fixture
def machine(monkeypatch):
    """Return a function that sets what the driver says of this machine; it returns a list of what it was asked."""

    def make(name=H200, problem=None):
        asked = []
        monkeypatch.setattr(presence, "problem", lambda: asked.append("problem") or problem)
        monkeypatch.setattr(presence, "device_name", lambda: asked.append("name") or name)
        return asked

    return make


def never():
    raise AssertionError("asked for the dtype")


def test_the_file_of_figures_follows_from_the_results():
    assert generator.PATH.read_text(encoding="utf-8") == generator.text(), "run python -m benchmarks.choice"
    assert set(measured.CORE) == {"float32", "bfloat16"}


@pytest.mark.parametrize(
    ("tests", "is_listed"),
    [
        ({"passed": 5, "failed": 0, "skipped": 1}, True),
        ({"passed": 5, "failed": 1, "skipped": 0}, False),
        ({"passed": 0, "failed": 0, "skipped": 6}, False),
        (None, False),
    ],
)
def test_a_kind_of_gpu_is_listed_if_its_tests_passed(tests, is_listed):
    found = results.read(results.FOLDER / "nvidia-h200.json")
    found = {**{key: found[key] for key in ("machine", "gpu")}, **({"tests": tests} if tests else {})}
    assert (H200 in generator.devices([found])) is is_listed


def test_predictions_of_a_graph_are_near_what_was_measured():
    for row in results.read(results.FOLDER / "nvidia-h200.json")["gpu"]:
        if WORKS[row["work"]].optimizer:
            ratio = generator.sizes(WORKS[row["work"]]).gpu_seconds(H200) / row["median"]
            assert 0.8 < ratio < (1.2 if generator.is_by_steps(row["work"]) else 9), row["work"]


def test_the_products_are_those_of_the_arrays():
    """Each weight that a product reads takes one multiply-add forward and two backward."""
    shape, T, B = Shape(11, 7, 2, "gru", 5), 3, 2
    layers = 3 * 7 * (5 + 7) + 3 * 7 * (7 + 7)
    assert choice.Work(shape, T, B).products == 3 * T * B * (layers + 7 * 11)
    assert choice.Work(shape, T, B, last_only=True).products == 3 * B * (T * layers + 7 * 11)
    assert choice.Work(shape, T, B).products_on_gpu == choice.Work(shape, T, B).products + T * B * 11 * 5


@pytest.mark.parametrize(
    ("work", "cores", "given", "mixed", "asked", "why"),
    [
        ("seed", 2, {}, never, [], "no GPU is predicted to be 1.5 times as fast as 2 cores with this model"),
        ("h256-b16", 64, {}, never, [], "no GPU is predicted to be 1.5 times as fast as 64 cores with this model"),
        ("torch-rnn-512", 2, {}, lambda: False, ["problem", "name"],
         "NVIDIA H200, predicted to be 61 times as fast as 2 cores with this model"),
        ("torch-rnn-512", 1, {}, lambda: True, ["problem", "name"],
         "NVIDIA H200, predicted to be 29 times as fast as one core with this model"),
        ("h256-b16", 4, {}, lambda: True, ["problem", "name"],
         "no GPU is predicted to be 1.5 times as fast as 4 cores with this model"),
        ("torch-rnn-512", 2, {"problem": "needs the NVIDIA driver"}, never, ["problem"],
         "the cupy backend needs the NVIDIA driver"),
        ("torch-rnn-512", 2, {"name": "Tesla T4"}, never, ["problem", "name"],
         "the tests have not passed on this kind of GPU, Tesla T4 (--backend cupy uses it all the same)"),
    ],
    ids=["small", "many cores", "large", "large in bfloat16", "middle in bfloat16", "no driver", "other device"],
)  # fmt: skip
def test_the_gpu_is_chosen_where_it_gains(machine, monkeypatch, work, cores, given, mixed, asked, why):
    monkeypatch.setattr(choice, "DEVICES", {H200: (4e-6, 1.6e13)})
    monkeypatch.setattr(choice, "CORE", {"float32": 6e10, "bfloat16": 2.5e11})
    seen = machine(**given)
    assert choice.gains(generator.sizes(WORKS[work]), cores, mixed) == (why.startswith(H200), why)
    assert seen == asked


def test_cuda_is_not_started_if_no_kind_of_gpu_has_passed_the_tests(machine, monkeypatch):
    monkeypatch.setattr(choice, "DEVICES", {})
    asked = machine()
    why = "no kind of GPU has passed all tests yet (--backend cupy uses one all the same)"
    assert choice.gains(LARGE, 1, never) == (False, why)
    assert asked == []
    assert kernels.chosen_gpu() == (None, why)


def test_masks_that_the_host_draws_make_a_gpu_gain_less():
    dropping = LARGE._replace(has_dropout=True)
    assert dropping.gain(H200, 16, "float32") < 0.8 * LARGE.gain(H200, 16, "float32")


def test_more_cores_make_a_gpu_gain_less():
    found = [LARGE.gain(H200, cores, "bfloat16") for cores in (1, 2, 16, 256)]
    assert found == sorted(found, reverse=True)


def test_the_door_says_which_gpu_may_be_chosen(machine):
    machine()
    assert kernels.chosen_gpu() == (H200, "")
    assert kernels.gains_by_gpu(LARGE.shape, 50, 50, 2, lambda: False)[0]
    machine(problem="needs CuPy")
    assert kernels.chosen_gpu() == (None, "the cupy backend needs CuPy")


# ------------------------------------------------------------------------------------------- what gpu-test writes
def junit(path, **counts):
    attributes = " ".join(f'{kind}="{count}"' for kind, count in counts.items())
    path.write_text(f'<?xml version="1.0"?><testsuites><testsuite {attributes}/></testsuites>')
    return str(path)


def test_tests_are_counted(tmp_path):
    one = junit(tmp_path / "1.xml", tests=10, failures=0, errors=0, skipped=3)
    other = junit(tmp_path / "2.xml", tests=5, failures=1, errors=1, skipped=0)
    assert gpu.counted([one]) == {"passed": 7, "failed": 0, "skipped": 3}
    assert gpu.counted([one, other]) == {"passed": 10, "failed": 2, "skipped": 3}
    assert gpu.counted([one, str(tmp_path / "3.xml")]) == {"passed": 7, "failed": 1, "skipped": 3}


class Device:
    """What benchmarks.gpu asks of the ops."""

    @staticmethod
    def device_name():
        return "Some GPU"


def test_counts_stand_with_the_results_and_failed_tests_measure_nothing(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(presence, "problem", lambda: None)
    monkeypatch.setattr(kernels, "load_for_host", lambda name: Device)
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    monkeypatch.setattr(gpu, "SHORT", ())
    monkeypatch.setattr(gpu, "MODELS", ())
    passed = junit(tmp_path / "1.xml", tests=10, failures=0, errors=0, skipped=3)
    failed = junit(tmp_path / "2.xml", tests=10, failures=2, errors=0, skipped=3)

    def tests():
        return {k: v for k, v in json.loads((tmp_path / "some-gpu.json").read_text())["tests"].items() if k != "date"}

    assert gpu.main([failed]) == 1
    assert not (tmp_path / "some-gpu.json").exists()
    assert gpu.main([passed]) == 0
    assert tests() == {"passed": 7, "failed": 0, "skipped": 3}
    assert gpu.main() == 0  # measured anew, without tests
    assert tests() == {"passed": 7, "failed": 0, "skipped": 3}
    assert gpu.main([failed]) == 1
    assert tests() == {"passed": 5, "failed": 2, "skipped": 3}
    assert "2 tests failed on Some GPU: nothing is measured" in capsys.readouterr().err
