# Doors for people who work on this. Each makes what it needs, in .venv, from a bare Python 3.11+; later runs are offline.
#   make PYTHON=python3.12 test     with another Python
PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PYTEST = $(VENV)/bin/python -m pytest
ON_GPU = CHARLSTM_REQUIRE_GPU=1 CHARLSTM_TEST_BACKEND=cupy $(PYTHON) -m pytest -o addopts=-ra
GPU_TESTS = build/gpu-device.xml build/gpu-chain.xml
SHARED_OUT = -n auto --maxprocesses 4 --dist loadfile
COMPILER_TESTS = $(addprefix tests/kernel/test_gpu_,cupy.py compile.py ptx.py sass.py)

.PHONY: demo docs site test test-peers test-browser test-mpi test-compile test-portable gpu-test test-long lint format bench bench-layers clean

demo: $(VENV)/.installed  ## train on the text inside Python for a minute, and let the model write
	$(VENV)/bin/charlstm train

test: $(VENV)/.installed-test  ## the whole suite, but for what needs PyTorch, NVIDIA's compiler, a browser or an hour
	$(PYTEST) $(SHARED_OUT) $(addprefix --ignore=,$(COMPILER_TESTS)) -m "not long and not browser and not mpi"

test-peers: $(VENV)/.installed-peers  ## what PyTorch, JAX, Keras and onnxruntime judge
	$(PYTEST) $(SHARED_OUT) -m peers

test-browser: $(VENV)/.installed-test  ## the report in Chromium; skipped where there is none
	$(PYTEST) -m browser tests/show

test-mpi: $(VENV)/.installed-mpi $(VENV)/.installed-sweep  ## training by 2 and 4 ranks, and sweeps; skipped without mpiexec
	-$(PIP) mpich
	PATH="$(abspath $(VENV))/bin:$$PATH" $(PYTEST) -m "not long" tests/cluster

test-compile: $(VENV)/.installed-gpu-test  ## the CUDA source through NVIDIA's compiler; CuPy's rules
	$(PYTEST) -n auto --maxprocesses 4 $(COMPILER_TESTS) -m "not long"

test-portable: $(VENV)/.installed-test  ## the kernels with older vectors, under other Pythons and on aarch64, where found
	$(VENV)/bin/python tests/portable.py

gpu-test:  ## on a machine with a GPU, with the CuPy that PYTHON has: the tests of the device, then its benchmarks
	rm -f $(GPU_TESTS)
	-$(ON_GPU) --junitxml=$(word 1,$(GPU_TESTS)) -m gpu tests/kernel/test_gpu_device.py
	-$(ON_GPU) --junitxml=$(word 2,$(GPU_TESTS)) -m "long or not long" tests/kernel/test_gpu.py tests/kernel/test_chain.py tests/kernel/test_ops.py
	$(PYTHON) -m benchmarks.gpu $(GPU_TESTS)
	$(PYTHON) -m benchmarks.choice

test-long: $(VENV)/.installed-gpu-test  ## what is too heavy for every run, and the CUDA source for every architecture
	$(PYTEST) -m long

docs:  ## the documentation as a site, build/site/index.html; in an environment of its own
	@$(MAKE) --no-print-directory VENV=$(VENV)-docs site

site: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build

lint: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

format: $(VENV)/.installed-lint
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

bench: $(VENV)/.installed-bench  ## tests of the kernels, then all benchmarks with rivals, into benchmarks/results
	$(VENV)/bin/python -m benchmarks run

bench-layers: $(VENV)/.installed-bench  ## one layer and one step beside PyTorch's, about a minute
	$(VENV)/bin/python -m benchmarks.layers

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, for example: make PYTHON=python3.12 demo"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable .
	@touch $@

$(VENV)/.installed-%: setup.cfg pyproject.toml | $(VENV)/bin/python
	$(PIP) --editable ".[test,$*]"
	@touch $@ $(VENV)/.installed
