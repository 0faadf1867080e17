# The two commands: `make run` measures, `make test` tests. Both set up everything first, in .venv.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
# Three tests at a time on two cores: many of them wait, for ranks that meet or for the end of a run.
PYTEST := $(BIN)/python -m pytest
AT_A_TIME := -n 3 --dist worksteal

.PHONY: run test test-all test-frameworks test-gpu reference-gpu check bench bench-faults setup

run: .venv/ready
	$(BIN)/python -m mfubench $(ARGS)

test: .venv/ready
	$(PYTEST) $(AT_A_TIME) $(ARGS)

# The rest: what is marked slow.
test-all: .venv/ready
	$(PYTEST) $(AT_A_TIME) -m "slow and not frameworks and not gpu" $(ARGS)

# The other frameworks: the first time this installs each into launchers/NAME/.venv, some 3 GB apiece.
test-frameworks: .venv/ready
	$(BIN)/python launchers/install --all
	$(PYTEST) -n 2 --dist loadfile -m frameworks $(ARGS)

# On one GPU, some minutes: what a CPU can't show. Without one each test is skipped, and says why.
test-gpu: .venv/ready
	$(PYTEST) -m gpu -rs tests/gpu $(ARGS)

# The published comparison on one GPU, into outputs/reference/: LoRA in minutes, then full fine-tuning.
reference-gpu: .venv/ready
	@$(BIN)/python tests/gpu/reference_runs.py

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# What mfubench itself costs, beside its goals; for a quiet machine.
bench: .venv/ready
	$(BIN)/python -m tests.bench

# Every fault injected for real, ARGS times each (10 if nothing is said, half an hour): status, result, processes left.
bench-faults: .venv/ready
	$(BIN)/python tests/faults/bench.py $(ARGS)

setup: .venv/ready

# Say what is done, do it, and say how long it took: $(call timed,WORDS,COMMAND).
timed = @printf '%s: ' '$(1)'; began=$$(date +%s); $(2) && echo "$$(($$(date +%s) - began)) s"

# torch goes first, so that nothing else resolves it: the pin takes the CUDA build where pip offers that.
.venv/ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "mfubench needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	$(call timed,set-up (once) 1 of 3 · an environment in .venv,$(PYTHON) -m venv .venv)
	$(call timed,set-up (once) 2 of 3 · torch,$(BIN)/python -m pip install --quiet -c constraints.txt torch)
	$(call timed,set-up (once) 3 of 3 · transformers and the other packages of pyproject.toml,$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]')
	@touch $@
