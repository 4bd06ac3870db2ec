# make setup          .venv with everything (a second call is instant)
# make demo           boxes -> shards -> training -> edits, into demo/index.html
# make demo-conditions  what exemplar, text and edges each do, in numbers; about six minutes on two idle cores
# make demo-cascade   a noised encoder and an upsampler for the demo's model; under six minutes on two idle cores
# make test           the test suite, on two cores ten minutes
# make test-whole     examples, recipes, benchmarks, an installed copy, toys that learn known answers; three minutes
# make test-quick     without what starts other programs (Ray, DeepSpeed) or computes for seconds: under two minutes
# make test-portable  the numeric tests again, as three other processors would compute; four minutes
# make test-cluster   as root: kills, full disks, a Slurm of two virtual nodes; twenty minutes
# make test-web       the page in a headless Chromium (root installs Debian's if it is missing)
# make gpu            on one GPU: correctness, speed, memory, against plain code and diffusers
# make check          lint (and format), types, laws (who imports whom, sizes, links in the docs)
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Two ranks on two cores are eleven times slower when each takes every core.
export OMP_NUM_THREADS ?= 1
export RAY_USAGE_STATS_ENABLED := 0
export WANDB_MODE ?= offline

.PHONY: setup demo demo-conditions demo-cascade test test-whole test-quick test-portable test-cluster test-web gpu check lint types laws format clean
setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt docker/install.sh
	VENV=$(VENV) PYTHON=$(PYTHON) docker/install.sh dev
	touch $@

demo: setup
	$(BIN)/python examples/demo.py

demo-conditions: setup
	$(BIN)/python examples/demo_conditions.py

demo-cascade: setup
	$(BIN)/python examples/demo_cascade.py

# One worker for a file, or for all files of an expensive fixture; the longest first (tests/conftest.py). Three
# workers on two cores, because a worker often waits for a program that it has started.
WORKERS := -n 3 --dist loadgroup --no-loadscope-reorder
test: setup
	$(BIN)/python -m pytest $(WORKERS)

test-whole: setup
	$(BIN)/python -m pytest $(WORKERS) -m whole

test-quick: setup
	$(BIN)/python -m pytest $(WORKERS) -m 'not cluster and not web and not whole and not processes and not long'

# oneDNN, MKL and PyTorch's own kernels (ATen) keep to another processor's instructions and so add up in another
# order. Threads that wait without spinning do not take the cores from each other.
PORTABLE := $(BIN)/python -m pytest -n 2 -m portable
test-portable: setup
	ONEDNN_MAX_CPU_ISA=SSE41 ATEN_CPU_CAPABILITY=default $(PORTABLE)
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(PORTABLE)
	ONEDNN_MAX_CPU_ISA=AVX512_CORE MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=2 OMP_WAIT_POLICY=PASSIVE $(PORTABLE)

test-cluster: setup
	command -v slurmctld >/dev/null || tests/cluster/slurm-cluster install
	$(BIN)/python -m pytest -m cluster

gpu: setup
	$(BIN)/python -m benchmarks.gpu

test-web: setup
	command -v chromium >/dev/null || (apt-get update -q && apt-get install -qy --no-install-recommends chromium)
	$(BIN)/python -m pytest -m web

check: lint types laws

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

laws: setup
	$(BIN)/python -m pytest tests/test_house.py tests/test_docs.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo demo-conditions demo-cascade .mypy_cache .ruff_cache .pytest_cache *.egg-info
