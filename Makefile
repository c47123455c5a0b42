# What one does with a checkout. Each target sets itself up: the first one makes .venv, and it is brought up to date when
# pyproject.toml changes. Every path is relative, so the directory may have spaces in its name.
#
#   make run      Redis and three nodes of a registry on this machine, until Ctrl-C
#   make demo     a failover in which the old primary comes back and cannot do harm
#   make test     everything that must hold: lint, types, tests
#   make bench    the figures and plots of docs/benchmarks.md (some 35 minutes)
#   make bench-peers  fetch nats-server and etcd from Debian, to be measured beside it
#   make model    the large exploration of the protocol (some minutes)
#   make chaos    faults without end on real servers and processes, and a checker (some 45 minutes)
#   make fuzz     100,000 inputs for every decoder
#
# Another interpreter: make run PYTHON=python3.13 (for a new .venv only; `make clean` first).

PYTHON ?= python3

# Tests wait most of their time, so more of them run at once than a machine has processors.
AT_ONCE ?= 4

BIN := .venv/bin
READY := .venv/.ready

# Warnings of pip about itself are no concern of who runs a demo.
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help run demo test lint format bench bench-peers model chaos fuzz clean

help:
	@sed -n 's/^#   make/make/p' Makefile

run: $(READY)
	$(BIN)/replicator dev

demo: $(READY)
	$(BIN)/python -m tests.acceptance.demo

test: lint
	$(BIN)/python -m pytest -n $(AT_ONCE) --dist worksteal

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m bench --out docs/benchmarks.md

bench-peers: $(READY)
	$(BIN)/python -m bench.install_peers

model: $(READY)
	$(BIN)/python -m tests.model.explore --large

chaos: $(READY)
	$(BIN)/python -m tests.chaos --faults 120 --report docs/reliability.md

fuzz: $(READY)
	$(BIN)/python -m tests.fuzz --examples 100000

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

# The stamp is written last: a set-up that was interrupted is done again.
$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and "replicator needs Python 3.11 or later, and $(PYTHON) is %s. Try: make PYTHON=python3.12" % v)'
	@test -x $(BIN)/python || { echo "Setting up .venv (once)"; $(PYTHON) -m venv .venv; }
	@$(PIP) install --editable '.[dev]'
	@touch $@
