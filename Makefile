# Everything lives in .venv and runs/; nothing outside the checkout is written except package caches.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# four workers for two cores: most tests wait for their own processes now and then; a file's tests stay together,
# and files with slow tests come first (tests/conftest.py)
IN_PARALLEL := --numprocesses 4 --dist loadfile --no-loadscope-reorder

.PHONY: demo matrix test test-fast lint bench chaos claims clean install versions
.DEFAULT_GOAL := help

help:
	@echo "make demo       train a vanilla transformer and an Hourglass on this machine, compare them (under 6 minutes)"
	@echo "make matrix     every layout into every other, every ZeRO stage on every layout (about half an hour)"
	@echo "make test       every test, a real Slurm included where it can be had (some twenty minutes on two cores)"
	@echo "make test-fast  what needs neither long runs nor Slurm"
	@echo "make lint       ruff and mypy"
	@echo "make bench      benchmarks, written to tests/benchmarks/RESULTS.md"
	@echo "make claims     the papers' claims tried here (hours; started again: only what is missing);"
	@echo "                one of them: make claim-hourglass, claim-multi-scale, claim-skip-cross-head, claim-lmu"
	@echo "make versions   distributed tests with the oldest and the newest DeepSpeed and megatron-core that are allowed;"
	@echo "                writes docs/versions.md"
	@echo "make chaos      FAULTS=200: kills, full disks, system calls that fail, damaged files, second writers: nothing may be"
	@echo "                lost; then tens of thousands of hostile files: none may do harm (hours; make chaos FUZZ=: without)"

install: $(INSTALLED)

# torch first and from its pin: a resolver left free takes the newest build with several GB of CUDA packages
$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || { echo "creating $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing torch"
	@$(BIN)/pip install --quiet --disable-pip-version-check "$$(grep -i '^torch==' constraints.txt)"
	@echo "installing hierlm and what it needs (one to three minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	@touch $@

demo: $(INSTALLED)
	@BIN=$(BIN) bash configs/demo/demo.sh

test: $(INSTALLED)
	@bash slurm/test-cluster.sh install || echo "no Slurm can be installed here: its tests will be skipped"
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not matrix"

# the long form of tests/checkpoint/test_every_layout.py and of the layout tests in tests/distributed
matrix: $(INSTALLED)
	$(BIN)/python -m pytest -m matrix

test-fast: $(INSTALLED)
	$(BIN)/python -m pytest $(IN_PARALLEL) -m "not slow and not slurm and not matrix"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(INSTALLED)
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[bench]'
	$(BIN)/python -m tests.benchmarks

# a run that is finished is not run again; what was killed goes on from its checkpoint. REHEARSE=1: a few steps of each
claims: $(INSTALLED)
	@echo "runs in runs/claims, records in tests/benchmarks/claims_results, written up in tests/benchmarks/CLAIMS.md"
	$(BIN)/python -m tests.benchmarks.claims $(if $(REHEARSE),--rehearse)

claim-%: $(INSTALLED)
	@echo "runs in runs/claims, records in tests/benchmarks/claims_results, written up in tests/benchmarks/CLAIMS.md"
	$(BIN)/python -m tests.benchmarks.claims $* $(if $(REHEARSE),--rehearse)

# ONLY=oldest or ONLY=newest; environments in runs/versions
versions: $(INSTALLED)
	$(BIN)/python -m tests.versions $(if $(ONLY),--only $(ONLY))

# FAULTS=N and SEED=S choose another campaign; RECORD=1 writes its tables into tests/benchmarks/RESULTS.md; FUZZ= leaves
# the hostile files out, FUZZ="KIND ..." tries some kinds of them only
FUZZ ?= all
chaos: $(INSTALLED)
	@bash slurm/test-cluster.sh install || echo "no Slurm can be installed here: its fault will be skipped"
	$(BIN)/python -m tests.chaos $(if $(FAULTS),--faults $(FAULTS)) $(if $(SEED),--seed $(SEED)) $(if $(RECORD),--record)
	$(if $(FUZZ),$(BIN)/python -m tests.chaos.fuzz $(if $(RECORD),--record) $(filter-out all,$(FUZZ)))

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache
